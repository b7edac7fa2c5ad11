"""The sweep command against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from harness import BOTH, SPEC, Conductor, Service, finish_sweep, run_front
from typer.testing import CliRunner

from sweep_service.cli import app
from sweep_service.cli.service import connected
from sweep_service.domain.states import SweepState

Sweep = Callable[..., Result]


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(dict(SPEC), sort_keys=False))
    return path


def test_a_yaml_file_is_submitted_and_its_id_printed_alone(sweep: Sweep, service: Service, spec_file: Path) -> None:
    result = sweep("submit", str(spec_file))
    assert result.exit_code == 0, result.output
    sweep_id = result.stdout.strip()
    assert service.store.get_sweep(sweep_id).spec.name == "small"
    assert f"sweep watch {sweep_id}" in result.stderr


def test_json_comes_in_through_standard_input_too(sweep: Sweep, service: Service) -> None:
    result = sweep("submit", "-", input=json.dumps(SPEC, indent="\t"))
    assert result.exit_code == 0, result.output
    assert service.store.get_sweep(result.stdout.strip()).state is SweepState.QUEUED


def test_each_fault_of_a_spec_is_printed_with_its_line(sweep: Sweep, service: Service, tmp_path: Path) -> None:
    before = service.num_sweeps()
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: small\ntrainable: toy\nspace:\n  alpha:\n    type: float\n    low: 3\n    high: 0\n"
        "budget:\n  trials: many\nlables: {}\n"
    )
    result = sweep("submit", str(path))
    assert result.exit_code == 2
    assert "line 4, /space/alpha: Low" in result.stderr
    assert "line 9, /budget/trials: " in result.stderr
    assert "line 10, /lables: Unknown key" in result.stderr
    assert result.stdout == ""
    assert service.num_sweeps() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "Line 1"),
        ("- a\n- b\n", "mapping"),
        ("", "mapping"),
        ("name: a\nname: b\n", "Line 2: the key 'name' is given more than once"),
        ("name: !!python/object:os.system {}\n", "Line 1: the tag"),
        ("name: a\x07b\n", "control characters"),
        ("name: a\x80b\n", "bad.yaml: Line 1: the character U+0080"),
        ('{"name": "a",\n "budget": {"trials": NaN}}', "bad.yaml: Line 2: a number must be finite"),
        ('{\n\t"name": "a",\n\t"name": "b"\n}', "bad.yaml: Line 3: the key 'name' is given more than once"),
        ('{"name": "\\ud800"}', "bad.yaml: Line 1: half a surrogate pair"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_before_anything_is_sent(
    sweep: Sweep, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    result = sweep("submit", str(path))
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_file_that_cannot_be_read_is_a_wrong_usage(sweep: Sweep, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        result = sweep("submit", str(path))
        assert result.exit_code == 2
        assert "cannot be read" in result.stderr
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in sweep("submit", str(binary)).stderr


def test_a_completed_sweep_is_watched_to_its_leaderboard_and_verdict(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    finish_sweep(service.store, sweep_id)
    result = sweep("watch", sweep_id)
    assert result.exit_code == 0, result.output
    progress, *rest = result.stdout.splitlines()
    assert progress.startswith(
        "completed | search 2/4 | search: 2 completed | baseline: 1 completed | best 0.4 at alpha=2"
    )
    text = "\n".join(rest)
    assert "Leaderboard by val/normalized_loss" in text
    assert "GradNorm helped against equal." in text
    assert "-0.11 to -0.09" in text


@pytest.mark.parametrize(
    ("state", "code"), [(SweepState.COMPLETED, 0), (SweepState.STOPPED, 0), (SweepState.FAILED, 1)]
)
def test_the_exit_code_tells_how_a_watched_sweep_ended(
    sweep: Sweep, service: Service, state: SweepState, code: int
) -> None:
    sweep_id = service.submit()["id"]
    finish_sweep(service.store, sweep_id, state=state)
    assert sweep("watch", sweep_id).exit_code == code


def test_a_cancelled_sweep_is_a_failure_to_a_watcher(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    assert sweep("cancel", sweep_id).stdout == f"{sweep_id} is cancelled.\n"
    result = sweep("watch", sweep_id)
    assert result.exit_code == 1
    assert "No trial completed" in result.stdout


def test_submit_can_watch_until_the_end(sweep: Sweep, service: Service, spec_file: Path) -> None:
    known = {row.id for row in service.store.list_sweeps(limit=100_000)}

    def finish_the_new_one() -> None:
        new: list[str] = []
        while not new:
            new = [row.id for row in service.store.list_sweeps(limit=5) if row.id not in known]
        finish_sweep(service.store, new[0])

    conductor = threading.Thread(target=finish_the_new_one, daemon=True)
    conductor.start()
    result = sweep("submit", str(spec_file), "--watch")
    conductor.join(timeout=60)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("swp_")
    assert "GradNorm helped" in result.stdout


def test_a_watcher_that_is_interrupted_says_that_the_sweep_goes_on(service: Service) -> None:
    sweep_id = service.submit()["id"]
    command = [sys.executable, "-m", "sweep_service.cli", "watch", sweep_id]
    env = {**os.environ, "SWEEP_URL": service.url, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert "in the queue) | search 0/4" in watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    assert f"sweep watch {sweep_id}" in errors
    assert "Traceback" not in errors
    assert service.store.get_sweep(sweep_id).state is SweepState.QUEUED


def test_a_sweep_is_deleted_after_a_question(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    refused = sweep("delete", sweep_id, "--yes")
    assert refused.exit_code == 1
    assert "Possible now: cancel, stop." in refused.stderr
    sweep("cancel", sweep_id)
    assert sweep("delete", sweep_id, input="n\n").exit_code == 1
    assert service.http.get(f"/api/v1/sweeps/{sweep_id}").status_code == 200
    assert sweep("delete", sweep_id, input="y\n").exit_code == 0
    assert service.http.get(f"/api/v1/sweeps/{sweep_id}").status_code == 404
    assert sweep("delete", sweep_id, "--yes").exit_code == 2


def test_sweeps_are_listed_by_state_and_label(sweep: Sweep, service: Service) -> None:
    label = "cli-test:yes"
    mine = [service.submit(labels={"cli-test": "yes"})["id"] for _ in range(2)]
    service.submit(labels={"cli-test": "no"})
    sweep("cancel", mine[0])
    everything = json.loads(sweep("list", "--json", "--label", label).stdout)
    assert [item["id"] for item in everything] == sorted(mine, reverse=True)
    cancelled = sweep("list", "--json", "--label", label, "--state", "cancelled", "--state", "failed").stdout
    assert [item["id"] for item in json.loads(cancelled)] == mine[:1]
    assert "No such sweeps." in sweep("list", "--label", label, "--state", "paused").stdout
    for wrong in (["--label", "team"], ["--state", "quiet"]):
        refused = sweep("list", *wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")


def test_sweeps_are_listed_for_people_and_for_programs(sweep: Sweep, service: Service) -> None:
    newest = service.submit(name="the [bold]newest[/bold]")["id"]
    table = sweep("list", "--limit", "1").stdout
    assert newest in table
    assert "[bold]newest" in table, "a name is text, not markup"
    listed = json.loads(sweep("list", "--json", "--limit", "2").stdout)
    assert len(listed) == 2
    assert listed[0]["id"] == newest


def test_a_sweep_is_shown_while_it_runs_and_when_it_has_ended(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    running = sweep("show", sweep_id)
    assert running.exit_code == 0
    assert "queued" in running.stdout
    assert "0/4 search trials" in running.stdout
    finish_sweep(service.store, sweep_id)
    assert "GradNorm helped" in sweep("show", sweep_id).stdout
    assert json.loads(sweep("show", sweep_id, "--json").stdout)["state"] == "completed"


def test_an_unambiguous_beginning_of_an_id_is_enough(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    service.submit()
    assert json.loads(sweep("show", sweep_id[:-2], "--json").stdout)["id"] == sweep_id
    assert json.loads(sweep("show", sweep_id.removeprefix("swp_").lower(), "--json").stdout)["id"] == sweep_id
    ambiguous = sweep("show", sweep_id[:6])
    assert ambiguous.exit_code == 2
    assert "give more of it" in ambiguous.stderr


@pytest.mark.parametrize("beginning", ["", " ", "swp_", "SWP_", " swp_ "])
def test_nothing_is_not_the_beginning_of_an_id(own_service: Service, beginning: str) -> None:
    sweep_id = own_service.submit()["id"]
    for command in ("show", "watch", "pause", "resume", "stop", "cancel"):
        result = CliRunner().invoke(app, [command, beginning, "--url", own_service.url])
        assert result.exit_code == 2
        assert "give more of it" in result.stderr
    assert own_service.store.get_sweep(sweep_id).state is SweepState.QUEUED


@pytest.mark.parametrize("command", ["pause", "stop", "cancel"])
def test_what_cannot_be_undone_asks_for_four_letters_of_an_id(own_service: Service, command: str) -> None:
    sweep_id = own_service.submit()["id"]
    letters = sweep_id.removeprefix("swp_")
    for beginning in (letters[:1], letters[:3], f"swp_{letters[:3]}"):
        refused = CliRunner().invoke(app, [command, beginning, "--url", own_service.url])
        assert refused.exit_code == 2
        assert "at least 4 after 'swp_'" in refused.stderr
    assert own_service.store.get_sweep(sweep_id).state is SweepState.QUEUED
    assert CliRunner().invoke(app, ["show", letters[:1], "--url", own_service.url]).exit_code == 0
    result = CliRunner().invoke(app, [command, letters[:4], "--url", own_service.url])
    assert result.stdout.startswith(f"{sweep_id} is ")


@pytest.mark.parametrize("spell", [str.lower, str.upper, str])
def test_an_id_is_found_in_letters_of_either_case(sweep: Sweep, service: Service, spell: Callable[[str], str]) -> None:
    sweep_id = service.submit()["id"]
    for text in (sweep_id, sweep_id[:-1], sweep_id.removeprefix("swp_"), f" {sweep_id}"):
        assert json.loads(sweep("show", spell(text), "--json").stdout)["id"] == sweep_id


def test_pause_and_resume_say_where_the_sweep_is_now(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    assert sweep("pause", sweep_id).stdout == f"{sweep_id} is paused.\n"
    assert sweep("resume", sweep_id).stdout == f"{sweep_id} is queued.\n"


def test_stop_and_cancel_say_where_the_sweep_is_now(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    Conductor(service.store, sweep_id).move(SweepState.RUNNING)
    assert sweep("stop", sweep_id).stdout == f"{sweep_id} is stopping.\n"
    assert sweep("cancel", sweep_id).stdout == f"{sweep_id} is cancelling.\n"
    refused = sweep("stop", sweep_id)
    assert refused.exit_code == 1
    assert "Possible now: cancel" in refused.stderr


def test_an_unknown_sweep_is_a_wrong_usage(sweep: Sweep) -> None:
    for sweep_id in ("swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense", "\udcff\udcfe\udcfd\udcfc"):
        for command in ("show", "watch", "pause", "resume", "stop", "cancel"):
            result = sweep(command, sweep_id)
            assert result.exit_code == 2
            assert "There is no sweep" in result.stderr


def test_nobody_at_the_address_has_an_exit_code_of_its_own() -> None:
    result = CliRunner().invoke(app, ["list"], env={"SWEEP_URL": "http://127.0.0.1:9"})
    assert result.exit_code == 3
    assert "http://127.0.0.1:9" in result.stderr


def test_a_wrong_address_is_a_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["list", "--url", "nowhere"])
    assert result.exit_code == 2
    assert "no address of a service" in result.stderr


def test_a_fault_of_the_program_is_not_told_as_one_of_its_user(service: Service) -> None:
    def fail() -> None:
        with connected(service.url):
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        fail()


# --- init, trials, best, events ---------------------------------------------------------------------------------------


def test_what_init_writes_can_be_submitted_as_it_is(sweep: Sweep, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    result = sweep("init", "toy", "--output", str(path))
    assert result.exit_code == 0, result.output
    submitted = sweep("submit", str(path))
    assert submitted.exit_code == 0, submitted.output
    spec = service.store.get_sweep(submitted.stdout.strip()).spec
    assert (spec.trainable, set(spec.space)) == ("toy", {"alpha", "weight_lr"})


def test_init_prints_where_no_file_is_named(sweep: Sweep) -> None:
    assert yaml.safe_load(sweep("init", "toy").stdout)["trainable"] == "toy"


def test_init_writes_over_nothing_and_knows_what_there_is(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("worked on")
    result = sweep("init", "toy", "-o", str(path))
    assert (result.exit_code, path.read_text()) == (2, "worked on")
    assert "--output" in result.stderr
    unknown = sweep("init", "toi")
    assert unknown.exit_code == 2
    assert "toy" in unknown.stderr


def test_trials_are_listed_for_people_and_for_programs(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    assert "No trials yet" in sweep("trials", sweep_id).stdout
    finish_sweep(service.store, sweep_id)
    shown = sweep("trials", sweep_id).stdout
    assert shown.count("completed") == 3
    assert "alpha=2 weight_lr=0.02" in shown
    assert [trial["number"] for trial in json.loads(sweep("trials", sweep_id, "--json").stdout)] == [0, 1, 2]


def test_the_best_trial_is_shown_and_its_absence_is_an_exit_code(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    none_yet = sweep("best", sweep_id)
    assert (none_yet.exit_code, none_yet.stdout) == (1, "")
    assert "No search trial" in none_yet.stderr
    finish_sweep(service.store, sweep_id)
    assert sweep("best", sweep_id).stdout.splitlines() == ["trial 1 (gradnorm): 0.4", "alpha=2 weight_lr=0.02"]
    assert json.loads(sweep("best", sweep_id, "--json").stdout)["best"]["number"] == 1


def test_the_front_of_several_objectives_is_a_table_below_the_best_trial(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit(objectives=BOTH)["id"]
    run_front(service.store, sweep_id)
    first, params, *table = sweep("best", sweep_id).stdout.splitlines()
    assert (first, params) == ("trial 1 (gradnorm): 0.3", "alpha=1")
    assert table[0].strip() == "Pareto front"
    rows = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in table]
    assert ["trial", "val/loss/left", "val/auc/right", "parameters"] in rows
    assert [row for row in rows if row[0].isdigit()] == [["1", "0.6", "0.6", "alpha=1"], ["3", "1.8", "0.9", "alpha=3"]]
    assert len(json.loads(sweep("best", sweep_id, "--json").stdout)["front"]) == 2


def test_events_are_told_in_order_once_each_and_followed_to_the_end(sweep: Sweep, service: Service) -> None:
    sweep_id = service.submit()["id"]
    timer = threading.Timer(0.7, finish_sweep, [service.store, sweep_id])
    timer.start()
    result = sweep("events", sweep_id, "--follow", "--json")
    timer.join()
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert (told[0]["kind"], told[-1]["data"]["to"]) == ("sweep.submitted", "completed")
    lines = sweep("events", sweep_id).stdout.splitlines()
    assert len(lines) == len(told)
    assert any("GradNorm helped against equal." in line for line in lines)
