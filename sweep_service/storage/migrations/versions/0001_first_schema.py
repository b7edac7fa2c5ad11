"""The first schema: sweeps, trials, attempts, reports, events and publications.

Revision: 0001, after nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, not taken from the code's own tables: those move on, a migration does not.
_ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_sweeps()
    _create_trials()
    _create_attempts()
    _create_reports()
    _create_events()
    _create_publications()


def downgrade() -> None:
    for table in ("publications", "events", "reports", "attempts", "trials", "sweeps"):
        op.drop_table(table)


def _create_sweeps() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=30)),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("best_trial_id", _ID),
        sa.Column("tracking_ref", sa.Text()),
        sa.Column("results", sa.JSON()),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("lease_token", sa.String(length=32)),
        sa.Column("lease_owner", sa.Text()),
        sa.Column("lease_expires_at", _TIME),
        sa.Column("num_events", sa.BigInteger(), nullable=False),
        sa.Column("num_reports", sa.BigInteger(), nullable=False),
        sa.Column("num_delivered", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(state IN ('completed', 'stopped', 'cancelled', 'failed')) = (ended_at IS NOT NULL)",
            name=op.f("ck_sweeps_ended"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'starting', 'running', 'pausing', 'paused', 'stopping', 'cancelling', "
            "'completed', 'stopped', 'cancelled', 'failed')",
            name=op.f("ck_sweeps_state"),
        ),
        sa.CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name=op.f("ck_sweeps_lease")),
        sa.CheckConstraint("num_delivered BETWEEN 0 AND num_reports", name=op.f("ck_sweeps_delivered")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index(
        "ix_sweeps_unfinished",
        "sweeps",
        ["id"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _create_trials() -> None:
    op.create_table(
        "trials",
        sa.Column("id", _ID, nullable=False),
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("balancer", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("searched", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("confirms", _ID),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("ending", sa.String(length=20)),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text(), nullable=False),
        sa.Column("objective", sa.Double()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.Text()),
        sa.Column("tracking_ref", sa.Text()),
        sa.Column("search_state", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.CheckConstraint("(state = 'completed') = (objective IS NOT NULL)", name=op.f("ck_trials_objective")),
        sa.CheckConstraint(
            "(state IN ('completed', 'early_stopped', 'failed', 'infeasible', 'cancelled')) = (ending IS NOT NULL)",
            name=op.f("ck_trials_ended"),
        ),
        sa.CheckConstraint("role IN ('search', 'baseline', 'confirm')", name=op.f("ck_trials_role")),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'resting', "
            "'completed', 'early_stopped', 'failed', 'infeasible', 'cancelled')",
            name=op.f("ck_trials_state"),
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_trials_sweep_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("sweep_id", "number", name=op.f("uq_trials_sweep_id_number")),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("trial_id", _ID, nullable=False),
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("resumed_from", sa.Text()),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.CheckConstraint(
            "(state IN ('finished', 'failed', 'infeasible', 'lost', 'preempted')) = (ended_at IS NOT NULL)",
            name=op.f("ck_attempts_ended"),
        ),
        sa.CheckConstraint(
            "state IN ('running', 'finished', 'failed', 'infeasible', 'lost', 'preempted')",
            name=op.f("ck_attempts_state"),
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_attempts_sweep_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_attempts_trial_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("trial_id", "number", name=op.f("uq_attempts_trial_id_number")),
    )
    op.create_index("ix_attempts_sweep_id", "attempts", ["sweep_id"], unique=False)
    op.create_index(
        "uq_attempts_running",
        "attempts",
        ["trial_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )


def _create_reports() -> None:
    op.create_table(
        "reports",
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", _ID, nullable=False),
        sa.Column("attempt_id", _ID, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("objective", sa.Double()),
        sa.Column("checkpoint", sa.Text()),
        sa.Column("reported_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_reports_attempt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_reports_sweep_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_reports_trial_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep_id", "seq", name=op.f("pk_reports")),
        sa.UniqueConstraint("trial_id", "step", name=op.f("uq_reports_trial_id_step")),
    )
    op.create_index("ix_reports_attempt_id", "reports", ["attempt_id"], unique=False)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("sweep_id", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", _ID),
        sa.Column("kind", sa.String(length=30), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_events_sweep_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep_id", "seq", name=op.f("pk_events")),
    )


def _create_publications() -> None:
    op.create_table(
        "publications",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("published_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_publications")),
    )
