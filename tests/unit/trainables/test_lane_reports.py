"""What a lane reports, and when."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from trainables.catalog import TaskKind
from trainables.evaluation import constant_losses, constant_output, evaluate
from trainables.export import export_model
from trainables.protocol import Lane, Split, Task
from trainables.seeding import default_device
from trainables.settings import TrainingSettings
from trainables.testing import tiny_problem
from trainables.training import train

ALL_BALANCERS = ["gradnorm", "equal", "inverse_initial_loss", "single_task"]
TASKS = ["task_0", "task_1"]


def run(problem=None, balancer="gradnorm", evaluate_test=False, **params):
    reports = []
    settings = {"steps": 10, "batch_size": 16, **params}
    lane = Lane(key="a", balancer=balancer, params=settings, evaluate_test=evaluate_test)
    train(problem or tiny_problem(), [lane], lambda new: reports.extend(new) or ())
    assert reports[-1].ending == "completed", reports[-1]
    return reports


def expected_keys(split):
    keys = {f"{split}/loss/{name}" for name in TASKS} | {f"{split}/normalized_loss"}
    return keys | {f"{split}/rmse/task_0", f"{split}/auc/task_1", f"{split}/accuracy/task_1"}


def test_a_lane_says_once_what_it_trains_where_and_from_which_step(caplog):
    caplog.set_level(logging.INFO, logger="trainables")
    checkpoint = run(steps=4)[-1].checkpoint
    lane = Lane(key="a", balancer="gradnorm", params={"steps": 10, "batch_size": 16}, resume_from=checkpoint)
    train(tiny_problem(), [lane], lambda _: ())
    size = sum(parameter.numel() for parameter in tiny_problem().build_model().parameters())
    device = default_device()
    assert [record.message for record in caplog.records if record.levelno == logging.INFO] == [
        f"gradnorm on {device}, {size} parameters, step 0 to 4",
        f"gradnorm on {device}, {size} parameters, step 4 to 10 (resumed)",
    ]


@pytest.mark.parametrize("balancer", ALL_BALANCERS)
def test_every_balancer_reports_the_same_keys_at_every_report(balancer):
    training = {f"{kind}/{name}" for kind in ("train/loss", "weight", "grad_norm", "relative_rate") for name in TASKS}
    training |= {f"stuck/{name}" for name in TASKS if balancer == "gradnorm"}
    for report in run(balancer=balancer, report_every=5):
        assert set(report.metrics) == training | expected_keys("val")
        assert all(type(value) is float and math.isfinite(value) for value in report.metrics.values())


def test_the_test_split_is_measured_at_the_end_and_only_when_asked_for():
    reports = run(evaluate_test=True, report_every=5)
    assert not any(key.startswith("test/") for key in reports[0].metrics)
    assert {key for key in reports[-1].metrics if key.startswith("test/")} == expected_keys("test")


@pytest.mark.parametrize("balancer", ALL_BALANCERS)
def test_what_is_measured_on_a_split_is_what_the_trained_model_does_there_in_that_splits_unit(balancer):
    problem = tiny_problem()
    last = run(problem, balancer=balancer, evaluate_test=True, dtype="float64")[-1]
    double = problem.to(device=torch.device("cpu"), dtype=torch.float64)
    model = export_model(last.checkpoint, problem)
    for name, split in (("val", double.validation), ("test", double.test)):
        outputs = model(*split.inputs)
        expected, shares = {}, []
        for task in problem.tasks:
            target = split.targets[task.name]
            loss = task.loss(outputs[task.name], target).item()
            row = constant_output(task, double.train.targets[task.name])
            shares.append(loss / task.loss(row.expand(len(target)), target).item())
            expected[f"{name}/loss/{task.name}"] = loss
            for metric, function in task.metrics.items():
                expected[f"{name}/{metric}/{task.name}"] = function(outputs[task.name], target).item()
        expected[f"{name}/normalized_loss"] = sum(shares) / len(shares)
        found = {key: value for key, value in last.metrics.items() if key.startswith(f"{name}/")}
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [
        (10, 4, [4, 8, 10]),
        (8, 4, [4, 8]),
        (3, 100, [3]),
        (1, 1, [1]),
        (30, 0, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]),
    ],
)
def test_reports_come_at_multiples_of_report_every_and_at_the_last_step(steps, every, expected):
    assert [report.step for report in run(steps=steps, report_every=every)] == expected


def test_by_default_a_lane_reports_twenty_five_times():
    settings = TrainingSettings.from_params({"steps": 1500})
    assert (settings.report_every, settings.checkpoint_every) == (60, 300)


@pytest.mark.parametrize(
    ("steps", "report_every", "checkpoint_every", "expected"),
    [(10, 2, 0, [2, 4, 6, 8, 10]), (12, 2, 5, [6, 10, 12]), (12, 5, 1, [5, 10, 12]), (12, 3, 100, [12])],
)
def test_checkpoints_ride_on_the_first_report_after_they_are_due(steps, report_every, checkpoint_every, expected):
    reports = run(steps=steps, report_every=report_every, checkpoint_every=checkpoint_every)
    with_checkpoint = [report for report in reports if report.checkpoint is not None]
    assert [report.step for report in with_checkpoint] == expected
    assert [report.checkpoint.step for report in with_checkpoint] == expected


def test_the_training_loss_is_the_mean_since_the_last_report():
    fine = run(report_every=1, steps=8, dtype="float64", balancer="gradnorm")
    coarse = run(report_every=4, steps=8, dtype="float64", balancer="gradnorm")
    for name in TASKS:
        losses = [report.metrics[f"train/loss/{name}"] for report in fine]
        means = [sum(losses[:4]) / 4, sum(losses[4:]) / 4]
        assert [report.metrics[f"train/loss/{name}"] for report in coarse] == pytest.approx(means, rel=1e-12)


def test_how_often_a_lane_reports_does_not_change_what_it_learns():
    for balancer in ALL_BALANCERS:
        fine = run(report_every=1, dtype="float64", balancer=balancer)
        coarse = run(report_every=10, dtype="float64", balancer=balancer)
        fine_model, coarse_model = fine[-1].checkpoint.model, coarse[-1].checkpoint.model
        for name, value in fine_model.items():
            torch.testing.assert_close(value, coarse_model[name], rtol=1e-10, atol=1e-12)


def test_the_reported_weight_is_the_one_that_the_next_step_uses():
    reports = run(report_every=1, checkpoint_every=1)
    for report in reports:
        weights = report.checkpoint.balancer_state["weights_T"].tolist()
        assert [report.metrics[f"weight/{name}"] for name in TASKS] == weights
        assert sum(weights) == pytest.approx(2, rel=1e-6)


def test_equal_weights_stay_one_and_inverse_initial_loss_weights_stay_what_they_were():
    for report in run(balancer="equal", report_every=2):
        assert [report.metrics[f"weight/{name}"] for name in TASKS] == [1.0, 1.0]
    reports = run(balancer="inverse_initial_loss", report_every=1, dtype="float64")
    first = reports[0].metrics
    inverse = [1 / first[f"train/loss/{name}"] for name in TASKS]
    expected = [2 * value / sum(inverse) for value in inverse]
    for report in reports:
        assert [report.metrics[f"weight/{name}"] for name in TASKS] == pytest.approx(expected, rel=1e-12)


def test_the_relative_rates_are_one_at_first_and_average_one():
    reports = run(report_every=1)
    assert [reports[0].metrics[f"relative_rate/{name}"] for name in TASKS] == pytest.approx([1, 1])
    assert sum(reports[-1].metrics[f"relative_rate/{name}"] for name in TASKS) == pytest.approx(2)


def test_single_task_networks_learn_what_each_would_learn_alone():
    together = run(tiny_problem(num_tasks=2), balancer="single_task", dtype="float64")[-1].checkpoint
    for index in range(2):
        alone = tiny_problem(num_tasks=2)
        object.__setattr__(alone, "tasks", [alone.tasks[index]])
        model = run(alone, balancer="single_task", dtype="float64")[-1].checkpoint.model
        for name, value in model.items():
            torch.testing.assert_close(value, together.model[name], rtol=1e-12, atol=1e-14)


def test_a_seed_gives_the_same_lane_again_and_another_seed_another():
    same, again, other = run(seed=3), run(seed=3), run(seed=4)
    assert same[-1].metrics == again[-1].metrics
    assert same[-1].metrics != other[-1].metrics


def test_evaluation_leaves_the_mode_of_every_module_as_it_was():
    problem = tiny_problem(dropout=0.5)
    model = problem.build_model().train()
    model.trunk.eval()
    split = problem.validation
    once = evaluate(model, problem.tasks, split, constant_losses(problem, split), "val")
    assert once == evaluate(model, problem.tasks, split, constant_losses(problem, split), "val")
    assert model.training
    assert not model.trunk.training


def test_a_constant_predictor_has_normalized_loss_one():
    problem = tiny_problem(num_tasks=3)
    rows = {task.name: constant_output(task, problem.train.targets[task.name]) for task in problem.tasks}

    class Constant(torch.nn.Module):
        def forward(self, inputs):
            return {name: row.expand(len(inputs)) for name, row in rows.items()}

    split = problem.validation
    found = evaluate(Constant(), problem.tasks, split, constant_losses(problem, split), "val")
    assert found["val/normalized_loss"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_no_other_constant_does_better_on_the_training_split(kind):
    target = {
        "binary": torch.tensor([0.0, 1, 1, 1]),
        "multiclass": torch.tensor([0, 2, 2, 1]),
        "regression": torch.tensor([[1.0, 5], [2, 5], [6, 8]]),
    }[kind]
    loss = {
        "binary": torch.nn.functional.binary_cross_entropy_with_logits,
        "multiclass": torch.nn.functional.cross_entropy,
        "regression": torch.nn.functional.mse_loss,
    }[kind]
    task = Task(name="t", kind=TaskKind(kind), loss=loss, num_classes=3 if kind == "multiclass" else 0)
    best = constant_output(task, target)
    best_loss = loss(best.expand(len(target), *best.shape), target)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = best + 0.1 * torch.randn(best.shape, generator=generator)
        assert loss(other.expand(len(target), *other.shape), target) > best_loss


def test_a_target_that_never_changes_is_refused_by_its_name():
    problem = tiny_problem()
    targets = {**problem.validation.targets, "task_0": torch.zeros(16)}
    object.__setattr__(problem.train, "targets", {**problem.train.targets, "task_0": torch.zeros(48)})
    with pytest.raises(ValueError, match="'task_0'"):
        constant_losses(problem, Split(inputs=problem.validation.inputs, targets=targets))
