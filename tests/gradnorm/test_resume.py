"""A GradNorm lane that is cut off at any step and taken up again is the lane that never was."""

from __future__ import annotations

import pytest
import torch
from layer_problems import layer_problem

from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane
from trainables.training import train

STEPS = 12
VALUES = {"alpha": 1.5, "weight_lr": 0.05, "lr": 1e-2, "batch_size": 16, "seed": 4, "dtype": "float64"}

INITIAL_LOSSES = {
    "first batch": {},
    "mean of batches": {"initial_loss": "mean_of_batches", "initial_loss_batches": 7},
    "given": {f"initial_loss/task_{index}": 0.5 + index for index in range(3)},
}


def trained(resume_from=None, **values):
    params = {**VALUES, "steps": STEPS, "report_every": 1, "checkpoint_every": 1, **values}
    reports = []
    lane = Lane(key="a", balancer="gradnorm", params=params, resume_from=resume_from)
    train(layer_problem("Conv2d", 3), [lane], lambda new: reports.extend(new) or ())
    return reports


@pytest.mark.parametrize("source", INITIAL_LOSSES)
def test_cut_at_any_step_it_goes_on_bit_for_bit(source, tmp_path):
    whole = trained(**INITIAL_LOSSES[source])
    for done, report in enumerate(whole[:-1], start=1):
        report.checkpoint.save(tmp_path / "cut.pt")
        rest = trained(Checkpoint.load(tmp_path / "cut.pt"), **INITIAL_LOSSES[source])
        assert [later.metrics for later in rest] == [later.metrics for later in whole[done:]]
        for name, tensor in whole[-1].checkpoint.balancer_state.items():
            assert torch.equal(rest[-1].checkpoint.balancer_state[name], tensor), (done, name)
        for name, tensor in whole[-1].checkpoint.model.items():
            assert torch.equal(rest[-1].checkpoint.model[name], tensor), (done, name)


def test_the_initial_losses_are_those_of_the_first_step_for_ever():
    whole = trained()
    first = [whole[0].metrics[f"train/loss/task_{index}"] for index in range(3)]
    for resumed_at in (1, 5, 11):
        (*_, last) = trained(whole[resumed_at - 1].checkpoint)
        assert last.checkpoint.balancer_state["initial_losses_T"].tolist() == first
