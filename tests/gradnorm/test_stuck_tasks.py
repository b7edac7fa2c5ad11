"""A task that cannot learn: found out, told, and bounded where that is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_problems import layer_problem

from trainables.balancers.base import SMALLEST_WEIGHT, WEIGHTS
from trainables.balancers.stuck import STUCK, StuckRule
from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane, Split
from trainables.training import train

NAMES = ["task_0", "task_1", "task_2"]
VALUES = {"alpha": 1.5, "weight_lr": 0.02, "lr": 1e-2, "seed": 4, "batch_size": 54, "dtype": "float64"}


def problem_with_noise():
    """The last of three tasks has targets that nothing predicts, not even on the rows that were seen."""
    problem = layer_problem("Linear", 3)

    class Noise(torch.nn.Module):
        """A head that cannot learn: its output is always 0."""

        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, h):
            return 1e-3 * self.head(h)

    def build():
        model = problem.model()
        model.heads["task_2"] = Noise(model.heads["task_2"])
        return model

    generator = torch.Generator().manual_seed(1)

    def noisy(split):
        noise = torch.randn(split.targets["task_2"].shape, generator=generator, dtype=torch.float64)
        return Split(inputs=split.inputs, targets={**split.targets, "task_2": noise})

    parts = {name: noisy(getattr(problem, name)) for name in ("train", "validation", "test")}
    return replace(problem, model=build, **parts)


def trained(problem, resume_from=None, **values):
    reports = []
    params = {**VALUES, "steps": 120, "report_every": 10, "checkpoint_every": 10, **values}
    lane = Lane(key="a", balancer="gradnorm", params=params, resume_from=resume_from)
    train(problem, [lane], lambda new: reports.extend(new) or ())
    return reports


def test_a_task_that_cannot_learn_is_told_once_by_name_and_at_every_report_as_a_metric():
    reports = trained(problem_with_noise())
    flags = [[report.metrics[f"stuck/{name}"] for name in NAMES] for report in reports]
    assert flags[0] == [0, 0, 0]
    assert flags[-1] == [0, 0, 1]
    told = [(report.step, notice) for report in reports for notice in report.notices]
    ((step, notice),) = told
    assert step == 10 * (1 + flags.index([0, 0, 1]))
    assert notice.startswith("task 'task_2' is stuck: its weight rose from ")
    assert "stuck_weight_cap" in notice


def test_tasks_that_learn_are_not_stuck():
    reports = trained(layer_problem("Linear", 3), steps=60)
    assert not any(report.metrics[f"stuck/{name}"] for report in reports for name in NAMES)
    assert not any(report.notices for report in reports)


def test_without_a_cap_it_is_only_said():
    watched, unwatched = (trained(problem_with_noise(), stuck_reports=reports)[-1] for reports in (3, 0))
    assert unwatched.metrics["stuck/task_2"] == 0
    assert torch.equal(watched.checkpoint.balancer_state[WEIGHTS], unwatched.checkpoint.balancer_state[WEIGHTS])


def test_a_cap_bounds_its_weight_from_the_next_step_on_and_the_others_get_the_rest():
    free = trained(problem_with_noise())[-1].metrics
    reports = trained(problem_with_noise(), stuck_weight_cap=0.8)
    assert free["weight/task_2"] > 1.2
    first = next(index for index, report in enumerate(reports) if report.metrics["stuck/task_2"])
    for report in reports[first + 1 :]:
        weights = [report.metrics[f"weight/{name}"] for name in NAMES]
        assert weights[2] <= 0.8 + 1e-12
        assert sum(weights) == pytest.approx(3)
    (notice,) = [notice for report in reports for notice in report.notices]
    assert notice.endswith("capped at 0.8")


def test_resumed_at_any_report_it_is_told_no_second_time_and_goes_on_bit_for_bit(tmp_path):
    whole = trained(problem_with_noise(), stuck_weight_cap=0.8)
    for done, report in enumerate(whole[:-1], start=1):
        report.checkpoint.save(tmp_path / "cut.pt")
        rest = trained(problem_with_noise(), Checkpoint.load(tmp_path / "cut.pt"), stuck_weight_cap=0.8)
        assert [(r.step, r.metrics, r.notices) for r in rest] == [(r.step, r.metrics, r.notices) for r in whole[done:]]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def judged(rule, losses_and_weights):
    """The flags after each report of one task; the other one's loss always falls, at weight 1."""
    state = {**rule.initial_state(2, torch.device("cpu"), torch.float64)}
    flags = []
    for index, (loss, weight) in enumerate(losses_and_weights):
        state = {**state, WEIGHTS: tensor(weight, 1.0)}
        state |= rule.judge(tensor(loss, 0.9**index), state)
        flags.append(state[STUCK].tolist())
    assert all(other == 0 for _, other in flags)
    return [flag for flag, _ in flags]


@pytest.mark.parametrize(
    ("reports", "seen", "flags"),
    [
        # The first report has nothing before it; then three in a row, and the weight has climbed by a tenth.
        (3, [(1, 1.0), (1, 1.1), (1, 1.2), (1, 1.3), (1, 1.4)], [0, 0, 0, 1, 1]),
        (1, [(1, 1.0), (1, 1.2)], [0, 1]),
        (3, [(1, 1.0), (1, 1.01), (1, 1.02), (1, 1.03), (1, 1.12)], [0, 0, 0, 0, 1]),  # hardly climbs at first
        (2, [(1, 1.0), (1, 1.2), (1, 1.1), (1, 1.2), (1, 1.3)], [0, 0, 0, 0, 1]),  # falls once: begins again
        (2, [(1, 1.0), (0.995, 1.2), (0.985, 1.4), (0.985, 1.6), (0.985, 1.8)], [0, 0, 0, 0, 1]),  # slow, but moves
        (2, [(1, 1.0), (1, 1.2), (1, 1.4), (1, 0.8), (1, 0.8)], [0, 0, 1, 1, 1]),  # a capped weight does not free it
        (2, [(1, 1.0), (1, 1.2), (1, 1.4), (0.9, 1.5), (0.9, 1.5)], [0, 0, 1, 0, 0]),  # its loss does
        (0, [(1, 1.0), (1, 1.2), (1, 1.4), (1, 1.6)], [0, 0, 0, 0]),
    ],
)
def test_stuck_is_a_weight_that_climbs_while_the_loss_does_not_move(reports, seen, flags):
    assert judged(StuckRule(reports=reports), seen) == flags


@given(
    weights=st.lists(st.floats(min_value=1e-4, max_value=1), min_size=2, max_size=8),
    flags=st.lists(st.booleans(), min_size=8, max_size=8),
    cap=st.floats(min_value=1e-6, max_value=10),
)
def test_capped_weights_stay_positive_and_sum_to_the_number_of_tasks(weights, flags, cap):
    weights_T = tensor(*weights)
    weights_T *= len(weights) / weights_T.sum()
    stuck_T = torch.tensor([float(flag) for flag in flags[: len(weights)]], dtype=torch.float64)
    capped_T = StuckRule(reports=3, weight_cap=cap).capped(weights_T, {STUCK: stuck_T})
    assert capped_T.sum().item() == pytest.approx(len(weights))
    assert (capped_T >= min(SMALLEST_WEIGHT, weights_T.min().item()) * (1 - 1e-9)).all()
    if not stuck_T.all():
        assert (capped_T[stuck_T > 0] <= max(cap, SMALLEST_WEIGHT) + 1e-12).all()
        assert (capped_T[stuck_T == 0] >= weights_T[stuck_T == 0] - 1e-12).all()
    else:
        assert torch.equal(capped_T, weights_T)
