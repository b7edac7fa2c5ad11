"""How a lane ends, and what it does to the others."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
import torch
from torch import nn

from trainables.catalog import BALANCERS
from trainables.engine.endings import is_out_of_memory
from trainables.protocol import Lane, LaneEnding
from trainables.testing import tiny_problem
from trainables.training import train


def lane(key="a", balancer="gradnorm", **params):
    return Lane(key=key, balancer=balancer, params={"steps": 12, "report_every": 4, "batch_size": 16, **params})


def run(problem, *lanes, stop_at=()):
    """All reports; a lane is asked to stop when (key, step) is in ``stop_at``."""
    reports = []

    def report(new):
        reports.extend(new)
        return {one.lane for one in new if (one.lane, one.step) in stop_at}

    train(problem, lanes, report)
    return reports


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_lane_that_reaches_its_last_step_is_completed(balancer):
    reports = run(tiny_problem(), lane(balancer=balancer))
    assert [one.ending for one in reports] == [None, None, LaneEnding.COMPLETED]
    assert reports[-1].checkpoint is not None
    assert reports[-1].checkpoint.step == 12
    assert reports[-1].message == ""


def test_a_lane_that_is_asked_to_stop_says_so_in_one_report_more_of_the_same_step():
    reports = run(tiny_problem(), lane(), stop_at={("a", 8)})
    assert [(one.step, one.ending) for one in reports] == [(4, None), (8, None), (8, LaneEnding.STOPPED)]
    assert reports[-1].metrics == {}


def test_a_lane_that_is_asked_to_stop_at_its_last_step_is_completed():
    reports = run(tiny_problem(), lane(), stop_at={("a", 12)})
    assert [one.ending for one in reports] == [None, None, LaneEnding.COMPLETED]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_loss_that_is_not_a_number_is_told_by_task_and_by_the_step_it_first_happened_at(balancer):
    reports = run(tiny_problem(fault="nan", fault_at=6), lane(balancer=balancer))
    assert [(one.step, one.ending) for one in reports] == [(4, None), (8, LaneEnding.NON_FINITE)]
    assert reports[-1].message == "task 'task_1': the loss was not finite at step 6"
    assert reports[-1].metrics == {}


def test_a_learning_rate_that_blows_up_is_non_finite_and_no_error():
    reports = run(tiny_problem(), lane(lr=1e30, steps=40))
    assert reports[-1].ending is LaneEnding.NON_FINITE
    assert "task_" in reports[-1].message


def test_a_gradient_that_is_not_finite_while_the_loss_is_gets_named():
    class RootAtZero(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return g * float("inf")

    problem = tiny_problem()
    first, second = problem.tasks

    def loss(output, target):
        return RootAtZero.apply(first.loss(output, target))

    broken = type(first)(name=first.name, kind=first.kind, loss=loss)
    object.__setattr__(problem, "tasks", [broken, second])
    reports = run(problem, lane())
    assert reports[-1].ending is LaneEnding.NON_FINITE
    assert reports[-1].message == "task 'task_0': the gradient norm at the shared layer was not finite at step 1"


def test_an_exception_of_the_problems_code_is_an_error_with_its_message_and_traceback():
    reports = run(tiny_problem(fault="crash", fault_at=6), lane())
    last = reports[-1]
    assert (last.step, last.ending) == (5, LaneEnding.ERROR)
    assert last.message == "ZeroDivisionError: the loss of a test divides by zero"
    assert "trainables/testing.py" in last.traceback


def test_an_exception_while_the_model_is_built_is_an_error():
    problem = tiny_problem(hidden=())
    (only,) = run(problem, lane())
    assert (only.step, only.ending) == (0, LaneEnding.ERROR)
    assert "hidden must name at least one layer" in only.message


def test_memory_that_runs_out_is_its_own_ending():
    reports = run(tiny_problem(fault="out_of_memory", fault_at=6), lane())
    assert (reports[-1].step, reports[-1].ending) == (5, LaneEnding.OUT_OF_MEMORY)


def test_a_real_allocation_that_fails_counts_as_memory_running_out():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "unable to mmap 1024 bytes from file: Cannot allocate memory (12)",
    ],
)
def test_the_words_for_memory_running_out_are_known_whatever_their_case(text):
    assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(RuntimeError(text.upper()))
    assert not is_out_of_memory(ValueError(text))


def test_the_operating_systems_word_for_it_counts_and_other_errors_do_not():
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("balancer", ["gradnorm", "inverse_initial_loss"])
def test_an_initial_loss_that_is_not_positive_is_refused_by_the_name_of_its_task(balancer):
    reports = run(tiny_problem(fault="zero_initial_loss"), lane(balancer=balancer))
    (only,) = reports
    assert only.ending is LaneEnding.ERROR
    assert "InitialLossError: task 'task_1'" in only.message


def test_a_balancer_without_initial_losses_trains_on_a_loss_that_starts_at_zero():
    reports = run(tiny_problem(fault="zero_initial_loss"), lane(balancer="equal"))
    assert reports[-1].ending is LaneEnding.COMPLETED
    assert not any(key.startswith("relative_rate/task_1") for key in reports[-1].metrics)


def sinking_problem(falls_to):
    """task_2's loss starts well above zero, and approaches that where it is learnt."""
    problem = tiny_problem(num_tasks=3)
    *others, last = problem.tasks
    return replace(problem, tasks=[*others, replace(last, loss=lambda out, target: last.loss(out, target) + falls_to)])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_gradnorm_refuses_a_loss_that_falls_below_zero_at_the_first_report_after_it(alpha):
    reports = run(sinking_problem(-2.0), lane(alpha=alpha, lr=0.05, steps=60, report_every=5))
    assert len(reports) > 1
    assert reports[-1].ending is LaneEnding.ERROR
    assert "NegativeLossError: task 'task_2'" in reports[-1].message
    assert all(one.metrics["train/loss/task_2"] > 0 for one in reports[:-1])


