"""Which running trials to end early: the curves of a sweep's search trials, and the rule that judges them."""

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
        num_completed = sum(t.role is Role.SEARCH and t.state is TrialState.COMPLETED for t in trials.values())
        return [
            TrialEnd(trial_id=trial_id, ending=TrialEnding.PRUNED, message=reason)
            for trial_id in grown
            if trial_id not in ending and (reason := self._judge(trials[trial_id], num_completed)) is not None
        ]

    def _judge(self, trial: Trial, num_completed: int) -> str | None:
        others = [curve for trial_id, curve in self._curves.items() if trial_id != trial.id]
        steps = int(trial.params["steps"])
        return reason_to_stop(self._rule, self._curves[trial.id], others, num_completed=num_completed, max_steps=steps)

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
