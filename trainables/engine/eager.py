"""The engine that takes any module: lanes are trained one after another, each to its end."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import torch

from trainables.balancers.initial_loss import LossRatioError
from trainables.engine.endings import failure, first_step, release_memory
from trainables.engine.lane import LaneTraining
from trainables.engine.watch import NonFiniteError
from trainables.protocol import BuiltBy, Lane, LaneReport, Problem, Reporter
from trainables.ranks import Ranks

logger = logging.getLogger(__name__)


def train_eagerly(
    problem: Problem,
    lanes: Sequence[Lane],
    report: Reporter,
    *,
    device: torch.device,
    ranks: Ranks,
    built_by: BuiltBy | None = None,
) -> None:
    """Train each lane in turn. What goes wrong in one ends that one; what ``report`` raises ends them all."""
    for lane in lanes:
        _train_lane(problem, lane, report if ranks.rank == 0 else _say_nothing, device, ranks, built_by)
        release_memory()


def _train_lane(
    problem: Problem, lane: Lane, report: Reporter, device: torch.device, ranks: Ranks, built_by: BuiltBy | None
) -> None:
    run: LaneTraining | None = None
    while True:
        # Only the lane's own work is guarded. A report that raises is not its fault.
        try:
            if run is None:
                run = LaneTraining(problem, lane, device, ranks, built_by=built_by)
                logger.info("%s", run)
            lane_report = run.advance()
        except Exception as error:
            lane_report = failure(lane, run.step if run is not None else first_step(lane), error)
            if ranks.size > 1 and not isinstance(error, NonFiniteError | LossRatioError):
                # These two come of numbers that all ranks share. Any other fault is this rank's, and the others wait
                # for it in vain: the whole training ends.
                report([lane_report])
                raise
        asked_to_stop = ranks.of_the_first(lane.key in report([lane_report]))
        if lane_report.ending is not None:
            return
        if asked_to_stop:
            assert run is not None  # whatever cannot be built has ended
            report([run.last_word(lane_report)])
            return


def _say_nothing(reports: Sequence[LaneReport]) -> Collection[str]:
    """What the ranks but the first do with reports that are the same on all of them."""
    return ()
