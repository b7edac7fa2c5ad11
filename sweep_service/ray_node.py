"""How Ray is told to start a node: its environment and its command line, the same on a laptop and in a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

CONTROL_RESOURCE = "sweep_control"
"""What a node offers that conductors may run on: it has the store's and MLflow's credentials, and trains nothing.

A conductor asks for a little of it (CONTROL_SHARE); packs, which run their authors' code, never do.
"""
CONTROL_SHARE = 0.001

RAY_ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",  # whoever reaches Ray runs code on its nodes
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LOG_TO_STDERR": "0",
    # Or a conductor, which asks for no GPU, sees all of them, and takes some memory of each. Trainers are told theirs.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Of Ray's workers. By default it is 15: beside two processes that use the processors, a conductor then got a
    # fiftieth of one, and lost its lease. Trainers give way by themselves.
    "RAY_worker_niceness": "0",
    # How long a worker that is to train the next pack waits for the thread of the last one. After the default of
    # 2 s, which a busy machine needs at times, Tune drops the next pack and tells its searcher nothing.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PYTHONUNBUFFERED": "1",
}
"""What every process of every node is told; Ray's workers inherit it from the node that starts them."""


def start_command(
    *options: str, num_cpus: int | None, num_gpus: int | None, resources: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    """``ray start`` in the foreground with those options. A number that is None is for Ray to find out: it knows of a
    container's quota, and of the GPUs that it sees.
    """
    argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
    if num_cpus is not None:
        argv.append(f"--num-cpus={num_cpus}")
    if num_gpus is not None:
        argv.append(f"--num-gpus={num_gpus}")
    if resources:
        argv.append(f"--resources={json.dumps(resources)}")
    return tuple(argv)
