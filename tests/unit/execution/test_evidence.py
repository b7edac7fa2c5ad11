"""Why a pack was lost, by what its trainer answers and its node, without Ray."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, OutOfMemoryError, RayError

from sweep_service.execution import evidence, nodes
from sweep_service.execution.evidence import DECIDED_S, NODE_FOLLOWS_S, why_lost
from sweep_service.execution.nodes import is_gone, name_of_node
from sweep_service.execution.trainers import TrainerHandle
from sweep_service.services.losses import Loss

DIED, KILLED, HANGS = ActorDiedError(), OutOfMemoryError("low on memory"), GetTimeoutError("silent")
CUT_OFF = ActorUnavailableError("socket closed", None)
NEVER = 1e9


class World:
    """A trainer and its node, with a clock of their own. ``answers``: by the second from which on they are given."""

    def __init__(self, answers: Mapping[float, bool | RayError], node_gone_at: float = NEVER) -> None:
        self.now = 0.0
        self.ended: list[str] = []
        self._answers = answers
        self._node_gone_at = node_gone_at

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def get(self, call: Any, timeout: float) -> bool:
        answer = self._answers[max(at for at in self._answers if at <= self.now)]
        if answer is HANGS:
            self.now += timeout
        if isinstance(answer, RayError):
            raise answer
        return answer

    def is_gone(self, node: str) -> bool:
        assert node == "node-id"
        return self.now >= self._node_gone_at

    def end_trainers(self, trainers: Mapping[str, Any], *, conductor: str) -> None:
        assert conductor == "conductor"
        self.ended += trainers

    def why_lost(self) -> Loss:
        actor = SimpleNamespace(trains=SimpleNamespace(remote=lambda conductor, pack: (conductor, pack)))
        return why_lost(TrainerHandle(actor=actor, node="node-id"), conductor="conductor", pack="pack")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    def make(*args: Any, **kwargs: Any) -> World:
        world = World(*args, **kwargs)
        monkeypatch.setattr(evidence, "time", world)
        monkeypatch.setattr(evidence.ray, "get", world.get)
        monkeypatch.setattr(evidence, "is_gone", world.is_gone)
        monkeypatch.setattr(evidence, "end_trainers", world.end_trainers)
        return world

    return make


@pytest.mark.parametrize(("answer", "loss"), [(DIED, Loss.WORKER), (KILLED, Loss.MEMORY)], ids=["died", "killed"])
def test_a_process_that_died_on_a_node_that_lives(world: Callable[..., World], answer: RayError, loss: Loss) -> None:
    here = world({0: answer})
    assert here.why_lost() is loss
    assert here.now >= NODE_FOLLOWS_S, "its node may be about to follow"


@pytest.mark.parametrize("answer", [DIED, KILLED, HANGS, CUT_OFF, False], ids=lambda answer: type(answer).__name__)
def test_whatever_the_trainer_does_a_node_that_is_gone_is_the_reason(
    world: Callable[..., World], answer: bool | RayError
) -> None:
    assert world({0: answer}, node_gone_at=0).why_lost() is Loss.NODE


def test_a_node_that_follows_its_process_is_the_reason(world: Callable[..., World]) -> None:
    assert world({0: DIED}, node_gone_at=NODE_FOLLOWS_S / 2).why_lost() is Loss.NODE


@pytest.mark.parametrize("answer", [HANGS, CUT_OFF], ids=["hangs", "cut off"])
def test_a_trainer_that_cannot_be_reached_is_waited_for(world: Callable[..., World], answer: RayError) -> None:
    """Ray needs a quarter of a minute to see that its node has died."""
    assert world({0: answer}, node_gone_at=14).why_lost() is Loss.NODE
    assert world({0: answer, 14: DIED}).why_lost() is Loss.WORKER


@pytest.mark.parametrize("answer", [HANGS, CUT_OFF], ids=["hangs", "cut off"])
def test_one_that_stays_out_of_reach_on_a_node_that_lives_is_ended(
    world: Callable[..., World], answer: RayError
) -> None:
    here = world({0: answer})
    assert here.why_lost() is Loss.PLACE
    assert here.ended == ["pack"]
    assert here.now < DECIDED_S + 10


def test_one_that_still_trains_has_lost_its_place_and_is_ended(world: Callable[..., World]) -> None:
    here = world({0: True})
    assert here.why_lost() is Loss.PLACE
    assert (here.ended, here.now) == (["pack"], 0.0)


def test_one_that_lives_on_after_its_nodes_ray_is_ended_too(world: Callable[..., World]) -> None:
    here = world({0: True}, node_gone_at=0)
    assert here.why_lost() is Loss.NODE
    assert here.ended == ["pack"]


def test_one_that_has_given_up_and_is_free_again_counts_as_a_worker_that_ended(world: Callable[..., World]) -> None:
    here = world({0: False})
    assert here.why_lost() is Loss.WORKER
    assert (here.ended, here.now) == ([], 0.0)


def row(port: int, **changes: Any) -> dict[str, Any]:
    values = {"NodeID": "id", "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
    return {**values, "NodeName": "127.0.0.1", "NodeManagerHostname": "host", **changes}


def test_a_node_is_gone_when_ray_says_so_or_its_port_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(nodes.ray, "nodes", lambda: rows)
    assert is_gone("id"), "Ray has forgotten it"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rows[:] = [row(port)]
        assert not is_gone("id")
        rows[:] = [row(port, Alive=False)]
        assert is_gone("id")
    rows[:] = [row(port)]
    assert is_gone("id")


def test_an_address_that_says_nothing_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(address: tuple[str, int], timeout: float) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(nodes.ray, "nodes", lambda: [row(1)])
    monkeypatch.setattr(nodes.socket, "create_connection", time_out)
    assert not is_gone("id")


def test_a_node_is_called_as_it_was_started_and_else_as_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [row(1), row(1, NodeID="other", NodeName="gpu-1")])
    assert [name_of_node(node) for node in ("id", "other")] == ["host", "gpu-1"]
