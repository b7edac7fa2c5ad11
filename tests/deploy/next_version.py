"""The checkout of an installation as a pull of the next version would leave it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

NEXT_VERSION, NEXT_REVISION = "0.1.1", "9999"
NEXT_MIGRATION = '''"""What the next version adds to the database."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "{revision}", "{before}"


def upgrade() -> None:
    op.create_table("of_the_next_version", sa.Column("id", sa.Integer, primary_key=True))
'''


def make_next_version(checkout: Path) -> None:
    """As a pull would bring it: another version of the package, and a migration."""
    project = checkout / "pyproject.toml"
    before = tomllib.loads(project.read_text())["project"]["version"]
    project.write_text(project.read_text().replace(f'version = "{before}"', f'version = "{NEXT_VERSION}"'))
    migrations = checkout / "sweep_service" / "storage" / "migrations" / "versions"
    last = max(
        re.findall(r'^revision = "(\w+)"', path.read_text(), re.MULTILINE)[0] for path in migrations.glob("0*.py")
    )
    tables = checkout / "sweep_service" / "storage" / "tables.py"
    tables.write_text(tables.read_text().replace(f'SCHEMA_VERSION = "{last}"', f'SCHEMA_VERSION = "{NEXT_REVISION}"'))
    text = NEXT_MIGRATION.format(revision=NEXT_REVISION, before=last)
    (migrations / f"{NEXT_REVISION}_next.py").write_text(text)
