"""Which pack made an attempt; empty for those of before, each of which was a pack by itself.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    # Not in a batch: neither database copies a table for a new column with a constant default, and SQLite's copy would
    # be without the checks, which cannot be read back from it.
    op.add_column("attempts", sa.Column("pack", _ID, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("attempts", "pack")
