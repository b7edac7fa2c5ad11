"""What may be done with sweeps: submit, look, change, end. Decides; who calls it (the API) only translates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from sweep_service.domain.adoption import Adoption
from sweep_service.domain.amendment import amended_spec
from sweep_service.domain.branches import draw_uniform
from sweep_service.domain.errors import (
    CatalogMissingError,
    Finding,
    InvalidSpecError,
    SpecChangedError,
    StoreUnavailableError,
)
from sweep_service.domain.events import Event
from sweep_service.domain.ids import IdPrefix, check_sweep_id, new_id
from sweep_service.domain.keys import ANONYMOUS, Actor
from sweep_service.domain.lines import fixed_params
from sweep_service.domain.logs import KeptLine
from sweep_service.domain.packing import not_fused_because
from sweep_service.domain.shares import search_quotas
from sweep_service.domain.space import Scalar
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.states import SweepState, TrialState, Verb, amended_state
from sweep_service.domain.trial import BusyTime, Role, Sweep, Trial
from sweep_service.ports import ALL_SWEEPS, Clock, SubmissionKey, SweepFilter, SweepStore
from sweep_service.services.budget import used_gpu_hours
from sweep_service.services.outcome import nothing_left
from sweep_service.services.pages import Page, page_of
from sweep_service.services.plan import Plan
from sweep_service.services.ranking import front_of
from sweep_service.services.results import front_values, summarise
from sweep_service.services.spec_schema import spec_schema
from sweep_service.services.warm_start import find_adoption
from trainables.catalog import Trainable

NUM_SAMPLES = 5  # of a preview
AMEND_TRIES = 5  # each fails only if somebody else has changed the sweep within milliseconds


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a sweep has come."""

    budget_trials: int
    used_trials: int  # search trials that have used up a part of the budget
    used_gpu_hours: float | None  # None: the sweep asks for no GPU
    trials: Mapping[Role, Mapping[TrialState, int]]  # every role; only states that some trial is in


