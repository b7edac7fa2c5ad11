"""The dispatcher's side of Ray: connects to a cluster, looks at it, starts conductors in it."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.trial import Cluster, Lease
from sweep_service.execution.actor import MAX_CONCURRENT_CALLS, ConductorActor
from sweep_service.execution.nodes import look_at_cluster
from sweep_service.execution.packs import why_not_fused
from sweep_service.execution.trainers import NAMESPACE, prepare_trainers
from sweep_service.ports import Clock
from sweep_service.ray_node import CONTROL_RESOURCE, CONTROL_SHARE
from trainables.catalog import Trainable, builtin_trainables

logger = logging.getLogger(__name__)

_NAME_PREFIX = "conductor-"
# As long as a sweep runs its packs need the processors more than the standby of the next one: on two of them, loading
# it made a sweep of half a minute a sixth longer (tried). A short sweep is over by then.
STANDBY_DELAY_S = 120.0
MOST_PREPARED = 4  # trainers on a node that has just come; more are made when they are needed
_ANSWER_TIMEOUT_S = 2.0  # for a conductor to say whether it is idle
_DRAIN_INTERVAL_S = 0.1  # between looks at whether conductors have left
_FAREWELL_S = 2.0  # beyond their time, for conductors to release their leases and end
_STANDBY_TIMEOUT_S = 0.2  # for one that is known to wait, unless another dispatcher has found it


@dataclass(frozen=True)
class _Conductor:
    name: str
    handle: Any


class RayConductors:
    """Conductors as detached actors of a Ray cluster. Implements :class:`sweep_service.cluster_port.Conductors`."""

    def __init__(self, *, address: str, clock: Clock) -> None:
        """Connect to a running cluster; never starts one.

        Raises:
            ClusterLostError: nothing answers there, or it refuses the token.
        """
        self._clock = clock
        self._runs: dict[Any, tuple[Lease, _Conductor]] = {}  # by the reference to the answer of its run
        self._standby: _Conductor | None = None
        self._started_at = 0.0
        self._prepared_nodes: set[str] = set()
        self._examining: dict[Any, str] | None = None  # trainables by the reference to what is found out of them
        try:
            # Not to_driver: each conductor's lines would be printed by whichever dispatcher started it, and by none
            # after that one's end. They are in the logs of the node, as all of Ray's.
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterLostError(f"No Ray cluster at {address!r}: {error}") from error

    def prepare(self) -> None:
        """Have a conductor and, on every node, trainers with their libraries loaded, for the next sweep not to wait.

        A conductor that another dispatcher has made or left behind is as good: whoever gives it a sweep first has it.
        """
        with _telling_of_loss():
            for node in ray.nodes():
                if node["Alive"] and node["NodeID"] not in self._prepared_nodes:
                    self._prepared_nodes.add(node["NodeID"])
                    prepare_trainers(node["NodeID"], min(MOST_PREPARED, int(node["Resources"].get("CPU", 0))))
        is_busy = self._runs and time.monotonic() - self._started_at < STANDBY_DELAY_S
        if self._standby is None and not is_busy:
            with _telling_of_loss():
                others = [one for one in self._alive() if _is_idle(one)]
                self._standby = others[0] if others else self._new_conductor()

    def examined(self, trainables: Sequence[Trainable]) -> Mapping[str, str]:
        """Those that ship with this package are known to be trained together. Of the others each is looked at in a
        process of its own, by trials with its default parameters.
        """
        with _telling_of_loss():
            if self._examining is None:
                own = {trainable.name for trainable in builtin_trainables()}
                others = [trainable for trainable in trainables if trainable.name not in own]
                node = _some_node_that_trains()
                if others and node is None:
                    return {}  # until there is one: they are their authors' code, and run where trials may
                where = None if node is None else NodeAffinitySchedulingStrategy(node_id=node, soft=False)
                examine = ray.remote(why_not_fused).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
                self._examining = {examine.remote(trainable): trainable.name for trainable in others}
            if not self._examining:
                return {}
            done, _ = ray.wait(list(self._examining), num_returns=len(self._examining), timeout=0)
        return {name: reason for name, reason in map(self._take_examined, done) if reason is not None}

    def _take_examined(self, answer: Any) -> tuple[str, str | None]:
        assert self._examining is not None
        name = self._examining.pop(answer)
        try:
            return name, ray.get(answer)
        except RayError as error:  # its own code, in whatever way; packs will find out for themselves
            logger.warning("Whether trials of %s can be trained together is not known: %s", name, error)
            return name, None

    def start(self, lease: Lease) -> None:
        """Have a conductor run the sweep of that lease. It goes on without this process."""
        self._started_at = time.monotonic()
        with _telling_of_loss():
            conductor, self._standby = self._standby or self._new_conductor(), None
            try:
                self._runs[conductor.handle.run.remote(lease)] = lease, conductor
            except BaseException:
                ray.kill(conductor.handle)  # it would be counted among the running ones for ever
                raise
        logger.info("%s is to run %s, generation %d.", conductor.name, lease.sweep_id, lease.generation)

    def take_ended(self) -> Sequence[EndedConductor]:
        with _telling_of_loss():
            ended, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0) if self._runs else ([], [])
        told = [_ended(self._runs.pop(run)[0], run) for run in ended]
        for lease in (one for one in told if isinstance(one, Lease)):  # the conductor had another sweep by then
            self.start(lease)
        return [one for one in told if isinstance(one, EndedConductor)]

    def num_running(self) -> int:
        """Conductors in the cluster that have a sweep, whoever started them."""
        own = {conductor.name for _, conductor in self._runs.values()}
        with _telling_of_loss():
            others = [one for one in self._alive() if one.name not in own]
            return len(own) + sum(not self._waits(one) for one in others)

    def _waits(self, conductor: _Conductor) -> bool:
        if self._standby is None or conductor.name != self._standby.name:
            return _is_idle(conductor)
        # Another dispatcher may have given it a sweep; but while it loads its libraries it may answer nobody.
        return _is_idle(conductor, if_silent=True, timeout_s=_STANDBY_TIMEOUT_S)

    def cluster(self) -> Cluster:
        """The live nodes."""
        with _telling_of_loss():
            return look_at_cluster(self._clock)

    def drain(self, within: timedelta) -> Sequence[str]:
        until = time.monotonic() + within.total_seconds() + _FAREWELL_S
        with _telling_of_loss():
            left = {one.name for one in self._alive() if not self._waits(one)}
            for name in left:
                with contextlib.suppress(ValueError):  # gone meanwhile
                    ray.get_actor(name, namespace=NAMESPACE).leave.remote(within)
            while left and time.monotonic() < until:
                time.sleep(_DRAIN_INTERVAL_S)
                left &= {one.name for one in self._alive()}
        return sorted(left)

    def close(self) -> None:
        """Disconnect. Conductors go on; the one that waits for a sweep ends, unless another dispatcher has given it one
        by now. One that is still being made may stay, to be found by the next dispatcher.
        """
        if self._standby is not None:
            with contextlib.suppress(RayError):  # it has ended, as it was asked to
                ray.get(self._standby.handle.leave_if_idle.remote(), timeout=_ANSWER_TIMEOUT_S)
        ray.shutdown()

    def _new_conductor(self) -> _Conductor:
        name = f"{_NAME_PREFIX}{uuid.uuid4().hex[:12]}"
        actor: Any = ray.remote(ConductorActor).options(
            name=name,
            lifetime="detached",
            num_cpus=0,
            resources=_placement_of_conductors(),
            max_concurrency=MAX_CONCURRENT_CALLS,
            max_restarts=0,
        )
        handle = actor.remote(name)
        handle.prepare.remote()
        return _Conductor(name, handle)

    def _alive(self) -> Iterator[_Conductor]:
        for name in map(str, ray.util.list_named_actors()):
            if name.startswith(_NAME_PREFIX):
                with contextlib.suppress(ValueError):  # gone meanwhile
                    yield _Conductor(name, ray.get_actor(name, namespace=NAMESPACE))


def _placement_of_conductors() -> Mapping[str, float]:
    """What a conductor asks for, beside no CPU. Where this node is one for control, others may train: conductors stay
    on those for control. In a cluster that knows no such difference they may be anywhere.
    """
    own = ray.get_runtime_context().get_node_id()
    resources = next((node["Resources"] for node in ray.nodes() if node["NodeID"] == own), {})
    return {CONTROL_RESOURCE: CONTROL_SHARE} if CONTROL_RESOURCE in resources else {}


def _some_node_that_trains() -> str | None:
    """Its id in Ray."""
    return next((node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")), None)


def _is_idle(conductor: _Conductor, *, if_silent: bool = False, timeout_s: float = _ANSWER_TIMEOUT_S) -> bool:
    """Whether it waits for a sweep. One that does not answer counts as running, unless told otherwise."""
    try:
        return ray.get(conductor.handle.is_idle.remote(), timeout=timeout_s)
    except RayError:
        return if_silent


@contextlib.contextmanager
def _telling_of_loss() -> Iterator[None]:
    try:
        yield
    except (RayError, ConnectionError, RuntimeError) as error:
        raise ClusterLostError(str(error)) from error


def _ended(lease: Lease, run: Any) -> EndedConductor | Lease:
    """What became of it; the lease itself if it took another sweep."""
    error, message = None, ""
    try:
        if ray.get(run) is False:
            return lease
    except RayTaskError as raised:
        cause = raised.cause if isinstance(raised.cause, Exception) else raised
        error = message = f"{type(cause).__name__}: {cause}"
    except RayError as raised:  # its process has ended, of its own will or not
        message = " ".join(str(raised).split())
    return EndedConductor(lease=lease, error=error, message=message)
