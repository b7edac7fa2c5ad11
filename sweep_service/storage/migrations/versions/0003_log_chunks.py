"""What trials' code has printed.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "log_chunks",
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", _ID, nullable=False),
        sa.Column("attempt_id", _ID, nullable=False),
        sa.Column("first_line", sa.BigInteger(), nullable=False),
        sa.Column("first_byte", sa.BigInteger(), nullable=False),
        sa.Column("num_lines", sa.Integer(), nullable=False),
        sa.Column("num_bytes", sa.Integer(), nullable=False),
        sa.Column("lines", sa.JSON(), nullable=False),
        sa.CheckConstraint("num_lines > 0", name=op.f("ck_log_chunks_lines")),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_log_chunks_sweep_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_log_chunks_trial_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_log_chunks_attempt_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sweep_id", "last_seq", name=op.f("pk_log_chunks")),
        sa.UniqueConstraint("attempt_id", "first_byte", name=op.f("uq_log_chunks_attempt_id_first_byte")),
    )
    op.create_index("ix_log_chunks_trial_id_last_seq", "log_chunks", ["trial_id", "last_seq"], unique=False)


def downgrade() -> None:
    op.drop_table("log_chunks")
