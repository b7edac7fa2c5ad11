"""Lanes end and come in for themselves: nobody beside them sees it in any bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import HEADS, NETWORKS, model_of, problem_of, smooth_head
from packs import (
    Told,
    alone,
    assert_bits_agree,
    assert_report_agrees,
    assert_reports_agree,
    check_equal,
    lane,
    together,
)
from refused import Constant, after_trunk, drawn
from torch import Tensor, nn

from tests.gradnorm.layer_problems import layer_problem
from trainables.catalog import BALANCERS
from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane, LaneEnding, LaneReport, MultiTaskModel, Problem
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, train_together

SHARED = [name for name in BALANCERS if name != "single_task"]
EVERY_TEN: dict[str, Any] = {"checkpoint_every": 10, "steps": 40}
SELDOM: dict[str, Any] = {"checkpoint_every": 40, "steps": 40}


def poisoned_pack(balancer: str, **ill: Any) -> list[Lane]:
    """Three lanes, of which the middle one may be ill."""
    return [
        lane("a", "gradnorm", seed=1, **EVERY_TEN),
        lane("ill", balancer, seed=2, **{**EVERY_TEN, **ill}),
        lane("c", "equal", seed=3, clip_norm=0.5, **EVERY_TEN),
    ]


PROBLEMS: dict[str, Problem] = {
    "dense, dropout": tiny_problem(num_tasks=3, dropout=0.2),
    "convolution": layer_problem("Conv2d", 2),
    "block": layer_problem("block of several parameters", 3),
    "own forward": problem_of(NETWORKS["dropout in a forward pass of one's own"]),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_neighbours_of_a_lane_that_becomes_nan_do_not_see_it_in_any_bit_until_it_is_gone(name):
    ill = together(PROBLEMS[name], poisoned_pack("gradnorm", lr=1e300, clip_norm=1.0, report_every=20))
    well = together(PROBLEMS[name], poisoned_pack("gradnorm", clip_norm=1.0, report_every=20))
    assert ill["ill"][-1].ending is LaneEnding.NON_FINITE
    assert ill["ill"][-1].step == 20
    assert well["ill"][-1].ending is LaneEnding.COMPLETED
    for key in ("a", "c"):
        assert_bits_agree(ill[key][:2], well[key][:2])
        for mine, theirs in zip(ill[key], well[key], strict=True):
            assert_report_agrees(mine, theirs, tolerance=1e-12)


@pytest.mark.parametrize("balancer", SHARED)
def test_a_lane_that_becomes_nan_ends_as_it_would_alone_whatever_weighs_its_tasks(balancer):
    lanes = poisoned_pack(balancer, lr=1e300, steps=20)
    found, expected = together(PROBLEMS["dense, dropout"], lanes), alone(PROBLEMS["dense, dropout"], lanes)
    assert found["ill"][-1].ending is expected["ill"][-1].ending is LaneEnding.NON_FINITE
    assert_reports_agree(found, expected)


def test_networks_of_tasks_that_become_nan_end_as_they_would_alone():
    lanes = [lane("ill", "single_task", lr=1e300, clip_norm=1.0), lane("b", "single_task", seed=2)]
    assert check_equal(tiny_problem(), lanes)["ill"][-1].ending is LaneEnding.NON_FINITE


class NanOfOneSeed(nn.Module):
    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float("nan") if torch.initial_seed() == 2 else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


def test_a_loss_that_is_nan_for_the_network_of_one_seed_ends_that_lane_alone():
    reports = check_equal(problem_of(after_trunk(NanOfOneSeed)), poisoned_pack("equal"))
    assert reports["ill"][-1].ending is LaneEnding.NON_FINITE
    assert reports["a"][-1].ending is reports["c"][-1].ending is LaneEnding.COMPLETED


def test_one_tasks_loss_that_is_nan_is_no_reason_to_refuse_the_others_gradients():
    def build() -> MultiTaskModel:
        return model_of(heads={"one": nn.Sequential(NanOfOneSeed(), smooth_head()), "two": smooth_head()})

    reports = check_equal(problem_of(build), poisoned_pack("equal"))
    assert reports["ill"][-1].ending is LaneEnding.NON_FINITE
    assert reports["a"][-1].ending is reports["c"][-1].ending is LaneEnding.COMPLETED


def test_a_lane_that_is_asked_to_stop_ends_there_and_the_others_go_on():
    lanes = [lane("a", seed=1), lane("b", "equal", seed=2, report_every=5), lane("c", "uncertainty", seed=3)]
    reports = check_equal(tiny_problem(num_tasks=3, dropout=0.2), lanes, stop_at={("b", 15), ("c", 20)})
    assert [(one.step, one.ending) for one in reports["b"][-2:]] == [(15, None), (15, LaneEnding.STOPPED)]
    assert reports["c"][-1].ending is LaneEnding.STOPPED
    assert reports["a"][-1].ending is LaneEnding.COMPLETED


def test_lanes_of_different_lengths_and_rhythms_each_keep_their_own():
    rhythms = [(50, 10), (7, 3), (50, 50), (1, 1), (23, 5), (24, 4)]
    lanes = [
        lane(f"{index}", "gradnorm", seed=index, steps=steps, report_every=every)
        for index, (steps, every) in enumerate(rhythms)
    ]
    check_equal(tiny_problem(dropout=0.1), lanes)


def test_the_reports_of_a_step_come_in_one_call_in_the_lanes_order_and_no_call_is_empty():
    slow_start = {"initial_loss": "mean_of_batches", "initial_loss_batches": 9}
    lanes = [
        lane("b", steps=20, **slow_start),
        lane("a", steps=20, report_every=5),
        lane("c", "equal", steps=15, report_every=15),
    ]
    told = Told({("a", 10)})
    train_together(tiny_problem(), lanes, told)
    assert [[(one.lane, one.step, one.ending) for one in call] for call in told.calls] == [
        [("a", 5, None)],
        [("b", 10, None), ("a", 10, None)],
        [("a", 10, LaneEnding.STOPPED)],
        [("c", 15, LaneEnding.COMPLETED)],
        [("b", 20, LaneEnding.COMPLETED)],
    ]


def test_what_report_raises_passes_through_and_ends_everything():
    calls: list[Sequence[LaneReport]] = []

    def report(reports: Sequence[LaneReport]) -> tuple[str, ...]:
        calls.append(reports)
        raise ConnectionError("the conductor is gone")

    with pytest.raises(ConnectionError):
        train_together(tiny_problem(), [lane("a"), lane("b", report_every=5)], report)
    assert [one.lane for one in calls[0]] == ["b"]
    assert len(calls) == 1


def test_a_lane_that_cannot_be_built_ends_and_the_others_train():
    lanes = [lane("a"), lane("broken", "no_such_balancer"), lane("c", "equal")]
    reports = check_equal(tiny_problem(), lanes)
    assert reports["broken"][-1].ending is LaneEnding.ERROR


def test_a_pack_whose_lanes_cannot_be_built_at_all_comes_to_its_end():
    reports = together(tiny_problem(), [lane("a", "no_such_balancer"), lane("b", "no_such_balancer")])
    assert [one[-1].ending for one in reports.values()] == [LaneEnding.ERROR, LaneEnding.ERROR]


class Waiting:
    """Lanes that wait to be let in, and the numbers of free places that were asked for."""

    def __init__(self, *lanes: Lane) -> None:
        self._lanes = list(lanes)
        self.asked: list[int] = []

    def __call__(self, free: int) -> Sequence[Lane]:
        self.asked.append(free)
        coming, self._lanes = self._lanes[:free], self._lanes[free:]
        return coming


def test_lanes_that_come_in_learn_what_they_learn_alone_and_so_do_those_that_are_there():
    problem = tiny_problem(num_tasks=3, dropout=0.2)
    there = [lane("a", seed=1), lane("b", "equal", seed=2, steps=8, report_every=8), lane("c", "upgrad", seed=3)]
    coming = [
        lane("d", "famo", seed=4, steps=17, report_every=6, clip_norm=0.5),
        lane("e", "gradnorm", seed=5, steps=33, weight_decay=0.2),
        lane("broken", "no_such_balancer"),
        lane("f", "rlw", seed=6, steps=12),
    ]
    waiting = Waiting(*coming)
    found = together(problem, there, refill=waiting)
    assert waiting.asked[0] == 1
    assert_reports_agree(found, alone(problem, [*there, *coming]))


def test_nobody_is_asked_for_lanes_while_every_place_is_taken():
    waiting = Waiting()
    together(tiny_problem(), [lane("a"), lane("b", steps=30)], refill=waiting)
    assert waiting.asked == [1, 1]


def test_a_lane_that_comes_in_and_cannot_be_trained_with_the_others_is_refused():
    problem = problem_of(after_trunk(lambda: Constant(0.5 + drawn())))
    told = Told()
    there = [lane("a", seed=1), lane("b", seed=1, lr=1e-3, steps=10)]
    with pytest.raises(NotStackableError, match="comes out otherwise"):
        train_together(problem, there, told, refill=Waiting(lane("c", seed=2)))
    assert [one.ending for one in told.by_lane["a"]] == [None]
    assert "c" not in told.by_lane
    with pytest.raises(NotStackableError, match="batch_size differs"):
        train_together(problem, there, Told(), refill=Waiting(lane("c", seed=1, batch_size=5)))


RESUMED = [
    lane("a", "gradnorm", seed=1, initial_loss="mean_of_batches", initial_loss_batches=15, **EVERY_TEN),
    lane("b", "famo", seed=2, clip_norm=0.5, **EVERY_TEN),
    lane("c", "rlw", seed=3, weight_decay=0.1, **EVERY_TEN),
    lane("d", "uncertainty", seed=4, **EVERY_TEN),
]


def going_on(lanes: Sequence[Lane], reports: dict[str, list[LaneReport]], *steps: int) -> list[Lane]:
    """Each lane from its checkpoint at the step that is its."""
    checkpoints = {one.step: one.checkpoint for key in reports for one in reports[key] if key == lanes[0].key}
    assert set(steps) <= set(checkpoints)
    return [
        replace(one, resume_from=next(r.checkpoint for r in reports[one.key] if r.step == step))
        for one, step in zip(lanes, steps, strict=True)
    ]


def assert_rests_agree(
    rests: dict[str, list[LaneReport]], whole: dict[str, list[LaneReport]], lanes: Sequence[Lane]
) -> None:
    """Of lanes that went on: all that they said as a whole after the step that they went on from."""
    starts = {one.key: one.resume_from.step for one in lanes if one.resume_from is not None}
    assert rests.keys() == starts.keys()
    assert_reports_agree(rests, {key: [one for one in whole[key] if one.step > starts[key]] for key in starts})


@pytest.mark.parametrize("problem", [tiny_problem(num_tasks=3, dropout=0.3), PROBLEMS["own forward"]])
def test_a_lane_goes_on_in_whatever_company_as_if_it_had_never_stopped(problem):
    whole, fused = alone(problem, RESUMED), together(problem, RESUMED)
    steps = (10, 20, 30, 20)
    of_whole, of_fused = going_on(RESUMED, whole, *steps), going_on(RESUMED, fused, *steps)
    assert_rests_agree(together(problem, of_whole), whole, of_whole)
    assert_rests_agree(alone(problem, of_fused), whole, of_fused)
    others = [lane("e", "cagrad", seed=9), lane("f", "equal", seed=8, steps=20)]
    found = together(problem, [*others, *reversed(of_fused)])
    assert_rests_agree({key: found[key] for key in whole}, whole, of_fused)
    # Two come in before the first step, the others when somebody has left.
    found = together(problem, others, refill=Waiting(*of_fused), places=4)
    assert_rests_agree({key: found[key] for key in whole}, whole, of_fused)


def test_networks_of_tasks_go_on_as_if_they_had_never_stopped():
    problem = tiny_problem(num_tasks=3, dropout=0.3)
    lanes = [lane(f"{seed}", "single_task", seed=seed, clip_norm=0.5, **EVERY_TEN) for seed in (1, 2)]
    whole = alone(problem, lanes)
    rests = going_on(lanes, whole, 10, 30)
    assert_rests_agree(together(problem, rests), whole, rests)


def test_a_lane_that_goes_on_at_its_last_step_says_so_again_and_the_others_train():
    problem = tiny_problem()
    whole = alone(problem, RESUMED[:2])
    lanes = [replace(RESUMED[0], resume_from=whole["a"][-1].checkpoint), RESUMED[1]]
    told = Told()
    train_together(problem, lanes, told)
    (last,) = told.by_lane["a"]
    assert (last.step, last.ending) == (40, LaneEnding.COMPLETED)
    assert last.metrics["val/normalized_loss"] == pytest.approx(whole["a"][-1].metrics["val/normalized_loss"])
    assert_reports_agree({"b": told.by_lane["b"]}, {"b": whole["b"]})


def test_a_lane_that_has_gone_further_than_it_is_asked_to_is_completed_where_it_is():
    problem = tiny_problem()
    whole = alone(problem, RESUMED[:2])
    lanes = [lane("a", "gradnorm", whole["a"][-1].checkpoint, **{**RESUMED[0].params, "steps": 30}), RESUMED[1]]
    for reports in (alone(problem, lanes), together(problem, lanes)):
        assert [(one.step, one.ending) for one in reports["a"]] == [(40, LaneEnding.COMPLETED)]
        assert_reports_agree({"b": reports["b"]}, {"b": whole["b"]})


def test_training_does_not_touch_the_checkpoint_that_it_goes_on_from():
    problem = tiny_problem(dropout=0.2)
    whole = together(problem, RESUMED)
    lanes = going_on(RESUMED, whole, 10, 10, 20, 20)
    once, again = together(problem, lanes), together(problem, lanes)
    for key in once:
        assert_bits_agree(once[key], again[key])


def test_a_network_that_draws_when_it_is_evaluated_draws_as_if_it_were_alone():
    class NoisyAnswers(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z if self.training else z + 0.1 * torch.randn_like(z)

    def build() -> MultiTaskModel:
        heads = {name: nn.Sequential(NoisyAnswers(), nn.Dropout(0.2), smooth_head()) for name in HEADS}
        return model_of(heads=heads)

    check_equal(problem_of(build), [lane("a", seed=1), lane("b", "equal", seed=2)])


@pytest.mark.parametrize("train_them", [alone, together])
def test_a_lane_that_is_stopped_leaves_a_checkpoint_and_goes_on_from_it_as_if_it_had_not_been(train_them):
    problem = PROBLEMS["dense, dropout"]
    lanes = [lane("a", "gradnorm", seed=1, **SELDOM), lane("b", "gradnorm", seed=2, **SELDOM)]
    whole = train_them(problem, lanes)
    left: dict[str, Checkpoint] = {}
    stopped = train_them(problem, lanes, stop_at=[("a", 20)], left=left)
    last = stopped["a"][-1]
    assert (last.step, last.ending, last.metrics, last.checkpoint) == (20, LaneEnding.STOPPED, {}, None)
    resumed = train_them(problem, [replace(lanes[0], resume_from=left["a"])])
    assert_reports_agree({"a": [*stopped["a"][:-1], *resumed["a"]]}, {"a": whole["a"]})
    assert_reports_agree({"b": stopped["b"]}, {"b": whole["b"]})


def test_a_lane_that_is_stopped_at_a_checkpoint_makes_no_other():
    (report, last) = together(tiny_problem(), [lane("a", **EVERY_TEN), lane("b", **EVERY_TEN)], [("a", 10)])["a"]
    assert report.checkpoint is not None
    assert (last.ending, last.checkpoint, last.leave_checkpoint) == (LaneEnding.STOPPED, None, None)
