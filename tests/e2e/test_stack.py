"""`sweep up` as a supervisor: what dies comes back, and nothing outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from stack_control import (
    RunningStack,
    await_that,
    end_process,
    end_stack,
    faulty_spec,
    read,
    start_command,
    start_stack,
)

from sweep_service.storage.sql import open_sql_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


API, DISPATCHER = ("-m", "api"), ("sweep_service.worker",)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def sees_the_cluster(stack: RunningStack, *, since: datetime) -> bool:
    """Whether a dispatcher is connected to Ray: the API would also answer from what an earlier one has published."""
    with contextlib.closing(open_sql_store(f"sqlite:///{stack.home / 'sweeps.db'}")) as store:
        cluster = store.read_cluster()
    return cluster is not None and cluster.seen_at > since


def test_an_api_that_is_killed_comes_back(stack: RunningStack) -> None:
    end_part(stack, API, signal.SIGKILL)
    await_that(lambda: answers(stack.api_url + "/readyz"), what="the API to answer")


def test_a_dispatcher_that_is_killed_comes_back(stack: RunningStack) -> None:
    ended_at = end_part(stack, DISPATCHER, signal.SIGKILL)
    await_that(lambda: sees_the_cluster(stack, since=ended_at), what="the dispatcher to see the cluster")


def test_a_dispatcher_that_is_told_to_end_does_so_in_good_order_and_comes_back(stack: RunningStack) -> None:
    before = len(stack.log("dispatcher"))
    ended_at = end_part(stack, DISPATCHER, signal.SIGTERM)
    await_that(lambda: sees_the_cluster(stack, since=ended_at), what="the dispatcher to see the cluster")
    lines = [line for line in stack.log("dispatcher")[before:].splitlines() if "__main__" in line]
    assert [line.rpartition(" ")[2] for line in lines] == ["Ended.", "Dispatching."]
    assert "dispatcher ended (status 0)" in read(stack.home / "err.txt")


def end_part(stack: RunningStack, words: tuple[str, ...], number: signal.Signals) -> datetime:
    """Send the signal to that part and wait until another process has taken its place; when it had ended."""
    before = psutil.Process(stack.pid(*words))
    before.send_signal(number)
    await_that(lambda: not before.is_running(), what="its end")
    ended_at = datetime.now(UTC)
    await_that(lambda: is_back(stack, words, before.pid), what=f"another {words}")
    return ended_at


def is_back(stack: RunningStack, words: tuple[str, ...], before: int) -> bool:
    try:
        return stack.pid(*words) != before
    except (AssertionError, psutil.Error):
        return False


def test_every_port_of_the_stack_is_on_loopback(stack: RunningStack) -> None:
    family = [psutil.Process(stack.process.pid), *psutil.Process(stack.process.pid).children(recursive=True)]
    listening = [
        (process.name(), connection.laddr.ip)
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 4
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening


WHAT_A_WORKER_SEES = """
import json, os, ray

@ray.remote(num_cpus=0)
def seen():
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("TUNE_FUNCTION_THREAD_TIMEOUT_S")

