"""The processes that train packs, without Ray: what one of them answers, and when it ends."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayError

from sweep_service.execution import packs, trainers
from sweep_service.execution.trainers import NoTrainerError, Taken, Trainer, end_trainers, take_trainer


class EndedError(BaseException):
    """Raised where the process would end."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses with which a process would have ended."""
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        raise EndedError

    monkeypatch.setattr(trainers.os, "_exit", end)
    monkeypatch.setattr(trainers, "_leave", lambda: statuses.append(0))
    monkeypatch.setattr(Trainer, "_end_when_idle", lambda self: None)  # or it would end the process of the tests
    return statuses


class Method:
    """A method of an actor: `remote` gives what `ray.get` then returns, or raises."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self.remote = answer


class Actor:
    """A handle whose calls are answered as a test says: by a value, or by an error that is raised."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        for name, answer in answers.items():
            setattr(self, name, Method(answer))


def get(answer: Any, timeout: float | None = None) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def conductor(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the conductor of whatever is trained answers when it is asked for a sign of life, one after the other."""
    answers: list[Any] = []
    actor = Actor(is_idle=lambda: answers.pop(0) if answers else False)
    monkeypatch.setattr(trainers, "_LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(trainers.ray, "get_actor", lambda name, namespace: actor)
    monkeypatch.setattr(trainers.ray, "get", get)
    return answers


class Training:
    """A trainer that trains, in a thread, until it is told that it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool = False) -> None:
        self.trainer = Trainer(has_gpu=has_gpu)
        self.has_begun, self.is_done = threading.Event(), threading.Event()
        self.result: list[Any] = []
        monkeypatch.setattr(packs, "train_order", self._train)

    def start(self, pack: str = "pack-1") -> None:
        assert self.trainer.take() == Taken.YES
        self._thread = threading.Thread(target=self._run, args=(pack,), daemon=True)
        self._thread.start()
        assert self.has_begun.wait(120)

    def finish(self) -> None:
        self.is_done.set()
        self._thread.join(120)
        assert self.result == [3]

    def _train(self, link: Any) -> int:
        self.has_begun.set()
        assert self.is_done.wait(120)
        return 3

    def _run(self, pack: str) -> None:
        self.result.append(self.trainer.train("conductor", pack))


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, conductor: list[Any]) -> Training:
    return Training(monkeypatch)


def test_a_trainer_ends_while_it_trains_the_pack_that_is_to_end(training: Training, ends: list[int]) -> None:
    training.start()
    with pytest.raises(EndedError):
        training.trainer.end("conductor", "pack-1")
    assert ends == [1]
    training.finish()


@pytest.mark.parametrize(("conductor_name", "pack"), [("another", "pack-1"), ("conductor", "pack-0")])
def test_a_trainer_that_trains_something_else_by_now_does_not_end(
    training: Training, ends: list[int], conductor_name: str, pack: str
) -> None:
    training.start()
    assert training.trainer.end(conductor_name, pack) is False
    training.finish()
    assert training.trainer.end("conductor", "pack-1") is False, "it is over"
    assert ends == []
    assert training.trainer.take() == Taken.YES


def test_a_trainer_that_trains_cannot_be_had(training: Training) -> None:
    training.start()
    assert training.trainer.take() == Taken.BUSY
    training.finish()


def until(condition: Callable[[], Any]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it does not come about")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_trainer_ends_with_its_conductor_and_not_for_want_of_an_answer(
    training: Training, conductor: list[Any], ends: list[int]
) -> None:
    conductor += [ActorUnavailableError("the network", None), RayError("timeout"), False]
    training.start()
    until(lambda: not conductor)
    assert ends == []
    conductor.append(ActorDiedError())
    until(lambda: ends)
    training.finish()


