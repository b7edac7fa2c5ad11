"""What the look at lanes before their first step finds, and what it overlooks in peace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import (
    HEADS,
    NETWORKS,
    NUM_FEATURES,
    NUM_ROWS,
    WIDTH,
    Build,
    model_of,
    numbers,
    problem_of,
    smooth_head,
    smooth_trunk,
)
from packs import lane
from refused import Constant, drawn
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.engine.fusable import prove
from trainables.engine.lane import LaneTraining
from trainables.problems.tabular import InMemoryProblem
from trainables.protocol import MultiTaskModel, Problem, Task
from trainables.stacked.draws import LaneDraws
from trainables.stacked.errors import NotStackableError

Loss = Callable[[Tensor, Tensor], Tensor]


def lanes_of(problem: Problem, *seeds: int, dtype: str = "float64") -> list[LaneTraining]:
    device, torch_dtype = torch.device("cpu"), getattr(torch, dtype)
    moved = problem.to(device=device, dtype=torch_dtype)
    lanes = [LaneTraining(moved, lane(f"{seed}", "equal", seed=seed, dtype=dtype), device) for seed in seeds]
    for one in lanes:
        one.draw_apart()
    return lanes


def with_losses(build: Build, *losses: Loss) -> InMemoryProblem:
    pairs = zip(HEADS, losses, strict=True)
    return problem_of(build, [Task(name=name, kind=TaskKind.REGRESSION, loss=loss) for name, loss in pairs])


class Shift(Constant):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.value  # pyright: ignore[reportOperatorIssue]


def in_second_head(*before: Callable[[], nn.Module], after: Callable[[], nn.Module] = nn.Identity) -> Build:
    return lambda: model_of(
        heads={"one": smooth_head(), "two": nn.Sequential(*(make() for make in before), smooth_head(), after())}
    )


def test_what_is_wrong_with_a_task_is_found_however_small_its_loss_is_beside_anothers():
    build = in_second_head(lambda: Constant(0.5 + drawn()))
    problem = with_losses(build, functional.mse_loss, lambda y, t: 1e-13 * functional.mse_loss(y, t))
    with pytest.raises(NotStackableError, match=r"the gradient of .* comes out otherwise"):
        prove(problem, lanes_of(problem, 1, 2))


def test_a_loss_that_comes_out_otherwise_is_found_where_its_gradient_does_not_show_it():
    def linear(y: Tensor, t: Tensor) -> Tensor:
        return (20 + y - t).mean()

    problem = with_losses(in_second_head(after=lambda: Shift(drawn())), functional.mse_loss, linear)
    with pytest.raises(NotStackableError, match="the loss of task 'two' comes out otherwise"):
        prove(problem, lanes_of(problem, 1, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_task_that_is_learnt_but_for_rounding_is_no_reason_to_refuse_lanes(dtype):
    """What its loss and its gradient are then is of no meaning."""

    features, answer = numbers(NUM_ROWS, NUM_FEATURES), numbers(NUM_FEATURES, 2, seed=3)

    def build() -> MultiTaskModel:
        head, shared = nn.Linear(WIDTH, 2, bias=False), nn.Linear(NUM_FEATURES, WIDTH, bias=False)
        with torch.no_grad():
            shared.weight.copy_(torch.eye(WIDTH, NUM_FEATURES))
            head.weight.copy_(functional.pad(answer.T, (0, 1)))
        return model_of(nn.Identity(), shared, {"one": smooth_head(), "two": head})

    problem = problem_of(build, targets={"one": torch.tanh(features[:, :2]), "two": features @ answer})
    moved = problem.to(device=torch.device("cpu"), dtype=getattr(torch, dtype))
    lanes = lanes_of(moved, 1, 2, dtype=dtype)
    assert prove(moved, lanes) == []


def dropping(make: Callable[[], nn.Module] = nn.Identity) -> Build:
    return lambda: model_of(nn.Sequential(smooth_trunk(), nn.Dropout(0.5), make()))


@pytest.fixture
def other_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the stack's dropout does not draw what the layer draws."""
    dropped = LaneDraws.dropped

    def of_others(self, inputs, shares, lanes):
        others = LaneDraws([torch.Generator().manual_seed(7) for _ in self.generators])
        return dropped(others, inputs, shares, lanes)

    monkeypatch.setattr(LaneDraws, "dropped", of_others)


@pytest.mark.parametrize("build", [dropping(), NETWORKS["dropout in a forward pass of one's own"]])
@pytest.mark.usefixtures("other_masks")
def test_where_masks_differ_lanes_are_compared_without_dropout(build):
    problem = problem_of(build)
    lanes = lanes_of(problem, 1, 2)
    states = [one.draws.get_state() for one in lanes]
    with pytest.raises(NotStackableError, match="comes out otherwise"):
        prove(problem, lanes, draws_alike=True)
    prove(problem, lanes, draws_alike=False)
    for one, state in zip(lanes, states, strict=True):
        assert torch.equal(one.draws.get_state(), state)
        assert {module.p for module in one.model.modules() if isinstance(module, nn.Dropout)} <= {0.5, 0.4}


@pytest.mark.usefixtures("other_masks")
def test_where_masks_differ_what_is_wrong_beside_them_is_found_all_the_same():
    problem = problem_of(dropping(lambda: Constant(0.5 + drawn())))
    lanes = lanes_of(problem, 1, 2)
    with pytest.raises(NotStackableError, match="comes out otherwise"):
        prove(problem, lanes, draws_alike=False)
    assert [module.p for one in lanes for module in one.model.modules() if isinstance(module, nn.Dropout)] == [0.5, 0.5]
