"""Nodes that join a stack's Ray cluster on the same machine, to be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from stack_control import RunningStack, await_that, read

# Not `ray start`: it takes no address on loopback for another node to join.
_NODE = """
import signal, sys
from types import SimpleNamespace
from ray.cluster_utils import Cluster

address, name, cpus, gpus = sys.argv[1:]
cluster = Cluster(shutdown_at_exit=True)  # as ray start has it: it hears SIGTERM
cluster.head_node = SimpleNamespace(gcs_address=address)
cluster.add_node(wait=False, node_name=name, num_cpus=int(cpus), num_gpus=int(gpus))
signal.pause()
"""


@dataclass(frozen=True, kw_only=True)
class RayNode:
    """One that the test has started; its name is that of its attempts."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def family(self) -> Sequence[psutil.Process]:
        """All its processes: the one that was started, Ray's own, and those that train."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    @property
    def pids(self) -> set[int]:
        return {process.pid for process in self.family}

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def tell_to_leave(self) -> None:
        """As a container that is stopped: Ray gives what runs there some time, and ends the node."""
        self.process.terminate()

    def kill(self, *, workers_first_by_s: float = 0.0) -> None:
        """As by a power cut. Or as by a machine that ends: its workers a moment before what would tell of their end."""
        family = self.family
        workers = [process for process in family if _is_worker(process)]
        for process in workers if workers_first_by_s else ():
            _kill(process)
        time.sleep(workers_first_by_s)
        for process in family:
            _kill(process)
        psutil.wait_procs(family, timeout=60)
        self.process.wait(60)


def join(stack: RunningStack, name: str, *, cpus: int, gpus: int) -> RayNode:
    """A node of so many CPUs and GPUs, whether there are any or not, with a trainer that waits. Two that started at the
    same moment would take the same ports.
    """
    environment = psutil.Process(stack.pid("ray.scripts.scripts", "--head")).environ()
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "30"  # as in a cluster; a stack of one machine has none
    argv = [sys.executable, "-c", _NODE, environment["SWEEP_RAY_ADDRESS"], name, str(cpus), str(gpus)]
    path = stack.home / "logs" / f"node-{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, start_new_session=True)
    node = RayNode(name=name, process=process)
    await_that(lambda: not node.is_alive or any(_is_worker(one) for one in node.family), what=f"a trainer on {name}")
    assert node.is_alive, read(path)
    return node


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:  # it has ended meanwhile
        return False


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
