"""A trial of the Ray Tune script learns what the same trial of the service does."""

from __future__ import annotations

import pytest
import torch

from benchmarks.sweep_throughput_script import Training
from benchmarks.sweep_throughput_workload import LR, SEED, Workload
from trainables.catalog import load_problem
from trainables.engine.lane import LaneTraining
from trainables.protocol import Lane

STEPS = 12
ALPHA, WEIGHT_LR = 1.5, 0.05


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["digits", "toy_regression"])
def test_the_script_and_the_engine_have_the_same_weights_and_network_after_some_steps(name):
    problem = load_problem(name, {}).to(device=torch.device("cpu"), dtype=torch.float64)
    workload = Workload(problem=name, trials=1, steps=STEPS, batch_size=64)
    theirs = Training(problem, workload, alpha=ALPHA, weight_lr=WEIGHT_LR)
    for _ in range(STEPS):
        theirs.step()

    params = {"steps": STEPS, "batch_size": 64, "lr": LR, "seed": SEED, "dtype": "float64"}
    params |= {"alpha": ALPHA, "weight_lr": WEIGHT_LR}
    ours = LaneTraining(problem, Lane(key="a", balancer="gradnorm", params=params), torch.device("cpu"))
    while ours.step < STEPS:
        ours.advance()

    torch.testing.assert_close(theirs.gradnorm.weights.detach(), ours.weights_T, rtol=0, atol=1e-10)
    assert (ours.weights_T - 1).abs().max() > 1e-2  # they have moved
    with torch.no_grad():
        for task, output in ours.model(*problem.test.inputs).items():
            torch.testing.assert_close(output, theirs.model(*problem.test.inputs)[task], rtol=0, atol=1e-8)
