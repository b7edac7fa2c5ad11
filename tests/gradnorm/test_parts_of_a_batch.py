"""A batch gone through in parts, in one process or in several, is the batch: every weight and parameter agrees."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from layer_problems import SHARED_LAYERS, layer_problem
from torch import nn

from trainables.catalog import BALANCERS
from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane, LaneEnding
from trainables.ranks import ProcessGroupRanks
from trainables.training import train

STEPS = 12
CPU = torch.device("cpu")
VALUES = {"alpha": 1.5, "weight_lr": 0.05, "lr": 1e-2, "seed": 4, "dtype": "float64"}


def reports_of(problem, balancer="gradnorm", train=train, **values):
    params = {**VALUES, "steps": STEPS, "report_every": 3, "checkpoint_every": 3, "batch_size": 16, **values}
    reports = []
    train(problem, [Lane(key="a", balancer=balancer, params=params)], lambda new: reports.extend(new) or ())
    return reports


def assert_close(one, other, **tolerance):
    """The same metrics, weights of the tasks and parameters at every report."""
    tolerance = tolerance or {"rtol": 0, "atol": 1e-10}
    assert len(one) == len(other) > 1
    for mine, theirs in zip(one, other, strict=True):
        assert mine.ending == theirs.ending != LaneEnding.ERROR, theirs.message
        assert theirs.metrics == pytest.approx(mine.metrics, rel=1e-8)
        for name, tensor in mine.checkpoint.balancer_state.items():
            torch.testing.assert_close(theirs.checkpoint.balancer_state[name], tensor, **tolerance)
        for name, tensor in mine.checkpoint.model.items():
            torch.testing.assert_close(theirs.checkpoint.model[name], tensor, **tolerance)


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("num_parts", [5, 99])  # 16 rows: 5 parts are unequal, and 99 are 16
def test_micro_batches_change_nothing_whatever_the_balancer(balancer, num_parts):
    problem = layer_problem("Linear", 3)
    assert_close(reports_of(problem, balancer), reports_of(problem, balancer, micro_batches=num_parts))


@pytest.mark.parametrize("shared_layer", SHARED_LAYERS)
def test_micro_batches_change_nothing_whatever_the_shared_layer(shared_layer):
    problem = layer_problem(shared_layer, 3)
    assert_close(reports_of(problem), reports_of(problem, micro_batches=3))


class Counting(nn.Module):
    """Passes its input on, and counts the graphs through it that are alive at the same time."""

    def __init__(self, alive, most):
        super().__init__()
        self.alive, self.most = alive, most

    def forward(self, inputs):
        if not inputs.requires_grad:
            return inputs
        self.alive[0] += 1
        self.most[0] = max(self.most[0], self.alive[0])
        output = inputs.clone()
        output.grad_fn.register_hook(self._walked)
        return output

    def _walked(self, grad_inputs, grad_outputs):
        self.alive[0] -= 1


@pytest.mark.parametrize(("balancer", "most"), [("gradnorm", 1), ("equal", 1), ("static", 1)])
def test_where_the_weights_are_known_before_the_step_one_parts_graph_is_held_at_a_time(balancer, most):
    problem = layer_problem("Linear", 2)
    build, alive, seen = problem.model, [0], [0]

    def model():
        built = build()
        built.trunk = nn.Sequential(built.trunk, Counting(alive, seen))
        return built

    reports_of(replace(problem, model=model), balancer, micro_batches=4)
    assert seen == [most]


def test_a_gradient_is_clipped_after_weighting_and_the_weights_know_nothing_of_it():
    problem = layer_problem("Linear", 3)
    free, clipped = (reports_of(problem, steps=1, report_every=1, clip_norm=norm)[0] for norm in (0.0, 0.01))
    squares = [0.0, 0.0]
    for index, report in enumerate((free, clipped)):
        moments = report.checkpoint.optimizer["state"].values()  # after one step a tenth of the gradient
        squares[index] = sum((10 * m["exp_avg"]).square().sum().item() for m in moments)
    assert squares[0] > 0.01**2
    assert squares[1] == pytest.approx(0.01**2, rel=1e-3)
    assert torch.equal(free.checkpoint.balancer_state["weights_T"], clipped.checkpoint.balancer_state["weights_T"])
    assert free.metrics["grad_norm/task_2"] == clipped.metrics["grad_norm/task_2"]


def test_networks_that_share_nothing_are_clipped_one_by_one():
    problem = layer_problem("Linear", 3)
    (report,) = reports_of(problem, "single_task", steps=1, report_every=1, clip_norm=0.01)
    names = [name for name, _ in problem.build_model().named_parameters() if not name.startswith("heads")]
    per_network = len(names) + 2  # its head's weight and bias
    moments = [m["exp_avg"] for m in report.checkpoint.optimizer["state"].values()]
    for first in range(0, len(moments), per_network):
        square = sum((10 * m).square().sum().item() for m in moments[first : first + per_network])
        assert square == pytest.approx(0.01**2, rel=1e-3)


# --- several processes ------------------------------------------------------------------------------------------------


def _rank(rank, size, folder, balancer, values):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        sharing = partial(train, ranks=ProcessGroupRanks(device=CPU))
        reports = reports_of(layer_problem("Conv2d", 3), balancer, train=sharing, **values)
        for report in reports:
            report.checkpoint.save(folder / f"rank {rank} step {report.step}.pt")
        torch.save([report.metrics for report in reports], folder / f"rank {rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("balancer", "values"), [("gradnorm", {}), ("gradnorm", {"micro_batches": 3, "clip_norm": 0.5}), ("equal", {})]
)
def test_two_processes_learn_what_one_learns_from_the_joined_batch(balancer, values, tmp_path):
    alone = reports_of(layer_problem("Conv2d", 3), balancer, **values)
    mp.spawn(_rank, args=(2, tmp_path, balancer, values), nprocs=2)
    assert torch.load(tmp_path / "rank 1.pt") == [], "rank 0 speaks for all"
    metrics = torch.load(tmp_path / "rank 0.pt")
    assert len(metrics) == len(alone) == STEPS // 3
    for report, theirs in zip(alone, metrics, strict=True):
        assert theirs == pytest.approx(report.metrics, rel=1e-8)
        other = Checkpoint.load(tmp_path / f"rank 0 step {report.step}.pt")
        for name, tensor in report.checkpoint.balancer_state.items():
            torch.testing.assert_close(other.balancer_state[name], tensor, rtol=0, atol=1e-10)
        for name, tensor in report.checkpoint.model.items():
            torch.testing.assert_close(other.model[name], tensor, rtol=0, atol=1e-10)
