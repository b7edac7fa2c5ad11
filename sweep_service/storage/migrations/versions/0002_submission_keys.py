"""The keys under which sweeps were submitted, and an index for reading the reports of one trial in their order.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "submission_keys",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("sweep_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["sweep_id"], ["sweeps.id"], name=op.f("fk_submission_keys_sweep_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project", "created_by", "key", name=op.f("pk_submission_keys")),
    )
    op.create_index("ix_submission_keys_sweep_id", "submission_keys", ["sweep_id"], unique=False)
    op.create_index("ix_reports_trial_id_seq", "reports", ["trial_id", "seq"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_reports_trial_id_seq", table_name="reports")
    op.drop_table("submission_keys")
