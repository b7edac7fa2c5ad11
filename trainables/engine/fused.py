"""The engine that trains the lanes of a pack together, one step of all of them at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import torch

from trainables.engine.endings import failure, first_step, is_out_of_memory, release_memory
from trainables.engine.fusable import check_alike, prove
from trainables.engine.lane import LaneTraining
from trainables.engine.lane_stack import LaneStack, LastStep
from trainables.protocol import BuiltBy, Lane, LaneReport, Problem, Reporter
from trainables.settings import TrainingSettings
from trainables.stacked.errors import FailedTogetherError, NotStackableError

logger = logging.getLogger(__name__)

# Asked at reports for new lanes, with the number of free places; answers with as many or fewer.
Refill = Callable[[int], Sequence[Lane]]


class PackMemoryError(MemoryError):
    """There is not enough memory for so many lanes at once. Fewer can go on from their last checkpoints."""


class FusedPack:
    """Lanes in training together. Whoever ends leaves at the next report, and the others close ranks."""

    def __init__(
        self,
        problem: Problem,
        report: Reporter,
        *,
        device: torch.device,
        places: int,
        refill: Refill,
        built_by: BuiltBy | None = None,
    ) -> None:
        """``places``: lanes that may be trained at once; ``refill`` is asked for those that are missing, ``built_by``
        for the problem that builds a lane's network.
        """
        self._problem = problem
        self._report = report
        self._device = device
        self._refill = refill
        self._built_by = built_by
        self._places = places
        self._lanes: list[LaneTraining] = []
        self._stack: LaneStack | None = None  # of the lanes that are there; None: to be made
        self._unused: Collection[str] = ()  # parameters that no task reaches

    def run(self, lanes: Sequence[Lane]) -> None:
        """Train the lanes, and those that come, until all have ended.

        Raises:
            NotStackableError, PackMemoryError, FailedTogetherError: see :func:`trainables.training.train_together`.
        """
        if not self._move_problem(lanes):
            return
        self._open(lanes)
        if self._lanes:
            try:
                self._prepare()
            except Exception as error:  # noqa: BLE001 - it may be of any lane's making
                self._blame(error)
            self._fill()
        while self._lanes:
            num_lanes = len(self._lanes)
            self._go_on()
            if len(self._lanes) < num_lanes:
                self._drop_stack()
            self._fill()

    def _move_problem(self, lanes: Sequence[Lane]) -> bool:
        """Once for all lanes, to their device and into their type. False: it cannot be, and each of them has ended."""
        try:
            dtype = TrainingSettings.from_params(lanes[0].params).torch_dtype
            self._problem = self._problem.to(device=self._device, dtype=dtype)
        except Exception as error:
            if is_out_of_memory(error) and len(lanes) > 1:
                raise _too_many(len(lanes), error) from error
            for lane in lanes:
                self._report([failure(lane, first_step(lane), error)])
            return False
        return True

    def _go_on(self) -> None:
        """To the next report of any lane, and hear those that are due."""
        try:
            if self._stack is None:
                self._stack = LaneStack(self._problem, self._lanes, unused=self._unused)
            last = _advance(self._stack)
        except Exception as error:  # noqa: BLE001 - it may be of any lane's making
            self._blame(error, steps_under_way=self._stack.steps_under_way if self._stack is not None else 0)
        else:
            self._report_due(last)

    def _drop_stack(self) -> None:
        """Before others come in or close ranks: what it holds, and who has left with it, is in their way."""
        self._stack = None
        release_memory()

    def _prepare(self) -> None:
        check_alike(self._lanes)
        self._unused = prove(self._problem, self._lanes)

    def _open(self, lanes: Sequence[Lane]) -> None:
        """Build lanes; one that cannot be built ends."""
        num_lanes = len(self._lanes) + len(lanes)
        for lane in lanes:
            try:
                training = LaneTraining(self._problem, lane, self._device, built_by=self._built_by)
                training.draw_apart()
                logger.info("%s: %s", lane.key, training)
            except Exception as error:
                if is_out_of_memory(error) and num_lanes > 1:
                    raise _too_many(num_lanes, error) from error
                if isinstance(error, NotStackableError):  # said by ``built_by``
                    raise
                self._report([failure(lane, first_step(lane), error)])
            else:
                self._lanes.append(training)

    def _fill(self) -> None:
        """Ask for lanes for the free places, as long as anybody is there: an empty pack is over. In the first one's
        place nothing must be taken of another's.

        Raises:
            NotStackableError, PackMemoryError, FailedTogetherError: they cannot be trained with those that are there.
        """
        free = self._places - len(self._lanes)
        if free <= 0 or not self._lanes:
            return
        coming = self._refill(free)
        if not coming:
            return
        self._drop_stack()
        running = len(self._lanes)
        self._open(coming)
        if new := self._lanes[running:]:
            try:
                check_alike(self._lanes)
                prove(self._problem, [self._lanes[0], *new])
            except Exception as error:  # noqa: BLE001 - it may be of any lane's making
                self._blame(error)

    def _blame(self, error: Exception, *, steps_under_way: int = 0) -> None:
        """A step failed, after so many since the lanes were last told of theirs: of one lane, it is its ending; of many
        nobody can tell whose fault it is.

        Raises:
            NotStackableError: it is no fault of a step.
            PackMemoryError, FailedTogetherError: it is of many.
        """
        if isinstance(error, NotStackableError):
            raise error
        if len(self._lanes) > 1:
            if is_out_of_memory(error):
                raise _too_many(len(self._lanes), error) from error
            raise FailedTogetherError(
                f"a step of {len(self._lanes)} lanes failed: {type(error).__name__}: {error}"
            ) from error
        (lane,) = self._lanes
        self._lanes = []
        self._report([failure(lane.lane, lane.step + steps_under_way, error)])

    def _report_due(self, last: Sequence[LastStep | None]) -> None:
        """Let the lanes speak whose report is due; those that end, or are asked to stop, leave."""
        due = [(lane, seen) for lane, seen in zip(self._lanes, last, strict=True) if lane.steps_to_report == 0]
        if not due:  # a balancer has settled
            return
        reports = [self._report_of(lane, seen) for lane, seen in due]
        asked = self._report(reports)
        ended = {report.lane for report in reports if report.ending is not None}
        stopped = [
            lane.last_word(said)
            for (lane, _), said in zip(due, reports, strict=True)
            if said.lane in asked and said.lane not in ended
        ]
        if stopped:
            self._report(stopped)
        gone = ended | {report.lane for report in stopped}
        self._lanes = [lane for lane in self._lanes if lane.lane.key not in gone]

    def _report_of(self, lane: LaneTraining, last: LastStep | None) -> LaneReport:
        """What a lane has to say, or how it ends by what its author's code raises.

        Raises:
            PackMemoryError: memory ran out, which with fewer lanes it may not.
        """
        try:
            return lane.report(None, None) if last is None else lane.report(last.losses_T, last.norms_T)
        except Exception as error:
            if is_out_of_memory(error) and len(self._lanes) > 1:
                raise _too_many(len(self._lanes), error) from error
            return failure(lane.lane, lane.step, error)


def _advance(stack: LaneStack) -> Sequence[LastStep | None]:
    """To the next report of any lane at most. What the last step has seen of each; None: a report was due already."""
    num_steps = min(lane.steps_to_report for lane in stack.lanes)
    # A balancer that changes does so between two calls, as it would if its lane were alone.
    num_steps = min([num_steps, *(lane.steps_to_settle for lane in stack.lanes if lane.steps_to_settle)])
    return stack.advance(num_steps) if num_steps else [None] * len(stack.lanes)


def _too_many(num_lanes: int, error: Exception) -> PackMemoryError:
    return PackMemoryError(f"{num_lanes} lanes do not fit into the memory: {error}")
