"""Sweeps that ended while the tracking server was away, and when to try it again.

Revision: 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("tracking_due_at", sa.DateTime(timezone=True)))  # not in a batch: see 0005
    is_due = sa.text("tracking_due_at IS NOT NULL")
    op.create_index(
        "ix_sweeps_tracking_due", "sweeps", ["tracking_due_at", "id"], sqlite_where=is_due, postgresql_where=is_due
    )


def downgrade() -> None:
    op.drop_index("ix_sweeps_tracking_due", "sweeps")
    op.drop_column("sweeps", "tracking_due_at")