@dataclass(frozen=True, kw_only=True)
class SweepOverview:
    """A sweep with what follows from its trials."""

    sweep: Sweep
    progress: Progress
    place: int | None  # in the queue; 1: the next one to start; None: it does not wait its turn
    # The best completed trial of the search, then of each other balancer that is searched by itself, then of each
    # baseline, in the spec's order.
    leaders: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What came of submitting a spec."""

    overview: SweepOverview
    is_replay: bool  # it had been submitted before, under the same key


@dataclass(frozen=True, kw_only=True)
class FrontTrial:
    """A trial that none of the others dominates."""

    trial: Trial
    values: Mapping[str, float]  # of the objectives, by metric


@dataclass(frozen=True, kw_only=True)
class BestTrial:
    """The best completed search trial so far, or the reason why there is none."""

    trial: Trial | None
    reason: str = ""
    front: tuple[FrontTrial, ...] | None = None  # best in the first objective first; None: there is one objective only
    methods: Sequence[Mapping[str, Any]] | None = None  # ranked; None: the search is one for all balancers


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A configuration that a trial of the sweep could have."""

    searched: Mapping[str, Scalar]
    params: Mapping[str, Any]  # complete: fixed, searched and default ones


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a spec would become if it were submitted."""

    spec: SweepSpec
    lanes: int | Literal["auto"]  # trials that one pack would train together, as the spec has it
    not_fused_because: str  # empty: they are trained together, as far as is known before a pack has tried
    samples: tuple[Sample, ...]  # drawn uniformly from the space, whatever the sampler
    most_trials: Mapping[Role, int]  # how many there are to be, unless the sweep ends earlier
    shares: Mapping[str, int] | None  # search trials of each balancer; None: they do not have a search each
    adoption: Adoption | None  # None: it asks for no other sweep's trials


class SweepService:
    """Sweeps as their users see them.

    Any method may raise StoreUnavailableError, after which a change may have been made or not; those that take a
    sweep's id raise SweepNotFoundError, also for text that is no id at all.
    """

    def __init__(self, *, store: SweepStore, clock: Clock, project: str) -> None:
        self._store = store
        self._clock = clock
        self._project = project

    def submit(self, document: Any, *, key: str | None = None, by: Actor = ANONYMOUS) -> Submission:
        """Check the document and queue the sweep that it describes; nothing is stored of one that is wrong.

        The same document under the same key is queued once, however often it is submitted; it is not checked again
        either, for the catalogue may have changed.

        Once the store has the sweep no error of it counts: that would pass for one of queueing.

        Raises:
            InvalidSpecError: with everything that is wrong.
            CatalogMissingError: nobody has published what can be trained yet.
            KeyReusedError: another document was submitted under that key.
        """
        submission = None if key is None else SubmissionKey(key=key, digest=_digest(document))
        if submission is not None:
            owner = {"project": self._project, "created_by": by.name}
            if earlier := self._store.find_submitted(**owner, key=submission):
                return Submission(overview=self.get(earlier.id), is_replay=True)
        spec, _, adoption = self._checked(document)
        sweep = self._new_sweep(spec, by.name, adoption)
        stored = self._store.add_sweep(sweep, key=submission, notice=adoption.summary if adoption else "", by=by)
        if stored.id != sweep.id:  # somebody else was submitting it at the same time
            return Submission(overview=self.get(stored.id), is_replay=True)
        place = None
        with suppress(StoreUnavailableError):
            place = self.places([sweep]).get(sweep.id)
        progress = _progress(sweep, {}, timedelta(0))
        overview = SweepOverview(sweep=sweep, progress=progress, place=place, leaders=())
        return Submission(overview=overview, is_replay=False)

    def preview(self, document: Any) -> Preview:
        """Check the document as ``submit`` does, and store nothing.

        Raises:
            InvalidSpecError, CatalogMissingError.
        """
        spec, trainable, adoption = self._checked(document)
        fixed = fixed_params(spec, trainable)
        sweep = self._new_sweep(spec, "", adoption)
        plan = Plan(sweep=sweep, trainable=trainable, trials=(), open_search=lambda *_: None)
        draws = [draw_uniform(spec.space, seed=spec.search.seed + index) for index in range(NUM_SAMPLES)]
        return Preview(
            spec=spec,
            lanes=spec.resources.lanes,
            not_fused_because=not_fused_because(fixed, spec.resources) or trainable.not_fused_because,
            samples=tuple(Sample(searched=draw, params={**fixed, **draw}) for draw in draws),
            most_trials=plan.most_trials,
            shares={str(name): quota for name, quota in search_quotas(spec).items()} if spec.methods else None,
            adoption=adoption,
        )

    def get(self, sweep_id: str) -> SweepOverview:
        """The sweep, its progress and its best trials so far."""
        sweep = self._sweep(sweep_id)
        busy = self._store.busy_time(sweep_id) if sweep.spec.resources.gpus else BusyTime()
        progress = _progress(sweep, self._store.count_trials(sweep_id), busy.until(self._clock.now()))
        place = self.places([sweep]).get(sweep.id)
        return SweepOverview(sweep=sweep, progress=progress, place=place, leaders=tuple(self._leaders(sweep)))

    def places(self, sweeps: Sequence[Sweep]) -> Mapping[str, int]:
        """Their places in the queue, of those that wait their turn."""
        queued = [sweep.id for sweep in sweeps if sweep.state is SweepState.QUEUED]
        return self._store.queue_places(queued) if queued else {}

    def get_state(self, sweep_id: str) -> SweepState:
        """Where the sweep stands."""
        check_sweep_id(sweep_id)
        return self._store.get_standing(sweep_id).state

    def list_sweeps(
        self,
        *,
        beyond: str | None = None,
        only: SweepFilter = ALL_SWEEPS,
        oldest_first: bool = False,
        limit: int = 50,
    ) -> Page[Sweep]:
        """Newest first or oldest first, only those that come after the sweep ``beyond`` in that order."""
        bound = {"after" if oldest_first else "before": beyond}
        found = self._store.list_sweeps(**bound, only=only, oldest_first=oldest_first, limit=limit + 1)
        return page_of(found, limit)

    def list_trials(self, sweep_id: str, *, after: int = -1, limit: int = 50) -> Page[Trial]:
        """By number, only those above ``after``."""
        check_sweep_id(sweep_id)
        return page_of(self._store.list_trials(sweep_id, after=after, limit=limit + 1), limit)

    def list_events(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Page[Event]:
        """By seq, only those above ``after``."""
        check_sweep_id(sweep_id)
        return page_of(self._store.list_events(sweep_id, after=after, limit=limit + 1), limit)

    def list_logs(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Page[KeptLine]:
        """What its trials have said, by seq, only lines above ``after``."""
        check_sweep_id(sweep_id)
        return page_of(self._store.list_sweep_logs(sweep_id, after=after, limit=limit + 1), limit)

    def best(self, sweep_id: str) -> BestTrial:
        """The best completed search trial so far; of several objectives the Pareto front; and the methods, where each
        balancer is searched by itself.
        """
        sweep = self._sweep(sweep_id)
        front = tuple(self._front(sweep)) if sweep.spec.objectives else None
        found = BestTrial(trial=None, front=front, methods=self._methods(sweep) if sweep.spec.methods else None)
        if sweep.best_trial_id is not None:
            return replace(found, trial=self._store.get_trial(sweep.best_trial_id))
        if sweep.state.is_ended:
            return replace(found, reason="The sweep ended without a completed search trial.")
        return replace(found, reason="No search trial has completed yet.")

    def control(self, sweep_id: str, verb: Verb, *, by: Actor = ANONYMOUS) -> SweepOverview:
        """Do what a user asks of a sweep. Nothing happens if it is so already.

        Raises:
            IllegalMoveError: the sweep's state does not allow it; lists the verbs that it does.
        """
        check_sweep_id(sweep_id)
        self._store.control_sweep(sweep_id, verb, by=by)
        return self.get(sweep_id)

    def amend(self, sweep_id: str, patch: Any, *, by: Actor = ANONYMOUS) -> SweepOverview:
        """Change what the sweep is to do, as the JSON merge patch says; one that has ended goes on for it.

        Raises:
            InvalidSpecError: with everything that is wrong; or it has ended, and would end again at once.
            IllegalMoveError: the sweep's state does not allow it; lists the verbs that it does.
            SpecChangedError: others change it all the time.
            CatalogMissingError.
        """
        catalog = self._store.read_catalog()
        for is_last in (*[False] * (AMEND_TRIES - 1), True):
            sweep = self._sweep(sweep_id)
            amended_state(sweep.state)  # before what is wrong with the patch: no other one would do
            spec = amended_spec(sweep.spec, patch, catalog)
            if sweep.state.is_ended:
                self._check_goes_on(replace(sweep, spec=spec), catalog[spec.trainable])
            try:
                self._store.amend_sweep(sweep_id, spec, revision=sweep.revision, by=by)
                break
            except SpecChangedError:
                if is_last:
                    raise
        return self.get(sweep_id)

    def _check_goes_on(self, sweep: Sweep, trainable: Trainable) -> None:
        """Raise InvalidSpecError if there is nothing left to do for the sweep, which has ended."""
        trials = self._store.list_trials(sweep.id)
        now = self._clock.now()
        busy = self._store.busy_time(sweep.id).until(now)
        plan = Plan(sweep=sweep, trainable=trainable, trials=trials, open_search=lambda *_: None)
        if not plan.next_trials(now, busy):
            pointer, detail = nothing_left(sweep.spec, trials, busy)
            raise InvalidSpecError([Finding(pointer=pointer, code="nothing_left", detail=detail)])

    def delete(self, sweep_id: str, *, by: Actor = ANONYMOUS) -> None:
        """Forget an ended sweep and all that is stored of it. Its runs in MLflow, its model and its checkpoints stay.

        Raises:
            IllegalMoveError: it has not ended; lists the verbs that make sense instead.
        """
        check_sweep_id(sweep_id)
        self._store.delete_sweep(sweep_id, by=by)

    def trainables(self) -> Sequence[Trainable]:
        """What can be trained, by name. Raises CatalogMissingError."""
        catalog = self._store.read_catalog()
        return [catalog[name] for name in sorted(catalog)]

    def spec_schema(self) -> Mapping[str, Any]:
        """The JSON schema of a spec; without trainables and metrics while nobody has published them."""
        try:
            catalog = self._store.read_catalog()
        except CatalogMissingError:
            catalog = {}
        return spec_schema(catalog)

    def check_ready(self) -> None:
        """Raise StoreUnavailableError or SchemaOutdatedError unless sweeps can be served."""
        self._store.check_ready()

    def _new_sweep(self, spec: SweepSpec, created_by: str, adoption: Adoption | None) -> Sweep:
        now = self._clock.now()
        return Sweep(
            id=new_id(IdPrefix.SWEEP, now=now),
            project=self._project,
            created_by=created_by,
            spec=spec,
            state=SweepState.QUEUED,
            adopted=adoption.adopted if adoption else (),
            created_at=now,
            updated_at=now,
            queued_at=now,
        )

    def _checked(self, document: Any) -> tuple[SweepSpec, Trainable, Adoption | None]:
        catalog = self._store.read_catalog()
        spec = check_spec(document, catalog)
        trainable = catalog[spec.trainable]
        return spec, trainable, find_adoption(self._store, spec, trainable)

    def _sweep(self, sweep_id: str) -> Sweep:
        check_sweep_id(sweep_id)
        return self._store.get_sweep(sweep_id)

    def _leaders(self, sweep: Sweep) -> Iterator[Trial]:
        searched = [(Role.SEARCH, name) for name in sweep.spec.methods]
        lines = [(Role.SEARCH, None), *searched, *((Role.BASELINE, name) for name in sweep.spec.baselines)]
        known: set[str] = set()  # the best of the search is the best of its balancer as well
        for role, balancer in lines:
            leader = self._store.find_leader(sweep.id, role, objective=sweep.spec.objective, balancer=balancer)
            if leader is not None and leader.id not in known:
                known.add(leader.id)
                yield leader

    def _front(self, sweep: Sweep) -> Iterator[FrontTrial]:
        for trial in front_of(sweep.spec, self._store.list_trials(sweep.id)) or ():
            yield FrontTrial(trial=trial, values=front_values(sweep.spec, trial))

    def _methods(self, sweep: Sweep) -> Sequence[Mapping[str, Any]] | None:
        """Of a sweep that goes on, as they stand."""
        results = sweep.results or summarise(sweep, self._store.list_trials(sweep.id))
        return results.get("methods")


def _digest(document: Any) -> str:
    """The same for documents that differ in the order of keys alone."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _progress(sweep: Sweep, counts: Mapping[tuple[Role, TrialState], int], busy: timedelta) -> Progress:
    by_role = {role: {s: counts[role, s] for s in TrialState if (role, s) in counts} for role in Role}
    used = sum(number for state, number in by_role[Role.SEARCH].items() if state.counts_in_budget)
    return Progress(
        budget_trials=sweep.spec.budget.trials,
        used_trials=used,
        used_gpu_hours=used_gpu_hours(sweep.spec, busy) if sweep.spec.resources.gpus else None,
        trials=by_role,
    )
