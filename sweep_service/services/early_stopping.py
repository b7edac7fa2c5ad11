"""Which running trials to end early: the curves of a sweep's search trials, and the rule that judges them.

Where each balancer is a line of its own, a trial is judged among those of its balancer: a method that comes on slowly
would else be ended before it could be tuned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sweep_service.domain.pruning import Curve, cost, reason_to_stop
from sweep_service.domain.spec import EarlyStopping, SweepSpec
from sweep_service.domain.states import TrialEnding, TrialState
from sweep_service.domain.trial import Report, Role, Trial
from sweep_service.ports import SweepStore, TrialEnd


class EarlyStopper:
    """The curves live in memory and are rebuilt from the stored reports. Baselines and repeats have none: they are
    what the search is measured by, and train to their end.
    """

    def __init__(self, *, store: SweepStore, spec: SweepSpec) -> None:
        self._store = store
        self._rule = spec.early_stopping or EarlyStopping(pruner="none")
        self._objective = spec.objective
        self._are_methods_apart = bool(spec.methods)
        self._curves: dict[str, Curve] = {}

    def load(self, trials: Iterable[Trial]) -> None:
        """Read the curves of those trials anew."""
        for trial in trials:
            if self._rule.pruner != "none" and trial.role is Role.SEARCH:
                self._curves[trial.id] = Curve(number=trial.number)
                self._add(trial, self._store.list_reports(trial.id))

    def ends(
        self, reports: Sequence[Report], trials: Mapping[str, Trial], *, ending: Collection[str]
    ) -> Sequence[TrialEnd]:
        """Take in the reports, then say which of their trials should end now; those of ``ending`` do so by
        themselves.
        """
        if self._rule.pruner == "none":
            return ()
        searched = [report for report in reports if trials[report.trial_id].role is Role.SEARCH]
        grown = [r.trial_id for r in searched if self._add(trials[r.trial_id], [r])]
        return [
            TrialEnd(trial_id=trial_id, ending=TrialEnding.PRUNED, message=reason)
            for trial_id in grown
            if trial_id not in ending and (reason := self._judge(trials[trial_id], trials)) is not None
        ]

    def _judge(self, trial: Trial, trials: Mapping[str, Trial]) -> str | None:
        field = [t for t in trials.values() if t.role is Role.SEARCH]
        if self._are_methods_apart:
            field = [t for t in field if t.balancer == trial.balancer]
        curves = {t.id: self._curves[t.id] for t in field if t.id in self._curves}
        if self._are_methods_apart:
            # By their places, since balancers take turns: of every fifth or eighth number all may be in one bracket.
            places = {t.id: place for place, t in enumerate(sorted(field, key=lambda t: t.number))}
            curves = {trial_id: replace(curve, number=places[trial_id]) for trial_id, curve in curves.items()}
        own = curves.pop(trial.id)
        num_completed = sum(t.state is TrialState.COMPLETED for t in field)
        steps = int(trial.params["steps"])
        return reason_to_stop(self._rule, own, list(curves.values()), num_completed=num_completed, max_steps=steps)

    def _add(self, trial: Trial, reports: Sequence[Report]) -> bool:
        """Whether the curve got a value. A step behind the last one is an attempt's that has resumed before it."""
        curve = self._curves.get(trial.id, Curve(number=trial.number))
        last = curve.steps[-1] if curve.steps else -1
        new = [r for r in reports if r.step > last and self._objective.metric in r.metrics]
        self._curves[trial.id] = replace(
            curve,
            steps=curve.steps + tuple(report.step for report in new),
            costs=curve.costs + tuple(cost(report.objective, self._objective) for report in new),
        )
        return bool(new)
