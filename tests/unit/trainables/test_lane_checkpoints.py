"""A lane that is cut off goes on as if it had never stopped."""

from __future__ import annotations

import errno
import random
import resource
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum

import numpy as np
import pytest
import torch
from torch import nn

from trainables.balancers.single_task import SingleTask
from trainables.batches import Batches, moved_without_waiting
from trainables.catalog import BALANCERS
from trainables.checkpoint import Checkpoint, CheckpointError
from trainables.export import export_model
from trainables.protocol import Lane, LaneEnding
from trainables.seeding import RngState, capture_rng, new_generator, restore_rng, saved_for
from trainables.testing import tiny_problem
from trainables.training import train

PARAMS = {"steps": 24, "report_every": 6, "checkpoint_every": 6, "batch_size": 13, "weight_lr": 0.1, "seed": 11}


def run(balancer, resume_from=None, problem=None, **params):
    reports = []
    problem = problem or tiny_problem(num_tasks=3, dropout=0.3)
    lane = Lane(key="a", balancer=balancer, params={**PARAMS, **params}, resume_from=resume_from)
    train(problem, [lane], lambda new: reports.extend(new) or ())
    return reports


def assert_same(one, other, path="checkpoint"):
    """Equal to the last bit, through dicts and lists."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{index}]")
    else:
        assert one == other, path


@pytest.mark.parametrize(
    ("balancer", "extra"),
    [
        *[(balancer, {}) for balancer in BALANCERS],
        # The first report comes before L(0) is known in full.
        *[
            (b, {"initial_loss": "mean_of_batches", "initial_loss_batches": 9})
            for b in ("gradnorm", "inverse_initial_loss")
        ],
    ],
)
def test_a_lane_resumed_at_any_report_continues_bit_identically(balancer, extra, tmp_path):
    whole = run(balancer, **extra)
    assert whole[-1].ending is LaneEnding.COMPLETED, whole[-1]
    for index, report in enumerate(whole[:-1]):
        path = tmp_path / f"{report.step}.pt"
        report.checkpoint.save(path)
        torch.randn(7)  # whatever the process did before must not matter
        rest = run(balancer, resume_from=Checkpoint.load(path), **extra)
        assert [later.step for later in rest] == [later.step for later in whole[index + 1 :]]
        for mine, theirs in zip(rest, whole[index + 1 :], strict=True):
            assert mine.metrics == theirs.metrics
            assert_same(vars(mine.checkpoint), vars(theirs.checkpoint))


class Noisy(nn.Module):
    """Noise from a global generator on what goes in, an odd number of draws at a time: of two normal numbers that are
    made at once the second waits in the generator for the next call."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, inputs_BF):
        if not self.training:
            return inputs_BF
        noise_F = torch.tensor([float(self.draw()) for _ in range(inputs_BF.shape[1])], dtype=inputs_BF.dtype)
        return inputs_BF + 0.1 * noise_F


DRAWS = {
    "numpy_normal": np.random.normal,
    "numpy_uniform": np.random.random,
    "python_random": random.random,
    "python_gauss": lambda: random.gauss(0, 1),
}


def noisy_problem(draw):
    problem = tiny_problem(num_tasks=3)
    assert problem.train.inputs[0].shape[1] % 2 == 1
    build = problem.model

    def model():
        built = build()
        built.trunk = nn.Sequential(Noisy(draw), built.trunk)
        return built

    return replace(problem, model=model)


@pytest.mark.parametrize("name", DRAWS)
def test_a_model_that_draws_from_numpy_or_python_resumes_bit_identically_at_any_step(name, tmp_path):
    problem = noisy_problem(DRAWS[name])
    every_step = {"report_every": 1, "checkpoint_every": 1, "steps": 9}
    whole = run("gradnorm", problem=problem, **every_step)
    assert len(whole) == 9
    for index, report in enumerate(whole[:-1]):
        report.checkpoint.save(tmp_path / f"{index}.pt")
        np.random.seed(index)  # whatever the process did before must not matter
        random.seed(index)
        rest = run("gradnorm", Checkpoint.load(tmp_path / f"{index}.pt"), problem, **every_step)
        for mine, theirs in zip(rest, whole[index + 1 :], strict=True):
            assert mine.metrics == theirs.metrics
            assert_same(vars(mine.checkpoint), vars(theirs.checkpoint))


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_fixes_what_a_model_draws_from_numpy_or_python(name):
    problem = noisy_problem(DRAWS[name])
    metrics = []
    for before, seed in ((1, 11), (2, 11), (2, 12)):
        np.random.seed(before)
        random.seed(before)
        metrics.append(run("equal", problem=problem, seed=seed)[-1].metrics)
    assert metrics[0] == metrics[1] != metrics[2]


