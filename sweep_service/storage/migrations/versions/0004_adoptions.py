"""What sweeps have adopted of earlier ones.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "adoptions",
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("trials", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_adoptions_sweep_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep_id", name=op.f("pk_adoptions")),
    )


def downgrade() -> None:
    op.drop_table("adoptions")
