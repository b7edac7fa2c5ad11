"""What is removed of the checkpoints, and when: nothing that somebody may still go on from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from conductor_fakes import AtOnce, Rig, small_spec

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.domain.errors import PackOverError
from sweep_service.domain.states import TrialEnding
from sweep_service.services.checkpoints import CheckpointFolders, Removals
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import LaneMessage, PackOrder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def written(order: PackOrder, step: int = 10) -> LaneMessage:
    """A report with a checkpoint that is there."""
    (lane,) = order.lanes
    path = Path(lane.checkpoint_dir) / f"step-{step}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("weights")
    return LaneMessage(trial_id=lane.trial_id, step=step, metrics={"val/normalized_loss": 1.0}, checkpoint=str(path))


def kept(root: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in root.rglob("*.pt"))


def test_of_the_trials_that_have_ended_only_the_best_keeps_its_checkpoint(root: Path) -> None:
    values = [3.0, 1.0, 2.0, 0.5]
    rig = Rig(small_spec(budget={"trials": 4}), lambda trial: values[trial.number], checkpoint_root=root)
    bests = []
    for _ in values:
        key, order = started(rig)
        last = written(order, 20)
        rig.generation.report(key, [written(order)])
        assert order.lanes[0].trial_id in kept(root), "it may be needed while the trial runs"
        rig.train(key, order, checkpoint=last.checkpoint)
        bests.append(rig.store.get_trial(rig.sweep.best_trial_id or "").number)
        assert set(kept(root)) == {rig.sweep.best_trial_id}
    assert bests == [0, 1, 1, 3]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_as_many_of_the_best_keep_theirs_as_the_spec_says(root: Path, *, is_restarted: bool) -> None:
    values = [3.0, 1.0, 2.0, 0.5, 4.0]
    spec = small_spec(budget={"trials": 5}, checkpoints={"keep_best": 2})
    rig = Rig(spec, lambda trial: values[trial.number], checkpoint_root=root)
    expected = [{0}, {0, 1}, {1, 2}, {1, 3}, {1, 3}]
    for best in expected:
        key, order = started(rig)
        rig.train(key, order, checkpoint=written(order, 20).checkpoint)
        assert set(kept(root)) == {rig.trials[number].id for number in best}
        if is_restarted:
            rig.next_generation()


@pytest.mark.parametrize(("ending", "is_kept"), [(TrialEnding.NON_FINITE, False), (TrialEnding.ERROR, True)])
def test_of_trials_without_a_result_those_that_a_retry_would_go_on_with_keep_theirs(
    root: Path, ending: TrialEnding, *, is_kept: bool
) -> None:
    rig = Rig(small_spec(), checkpoint_root=root)
    key, order = started(rig)
    rig.generation.report(key, [written(order)])
    rig.train(key, order, ending=ending, metrics={}, checkpoint=None)
    assert kept(root) == ([order.lanes[0].trial_id] if is_kept else [])


def test_a_baseline_and_a_repeat_keep_nothing_even_if_they_did_better_than_the_search(root: Path) -> None:
    spec = small_spec(budget={"trials": 2}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec, lambda trial: 0.1 if trial.balancer == "equal" else 1.0, checkpoint_root=root)
    while not isinstance(result := rig.start_pack(), Pause):
        key, order = result
        rig.train(key, order, checkpoint=written(order, 20).checkpoint)
    assert set(kept(root)) == {rig.sweep.best_trial_id}


def test_the_files_of_an_earlier_attempt_go_once_the_next_has_its_own(root: Path) -> None:
    rig = Rig(small_spec(budget={"trials": 1}), checkpoint_root=root)
    key, order = started(rig)
    first = written(order)
    rig.generation.report(key, [first])
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    key, order = started(rig)
    (lane,) = order.lanes
    assert lane.resume_from == first.checkpoint
    assert Path(first.checkpoint or "").exists()
    second = written(order, 15)
    rig.generation.report(key, [second])
    assert not Path(first.checkpoint or "").exists()
    assert Path(second.checkpoint or "").exists()


def test_a_worker_that_was_given_up_is_told_so_and_records_nothing(root: Path) -> None:
    """It must not take the answer for a receipt: it would remove the checkpoint that the next attempt goes on from."""
    rig = Rig(small_spec(budget={"trials": 1}), checkpoint_root=root)
    key, order = started(rig)
    rig.generation.report(key, [written(order)])
    rig.generation.pack_over(key, loss=Loss.WORKER, message="the node is gone")
    with pytest.raises(PackOverError):
        rig.generation.report(key, [written(order, 20)])
    with pytest.raises(PackOverError):
        rig.generation.begin(key, node="here")
    assert rig.trials[0].last_step == 10


def test_a_trial_that_gets_on_between_the_deaths_of_its_workers_is_not_given_up() -> None:
    rig = Rig(small_spec(budget={"trials": 1}, retries=1))
    for step in (5, 10, 15):
        key, order = started(rig)
        (lane,) = order.lanes
        message = LaneMessage(trial_id=lane.trial_id, step=step, metrics={"val/normalized_loss": 1.0}, checkpoint="/c")
        rig.generation.report(key, [message])
        rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    rig.run_to_end()
    assert [(trial.ending, trial.num_attempts) for trial in rig.trials] == [(TrialEnding.COMPLETED, 4)]


def test_a_trial_that_never_gets_beyond_a_step_is_given_up_although_it_writes_checkpoints() -> None:
    rig = Rig(small_spec(budget={"trials": 1}, retries=1, resources={"lanes": 1}))
    for _ in range(3):
        result = rig.start_pack()
        if isinstance(result, Pause):
            break
        key, order = result
        (lane,) = order.lanes
        message = LaneMessage(trial_id=lane.trial_id, step=5, metrics={"val/normalized_loss": 1.0}, checkpoint="/gone")
        rig.generation.report(key, [message])
        rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    assert [(trial.ending, trial.num_attempts) for trial in rig.trials] == [(TrialEnding.WORKER_LOST, 2)]


def test_an_attempt_removes_what_came_before_it_and_nothing_that_came_after(root: Path) -> None:
    folders = CheckpointFolders(FolderFiles(), str(root), "swp_1", AtOnce())
    for attempt_id in ("att_1", "att_2", "att_3"):
        Path(folders.of_attempt("trl_a", attempt_id)).mkdir(parents=True)
    folders.drop_earlier_attempts("trl_a", than="att_2")
    assert sorted(path.name for path in (root / "swp_1" / "trl_a").iterdir()) == ["att_2", "att_3"]


def test_at_the_end_of_a_sweep_what_was_overlooked_goes_too(root: Path) -> None:
    folders = CheckpointFolders(FolderFiles(), str(root), "swp_1", AtOnce())
    for trial_id in ("trl_a", "trl_b"):
        Path(folders.of_attempt(trial_id, "att_1")).mkdir(parents=True)
    folders.drop_other_trials(keep={"trl_b"})
    assert [path.name for path in (root / "swp_1").iterdir()] == ["trl_b"]
    folders.drop_other_trials(keep=())
    assert not (root / "swp_1").exists()
    folders.drop_other_trials(keep=())


class SlowFiles(FolderFiles):
    """What it is asked waits until it is let go on, as with an object store that does not answer."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[str] = []

    def folders(self, name: str) -> Sequence[str]:
        found = super().folders(name)
        self.asked.append(name)
        assert self.goes_on.wait(60)
        return found


