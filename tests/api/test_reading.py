"""What is shown of sweeps, trials and events, and paging through them."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from harness import BOTH, SPEC, TOY, Conductor, Service, finish_sweep, problem, run_front

from sweep_service.domain.states import SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Role

NO_SWEEP = "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def walk(service: Service, path: str, key: str, size: int) -> list[list[Any]]:
    """Every page of a list."""
    pages: list[list[Any]] = []
    token: str | None = None
    while True:
        params = {"page_size": size} | ({} if token is None else {"page_token": token})
        page = service.http.get(path, params=params).json()
        pages.append(page[key])
        token = page["next_page_token"]
        if token is None:
            return pages


def test_pages_of_sweeps_are_complete_and_disjoint_and_newest_first(own_service: Service) -> None:
    submitted = [own_service.submit()["id"] for _ in range(7)]
    for size in (1, 3, 7, 8):
        pages = walk(own_service, "/api/v1/sweeps", "sweeps", size)
        ids = [sweep["id"] for page in pages for sweep in page]
        assert ids == sorted(submitted, reverse=True)
        assert all(len(page) == size for page in pages[:-1])
        assert pages[-1], "there is no empty last page"


def test_a_sweep_submitted_between_two_pages_moves_nothing(own_service: Service) -> None:
    old = [own_service.submit()["id"] for _ in range(4)]
    first = own_service.http.get("/api/v1/sweeps?page_size=2").json()
    own_service.submit()
    token = first["next_page_token"]
    second = own_service.http.get("/api/v1/sweeps", params={"page_size": 2, "page_token": token}).json()
    assert [sweep["id"] for sweep in first["sweeps"] + second["sweeps"]] == sorted(old, reverse=True)


def test_no_sweeps_are_an_empty_page(own_service: Service) -> None:
    assert own_service.http.get("/api/v1/sweeps").json() == {"sweeps": [], "next_page_token": None}


def test_a_page_has_fifty_unless_asked(own_service: Service) -> None:
    for _ in range(51):
        own_service.submit()
    assert len(own_service.http.get("/api/v1/sweeps").json()["sweeps"]) == 50


def test_pages_of_trials_are_complete_and_disjoint_and_by_number(service: Service) -> None:
    sweep = service.submit()
    conductor = Conductor(service.store, sweep["id"])
    for _ in range(5):
        conductor.add_trial(alpha=1.0)
    for size in (1, 2, 5, 6):
        pages = walk(service, sweep["links"]["trials"], "trials", size)
        assert [trial["number"] for page in pages for trial in page] == [0, 1, 2, 3, 4]


def test_events_are_read_on_from_where_one_stopped(service: Service) -> None:
    sweep = service.submit()
    finish_sweep(service.store, sweep["id"])
    all_of_them = service.http.get(sweep["links"]["events"], params={"page_size": 500}).json()
    assert not all_of_them["has_more"]
    collected: list[Any] = []
    after, more = 0, True
    while more:
        page = service.http.get(sweep["links"]["events"], params={"after": after, "page_size": 3}).json()
        collected += page["events"]
        after, more = page["next_after"], page["has_more"]
    assert collected == all_of_them["events"]
    assert [event["seq"] for event in collected] == list(range(1, len(collected) + 1))
    at_the_end = service.http.get(sweep["links"]["events"], params={"after": after}).json()
    assert at_the_end == {"events": [], "next_after": after, "has_more": False}


def _forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


BAD_TOKENS = ["", "x", "AAAA", "%00", "ä", _forged("sweeps\nswp_1"), _forged("sweeps"), _forged("trials\n1"), "A" * 400]


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_page_token_that_was_never_given_is_refused(service: Service, token: str) -> None:
    trials = service.submit()["links"]["trials"]
    for path in ("/api/v1/sweeps", trials):
        answer = problem(service.http.get(path, params={"page_token": token}), 422)
        assert [(e["parameter"], e["code"]) for e in answer["errors"]] == [("page_token", "invalid_page_token")]


@pytest.mark.parametrize("key", ["-1", "1.5", "", "99999999999999999999", "²", "1\n2"])
def test_a_forged_token_of_trials_is_refused(service: Service, key: str) -> None:
    sweep = service.submit()
    token = _forged(f"trials of {sweep['id']}\n{key}")
    problem(service.http.get(sweep["links"]["trials"], params={"page_token": token}), 422)


def test_the_token_of_one_list_is_refused_by_another(service: Service) -> None:
    first, second = service.submit(), service.submit()
    conductor = Conductor(service.store, first["id"])
    conductor.add_trial()
    conductor.add_trial()
    token = service.http.get(first["links"]["trials"], params={"page_size": 1}).json()["next_page_token"]
    assert token is not None
    for path in (second["links"]["trials"], "/api/v1/sweeps"):
        problem(service.http.get(path, params={"page_token": token}), 422)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("page_size=-1", "page_size"),
        ("page_size=ten", "page_size"),
        ("page_size=", "page_size"),
        ("page_sise=10", "page_sise"),
        ("page_token=" + "A" * 501, "page_token"),
    ],
)
def test_a_wrong_query_parameter_is_named(service: Service, query: str, parameter: str) -> None:
    answer = problem(service.http.get(f"/api/v1/sweeps?{query}"), 422)
    assert [item["parameter"] for item in answer["errors"]] == [parameter]


@pytest.mark.parametrize("part", ["", "/trials", "/events"])
def test_a_query_parameter_that_is_given_twice_is_refused_rather_than_one_of_them_ignored(
    service: Service, part: str
) -> None:
    path = f"{service.submit()['links']['self']}{part}" if part else "/api/v1/sweeps"
    answer = problem(service.http.get(f"{path}?page_size=1&page_size=2"), 422)
    assert [(item["parameter"], item["code"]) for item in answer["errors"]] == [("page_size", "repeated_parameter")]


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "99999999999999999999"])
def test_a_wrong_position_in_the_events_is_refused(service: Service, after: str) -> None:
    answer = problem(service.http.get(service.submit()["links"]["events"], params={"after": after}), 422)
    assert [item["parameter"] for item in answer["errors"]] == ["after"]


@pytest.mark.parametrize("suffix", ["", "/trials", "/best", "/events"])
@pytest.mark.parametrize(
    "sweep_id",
    [NO_SWEEP, "1", "swp_", "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV", "swp_%00", "%F0%9F%98%80", "%ED%A0%80", "..%2F"],
)
def test_a_sweep_that_does_not_exist_is_not_found(service: Service, sweep_id: str, suffix: str) -> None:
    response = service.http.get(f"/api/v1/sweeps/{sweep_id}{suffix}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404


def test_a_finished_sweep_shows_progress_leaders_best_and_results(service: Service) -> None:
    sweep_id = service.submit()["id"]
    finish_sweep(service.store, sweep_id)
    sweep = service.http.get(f"/api/v1/sweeps/{sweep_id}").json()
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials")
    assert sweep["progress"] == {
        "budget_trials": 4,
        "used_trials": 2,
        "used_gpu_hours": None,
        "trials": {"search": {"completed": 2}, "baseline": {"completed": 1}, "confirm": {}},
    }
    assert [(leader["balancer"], leader["objective"]) for leader in sweep["leaders"]] == [
        ("gradnorm", 0.4),
        ("equal", 0.5),
    ]
    assert sweep["leaders"][0]["trial_id"] == sweep["best_trial_id"]
    assert sweep["results"]["verdict"]["against"][0]["outcome"] == "helped"
    assert sweep["ended_at"] >= sweep["started_at"] >= sweep["created_at"]
    answer = service.http.get(f"/api/v1/sweeps/{sweep_id}/best").json()
    assert (answer["reason"], answer["front"]) == (None, None)
    assert answer["best"]["id"] == sweep["best_trial_id"]
    assert answer["best"]["searched"] == {"alpha": 2.0, "weight_lr": 0.02}


def test_a_trial_is_shown_whole(service: Service) -> None:
    sweep = service.submit()
    conductor = Conductor(service.store, sweep["id"])
    trial = conductor.run(conductor.add_trial(alpha=1.5), objective=0.25)
    (shown,) = service.http.get(sweep["links"]["trials"]).json()["trials"]
    assert shown["id"] == trial.id
    assert (shown["state"], shown["ending"], shown["objective"]) == ("completed", "completed", 0.25)
    assert shown["metrics"] == {"val/normalized_loss": 0.25, "val/loss/left": 0.5}
    assert shown["params"] == {**TOY.defaults(), "alpha": 1.5}
    assert (shown["seed"], shown["num_attempts"], shown["last_step"]) == (7, 1, 100)
    assert shown["ended_at"] >= shown["started_at"] >= shown["created_at"]


def test_trials_that_count_in_the_budget_are_those_of_the_search_that_were_not_cancelled(service: Service) -> None:
    sweep = service.submit()
    conductor = Conductor(service.store, sweep["id"])
    for ending in (TrialEnding.COMPLETED, TrialEnding.NON_FINITE, TrialEnding.ERROR, TrialEnding.PRUNED):
        conductor.run(conductor.add_trial(), ending)
    conductor.run(conductor.add_trial(), TrialEnding.CANCELLED)
    conductor.run(conductor.add_trial(Role.BASELINE, "equal"))
    conductor.start(conductor.add_trial())
    progress = service.http.get(sweep["links"]["self"]).json()["progress"]
    assert progress["used_trials"] == 4
    assert progress["trials"]["search"] == {
        TrialState.COMPLETED: 1,
        TrialState.INFEASIBLE: 1,
        TrialState.FAILED: 1,
        TrialState.EARLY_STOPPED: 1,
        TrialState.CANCELLED: 1,
        TrialState.RUNNING: 1,
    }


def test_a_sweep_to_be_maximised_is_led_by_its_largest_objective(service: Service) -> None:
    sweep = service.submit(objective={"metric": "val/auc/right", "direction": "maximize"})
    conductor = Conductor(service.store, sweep["id"])
    for objective in (0.7, 0.9, 0.8):
        conductor.run(conductor.add_trial(), objective=objective)
    (leader,) = service.http.get(sweep["links"]["self"]).json()["leaders"]
    assert leader["objective"] == 0.9


def test_while_nothing_has_completed_best_says_why_there_is_none(service: Service) -> None:
    sweep = service.submit()
    answer = service.http.get(sweep["links"]["best"])
    assert answer.status_code == 200
    assert answer.json() == {
        "best": None,
        "reason": "No search trial has completed yet.",
        "front": None,
        "methods": None,
    }
    conductor = Conductor(service.store, sweep["id"])
    conductor.move(SweepState.FAILED)
    assert "ended without" in service.http.get(sweep["links"]["best"]).json()["reason"]


def test_of_several_objectives_best_has_the_front_with_its_values(service: Service) -> None:
    sweep = service.submit(objectives=BOTH)
    assert service.http.get(sweep["links"]["best"]).json()["front"] == []
    run_front(service.store, sweep["id"])
    answer = service.http.get(sweep["links"]["best"]).json()
    assert answer["best"]["number"] == 1
    assert [(trial["number"], trial["values"]) for trial in answer["front"]] == [
        (1, {"val/loss/left": 0.6, "val/auc/right": 0.6}),
        (3, {"val/loss/left": 1.8, "val/auc/right": 0.9}),
    ]
    assert {name: value for name, value in answer["front"][0].items() if name != "values"} == answer["best"]


def test_the_gpu_hours_of_all_packs_are_told_while_they_run(service: Service) -> None:
    sweep = service.submit(resources={"gpus": 4}, budget={"trials": 4, "gpu_hours": 8})
    assert sweep["progress"]["used_gpu_hours"] == 0
    conductor = Conductor(service.store, sweep["id"])
    conductor.start(conductor.add_trial())

    def used() -> float:
        return service.http.get(sweep["links"]["self"]).json()["progress"]["used_gpu_hours"]

    first = used()
    assert 0 < first < used() < 4 * 0.1


def test_trials_that_one_pack_trains_use_its_gpu_hours_together(service: Service) -> None:
    used = []
    for packs in (["ab12c_00000"] * 20, [""] * 20):
        sweep = service.submit(resources={"gpus": 4})
        conductor = Conductor(service.store, sweep["id"])
        for trial, pack in zip(conductor.add_trials(len(packs)), packs, strict=True):
            conductor.start(trial, pack=pack, ago=timedelta(hours=1))
        used.append(service.http.get(sweep["links"]["self"]).json()["progress"]["used_gpu_hours"])
    assert used == pytest.approx([4 * 1, 4 * 20], rel=0.1)


def test_trainables_are_listed_with_what_can_be_set(service: Service) -> None:
    (toy,) = service.http.get("/api/v1/trainables").json()["trainables"]
    assert toy["name"] == "toy"
    assert [task["name"] for task in toy["tasks"]] == ["left", "right"]
    assert toy["metrics"] == [
        "val/loss/left",
        "val/loss/right",
        "val/rmse/left",
        "val/auc/right",
        "val/normalized_loss",
    ]
    width = toy["parameters"][0]
    assert (width["name"], width["type"], width["default"], width["low"]) == ("width", "int", 8, 1)
    assert "factory" not in toy, "where the code lies is nobody's business"
    assert [parameter["name"] for parameter in toy["task_parameters"]] == ["weight", "initial_loss"]


def test_balancers_with_a_search_each_are_ranked_while_the_sweep_runs(service: Service) -> None:
    space = {**SPEC["space"], "balancer": {"type": "categorical", "choices": ["gradnorm", "inverse_initial_loss"]}}
    sweep = service.submit(space=space, baselines=["equal"])
    here = sweep["links"]
    assert [row["rank"] for row in service.http.get(here["best"]).json()["methods"]] == [None, None, None]
    conductor = Conductor(service.store, sweep["id"])
    conductor.run(conductor.add_trial(alpha=1.0), objective=0.6)
    best = conductor.add_trial(Role.SEARCH, "inverse_initial_loss")
    conductor.run(best, objective=0.4, is_best=True)
    conductor.run(conductor.add_trial(Role.BASELINE, "equal"), objective=0.5)
    found = service.http.get(here["best"]).json()
    assert found["best"]["id"] == best.id
    assert [(row["rank"], row["balancer"], row["role"], row["objective"]) for row in found["methods"]] == [
        (1, "inverse_initial_loss", "search", 0.4),
        (2, "equal", "baseline", 0.5),
        (3, "gradnorm", "search", 0.6),
    ]
    assert found["methods"][0]["trials"] == 1
    assert found["methods"][0]["confirmed"] is None
    leaders = service.http.get(here["self"]).json()["leaders"]
    assert [one["balancer"] for one in leaders] == ["inverse_initial_loss", "gradnorm", "equal"]
