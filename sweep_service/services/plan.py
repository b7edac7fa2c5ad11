"""Which trial comes next: the search, the baselines, then the comparison of seeds.

A plan is a pure function of the stored trials, so that any conductor generation goes on where the last one fell. It is
made of *lines*: the search is one, or one for each balancer where the balancer is searched; each baseline is one. Each
has a sampler of its own over those parameters of the space that its balancer reads, and a quota of trials
(``domain/shares.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sweep_service.domain.adoption import as_history
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.lines import Line, fixed_params, lines_of
from sweep_service.domain.packing import most_running
from sweep_service.domain.space import Space, fitted
from sweep_service.domain.spec import BALANCER, SweepSpec
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.ports import Draw, Search
from sweep_service.services.budget import is_hopeless, is_spent, num_used, search_end
from sweep_service.services.ranking import contenders
from trainables.catalog import Trainable

# (space, seed, budget, history) -> a sampler that knows the history, in which adopted trials have numbers below 0
OpenSearch = Callable[[Space, int, int, Sequence[Trial]], Search | None]


class _Line:
    """One sampler, its quota, and the trials that it has been asked for."""

    def __init__(
        self,
        *,
        line: Line,
        initial: Sequence[Mapping[str, Any]],
        search: Search | None,
        trials: Sequence[Trial],
    ) -> None:
        self.kind = line
        self._initial = initial  # points to begin with
        self._search = search  # None: nothing to search, every trial would be the same
        self._trials = {trial.id: trial for trial in trials}
        self._last_draw: tuple[int, Draw] | None = None  # with its trial's number

    @property
    def trials(self) -> Sequence[Trial]:
        return list(self._trials.values())

    @property
    def share(self) -> float:
        """How much of its quota it has been given, from 0 to 1."""
        return num_used(self._trials.values()) / self.kind.quota

    @property
    def wants_more(self) -> bool:
        return self.share < 1

    def num_askable(self, spec: SweepSpec) -> int:
        """Trials that may be asked for now: of what is left, as many as may run at once and do not."""
        unended = sum(not trial.state.is_ended for trial in self._trials.values())
        most = most_running(spec.resources, spec.search.sampler, self.kind.quota, len(self._trials))
        return max(0, min(self.kind.quota - num_used(self._trials.values()), most - unended))

    @property
    def is_hopeless(self) -> bool:
        return is_hopeless(self.trials, self.kind.quota)

    def ask(self, number: int) -> Draw:
        """The draw for the trial of that number. Asked again for it (its trial could not be stored), the same one."""
        if self._search is None:
            return Draw(params={})
        if self._last_draw is None or self._last_draw[0] != number:
            place = len(self._trials)
            given = self._initial[place] if place < len(self._initial) else None
            self._last_draw = number, self._search.ask(number, given)
        return self._last_draw[1]

    def take(self, trial: Trial) -> None:
        """Note a new trial, or what has become of a known one."""
        self._trials[trial.id] = trial
        if self._search is not None and trial.state.is_ended:
            self._search.tell(trial)


class Plan:
    """The trials of a sweep, and the rule that makes the next one."""

    def __init__(self, *, sweep: Sweep, trainable: Trainable, trials: Sequence[Trial], open_search: OpenSearch) -> None:
        self._sweep = sweep
        self._spec = sweep.spec
        self._trainable = trainable
        self._active_since = sweep.active_since  # None: with the first trial that is asked for
        self._trials = {trial.id: trial for trial in trials}
        self._lines = list(self._open_lines(open_search))

    @property
    def trainable(self) -> Trainable:
        """What the trials train."""
        return self._trainable

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial as last heard of, by number."""
        return sorted(self._trials.values(), key=lambda trial: trial.number)

    @property
    def is_hopeless(self) -> bool:
        """Whether the search, each line of it, has failed so often, and only failed, that going on is a waste."""
        return all(line.is_hopeless for line in self._search_lines)

    @property
    def most_trials(self) -> Mapping[Role, int]:
        """How many trials of each role there are to be, if nothing ends the sweep earlier and every line completes."""
        quotas = {role: sum(line.kind.quota for line in self._lines if line.kind.role is role) for role in Role}
        return {**quotas, Role.CONFIRM: len(confirm_seeds(self._spec)) * len(self._lines)}

    def take(self, trial: Trial) -> None:
        """Note what has become of a trial."""
        self._trials[trial.id] = trial
        for line in self._lines:
            if line.kind.holds(trial):
                line.take(trial)

    @property
    def most_at_once(self) -> int:
        """How many trials may run at once, whatever there is to run them on."""
        spec = self._spec
        by_line = (most_running(spec.resources, spec.search.sampler, line.kind.quota, 0) for line in self._lines)
        return max(1, sum(by_line), self.most_trials[Role.CONFIRM])

    @property
    def num_askable(self) -> int:
        """How many more trials could be asked for now; an estimate, for sharing them out."""
        lines = [*self._open_baselines(), *self._open_search_lines()]
        return sum(line.num_askable(self._spec) for line in lines)

    def next_trials(self, now: datetime, busy: timedelta = timedelta(0)) -> Sequence[Trial]:
        """New trials to store and start: one of a line, or the whole comparison once every line is through. ``busy``
        is how long packs have taken until now; looked at where there is a budget of GPU-hours.

        Empty: wait for what runs; or, if nothing does, the sweep is done.
        """
        self._active_since = self._active_since or now
        active = replace(self._sweep, active_since=self._active_since).active_time(now)
        if self.is_hopeless or is_spent(self._spec, active, busy):
            return ()
        if lines := [*self._open_baselines(), *self._open_search_lines()]:
            # Of the lines whose turn it could be, those that must learn first have to wait for what runs.
            askable = [line for line in lines if line.num_askable(self._spec)]
            return (self._new_line_trial(min(askable, key=self._turn), now),) if askable else ()
        if any(not trial.state.is_ended for trial in self._trials.values()):
            return ()
        return list(self._missing_confirm_trials(now))

    def _turn(self, line: _Line) -> float:
        """The line with the least is next. Those of the search take turns, so that an early end has treated all
        balancers alike. Baselines come first: the slowest of them trains one network a task, and should not be what is
        waited for at the end. But they must not take all of a limited time: there all lines take turns.
        """
        return -1.0 if line.kind.role is Role.BASELINE and not self._spec.budget.is_timed else line.share

    def _open_baselines(self) -> Sequence[_Line]:
        """The last of the spec first."""
        return [line for line in reversed(self._lines) if line.kind.role is Role.BASELINE and line.wants_more]

    def _open_search_lines(self) -> Sequence[_Line]:
        """A line that has only failed is given up; what it leaves of its quota nobody gets, so that the others are
        tuned as they would be without it.
        """
        # Of a larger budget a quota may be smaller by one: largest remainders are like that.
        used = sum(num_used(line.trials) for line in self._search_lines)
        if used >= self._spec.budget.trials or search_end(self._spec, self.trials) is not None:
            return ()
        return [line for line in self._search_lines if line.wants_more and not line.is_hopeless]

    @property
    def _search_lines(self) -> Sequence[_Line]:
        return [line for line in self._lines if line.kind.role is Role.SEARCH]

    @property
    def _next_number(self) -> int:
        return 1 + max((trial.number for trial in self._trials.values()), default=-1)

    def _open_lines(self, open_search: OpenSearch) -> Iterator[_Line]:
        spec = self._spec
        for index, line in enumerate(lines_of(spec, self._trainable)):
            space = line.space
            own = [trial for trial in self._trials.values() if line.holds(trial)]
            # Each line draws from a stream of its own; the search's is the sweep's.
            history = [*as_history(self._sweep, line), *own]
            search = open_search(space, spec.search.seed + index, line.quota, history) if space else None
            yield _Line(line=line, initial=initial_points(spec, line), search=search, trials=own)

    def _new_line_trial(self, line: _Line, now: datetime) -> Trial:
        number = self._next_number
        draw = line.ask(number)
        params = {**fixed_params(self._spec, self._trainable), **draw.params}
        if line.kind.balancer is not None:
            params["balancer"] = line.kind.balancer
        return self._new_trial(
            number=number,
            role=line.kind.role,
            params=params,
            now=now,
            searched=dict(draw.params),
            search_state=dict(draw.state),
        )

    def _missing_confirm_trials(self, now: datetime) -> Iterator[Trial]:
        if self._spec.confirm is None:
            return
        made = {(t.confirms, t.seed) for t in self._trials.values() if t.role is Role.CONFIRM}
        number = self._next_number
        sources = contenders(self._spec, self.trials)
        for seed in confirm_seeds(self._spec):
            for source in sources:
                if (source.id, seed) in made:
                    continue
                params = {**source.params, "seed": seed}
                yield self._new_trial(number=number, role=Role.CONFIRM, params=params, now=now, confirms=source.id)
                number += 1

    def _new_trial(self, *, number: int, role: Role, params: Mapping[str, Any], now: datetime, **more: Any) -> Trial:
        return Trial(
            id=new_id(IdPrefix.TRIAL, now=now),
            sweep_id=self._sweep.id,
            number=number,
            role=role,
            balancer=str(params["balancer"]),
            params=params,
            seed=int(params["seed"]),
            state=TrialState.PENDING,
            created_at=now,
            **{"searched": {}, **more},
        )


def initial_points(spec: SweepSpec, line: Line) -> Sequence[Mapping[str, Any]]:
    """The points that the line begins with. Where each balancer is a line, those that name it, and of those that name
    none the part that it has. A baseline gets its part of all of them, or the search would be compared with what had
    the worse start. A part that two points share only once.
    """
    space = line.space
    points: list[Mapping[str, Any]] = []
    for given in spec.initial:
        is_anothers = line.role is Role.SEARCH and given.get(BALANCER, line.balancer) != line.balancer
        part = {name: fitted(space[name], value) for name, value in given.items() if name in space}
        if part and not (is_anothers and spec.methods) and (part not in points or space == spec.space):
            points.append(part)
    return points


def confirm_seeds(spec: SweepSpec) -> Sequence[int]:
    """The fresh seeds of the comparison: the same for all that are compared, and none that the search used."""
    if spec.confirm is None:
        return ()
    generator = random.Random(f"confirm {spec.search.seed}")
    used = {spec.search.seed, spec.params.get("seed")}
    fresh = [seed for seed in generator.sample(range(2**31), spec.confirm.seeds + len(used)) if seed not in used]
    return fresh[: spec.confirm.seeds]
