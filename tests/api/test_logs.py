"""What trials' code has said, of one trial and of a whole sweep, while more is said."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from harness import Conductor, Service, problem

from sweep_service.client import MissingError, SweepClient
from sweep_service.domain.logs import LogStream


@pytest.fixture
def conductor(service: Service) -> Conductor:
    return Conductor(service.store, service.submit()["id"])


def read_all(service: Service, path: str, size: int = 500) -> list[dict[str, Any]]:
    """All lines, page by page."""
    lines: list[dict[str, Any]] = []
    after, more = 0, True
    while more:
        page = service.http.get(path, params={"after": after, "page_size": size}).json()
        assert len(page["lines"]) <= size
        lines += page["lines"]
        after, more = page["next_after"], page["has_more"]
    return lines


def test_what_every_attempt_has_said_is_shown_in_order(service: Service, conductor: Conductor) -> None:
    trial = conductor.add_trial()
    first = conductor.start(trial)
    conductor.say(first, "loading", "trained")
    conductor.lose(first)
    second = conductor.start(trial, number=1)
    conductor.say(second, "root: again", stream=LogStream.LOG, level="WARNING")
    shown = service.http.get(f"/api/v1/trials/{trial.id}").json()
    page = service.http.get(shown["links"]["logs"]).json()
    assert [(line["attempt"], line["stream"], line["level"], line["text"]) for line in page["lines"]] == [
        (0, "stdout", "", "loading"),
        (0, "stdout", "", "trained"),
        (1, "log", "WARNING", "root: again"),
    ]
    assert (page["next_after"], page["has_more"]) == (3, False)
    assert {(line["trial_id"], line["trial_number"], line["left_out"]) for line in page["lines"]} == {(trial.id, 0, 0)}
    assert page["lines"][0]["at"] <= page["lines"][2]["at"]
    assert service.http.get(shown["links"]["logs"], params={"after": 3}).json() == {
        "lines": [], "next_after": 3, "has_more": False,
    }  # fmt: skip


def test_the_lines_of_a_sweep_are_those_of_its_trials_as_they_came(service: Service, conductor: Conductor) -> None:
    attempts = [conductor.start(conductor.add_trial()) for _ in range(3)]
    for round_ in range(4):
        for attempt in attempts:
            conductor.say(attempt, f"round {round_}")
    path = service.http.get(f"/api/v1/sweeps/{conductor.sweep_id}").json()["links"]["logs"]
    whole = read_all(service, path)
    assert [(line["trial_number"], line["text"]) for line in whole] == [
        (number, f"round {round_}") for round_ in range(4) for number in range(3)
    ]
    for size in (1, 5, 12):
        assert read_all(service, path, size) == whole
    mine = read_all(service, f"/api/v1/trials/{attempts[1].trial_id}/logs", size=3)
    assert mine == [line for line in whole if line["trial_id"] == attempts[1].trial_id]


def test_no_line_is_missed_nor_comes_twice_while_trials_talk(service: Service, conductor: Conductor) -> None:
    attempts = [conductor.start(conductor.add_trial()) for _ in range(2)]
    told = 80

    def talk() -> None:
        for number in range(0, told, 4):
            for attempt in attempts:
                conductor.say(attempt, *(f"{number + index}" for index in range(4)))

    talker = threading.Thread(target=talk)
    talker.start()
    seen: list[dict[str, Any]] = []
    after = 0
    while len(seen) < 2 * told:
        params = {"after": after, "page_size": 7}
        page = service.http.get(f"/api/v1/sweeps/{conductor.sweep_id}/logs", params=params).json()
        seen += page["lines"]
        after = page["next_after"]
    talker.join()
    for number in range(2):
        assert [line["text"] for line in seen if line["trial_number"] == number] == [f"{n}" for n in range(told)]


def test_a_line_of_what_a_terminal_would_obey_is_shown_as_it_is(service: Service, conductor: Conductor) -> None:
    attempt = conductor.start(conductor.add_trial())
    odd = ["\x1b[31mred\x1b[0m", "a\tb", "\udcff", "ü 📈", ""]
    conductor.say(attempt, *odd)
    shown = read_all(service, f"/api/v1/trials/{attempt.trial_id}/logs")
    assert [line["text"] for line in shown] == [odd[0], odd[1], "\ufffd", odd[3], ""]


@pytest.mark.parametrize("of", ["trials/trl_01ARZ3NDEKTSV4RRFFQ69G5FAV", "sweeps/swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_there_are_no_lines_of_what_is_not_there(service: Service, of: str) -> None:
    for path in (of, of.partition("/")[0] + "/1", of.partition("/")[0] + "/%00"):
        assert problem(service.http.get(f"/api/v1/{path}/logs"), 404)["type"].endswith("not-found")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("after=1&after=2", "after"),
        ("tail=3", "tail"),
    ],
)
def test_a_wrong_query_of_lines_is_refused_by_name(
    service: Service, conductor: Conductor, query: str, parameter: str
) -> None:
    for path in (f"trials/{conductor.add_trial().id}", f"sweeps/{conductor.sweep_id}"):
        answer = problem(service.http.get(f"/api/v1/{path}/logs?{query}"), 422)
        assert [item["parameter"] for item in answer["errors"]] == [parameter]


def test_the_client_reads_the_lines_of_a_trial_and_of_a_sweep(service: Service, conductor: Conductor) -> None:
    one, two = (conductor.start(conductor.add_trial()) for _ in range(2))
    for number in range(700):
        conductor.say(one, f"one {number}")
    conductor.say(two, "two")
    with SweepClient(service.url) as client:
        lines = list(client.trial_logs(one.trial_id))
        assert [line["text"] for line in lines] == [f"one {number}" for number in range(700)]
        assert list(client.trial_logs(one.trial_id, after=lines[-2]["seq"])) == lines[-1:]
        assert [line["text"] for line in client.sweep_logs(conductor.sweep_id)][-1] == "two"
        with pytest.raises(MissingError):
            list(client.trial_logs("trl_01ARZ3NDEKTSV4RRFFQ69G5FAV"))


def test_the_client_follows_lines_to_the_end_of_their_trial(service: Service, conductor: Conductor) -> None:
    attempt = conductor.start(conductor.add_trial())
    steps = iter(range(5))

    def go_on(_: float) -> None:
        """In place of the pause between two looks."""
        step = next(steps)
        conductor.say(attempt, f"step {step}")
        if step == 3:
            conductor.end(attempt)

    with SweepClient(service.url, sleep=go_on) as client:
        lines = list(client.trial_logs(attempt.trial_id, follow=True))
    assert [line["text"] for line in lines] == [f"step {step}" for step in range(4)]
