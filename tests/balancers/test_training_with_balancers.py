"""Every balancer in the training loop."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from trainables.catalog import BALANCERS
from trainables.protocol import Lane, LaneEnding
from trainables.testing import tiny_problem
from trainables.training import train

PARAMS = {"steps": 20, "report_every": 10, "checkpoint_every": 10, "batch_size": 16, "lr": 0.01, "dwa_window": 4}


def run(balancer, resume_from=None):
    reports = []
    lane = Lane(key="a", balancer=balancer, params=PARAMS, resume_from=resume_from)
    train(tiny_problem(num_tasks=3, dropout=0.2), [lane], lambda new: reports.extend(new) or ())
    assert reports[-1].ending is LaneEnding.COMPLETED, reports[-1]
    return reports


@pytest.mark.parametrize("balancer", BALANCERS)
def test_twenty_steps_have_finite_losses_and_are_the_same_from_the_checkpoint_at_ten(balancer):
    middle, last = run(balancer)
    assert (middle.step, last.step) == (10, 20)
    for report in (middle, last):
        losses = {key: value for key, value in report.metrics.items() if "loss" in key}
        assert len(losses) == 7
        assert all(math.isfinite(value) for value in losses.values())
    (resumed,) = run(balancer, resume_from=middle.checkpoint)
    assert resumed.metrics == last.metrics
    for kind in ("model", "balancer_state"):
        one, other = getattr(resumed.checkpoint, kind), getattr(last.checkpoint, kind)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("balancer", [name for name in BALANCERS if name not in ("equal", "static", "single_task")])
def test_the_weights_do_not_stay_at_one(balancer):
    middle, last = run(balancer)
    weights = [[report.metrics[f"weight/task_{i}"] for i in range(3)] for report in (middle, last)]
    assert weights[-1] != [1.0, 1.0, 1.0]
    if balancer != "inverse_initial_loss":
        assert weights[0] != weights[1]


def test_training_imports_no_solver_before_a_balancer_asks_for_one():
    code = (
        "import sys, trainables.training as t, trainables.catalog as c;"
        "from trainables.balancers import create_balancer; from trainables.settings import TrainingSettings;"
        "s = TrainingSettings.from_params({});"
        "[create_balancer(n, s, []) for n in c.BALANCERS if n not in ('mgda', 'cagrad', 'imtl_g', 'upgrad')];"
        "print([m for m in ('torchjd', 'scipy.optimize') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