@pytest.mark.parametrize("name", DRAWS)
def test_single_task_networks_start_alike_whatever_their_initial_weights_are_drawn_from(name):
    problem = tiny_problem(num_tasks=3)
    build = problem.model

    def model():
        built = build()
        built.shared_layer.bias.data = torch.tensor([float(DRAWS[name]()) for _ in built.shared_layer.bias])
        return built

    networks = SingleTask().build_model(replace(problem, model=model)).models
    first, *others = [network.shared_layer.bias for network in networks.values()]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64])
def test_whatever_generator_numpy_draws_from_is_kept_in_a_file(kind, tmp_path):
    def drawn():
        return [np.random.normal(), *np.random.random(3), np.random.randint(1000)]

    checkpoint = run("equal")[0].checkpoint
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(kind(3))
        np.random.normal()
        state = capture_rng()
        first = drawn()
        replace(checkpoint, rng=vars(state)).save(tmp_path / "file.pt")
        restore_rng(RngState(**Checkpoint.load(tmp_path / "file.pt").rng))
        assert drawn() == first
    finally:
        np.random.set_bit_generator(own)


def test_generators_are_restored_from_the_lists_of_earlier_checkpoints():
    def drawn():
        return [random.random(), random.gauss(0, 1), np.random.normal(), np.random.randint(1000)]

    np.random.seed(5)
    random.seed(5)
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    python = {"version": version, "words": list(words), "gauss": gauss}
    first = drawn()
    restore_rng(RngState(cpu=torch.get_rng_state(), cuda=(), python=python, numpy=numpy))
    assert drawn() == first


def test_a_generators_state_goes_from_the_gpu_that_a_lane_was_on_to_the_one_that_it_goes_on_on():
    here = capture_rng()
    of_gpus = [torch.tensor([number]) for number in range(3)]
    machine = RngState(cpu=here.cpu, cuda=of_gpus, python=here.python, numpy=here.numpy)
    first, second, cpu = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cpu")
    saved = [machine.of_device(second)]
    own = saved_for(saved, first)
    assert own is not None
    elsewhere = machine.with_device(first, own)
    assert [int(state) for state in elsewhere.cuda] == [1, 1, 2]
    assert elsewhere.cpu is machine.cpu is machine.of_device(cpu)
    assert machine.with_device(cpu, saved[0]).cpu is saved[0]
    assert saved_for(saved, cpu) is saved_for([], first) is None


@pytest.mark.parametrize(("number", "state"), [(0, 0), (1, 1), (5, 1)])
def test_of_an_earlier_checkpoint_a_lane_gets_the_state_of_the_gpu_of_its_number(number, state):
    saved = saved_for([torch.tensor(0), torch.tensor(1)], torch.device("cuda", number))
    assert saved is not None
    assert int(saved) == state


def test_a_checkpoint_has_the_state_of_the_lanes_own_gpu_and_of_no_other():
    states = run("equal")[0].checkpoint.rng["torch_cuda"]
    assert len(states) == (1 if torch.cuda.is_available() else 0)


def test_a_checkpoint_is_not_touched_by_the_training_that_goes_on_from_it():
    middle = run("gradnorm")[2].checkpoint
    once = run("gradnorm", resume_from=middle)
    again = run("gradnorm", resume_from=middle)
    assert once[-1].metrics == again[-1].metrics


def test_a_lane_resumed_at_its_last_step_reports_it_again_and_is_completed():
    whole = run("gradnorm")
    (only,) = run("gradnorm", resume_from=whole[-1].checkpoint)
    assert (only.step, only.ending) == (24, LaneEnding.COMPLETED)
    assert only.metrics["val/normalized_loss"] == whole[-1].metrics["val/normalized_loss"]
    assert_same(vars(only.checkpoint), vars(whole[-1].checkpoint))


def test_more_steps_are_just_more_to_do():
    longer = run("gradnorm", steps=32)
    extended = run("gradnorm", resume_from=run("gradnorm")[-1].checkpoint, steps=32)
    assert [report.step for report in extended] == [30, 32]
    assert extended[-1].metrics == longer[-1].metrics


def test_a_checkpoint_of_another_balancer_or_network_is_refused():
    checkpoint = run("gradnorm")[0].checkpoint
    (only,) = run("equal", resume_from=checkpoint)
    assert only.ending is LaneEnding.ERROR
    assert "CheckpointError" in only.message
    (only,) = run("gradnorm", resume_from=checkpoint, problem=tiny_problem(num_tasks=3, hidden=(9, 6)))
    assert "CheckpointError: the checkpoint does not fit" in only.message
    (only,) = run("gradnorm", resume_from=checkpoint, problem=tiny_problem(num_tasks=2))
    assert "CheckpointError" in only.message


def test_a_file_holds_what_was_saved(tmp_path):
    checkpoint = run("gradnorm")[1].checkpoint
    checkpoint.save(tmp_path / "deep" / "file.pt")
    assert_same(vars(Checkpoint.load(tmp_path / "deep" / "file.pt")), vars(checkpoint))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.pt"]


