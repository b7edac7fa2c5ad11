"""``python -m sweep_service.cli``."""

from sweep_service.cli import main

main()