@pytest.mark.parametrize("balancer", ["equal", "inverse_initial_loss", "single_task"])
def test_a_balancer_that_does_not_follow_the_losses_trains_on_one_that_falls_below_zero(balancer):
    reports = run(sinking_problem(-2.0), lane(balancer=balancer, lr=0.05, steps=60, report_every=1))
    assert reports[-1].ending is LaneEnding.COMPLETED
    assert min(one.metrics["train/loss/task_2"] for one in reports) < 0


def test_a_lane_that_fails_leaves_the_next_one_as_if_it_were_alone():
    crash = lane("a", balancer="no_such_balancer")
    (alone,) = [one for one in run(tiny_problem(), lane("b")) if one.ending]
    reports = run(tiny_problem(), crash, lane("b"))
    assert [one.ending for one in reports if one.lane == "a"] == [LaneEnding.ERROR]
    beside = reports[-1]
    assert (beside.lane, beside.ending) == ("b", LaneEnding.COMPLETED)
    assert beside.metrics == alone.metrics


def test_what_report_raises_ends_the_training_and_is_no_fault_of_the_lane():
    calls = []

    def report(new):
        calls.append(new)
        raise ConnectionError("the conductor is gone")

    with pytest.raises(ConnectionError):
        train(tiny_problem(), [lane("a"), lane("b")], report)
    assert len(calls) == 1


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_through(signal):
    class Interrupting(nn.Module):
        def forward(self, x):
            raise signal

    problem = tiny_problem()
    build = problem.model

    def model():
        built = build()
        built.trunk = Interrupting()
        return built

    object.__setattr__(problem, "model", model)
    with pytest.raises(signal):
        run(problem, lane())


def test_two_lanes_of_one_key_are_refused():
    with pytest.raises(ValueError, match="keys"):
        train(tiny_problem(), [lane("a"), lane("a")], lambda new: ())


def test_no_lanes_is_no_work():
    train(tiny_problem(), [], lambda new: pytest.fail("nothing to report"))