def test_news_of_a_conductors_death_that_come_when_the_pack_is_over_end_nobody(
    monkeypatch: pytest.MonkeyPatch, training: Training, conductor: list[Any], ends: list[int]
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def die_slowly() -> Exception:
        asked.set()
        assert answered.wait(120)
        return ActorDiedError()

    monkeypatch.setattr(trainers.ray, "get_actor", lambda name, namespace: Actor(is_idle=die_slowly))
    training.start()
    assert asked.wait(120)
    training.finish()
    answered.set()
    until(lambda: not any(thread.name == "watch" for thread in threading.enumerate()))
    assert ends == []


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What has been killed; calls whose answer is None stay without one."""
    killed: list[Any] = []

    def wait(calls: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call.answer is not None], [call for call in calls if call.answer is None]

    monkeypatch.setattr(trainers.ray, "kill", lambda trainer, no_restart: killed.append(trainer))
    monkeypatch.setattr(trainers.ray, "wait", wait)
    monkeypatch.setattr(trainers.ray, "get", lambda call: get(call.answer))
    return killed


class Call:
    """The reference to an answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def test_only_trainers_that_do_not_answer_are_killed(killed: list[Any]) -> None:
    asked: list[tuple[str, str]] = []

    def trainer(answer: Any) -> Actor:
        def end(conductor: str, pack: str) -> Call:
            asked.append((conductor, pack))
            return Call(answer)

        return Actor(end=end)

    hanging, cut_off = trainer(None), trainer(ActorUnavailableError("the network", None))
    workers = {"has ended": trainer(ActorDiedError()), "is another's": trainer(False), "a": hanging, "b": cut_off}
    end_trainers(workers, conductor="c")
    assert asked == [("c", pack) for pack in workers]
    assert killed == [hanging, cut_off]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the trainers of a node answer to who would have them, by their number; the last one's is all others' too."""
    answers: list[Any] = []

    def trainer(node: str, gpus: Sequence[str], number: int) -> Actor:
        answer = answers[min(number, len(answers) - 1)]
        return Actor(take=lambda: answer, number=lambda: number)

    monkeypatch.setattr(trainers, "_trainer", trainer)
    monkeypatch.setattr(trainers, "_PAUSE_S", 0.0)
    monkeypatch.setattr(trainers.ray, "get", get)
    return answers


FAULTS = (GetTimeoutError("hangs"), ActorDiedError(), ActorUnavailableError("", None))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_trainer_that_cannot_be_had_is_passed_over(node: list[Any], fault: Exception) -> None:
    node += [Taken.BUSY, *[fault] * 4, Taken.STALE, *[fault] * 4, Taken.YES]
    assert take_trainer("n").number.remote() == 10


@pytest.mark.timeout(30)
def test_a_node_whose_trainers_all_die_at_their_start_is_given_up(node: list[Any]) -> None:
    node += [Taken.BUSY, ActorDiedError()]
    with pytest.raises(NoTrainerError, match=r"on node n: 5 in a row .* ActorDiedError: The actor died"):
        take_trainer("n")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a module that somebody may load."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "problem_of_a_test", raising=False)
    path = tmp_path / "problem_of_a_test.py"
    path.write_text("")
    return path


def edit(path: Path) -> None:
    os.utime(path, (1, 1))


def test_code_that_is_edited_while_it_trains_makes_the_trainer_stale(training: Training, module: Path) -> None:
    training.start()
    importlib.import_module(module.stem)
    until(lambda: module.stem in training.trainer._seen)
    edit(module)
    training.finish()
    assert training.trainer.take() == Taken.STALE


def test_a_trainer_whose_code_is_as_it_was_loaded_is_taken_again(training: Training, module: Path) -> None:
    edit(module)
    training.start()
    importlib.import_module(module.stem)
    training.finish()
    assert training.trainer.take() == Taken.YES


@pytest.mark.parametrize(("is_well", "answer"), [(True, Taken.YES), (False, Taken.BUSY)])
def test_a_trainer_whose_gpu_has_failed_is_not_taken_again_and_ends(
    monkeypatch: pytest.MonkeyPatch, conductor: list[Any], ends: list[int], is_well: bool, answer: Taken
) -> None:
    monkeypatch.setattr(trainers, "is_well", lambda: is_well)
    monkeypatch.setattr(trainers, "why_no_cuda", lambda: "")
    training = Training(monkeypatch, has_gpu=True)
    training.start()
    training.finish()
    assert training.trainer.take() == answer
    assert ends == ([] if is_well else [0])