def test_a_save_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "file.pt"
    checkpoint = run("gradnorm")[0].checkpoint
    checkpoint.save(path)
    before = path.read_bytes()
    broken = Checkpoint(**{**vars(checkpoint), "progress": {"what": object()}})
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]


@contextmanager
def no_file_longer_than(num_bytes):
    """As where a disk is full, but with another number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("num_numbers", "room"), [(1_000, 5_000), (25_000, 90_000), (1_000_000, 90_000)])
def test_a_disk_that_is_full_is_told_as_the_system_tells_it(tmp_path, num_numbers, room):
    tensors = {f"tensor {number}": torch.ones(num_numbers) for number in range(3)}
    large = replace(run("gradnorm")[0].checkpoint, progress=tensors)
    with no_file_longer_than(room), pytest.raises(OSError) as raised:
        large.save(tmp_path / "file.pt")
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_a_task_may_have_a_name_that_is_only_like_a_text(tmp_path):
    class Names(StrEnum):
        FIRST = "task_0"

    problem = tiny_problem(num_tasks=1)
    problem = replace(problem, tasks=[replace(task, name=Names.FIRST) for task in problem.tasks])
    run("equal", problem=problem)[0].checkpoint.save(tmp_path / "file.pt")
    assert Checkpoint.load(tmp_path / "file.pt").task_names == ["task_0"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "code"])
def test_a_damaged_file_is_a_checkpoint_error(tmp_path, damage):
    path = tmp_path / "file.pt"
    run("gradnorm")[0].checkpoint.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        torch.save({"step": 3}, path)
    else:
        torch.save({"format_version": 1, "step": tiny_problem}, path)
    with pytest.raises(CheckpointError, match=r"file\.pt"):
        Checkpoint.load(path)


def test_a_file_of_another_format_is_told_as_that_whatever_is_in_it(tmp_path):
    torch.save({"format_version": 1, "step": 3}, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=r"has format 1"):
        Checkpoint.load(tmp_path / "file.pt")


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        Checkpoint.load(tmp_path / "none.pt")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("balancer", BALANCERS)
def test_an_exported_model_answers_as_the_trained_one_did(balancer, dtype):
    problem = tiny_problem(num_tasks=3, dropout=0.3)
    last = run(balancer, dtype=dtype)[-1]
    state = torch.get_rng_state()
    model = export_model(last.checkpoint, problem)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    inputs = [tensor.to(getattr(torch, dtype)) for tensor in problem.validation.inputs]
    outputs = model(*inputs)
    for task in problem.tasks:
        loss = task.loss(outputs[task.name], problem.validation.targets[task.name].to(getattr(torch, dtype)))
        assert loss.item() == pytest.approx(last.metrics[f"val/loss/{task.name}"], rel=1e-6)


def test_a_checkpoint_of_another_problem_cannot_be_exported():
    with pytest.raises(CheckpointError):
        export_model(run("equal")[-1].checkpoint, tiny_problem(num_tasks=3, hidden=(4, 4)))


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (10, 10), (10, 64), (12, 4)])
def test_an_epoch_shows_no_row_twice_and_drops_only_what_fills_no_batch(rows, size):
    split = tiny_problem().train
    split = type(split)(inputs=(torch.arange(rows),), targets={})
    batches = Batches(split, batch_size=size, generator=new_generator(0, 0))
    per_epoch = max(1, rows // size)
    for _ in range(3):
        seen = torch.cat([batches.take()[0][0] for _ in range(per_epoch)]).tolist()
        assert len(seen) == per_epoch * min(size, rows)
        assert len(set(seen)) == len(seen)


class RecordedTensor(torch.Tensor):
    """Remembers what is asked of it; does nothing that needs a GPU."""

    asked: list

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        args[0].asked.append((func.__name__, kwargs or {}))
        return args[0]


@pytest.mark.parametrize(("device", "steps_before"), [("cuda", [("pin_memory", {})]), ("cpu", [])])
def test_an_order_goes_to_a_gpu_from_pinned_memory_so_that_nothing_waits(device, steps_before):
    order = torch.arange(3).as_subclass(RecordedTensor)
    order.asked = []
    moved_without_waiting(order, torch.device(device))
    assert order.asked == [*steps_before, ("to", {"non_blocking": True})]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_new_epoch_does_not_wait_for_the_gpu():
    split = tiny_problem().train.to(device=torch.device("cuda"), dtype=torch.float32)
    batches = Batches(split, batch_size=13, generator=new_generator(0, 0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = [len(batches.take()[0][0]) for _ in range(20)]  # raises where it waits
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert rows == [13] * 20


def test_batches_go_on_from_any_position():
    split = tiny_problem().train
    one = Batches(split, batch_size=13, generator=new_generator(5, 0))
    for _ in range(20):
        position = one.position
        twin = Batches(split, batch_size=13, generator=new_generator(99, 0), position=position)
        (mine,), _ = one.take()
        (theirs,), _ = twin.take()
        assert torch.equal(mine, theirs)
