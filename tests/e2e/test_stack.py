"""`sweep up` as a supervisor: what dies comes back, and nothing outlives it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from stack_control import RunningStack, await_that, read

from sweep_service.storage.sql import open_sql_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


API, DISPATCHER = ("-m", "api"), ("sweep_service.worker",)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60).status_code == 200
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
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    without, with_one = json.loads(done.stdout)
    assert without == ["", "600"]
    assert with_one[0] in ("0", "1")


def test_a_second_stack_on_the_same_folder_is_refused(stack: RunningStack) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(stack.home), "--port", "0"]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert second.returncode == 1
    assert "Another stack runs on" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_demo_on_the_folder_of_a_stack_is_refused_in_one_line(stack: RunningStack, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "demo", "--home", str(stack.home)]
    demo = subprocess.run([*argv, "--output", str(tmp_path / "out")], capture_output=True, text=True, timeout=240)
    assert demo.returncode == 1
    assert demo.stderr.startswith("Error: Another stack runs on")
    assert demo.stderr.count("\n") == 1


def test_a_taken_port_is_named_with_the_option_that_changes_it(stack: RunningStack, tmp_path: Path) -> None:
    port = stack.api_url.rsplit(":", 1)[1]
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(tmp_path), "--port", port]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert second.returncode == 1
    assert f"Port {port} is taken" in second.stderr
    assert "--port" in second.stderr
