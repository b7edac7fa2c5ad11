"""For how long a sweep has run, without what it waited and rested: its wall time is of that alone.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: see 0005.
    op.add_column("sweeps", sa.Column("active_since", sa.DateTime(timezone=True)))
    op.add_column("sweeps", sa.Column("active_before_s", sa.Double(), nullable=False, server_default=sa.text("0")))
    op.execute(
        "UPDATE sweeps SET active_since = started_at WHERE state IN ('running', 'pausing', 'stopping', 'cancelling')"
    )


def downgrade() -> None:
    op.drop_column("sweeps", "active_before_s")
    op.drop_column("sweeps", "active_since")
