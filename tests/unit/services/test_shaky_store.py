"""A generation over a store whose writes fail, before they happen or after: calls are made again, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import pytest
from conductor_fakes import Rig, small_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.states import AttemptState, TrialState
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss

_P = ParamSpec("_P")
_T = TypeVar("_T")
SPEC = small_spec(budget={"trials": 4}, baselines=["equal"], confirm={"seeds": 2}, retries=1)


def until_it_answers(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    for _ in range(100):
        try:
            return call(*args, **kwargs)
        except StoreUnavailableError:
            continue
    raise AssertionError("a store that failed so often was not asked for")


def run_sweep(rig: Rig, *, lose: int = -1) -> None:
    """One pack after the other to the end; the worker of the ``lose``-th one dies once it has begun."""
    for index in range(100):
        key = f"pack-{index}"
        pause = until_it_answers(rig.generation.next_pack, key)
        if pause is not None:
            assert pause is Pause.DONE
            return
        order = until_it_answers(rig.generation.begin, key, node="here")
        if index != lose:
            messages = [rig.last_message(lane.trial_id) for lane in order.lanes]
            until_it_answers(rig.generation.report, key, messages)
        until_it_answers(rig.generation.pack_over, key, loss=Loss.WORKER if index == lose else None, message="died")
    raise AssertionError("no end")


@settings(deadline=None, max_examples=60)
@given(fails=st.lists(st.sampled_from([None, None, None, "before", "after"]), max_size=60), lose=st.integers(-1, 6))
def test_a_sweep_over_a_failing_store_is_the_sweep_over_one_that_never_fails(
    fails: list[Literal["before", "after"] | None], lose: int
) -> None:
    calm, shaky = Rig(SPEC), Rig(SPEC)
    shaky.store.fails.extend(fails)
    run_sweep(calm, lose=lose)
    run_sweep(shaky, lose=lose)
    shaky.store.fails.clear()
    assert [(t.number, t.role, t.balancer, t.searched, t.state) for t in shaky.trials] == [
        (t.number, t.role, t.balancer, t.searched, t.state) for t in calm.trials
    ]
    assert {trial.state for trial in shaky.trials} == {TrialState.COMPLETED}
    assert shaky.store.get_trial(shaky.sweep.best_trial_id or "").number == (
        calm.store.get_trial(calm.sweep.best_trial_id or "").number
    )
    for trial in shaky.trials:
        states = [attempt.state for attempt in shaky.store.list_attempts(trial.id)]
        assert states.count(AttemptState.FINISHED) == 1
        assert set(states) <= {AttemptState.FINISHED, AttemptState.LOST}


@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_stop_and_a_cancel_that_met_a_failing_store_do_all_of_their_work_when_asked_again(
    fail: Literal["before", "after"],
) -> None:
    for verb in ("stop", "cancel"):
        rig = Rig(small_spec())
        assert rig.generation.next_pack("set-aside") is None
        rig.store.fails.append(fail)
        with pytest.raises(StoreUnavailableError):
            getattr(rig.generation, verb)()
        getattr(rig.generation, verb)()
        assert {trial.state for trial in rig.trials} == {TrialState.CANCELLED}
        assert rig.generation.is_over
