"""The part of the SQL store that needs no sweep's lock: all reading, and what the dispatcher publishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, Row, case, func, select, text

from sweep_service.domain.errors import CatalogMissingError, KeyReusedError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.events import Event
from sweep_service.domain.limits import Demand
from sweep_service.domain.logs import KeptLine
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import PASSED_OVER, SweepState, TrialState
from sweep_service.domain.stock import Stock
from sweep_service.domain.trial import Attempt, BusyTime, Cluster, Report, Role, Standing, Sweep, Trial
from sweep_service.ports import ALL_SWEEPS, SubmissionKey, SweepFilter
from sweep_service.storage import rows, sql_logs
from sweep_service.storage.database import Database
from sweep_service.storage.schema import check_schema
from sweep_service.storage.sql_stock import CLUSTER, StockTaker
from sweep_service.storage.tables import (
    IN_QUEUE,
    QUEUE_ORDER,
    SWEEP_WITHOUT_RESULTS,
    adoptions,
    attempts,
    events,
    log_chunks,
    publications,
    reports,
    submission_keys,
    sweeps,
    trials,
)
from trainables.catalog import Trainable

_CATALOG = "catalog"


class SharedTables:
    """Base of SqlSweepStore."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stock = StockTaker(database)

    def check_ready(self) -> None:
        with self._database.reading() as connection:
            check_schema(connection)

    def get_sweep(self, sweep_id: str) -> Sweep:
        query = select(sweeps, adoptions.c.trials.label("adopted")).join_from(sweeps, adoptions, isouter=True)
        with self._database.reading() as connection:
            row = connection.execute(query.where(sweeps.c.id == sweep_id)).one_or_none()
        if row is None:
            raise SweepNotFoundError(sweep_id)
        return rows.sweep_of(row)

    def get_standing(self, sweep_id: str) -> Standing:
        query = select(sweeps.c.state, sweeps.c.revision).where(sweeps.c.id == sweep_id)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise SweepNotFoundError(sweep_id)
        return Standing(state=SweepState(row.state), revision=row.revision)

    def list_sweeps(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        only: SweepFilter = ALL_SWEEPS,
        oldest_first: bool = False,
        limit: int = 50,
    ) -> Sequence[Sweep]:
        conditions = list(_conditions(only))
        if before is not None:
            conditions.append(sweeps.c.id < before)
        if after is not None:
            conditions.append(sweeps.c.id > after)
        order = sweeps.c.id.asc() if oldest_first else sweeps.c.id.desc()
        query = select(*SWEEP_WITHOUT_RESULTS).where(*conditions).order_by(order).limit(limit)
        with self._database.reading() as connection:
            return [rows.sweep_of(row) for row in connection.execute(query)]

    def queue_places(self, sweep_ids: Collection[str]) -> Mapping[str, int]:
        waits_turn = sweeps.c.reason.is_(None) | sweeps.c.reason.not_in(sorted(PASSED_OVER))
        place = func.row_number().over(order_by=QUEUE_ORDER)
        queue = select(sweeps.c.id, place.label("place")).where(IN_QUEUE, waits_turn).subquery()
        query = select(queue.c.id, queue.c.place).where(queue.c.id.in_(sorted(sweep_ids)))
        with self._database.reading() as connection:
            return {row.id: row.place for row in connection.execute(query)}

    def list_demands(self, states: Collection[SweepState]) -> Sequence[Demand]:
        spec = sweeps.c.spec  # of which little is read: a queue may be long
        columns = [sweeps.c[name] for name in ("id", "project", "priority", "state", "reason", "message")]
        is_queued = sweeps.c.state == str(SweepState.QUEUED)
        query = (
            select(*columns, spec["labels"].label("labels"), spec["resources"].label("resources"))
            .where(sweeps.c.ended_at.is_(None), sweeps.c.state.in_(sorted(states)))
            .order_by(is_queued, *QUEUE_ORDER)
        )
        with self._database.reading() as connection:
            found = connection.execute(query).all()
            num_packs = _num_packs(connection) if found else {}
        return [rows.demand_of(row, num_packs=num_packs.get(row.id, 0)) for row in found]

    def find_submitted(self, *, project: str, created_by: str, key: SubmissionKey) -> Sweep | None:
        keys = submission_keys.c
        is_theirs = (keys.project == project) & (keys.created_by == created_by) & (keys.key == key.key)
        query = select(keys.digest, *SWEEP_WITHOUT_RESULTS).join_from(submission_keys, sweeps).where(is_theirs)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.digest != key.digest:
            raise KeyReusedError(key.key)
        return rows.sweep_of(row)

    def get_trial(self, trial_id: str) -> Trial:
        with self._database.reading() as connection:
            row = connection.execute(select(trials).where(trials.c.id == trial_id)).one_or_none()
        if row is None:
            raise TrialNotFoundError(trial_id)
        return rows.trial_of(row)

    def list_trials(self, sweep_id: str, *, after: int = -1, limit: int | None = None) -> Sequence[Trial]:
        query = select(trials).where(trials.c.sweep_id == sweep_id, trials.c.number > after).order_by(trials.c.number)
        with self._database.reading() as connection:
            return [rows.trial_of(row) for row in _rows_of_sweep(connection, sweep_id, query.limit(limit))]

    def count_trials(self, sweep_id: str) -> Mapping[tuple[Role, TrialState], int]:
        query = (
            select(trials.c.role, trials.c.state, func.count().label("number"))
            .where(trials.c.sweep_id == sweep_id)
            .group_by(trials.c.role, trials.c.state)
        )
        with self._database.reading() as connection:
            found = _rows_of_sweep(connection, sweep_id, query)
        return {(Role(row.role), TrialState(row.state)): row.number for row in found}

    def busy_time(self, sweep_id: str) -> BusyTime:
        # One row for each pack_key: with tens of thousands of attempts, reading their rows would take most of the time.
        key = attempts.c.generation, func.coalesce(func.nullif(attempts.c.pack, ""), attempts.c.id)
        is_over = func.count() == func.count(attempts.c.ended_at)
        span = func.min(attempts.c.started_at), case((is_over, func.max(attempts.c.ended_at)))
        query = select(*span).where(attempts.c.sweep_id == sweep_id).group_by(*key)
        with self._database.reading() as connection:
            found = _rows_of_sweep(connection, sweep_id, query)
        return BusyTime.of((pack, start, end) for pack, (start, end) in enumerate(found))

    def find_leader(
        self, sweep_id: str, role: Role, *, objective: Objective, balancer: str | None = None
    ) -> Trial | None:
        is_candidate = (trials.c.sweep_id == sweep_id) & (trials.c.role == str(role)) & trials.c.objective.is_not(None)
        if balancer is not None:
            is_candidate &= trials.c.balancer == balancer
        value = trials.c.objective
        order = value.asc() if objective.direction == "minimize" else value.desc()
        query = select(trials).where(is_candidate).order_by(order, trials.c.number).limit(1)
        with self._database.reading() as connection:
            found = _rows_of_sweep(connection, sweep_id, query)
        return rows.trial_of(found[0]) if found else None

    def list_attempts(self, trial_id: str) -> Sequence[Attempt]:
        query = select(attempts).where(attempts.c.trial_id == trial_id).order_by(attempts.c.number)
        with self._database.reading() as connection:
            return [rows.attempt_of(row) for row in _rows_of_trial(connection, trial_id, query)]

    def list_reports(self, trial_id: str) -> Sequence[Report]:
        query = select(reports).where(reports.c.trial_id == trial_id).order_by(reports.c.step)
        with self._database.reading() as connection:
            return [rows.report_of(row) for row in _rows_of_trial(connection, trial_id, query)]

    def list_reports_after(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Report]:
        is_new = (reports.c.trial_id == trial_id) & (reports.c.seq > after)
        query = select(reports).where(is_new).order_by(reports.c.seq).limit(limit)
        with self._database.reading() as connection:
            return [rows.report_of(row) for row in _rows_of_trial(connection, trial_id, query)]

    def list_events(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Event]:
        query = select(events).where(events.c.sweep_id == sweep_id, events.c.seq > after).order_by(events.c.seq)
        with self._database.reading() as connection:
            return [rows.event_of(row) for row in _rows_of_sweep(connection, sweep_id, query.limit(limit))]

    def list_trial_logs(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        with self._database.reading() as connection:
            found = sql_logs.read(connection, log_chunks.c.trial_id == trial_id, after=after, limit=limit)
            if not found:
                _check_trial_exists(connection, trial_id)
            return found

    def list_sweep_logs(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        with self._database.reading() as connection:
            found = sql_logs.read(connection, log_chunks.c.sweep_id == sweep_id, after=after, limit=limit)
            if not found:
                _check_sweep_exists(connection, sweep_id)
            return found

    def undelivered(self, sweep_id: str, *, limit: int) -> Sequence[Report]:
        query = (
            select(reports)
            .join(sweeps, sweeps.c.id == reports.c.sweep_id)
            .where(reports.c.sweep_id == sweep_id, reports.c.seq > sweeps.c.num_delivered)
            .order_by(reports.c.seq)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [rows.report_of(row) for row in connection.execute(query)]

    def publish_catalog(self, trainables: Sequence[Trainable]) -> None:
        self._publish(_CATALOG, {trainable.name: trainable.model_dump(mode="json") for trainable in trainables})

    def read_catalog(self) -> Mapping[str, Trainable]:
        document = self._published(_CATALOG)
        if document is None:
            raise CatalogMissingError("No dispatcher has published what can be trained yet; start one, or wait.")
        # A dispatcher of another version may have published it: what only that one knows is left out.
        return {name: Trainable.model_validate(item, extra="ignore") for name, item in document.items()}

    def publish_cluster(self, cluster: Cluster) -> None:
        self._publish(CLUSTER, rows.cluster_document(cluster))

    def read_cluster(self) -> Cluster | None:
        document = self._published(CLUSTER)
        return None if document is None else rows.cluster_of(document)

    def take_stock(self) -> Stock:
        return self._stock.take()

    def _publish(self, name: str, document: Mapping[str, Any]) -> None:
        with self._database.writing() as connection:
            row = {"name": name, "document": document, "published_at": self._database.now()}
            connection.execute(self._database.upsert(publications, row))

    def _published(self, name: str) -> Mapping[str, Any] | None:
        query = select(publications.c.document).where(publications.c.name == name)
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()


def _num_packs(connection: Connection) -> Mapping[str, int]:
    """How many packs of each sweep run now."""
    is_running = text("attempts.state = 'running'")  # a literal, for SQLite to see that an index has just these
    key = attempts.c.generation, func.coalesce(func.nullif(attempts.c.pack, ""), attempts.c.id)
    packs = select(attempts.c.sweep_id, *key).where(is_running).distinct()
    return Counter(row.sweep_id for row in connection.execute(packs))


def _conditions(only: SweepFilter) -> Iterator[ColumnElement[bool]]:
    """What the filter says, in SQL."""
    if only.states:
        yield sweeps.c.state.in_(sorted(only.states))
    for key, value in sorted(only.labels):
        # Step by step: as one path, PostgreSQL would take a label named null for no name at all.
        yield sweeps.c.spec["labels"][key].as_string() == value
    if only.project is not None:
        yield sweeps.c.project == only.project
    if only.created_after is not None:
        yield sweeps.c.created_at > only.created_after


def _rows_of_sweep(connection: Connection, sweep_id: str, query: Executable) -> Sequence[Row[*tuple[Any, ...]]]:
    found = connection.execute(query).all()
    if not found:
        _check_sweep_exists(connection, sweep_id)
    return found


def _check_sweep_exists(connection: Connection, sweep_id: str) -> None:
    if connection.execute(select(sweeps.c.id).where(sweeps.c.id == sweep_id)).first() is None:
        raise SweepNotFoundError(sweep_id)


def _rows_of_trial(connection: Connection, trial_id: str, query: Executable) -> Sequence[Row[*tuple[Any, ...]]]:
    found = connection.execute(query).all()
    if not found:
        _check_trial_exists(connection, trial_id)
    return found


def _check_trial_exists(connection: Connection, trial_id: str) -> None:
    if connection.execute(select(trials.c.id).where(trials.c.id == trial_id)).first() is None:
        raise TrialNotFoundError(trial_id)
