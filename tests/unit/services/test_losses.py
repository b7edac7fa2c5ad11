"""Packs that are lost: what counts against a trial, what does not, and how long it is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import House, WorkerDiedError, await_that

from sweep_service.domain.events import EventKind
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.services.generation import Pause
from sweep_service.services.losses import MOST_TAKEN, Loss, Losses, LostPack
from sweep_service.services.packs import LaneMessage, PackOrder

NOT_ITS_MAKING = (Loss.NODE, Loss.PLACE)
PERHAPS_ITS_MAKING = (Loss.WORKER, Loss.MEMORY)


def lost(loss: Loss, *, num_lanes: int = 1, is_trying: bool = False) -> LostPack:
    return LostPack(loss=loss, num_lanes=num_lanes, is_trying=is_trying, message="why")


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause), result
    return result


def lone(retries: int = 0) -> Rig:
    """A sweep of one trial, which trains by itself."""
    return Rig(small_spec(budget={"trials": 1}, retries=retries, resources={"lanes": 1}))


@pytest.mark.parametrize("loss", PERHAPS_ITS_MAKING)
def test_a_worker_that_dies_by_itself_counts_against_the_trial_that_was_alone(loss: Loss) -> None:
    losses = Losses(retries=1)
    assert losses.why_over("t", lost(loss)) == ""
    losses.add("t", lost(loss))
    assert losses.why_over("another", lost(loss)) == ""
    assert losses.why_over("t", lost(loss)) == "Its workers died 2 times (retries: 1). why"
    losses.forget(["t"])
    assert losses.why_over("t", lost(loss)) == ""


@pytest.mark.parametrize("loss", PERHAPS_ITS_MAKING)
def test_in_company_or_while_trying_it_counts_against_nobody(loss: Loss) -> None:
    losses = Losses(retries=0)
    for pack in [lost(loss, num_lanes=2), lost(loss, is_trying=True)] * 2 * MOST_TAKEN:
        assert losses.why_over("t", pack) == ""
        losses.add("t", pack)
    assert losses.why_over("t", lost(loss)) != ""


@pytest.mark.parametrize("loss", NOT_ITS_MAKING)
@pytest.mark.parametrize("num_lanes", [1, 8])
def test_what_the_cluster_takes_has_a_bound_of_its_own(loss: Loss, num_lanes: int) -> None:
    losses = Losses(retries=0)
    for _ in range(MOST_TAKEN):
        assert losses.why_over("t", lost(loss, num_lanes=num_lanes)) == ""
        losses.add("t", lost(loss, num_lanes=num_lanes))
    why = losses.why_over("t", lost(loss, num_lanes=num_lanes))
    assert why.startswith(f"Nodes, or places on them, were taken from it {MOST_TAKEN + 1} times in a row")
    assert why.endswith("why")


def test_only_what_may_be_a_trials_making_halves_its_company() -> None:
    assert [lost(loss, num_lanes=9).most_company for loss in PERHAPS_ITS_MAKING] == [4, 4]
    assert [lost(loss, num_lanes=9).most_company for loss in NOT_ITS_MAKING] == [None, None]
    assert lost(Loss.WORKER).most_company is None


def test_what_is_said_of_a_loss() -> None:
    assert Loss.NODE.told("gpu-1", "RpcError: socket closed") == "The node gpu-1 is gone."
    assert Loss.MEMORY.told("gpu-1", "") == "Its worker was killed, because the node gpu-1 ran low on memory."
    assert Loss.WORKER.told("gpu-1", "OSError: no space left") == "OSError: no space left"
    assert Loss.WORKER.told("gpu-1", "") == "Its worker process died."
    assert Loss.PLACE.told("gpu-1", "Ray ended its pack") == "Ray ended its pack"
    assert Loss.PLACE.told("", "") == "Its place on a node was taken from it."


def test_without_retries_a_trial_whose_node_is_gone_goes_on_from_its_checkpoint() -> None:
    rig = lone()
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    rig.generation.report(key, [LaneMessage(trial_id=trial_id, step=10, metrics={}, checkpoint="/10.pt")])
    rig.generation.pack_over(key, loss=Loss.NODE, message="symptoms")
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED]
    first, _ = rig.store.list_attempts(trial_id)
    assert (first.state, first.message) == (AttemptState.LOST, "The node here is gone.")


def test_without_retries_a_trial_whose_worker_dies_by_itself_has_failed() -> None:
    rig = lone()
    key, _ = started(rig)
    rig.generation.pack_over(key, loss=Loss.WORKER)
    assert rig.start_pack() is Pause.DONE
    (trial,) = rig.trials
    assert (trial.ending, trial.num_attempts) == (TrialEnding.WORKER_LOST, 1)
    assert trial.message == "Its workers died 1 times (retries: 0). Its worker process died."


def test_a_trial_that_loses_node_after_node_without_a_checkpoint_is_given_up() -> None:
    rig = lone(retries=100)
    for _ in range(MOST_TAKEN + 1):
        rig.generation.pack_over(started(rig)[0], loss=Loss.NODE)
    assert rig.start_pack() is Pause.DONE
    (trial,) = rig.trials
    assert (trial.ending, trial.num_attempts) == (TrialEnding.WORKER_LOST, MOST_TAKEN + 1)
    assert f"{MOST_TAKEN + 1} times in a row" in trial.message


def test_who_was_together_on_a_node_that_is_gone_goes_on_together() -> None:
    rig = Rig(small_spec(budget={"trials": 8}, retries=0, resources={"parallel": 1, "lanes": 8}))
    key, _ = started(rig)
    rig.generation.settle(key, 8)
    assert len(rig.generation.refill(key, 7)) == 7
    rig.generation.pack_over(key, loss=Loss.NODE)
    key, order = started(rig)
    assert (len(order.lanes), order.places) == (8, 8)
    rig.train(key, order)
    assert {(trial.state, trial.num_attempts) for trial in rig.trials} == {(TrialState.COMPLETED, 2)}


def test_a_node_that_goes_while_trials_are_tried_together_ends_no_trying() -> None:
    rig = Rig(small_spec(budget={"trials": 8}, retries=0, resources={"parallel": 1, "lanes": 8}))
    rig.generation.pack_over(started(rig)[0], loss=Loss.NODE)
    _, order = started(rig)
    assert (order.places, order.is_settled) == (8, False)
    assert not [e for e in rig.store.list_events(rig.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]


def lose_first(house: House) -> None:
    def during(key: str, order: PackOrder) -> None:
        if key == "pack-1":
            raise WorkerDiedError

    house.packs.during = during


@pytest.mark.parametrize(
    ("loss", "ending"), [(Loss.NODE, TrialEnding.COMPLETED), (Loss.WORKER, TrialEnding.WORKER_LOST)]
)
def test_the_evidence_decides_whether_a_lost_pack_counts(tmp_path: Path, loss: Loss, ending: TrialEnding) -> None:
    house = House(tmp_path, small_spec(budget={"trials": 1}, retries=0, resources={"lanes": 1}))
    lose_first(house)
    house.packs.evidence = lambda pack, worker: loss
    house.run()
    assert [trial.ending for trial in house.trials] == [ending]


def test_without_evidence_nothing_counts(tmp_path: Path) -> None:
    def fail(pack: str, worker: object) -> Loss:
        raise RuntimeError("the cluster does not answer")

    house = House(tmp_path, small_spec(budget={"trials": 1}, retries=0, resources={"lanes": 1}))
    lose_first(house)
    house.packs.evidence = fail
    assert house.run().state is SweepState.COMPLETED


def test_other_packs_start_while_it_is_found_out_why_one_was_lost(tmp_path: Path) -> None:
    """A node that has died may be known as gone only after a quarter of a minute."""
    others: list[str] = []

    def wait_for_others(pack: str, worker: object) -> Loss:
        await_that(lambda: others, what="another pack")
        return Loss.NODE

    house = House(tmp_path, small_spec(budget={"trials": 3}, retries=0, resources={"lanes": 1, "parallel": 2}))

    def during(key: str, order: PackOrder) -> None:
        if key == "pack-1":
            raise WorkerDiedError
        others.append(key)

    house.packs.during = during
    house.packs.evidence = wait_for_others
    assert house.run().state is SweepState.COMPLETED
    assert sorted(trial.num_attempts for trial in house.trials) == [1, 1, 2]
