"""Which conductors of a cluster run a sweep, and which may go. Ray's are made up."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from sweep_service.clock import SystemClock
from sweep_service.execution import cluster
from sweep_service.execution.cluster import RayConductors
from sweep_service.ray_node import CONTROL_RESOURCE, CONTROL_SHARE


class Method:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def remote(self) -> Any:
        return self._answer


class Leaving:
    """Ends its actor."""

    def __init__(self, actors: dict[str, Handle], name: str) -> None:
        self._actors = actors
        self._name = name

    def remote(self, within: timedelta) -> None:
        assert within > timedelta(0)
        del self._actors[self._name]


class Handle:
    """An actor's. ``is_idle`` is what it answers, or the error instead of an answer."""

    def __init__(self, is_idle: Any, leave: Any = None) -> None:
        self.is_idle = Method(is_idle)
        self.prepare = Method(None)
        self.leave = leave


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Handle]:
    """The named actors of the cluster."""
    actors: dict[str, Handle] = {}

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster.ray, "init", lambda **_: None)
    monkeypatch.setattr(cluster.ray, "nodes", list)
    monkeypatch.setattr(cluster.ray, "get", get)
    monkeypatch.setattr(cluster.ray, "get_actor", lambda name, namespace: actors[name])
    monkeypatch.setattr(cluster.ray.util, "list_named_actors", lambda: list(actors))
    return actors


@pytest.fixture
def conductors(actors: dict[str, Handle]) -> RayConductors:
    """With a conductor that waits."""
    actors["conductor-waits"] = Handle(is_idle=True)
    conductors = RayConductors(address="nowhere", clock=SystemClock())
    conductors.prepare()
    return conductors


@pytest.mark.parametrize(
    ("answer", "num_running"),
    [(True, 0), (False, 1), (GetTimeoutError("it loads its libraries"), 0)],
    ids=["waits", "runs", "silent"],
)
def test_a_conductor_made_to_wait_runs_if_another_dispatcher_has_given_it_a_sweep(
    actors: dict[str, Handle], conductors: RayConductors, answer: Any, num_running: int
) -> None:
    actors["conductor-waits"].is_idle = Method(answer)
    assert conductors.num_running() == num_running


def test_of_others_conductors_those_count_that_run_or_do_not_answer(
    actors: dict[str, Handle], conductors: RayConductors
) -> None:
    actors |= {"conductor-2": Handle(False), "conductor-3": Handle(GetTimeoutError("")), "conductor-4": Handle(True)}
    actors["trainer-n-0"] = Handle(False)
    assert conductors.num_running() == 2


class Hanging:
    def remote(self, within: timedelta) -> None:
        """It does not come to end."""


def test_every_conductor_that_has_a_sweep_is_asked_to_let_go_of_it(
    actors: dict[str, Handle], conductors: RayConductors
) -> None:
    actors["conductor-idle"] = Handle(is_idle=True)
    for name in ("conductor-of-this-one", "conductor-of-another"):
        actors[name] = Handle(is_idle=False, leave=Leaving(actors, name))
    assert conductors.drain(timedelta(seconds=5)) == []
    assert set(actors) == {"conductor-waits", "conductor-idle"}


def test_conductors_that_do_not_let_go_in_time_are_named(
    actors: dict[str, Handle], conductors: RayConductors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_FAREWELL_S", 0.0)
    actors["conductor-hangs"] = Handle(is_idle=False, leave=Hanging())
    assert conductors.drain(timedelta(seconds=0.1)) == ["conductor-hangs"]


class Remote:
    """Makes actors that wait, and notes how Ray was asked for them."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, actor: type) -> Remote:
        return self

    def options(self, **options: Any) -> Remote:
        self.asked.append(options)
        return self

    def remote(self, name: str) -> Handle:
        return Handle(is_idle=True)


@pytest.mark.parametrize(
    ("offered", "asked"), [({CONTROL_RESOURCE: 1.0}, {CONTROL_RESOURCE: CONTROL_SHARE}), ({"CPU": 4.0}, {})]
)
def test_conductors_stay_on_control_nodes_where_the_dispatcher_is_on_one(
    actors: dict[str, Handle], monkeypatch: pytest.MonkeyPatch, offered: dict[str, float], asked: dict[str, float]
) -> None:
    remote = Remote()
    others = {"NodeID": "other", "Alive": True, "Resources": {"CPU": 0.0, CONTROL_RESOURCE: 1.0}}
    own = {"NodeID": "own", "Alive": True, "Resources": {**offered, "CPU": 0.0}}
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [others, own])
    monkeypatch.setattr(cluster.ray, "remote", remote)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "own"))
    RayConductors(address="nowhere", clock=SystemClock()).prepare()
    assert [options["resources"] for options in remote.asked] == [asked]
    assert [options["num_cpus"] for options in remote.asked] == [0]
