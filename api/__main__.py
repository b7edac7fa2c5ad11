"""``python -m api``."""

import gc


def _run() -> None:
    gc.disable()  # all that is imported stays: looking for garbage among it costs a quarter of the start
    from api.main import main

    gc.freeze()
    gc.enable()
    main()


_run()