def written_by(root: Path, *trial_ids: str) -> None:
    for trial_id in trial_ids:
        (root / "swp_1" / trial_id / "att_1").mkdir(parents=True)


def test_nobody_waits_for_a_removal_and_all_are_done(root: Path) -> None:
    files, removals = SlowFiles(), Removals()
    folders = CheckpointFolders(files, str(root), "swp_1", removals)
    written_by(root, "trl_a", "trl_b", "trl_c")
    folders.drop_other_trials(keep={"trl_b", "trl_c"})
    folders.drop_trial("trl_c")
    assert (root / "swp_1" / "trl_c").exists(), "one after another"
    files.goes_on.set()
    removals.close(within_s=60)
    assert [path.name for path in (root / "swp_1").iterdir()] == ["trl_b"]


def test_what_is_not_removed_in_time_is_not_removed_later_when_it_may_be_wanted_again(root: Path) -> None:
    files, removals = SlowFiles(), Removals()
    folders = CheckpointFolders(files, str(root), "swp_1", removals)
    written_by(root, "trl_a")
    folders.drop_other_trials(keep={"trl_b"})
    folders.drop_trial("trl_a")
    removals.close(within_s=0.1)
    folders.drop_trial("trl_a")
    files.goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "removals":
            thread.join(60)
    assert (root / "swp_1" / "trl_a").exists()


def test_a_removal_that_fails_is_no_reason_to_leave_out_the_next(root: Path) -> None:
    removals = Removals()

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    written_by(root, "trl_a")
    removals(fail)
    CheckpointFolders(FolderFiles(), str(root), "swp_1", removals).drop_trial("trl_a")
    removals.close(within_s=60)
    assert not (root / "swp_1" / "trl_a").exists()
