"""Sweeps of a whole cluster, and what is asked of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from compose_cluster import await_that

from sweep_service.client import SweepClient

ENDED = ("completed", "failed", "stopped", "cancelled")
SPEC = {
    "name": "cluster",
    "trainable": "digits",
    "params": {"steps": 3000, "batch_size": 64},
    "space": {
        "alpha": {"type": "float", "low": 0.0, "high": 3.0},
        "weight_lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    },
    "search": {"sampler": "random"},
    "budget": {"trials": 16},
    "baselines": [],
    "resources": {"cpus": 1, "parallel": 4, "lanes": 2},
    "tracking": {"experiment": "cluster"},
}


def has_ended(client: SweepClient, sweep_id: str) -> Mapping[str, Any] | None:
    sweep = client.get(sweep_id)
    return sweep if sweep["state"] in ENDED else None


def num_ended(client: SweepClient, sweep_id: str) -> int:
    counts = client.get(sweep_id)["progress"]["trials"]["search"]
    return sum(number for state, number in counts.items() if state not in ("pending", "running"))


def nodes_of(client: SweepClient, sweep_id: str) -> Counter[str]:
    """On which nodes its attempts ran."""
    trials = (client.trial(trial["id"]) for trial in client.trials(sweep_id))
    return Counter(attempt["node"] for trial in trials for attempt in trial["attempts"])


def check_each_trial_once(client: SweepClient, sweep_id: str, num_trials: int) -> None:
    sweep = await_that(lambda: has_ended(client, sweep_id), within_s=600)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials"), sweep["message"]
    trials = client.trials(sweep_id)
    assert [trial["number"] for trial in trials] == list(range(num_trials))
    assert {trial["state"] for trial in trials} <= {"completed", "early_stopped"}
