"""Lanes trained at once and one after another, and how far what they say may be apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane, LaneReport, Problem
from trainables.training import train, train_together

AS_EQUAL = 1e-10  # in float64, over 50 steps
PARAMS: Mapping[str, Any] = {"steps": 50, "report_every": 10, "batch_size": 16, "dtype": "float64", "lr": 1e-2}

Reports = list[LaneReport]


def lane(key: str, balancer: str = "gradnorm", resume_from: Checkpoint | None = None, **params: Any) -> Lane:
    return Lane(key=key, balancer=balancer, params={**PARAMS, **params}, resume_from=resume_from)


class Told:
    """A reporter that keeps what it is told, call by call, asks lanes to stop at given steps, and keeps in ``left`` the
    checkpoints that they can leave.
    """

    def __init__(self, stop_at: Collection[tuple[str, int]] = (), left: dict[str, Checkpoint] | None = None) -> None:
        self.calls: list[Reports] = []
        self._stop_at = set(stop_at)
        self._left = left

    def __call__(self, reports: Sequence[LaneReport]) -> Collection[str]:
        self.calls.append(list(reports))
        if self._left is not None:
            self._left |= {one.lane: one.leave_checkpoint() for one in reports if one.leave_checkpoint is not None}
        return {one.lane for one in reports if (one.lane, one.step) in self._stop_at}

    @property
    def by_lane(self) -> dict[str, Reports]:
        lanes: dict[str, Reports] = {}
        for one in (one for call in self.calls for one in call):
            lanes.setdefault(one.lane, []).append(one)
        return lanes


def alone(
    problem: Problem,
    lanes: Sequence[Lane],
    stop_at: Collection[tuple[str, int]] = (),
    left: dict[str, Checkpoint] | None = None,
    **options: Any,
) -> dict[str, Reports]:
    told = Told(stop_at, left)
    train(problem, lanes, told, **options)
    return told.by_lane


def together(
    problem: Problem,
    lanes: Sequence[Lane],
    stop_at: Collection[tuple[str, int]] = (),
    left: dict[str, Checkpoint] | None = None,
    **options: Any,
) -> dict[str, Reports]:
    told = Told(stop_at, left)
    train_together(problem, lanes, told, **options)
    return told.by_lane


def check_equal(problem: Problem, lanes: Sequence[Lane], **options: Any) -> dict[str, Reports]:
    """Train the lanes both ways and compare all that they say; the reports of those that were trained at once."""
    found = together(problem, lanes, **options)
    assert_reports_agree(found, alone(problem, lanes, **options))
    return found


def assert_reports_agree(
    found: Mapping[str, Reports], expected: Mapping[str, Reports], tolerance: float = AS_EQUAL
) -> None:
    assert found.keys() == expected.keys()
    for key, reports in expected.items():
        told = [(one.step, one.ending, one.message) for one in found[key]]
        assert told == [(one.step, one.ending, one.message) for one in reports], key
        for mine, theirs in zip(found[key], reports, strict=True):
            assert_report_agrees(mine, theirs, tolerance)


def assert_report_agrees(mine: LaneReport, theirs: LaneReport, tolerance: float = AS_EQUAL) -> None:
    where = f"lane {mine.lane}, step {mine.step}"
    assert mine.notices == theirs.notices, where
    assert_agree(dict(mine.metrics), dict(theirs.metrics), where, tolerance)
    assert (mine.checkpoint is None) == (theirs.checkpoint is None), where
    if mine.checkpoint is not None and theirs.checkpoint is not None:
        assert_agree(vars(mine.checkpoint), vars(theirs.checkpoint), where, tolerance)


def assert_agree(mine: Any, theirs: Any, where: str, tolerance: float = AS_EQUAL) -> None:
    """Of one build, through dicts and lists; numbers with a fraction may be apart by the tolerance, relative where they
    are large. 0: to the last bit.
    """
    assert type(mine) is type(theirs), where
    if isinstance(mine, Tensor):
        _assert_tensors_agree(mine, theirs, where, tolerance)
    elif isinstance(mine, Mapping):
        assert set(mine) == set(theirs), where
        for key in mine:
            assert_agree(mine[key], theirs[key], f"{where}: {key}", tolerance)
    elif isinstance(mine, list) and all(type(item) is int for item in mine):  # a generator's words: many
        assert mine == theirs, where
    elif isinstance(mine, list):
        assert len(mine) == len(theirs), where
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            assert_agree(*pair, f"{where}[{index}]", tolerance)
    elif isinstance(mine, float):
        assert math.isclose(mine, theirs, rel_tol=tolerance, abs_tol=tolerance), f"{where}: {mine} and {theirs}"
    else:
        assert mine == theirs, where


def _assert_tensors_agree(mine: Tensor, theirs: Tensor, where: str, tolerance: float) -> None:
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), where
    if tolerance == 0 or not mine.is_floating_point():
        assert torch.equal(mine, theirs), where
    else:
        torch.testing.assert_close(
            mine, theirs, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )


def assert_bits_agree(found: Sequence[LaneReport], expected: Sequence[LaneReport]) -> None:
    """To the last bit, report by report."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.step == theirs.step
        assert_report_agrees(mine, theirs, tolerance=0)
