"""The worker's side of a pack: a Tune trainable that trains the trials it is given and reports to the conductor.

Tune gives the worker its place on a node and restarts nothing; what the trials say goes to the conductor's actor
directly.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray
import ray.tune
from ray.exceptions import RayError

from sweep_service.clock import SystemClock
from sweep_service.domain.logs import LogStream
from sweep_service.domain.states import TrialEnding
from sweep_service.execution.capture import Capture
from sweep_service.execution.log_sender import LogSender
from sweep_service.execution.trainers import NAMESPACE, NoTrainerError, take_trainer
from sweep_service.services.packs import LaneLines, LaneMessage, LaneOrder, PackOrder

if TYPE_CHECKING:
    import torch

    from trainables.catalog import Trainable
    from trainables.checkpoint import Checkpoint
    from trainables.protocol import BuiltBy, Lane, LaneReport, Problem

logger = logging.getLogger(__name__)

_LOG_TIMEOUT_S = 5.0  # for the conductor to take lines
_ENDINGS: Mapping[str, TrialEnding] = {
    "completed": TrialEnding.COMPLETED,
    "non_finite": TrialEnding.NON_FINITE,
    "out_of_memory": TrialEnding.OUT_OF_MEMORY,
    "error": TrialEnding.ERROR,
}  # a lane that was STOPPED has nothing to add: who stopped it knows why


def run_pack(config: Mapping[str, Any]) -> None:
    """Have one pack trained. What Tune calls on the node where it has a place for it, with the name of the conductor's
    actor in ``config``.

    Returns when every lane has ended. A fault of a trial's own code is that trial's ending; what is raised here (the
    conductor is gone or refuses a report, the disk is full, torch does not load) loses the worker, and its trials go on
    in another one.
    """
    pack = ray.tune.get_context().get_trial_id() or ""
    try:
        trainer = take_trainer(ray.get_runtime_context().get_node_id())
    except NoTrainerError as error:
        ConductorLink(config["conductor"], pack).explain(error)
        raise
    gpus = [str(gpu) for gpu in ray.get_gpu_ids()]  # a number as a rule, or what CUDA_VISIBLE_DEVICES calls it
    num_lanes = ray.get(trainer.train.remote(config["conductor"], pack, gpus))
    ray.tune.report({"lanes": num_lanes})


def train_order(link: ConductorLink, gpus: Sequence[int]) -> int:
    """Train what the conductor orders, on the first of those GPUs if there are any; how many lanes it began with."""
    try:
        order = link.begin()
        if order.lanes:
            train_pack(order, link, gpus)
    except Exception as error:
        link.explain(error)
        raise
    return len(order.lanes)


def why_not_fused(trainable: Trainable) -> str | None:
    """Why trials with the default parameters cannot be trained together; empty: they can. None: there are parameters
    without a default.
    """
    from trainables.catalog import load_problem
    from trainables.protocol import Lane
    from trainables.training import NotStackableError, lanes_at_once

    params = trainable.defaults()
    if any(name not in params for name in trainable.problem_parameters):
        return None
    lane = Lane(key="default", balancer=str(params["balancer"]), params=params)
    try:
        lanes_at_once(load_problem(trainable, params), lane, most=2, is_measured=False)
    except NotStackableError as error:
        return f"With its default parameters: {error}."
    return ""


class PackLink(Protocol):
    """What a pack has to say while it trains, and the answer."""

    def report(self, messages: Sequence[LaneMessage]) -> Collection[str]:
        """The answer names the trials that are to stop."""
        ...

    def settle(self, places: int, reason: str) -> None:
        """So many trials of this kind are trained at once; of 1, why not more."""
        ...

    def refill(self, free: int) -> Sequence[LaneOrder]:
        """Trials for free places."""
        ...

    def split(self, places: int, message: str) -> None:
        """The pack ends; its trials go on in packs of at most so many."""
        ...

    def note(self, trial_id: str, message: str) -> None: ...

    def log(self, said: Sequence[LaneLines]) -> bool:
        """Whether the lines have arrived."""
        ...


class ConductorLink:
    """Calls from this worker to its conductor."""

    def __init__(self, conductor: str, pack: str) -> None:
        self._actor: Any = ray.get_actor(conductor, namespace=NAMESPACE)
        self._pack = pack

    def begin(self) -> PackOrder:
        # The handle lets the conductor kill this worker when a user cancels: a step that hangs never comes to report.
        worker = ray.get_runtime_context().current_actor
        return ray.get(self._actor.begin.remote(self._pack, socket.gethostname(), worker))

    def report(self, messages: Sequence[LaneMessage]) -> Collection[str]:
        return ray.get(self._actor.report.remote(self._pack, list(messages)))

    def settle(self, places: int, reason: str) -> None:
        ray.get(self._actor.settle.remote(self._pack, places, reason))

    def refill(self, free: int) -> Sequence[LaneOrder]:
        return ray.get(self._actor.refill.remote(self._pack, free))

    def split(self, places: int, message: str) -> None:
        ray.get(self._actor.split.remote(self._pack, places, message))

    def log(self, said: Sequence[LaneLines]) -> bool:
        """Whether they have arrived. What becomes of lines must not touch the training."""
        try:
            return ray.get(self._actor.log.remote(self._pack, list(said)), timeout=_LOG_TIMEOUT_S)
        except RayError:
            return False

    def note(self, trial_id: str, message: str) -> None:
        ray.get(self._actor.note.remote(trial_id, message))

    def explain(self, error: Exception) -> None:
        """Say why this worker ends: Tune keeps the reason for itself."""
        with contextlib.suppress(RayError):  # the conductor may be the reason
            ray.get(self._actor.explain.remote(self._pack, f"{type(error).__name__}: {error}"))


def train_pack(order: PackOrder, link: PackLink, gpus: Sequence[int] = ()) -> None:
    """Train the trials of that order in this process, to the end of each."""
    capture = Capture([lane.trial_id for lane in order.lanes], clock=SystemClock())
    with LogSender(capture, link.log) as sender, capture:
        _train(order, _LaneReporter(order, link, capture, sender), link, gpus)


def _train(order: PackOrder, reporter: _LaneReporter, link: PackLink, gpus: Sequence[int]) -> None:
    # Imported here: torch takes seconds, and the process that only sends this function about needs none of it.
    import torch

    from trainables.prediction import encoding_hash
    from trainables.training import train

    torch.set_num_threads(order.num_threads)
    try:
        problem = _load_problem(order)
    except Exception as error:  # noqa: BLE001 - the author's code: whatever it raises is its trials' ending
        reporter.fail_all(error)
        return
    reporter.provenance = _provenance(problem.data_hash, encoding_hash(problem))
    device = _device(order, gpus)
    lanes = [_lane(lane_order, link) for lane_order in order.lanes]
    places = order.places if order.is_settled else _settled_places(order, problem, lanes[0], link, device)
    if places == 1:
        train(problem, lanes, reporter, device=device)
    else:
        _train_together(problem, lanes, places, reporter, link, device, built_by=_own_numbers(order, problem))


def _device(order: PackOrder, gpus: Sequence[int]) -> torch.device:
    """Where to train. The process may see GPUs that others have reserved: a pack that asked for none takes none."""
    import torch

    if order.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.warning("This pack has been given %g GPUs, and torch finds no CUDA: it trains on the CPU.", order.gpus)
        return torch.device("cpu")
    # Ray may have been told of more GPUs than there are.
    device = torch.device("cuda", gpus[0] if gpus and gpus[0] < torch.cuda.device_count() else 0)
    torch.cuda.set_device(device)  # for a problem's code that takes the current one
    return device


def _settled_places(order: PackOrder, problem: Problem, lane: Lane, link: PackLink, device: torch.device) -> int:
    """How many trials like this one to train at once: found out by trying, and told."""
    from trainables.training import NotStackableError, lanes_at_once

    places, reason = 1, ""
    try:
        places = lanes_at_once(problem, lane, most=order.places, is_measured=order.is_measured, device=device)
    except NotStackableError as error:
        reason = str(error)
    except Exception as error:
        logger.warning("Whether trials can be trained together cannot be found out.", exc_info=True)
        reason = f"trying it failed: {type(error).__name__}: {error}"
    if order.places > 1:
        link.settle(places, reason)
    return places


def _train_together(
    problem: Problem,
    lanes: Sequence[Lane],
    places: int,
    reporter: _LaneReporter,
    link: PackLink,
    device: torch.device,
    *,
    built_by: BuiltBy,
) -> None:
    """Train the lanes, and those that come for free places. What cannot go on together goes on in smaller packs."""
    from trainables.training import NotStackableError, PackMemoryError, train_together

    def refill(free: int) -> Sequence[Lane]:
        orders = link.refill(free)
        reporter.expect(orders)
        return [_lane(order, link) for order in orders]

    try:
        train_together(problem, lanes, reporter, device=device, places=places, refill=refill, built_by=built_by)
    except PackMemoryError as error:
        link.split(max(1, reporter.num_open // 2), str(error))
    except NotStackableError as error:
        link.split(1, f"they cannot be trained together, because {error}.")


def _load_problem(order: PackOrder) -> Problem:
    from trainables.catalog import load_problem

    return load_problem(order.trainable, order.lanes[0].params)


def _own_numbers(order: PackOrder, problem: Problem) -> BuiltBy:
    """Who builds each lane's network: ``problem``, that of the first lane, or one with the lane's own numbers, such as
    its share of dropout, where they differ.
    """
    from trainables.catalog import find_trainable, load_problem, own_parameters
    from trainables.training import NotStackableError

    trainable = find_trainable(order.trainable)
    common = own_parameters(trainable, order.lanes[0].params)

    def built_by(lane: Lane) -> Problem:
        own = own_parameters(trainable, lane.params)
        if own == common:
            return problem
        built = load_problem(trainable, own)
        if built.data_hash != problem.data_hash:
            changed = ", ".join(name for name in common if own[name] != common[name])
            raise NotStackableError(f"{changed}, in which they differ, changes the data as well")
        return built

    return built_by


def _lane(order: LaneOrder, link: PackLink) -> Lane:
    from trainables.protocol import Lane

    return Lane(
        key=order.trial_id,
        balancer=order.balancer,
        params=order.params,
        evaluate_test=order.evaluate_test,
        resume_from=readable_checkpoint(order, link.note),
    )


def readable_checkpoint(order: LaneOrder, note: Callable[[str, str], None]) -> Checkpoint | None:
    """The checkpoint to go on from. None, and a note on the trial, where it cannot be read here: no fault of the
    trial's, and training it from its first step gives the same result.
    """
    from trainables.checkpoint import Checkpoint, CheckpointError

    if order.resume_from is None:
        return None
    try:
        return Checkpoint.load(Path(order.resume_from))
    except (OSError, CheckpointError) as error:
        note(order.trial_id, f"Its checkpoint cannot be read here, so it trains from its first step. {error}")
        return None


class _LaneReporter:
    """Writes the checkpoints of reports and passes the rest on. What ends a trial early is also said in its log."""

    def __init__(self, order: PackOrder, link: PackLink, capture: Capture, sender: LogSender) -> None:
        self._orders = {lane.trial_id: lane for lane in order.lanes}
        self._link = link
        self._capture = capture
        self._sender = sender
        self._last_checkpoint: dict[str, Path] = {}
        self._ended: set[str] = set()
        self.provenance: dict[str, str] = {}

    def __call__(self, reports: Sequence[LaneReport]) -> Collection[str]:
        written = {report.lane: path for report in reports if (path := self._write_checkpoint(report)) is not None}
        messages = [self._message(report, written.get(report.lane)) for report in reports]
        stopped = self._send(messages)
        self._ended |= {report.lane for report in reports if report.ending is not None}
        for report in reports:
            for notice in report.notices:
                self._capture.say(LogStream.LOG, f"step {report.step}: {notice}", level="WARNING", lane=report.lane)
                self._link.note(report.lane, f"Step {report.step}: {notice}.")
        # Only now that the store names the new ones may their predecessors go.
        for trial_id, path in written.items():
            predecessor = self._last_checkpoint.get(trial_id)
            self._last_checkpoint[trial_id] = path
            if predecessor is not None and predecessor != path:
                predecessor.unlink(missing_ok=True)
        return stopped

    def expect(self, orders: Sequence[LaneOrder]) -> None:
        """These lanes have come to the pack."""
        self._orders |= {order.trial_id: order for order in orders}
        self._capture.add([order.trial_id for order in orders])

    @property
    def num_open(self) -> int:
        """Lanes of the pack that have not said that they end."""
        return len(self._orders) - len(self._ended)

    def fail_all(self, error: Exception) -> None:
        """The problem could not even be loaded."""
        import traceback

        text = "".join(traceback.format_exception(error))
        message = f"{type(error).__name__}: {error}"
        self._send(
            [
                LaneMessage(
                    trial_id=trial_id, step=0, metrics={}, ending=TrialEnding.ERROR, message=message, traceback=text
                )
                for trial_id in self._orders
            ]
        )

    def _send(self, messages: Sequence[LaneMessage]) -> Collection[str]:
        for message in messages:
            if text := message.traceback or message.message:
                self._capture.say(LogStream.LOG, text, level="ERROR", lane=message.trial_id)
        if any(message.ending is not None for message in messages):
            self._sender.flush()  # who sees that a trial has ended finds all that it had to say
        return self._link.report(messages)

    def _write_checkpoint(self, report: LaneReport) -> Path | None:
        if report.checkpoint is None:
            return None
        path = Path(self._orders[report.lane].checkpoint_dir) / f"step-{report.step:08d}.pt"
        report.checkpoint.save(path)
        return path

    def _message(self, report: LaneReport, checkpoint: Path | None) -> LaneMessage:
        ending = _ENDINGS.get(report.ending) if report.ending is not None else None
        return LaneMessage(
            trial_id=report.lane,
            step=report.step,
            metrics=dict(report.metrics),
            checkpoint=str(checkpoint) if checkpoint is not None else None,
            ending=ending,
            message=report.message,
            traceback=report.traceback,
            provenance=self.provenance if ending is not None else {},
        )


def _provenance(data_hash: str, encoding_hash: str | None) -> dict[str, str]:
    """What a result depends on beside its parameters."""
    packages = {"code_version": "gradnorm-sweeps", "torch": "torch", "numpy": "numpy", "ray": "ray"}
    return {
        "data_hash": data_hash,
        **({"encoding_hash": encoding_hash} if encoding_hash is not None else {}),
        "python": platform.python_version(),
        **{key: _version(package) for key, package in packages.items()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