ray.init(address=os.environ["SWEEP_RAY_ADDRESS"], log_to_driver=False)
print(json.dumps([ray.get(seen.remote()), ray.get(seen.options(num_gpus=1).remote())]))
"""


def test_a_worker_sees_only_the_gpus_it_asked_for_and_has_patience_with_its_last_pack(
    stack: RunningStack,
) -> None:
    environment = psutil.Process(stack.pid(*DISPATCHER)).environ()  # with the token
    argv = [sys.executable, "-c", WHAT_A_WORKER_SEES]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    without, with_one = json.loads(done.stdout)
    assert without == ["", "600"]
    assert with_one[0] in ("0", "1")


def test_a_second_stack_on_the_same_folder_is_refused(stack: RunningStack) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(stack.home), "--port", "0"]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "Another stack runs on" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_demo_on_the_folder_of_a_stack_is_refused_in_one_line(stack: RunningStack, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "demo", "--home", str(stack.home)]
    demo = subprocess.run([*argv, "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=60)
    assert demo.returncode == 1
    assert demo.stderr.startswith("Error: Another stack runs on")
    assert demo.stderr.count("\n") == 1


def test_a_demo_whose_parts_do_not_come_up_says_which(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "demo", "--home", str(tmp_path), "--output", str(tmp_path / "o")]
    environment = {**os.environ, "SWEEP_LOG_LEVEL": "NONSENSE"}
    demo = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert demo.returncode == 1
    message, *log = demo.stderr.splitlines()
    assert message == f"Error: api: ended (status 1). The end of {tmp_path / 'logs' / 'api.log'}:"
    assert log == (tmp_path / "logs" / "api.log").read_text().splitlines()[-20:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_interrupted_ends_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start_command(tmp_path, "up", "--port", "0", "--mlflow-port", "0")
    await_that(lambda: (tmp_path / "logs" / "mlflow.log").exists(), what="the first parts to be started")
    assert end_process(process, number, within_s=20) == []
    assert process.returncode == 128 + number
    assert read(tmp_path / "out.txt") == "Ended before it was up.\n"
    assert "Traceback" not in read(tmp_path / "err.txt")


def test_a_demo_that_is_interrupted_ends_its_stack(tmp_path: Path) -> None:
    process = start_command(tmp_path, "demo", "--output", str(tmp_path / "result.json"))
    try:
        await_that(lambda: "search 0/" in read(tmp_path / "out.txt"), within_s=150, what="the sweep to be watched")
    finally:
        left = end_process(process)
    assert left == []
    assert process.returncode == 128 + signal.SIGINT
    assert read(tmp_path / "out.txt").endswith("Interrupted. Nothing runs any more.\n")
    assert "Traceback" not in read(tmp_path / "err.txt")


def test_a_taken_port_is_named_with_the_option_that_changes_it(stack: RunningStack, tmp_path: Path) -> None:
    port = stack.api_url.rsplit(":", 1)[1]
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(tmp_path), "--port", port]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"Port {port} is taken" in second.stderr
    assert "--port" in second.stderr


@pytest.mark.long
def test_a_sweep_survives_the_death_of_ray_and_the_stacks_own_leaves_nothing(tmp_path: Path) -> None:
    """Ray is killed in mid-run, and the sweep completes; then the supervisor itself, and every process goes with it."""
    stack = start_stack(tmp_path / "stack", "--cpus", "2")
    try:
        spec = faulty_spec("ray-dies", params={"delay_ms": 20, "checkpoint_every": 5}, budget={"trials": 6})
        sweep_id = stack.client.submit(spec)["id"]
        await_that(lambda: stack.client.get(sweep_id)["progress"]["used_trials"] >= 1, what="a first trial to end")
        psutil.Process(stack.pid("gcs_server")).kill()  # the head without which no part of Ray lives on
        sweep = stack.client.wait(sweep_id, timeout=180, patience=60)
        assert (sweep["state"], sweep["generation"]) == ("completed", 2)
        trials = stack.client.trials(sweep_id)
        assert [trial["number"] for trial in trials] == list(range(6))
        assert {trial["state"] for trial in trials} == {"completed"}

        family = psutil.Process(stack.process.pid).children(recursive=True)
        stack.process.send_signal(signal.SIGKILL)
        stack.process.wait(10)
        await_that(lambda: not psutil.wait_procs(family, timeout=1)[1], within_s=60, what=f"the end of {family}")
        left = Path(read(stack.home / "ray-folder"))
        assert left.is_dir()
        again = start_command(stack.home, "up", "--port", "0", "--mlflow-port", "0")
        try:
            await_that(lambda: not left.exists(), what="the next start to remove Ray's folder")
        finally:
            end_process(again)
    finally:
        if stack.process.poll() is None:
            end_stack(stack)
        stack.client.close()
