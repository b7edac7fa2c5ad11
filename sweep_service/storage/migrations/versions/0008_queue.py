"""Who comes first of those that wait: by priority, then by how long they have waited.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: see 0005.
    op.add_column("sweeps", sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("sweeps", sa.Column("queued_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE sweeps SET queued_at = created_at WHERE state = 'queued'")
    is_queued = sa.text("state = 'queued'")
    op.create_index(
        "ix_sweeps_queue",
        "sweeps",
        [sa.text("priority DESC"), "queued_at", "id"],
        sqlite_where=is_queued,
        postgresql_where=is_queued,
    )


def downgrade() -> None:
    op.drop_index("ix_sweeps_queue", "sweeps")
    op.drop_column("sweeps", "queued_at")
    op.drop_column("sweeps", "priority")
