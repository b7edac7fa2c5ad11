"""The worker's side of a pack: a Tune trainable that trains the trials it is given and reports to the conductor.

Tune gives the worker its place on a node and restarts nothing; what the trials say goes to the conductor's actor
directly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
import ray.tune

from sweep_service.checkpoint_files import checkpoint_files
from sweep_service.clock import SystemClock
from sweep_service.domain.errors import CheckpointsUnavailableError
from sweep_service.execution.capture import Capture
from sweep_service.execution.lane_reporter import RETRY_INTERVAL_S, LaneReporter, provenance_of
from sweep_service.execution.links import ConductorLink, PackLink
from sweep_service.execution.log_sender import LogSender
from sweep_service.execution.trainers import NoTrainerError, take_trainer
from sweep_service.services.packs import LaneOrder, PackOrder

if TYPE_CHECKING:
    import torch

    from trainables.catalog import Trainable
    from trainables.checkpoint import Checkpoint
    from trainables.protocol import BuiltBy, Lane, Problem

logger = logging.getLogger(__name__)


def run_pack(config: Mapping[str, Any]) -> None:
    """Have one pack trained. What Tune calls on the node where it has a place for it, with the name of the conductor's
    actor in ``config``.

    Returns when every lane has ended. A fault of a trial's own code is that trial's ending; what is raised here (the
    conductor is gone or refuses a report, the checkpoints' folder is not there, torch does not load) loses the worker,
    and its trials go on in another one.
    """
    pack = ray.tune.get_context().get_trial_id() or ""
    # Numbers as a rule, or what CUDA_VISIBLE_DEVICES calls them; in any order, while the same ones have one trainer.
    gpus = sorted(str(gpu) for gpu in ray.get_gpu_ids())
    try:
        trainer = take_trainer(ray.get_runtime_context().get_node_id(), gpus)
    except NoTrainerError as error:
        ConductorLink(config["conductor"], pack).explain(error)
        raise
    num_lanes = ray.get(trainer.train.remote(config["conductor"], pack))
    ray.tune.report({"lanes": num_lanes})


def train_order(link: ConductorLink) -> int:
    """Train what the conductor orders; how many lanes it began with."""
    try:
        order = link.begin()
        if order.lanes:
            train_pack(order, link)
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


def train_pack(order: PackOrder, link: PackLink) -> None:
    """Train the trials of that order in this process, to the end of each."""
    capture = Capture([lane.trial_id for lane in order.lanes], clock=SystemClock())
    with LogSender(capture, link.log) as sender, capture:
        _train(order, LaneReporter(order, link, capture, sender, checkpoint_files()), link)


def _train(order: PackOrder, reporter: LaneReporter, link: PackLink) -> None:
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
    reporter.provenance = provenance_of(problem.data_hash, encoding_hash(problem))
    device = _device(order)
    lanes = [_lane(lane_order, link) for lane_order in order.lanes]
    places = order.places if order.is_settled else _settled_places(order, problem, lanes[0], link, device)
    if places == 1:
        train(problem, lanes, reporter, device=device)
    else:
        _train_together(problem, lanes, places, reporter, link, device, built_by=_own_numbers(order, problem))


def _device(order: PackOrder) -> torch.device:
    """Where to train. A pack that asked for no GPU takes none, though this process sees one."""
    import torch

    if order.gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.warning("This pack has been given %g GPUs, and torch finds no CUDA: it trains on the CPU.", order.gpus)
        return torch.device("cpu")
    return torch.device("cuda", 0)  # the first of the pack's own, which are all that this process sees


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
    reporter: LaneReporter,
    link: PackLink,
    device: torch.device,
    *,
    built_by: BuiltBy,
) -> None:
    """Train the lanes, and those that come for free places. What cannot go on together goes on in smaller packs."""
    from trainables.training import FailedTogetherError, NotStackableError, PackMemoryError, train_together

    def refill(free: int) -> Sequence[Lane]:
        orders = link.refill(free)
        reporter.expect(orders)
        return [_lane(order, link) for order in orders]

    try:
        train_together(problem, lanes, reporter, device=device, places=places, refill=refill, built_by=built_by)
    except PackMemoryError as error:
        link.split(max(1, reporter.num_open // 2), str(error))
    except FailedTogetherError as error:
        link.split(max(1, reporter.num_open // 2), str(error), is_of_all=False)
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


def readable_checkpoint(
    order: LaneOrder, note: Callable[[str, str], None], rest: Callable[[float], None] = time.sleep
) -> Checkpoint | None:
    """The checkpoint to go on from. None, and a note on the trial, where it cannot be read here: no fault of the
    trial's, and training it from its first step gives the same result.
    """
    from trainables.checkpoint import CheckpointError

    if order.resume_from is None:
        return None
    is_told = False
    while True:
        try:
            found = checkpoint_files().load(order.resume_from)
        except CheckpointsUnavailableError as error:
            if not is_told:
                note(order.trial_id, f"Its pack waits, for {error}.")
                is_told = True
            rest(RETRY_INTERVAL_S)
        except (OSError, CheckpointError) as error:
            note(order.trial_id, f"Its checkpoint cannot be read here, so it trains from its first step. {error}")
            return None
        else:
            if is_told:
                note(order.trial_id, "Its pack goes on: its checkpoint is read.")
            return found
