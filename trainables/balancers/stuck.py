"""Stuck tasks: their weight climbs while their loss does not move.

GradNorm pulls back a task that lags. One that cannot learn (noise, a broken label, a head too small) lags for ever, and
its weight climbs until the others train no more. The paper leaves that open. Here it is found out, said, and, where
asked for, bounded.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import SMALLEST_WEIGHT, WEIGHTS, State, ones

STUCK = "stuck_T"  # 1 of a task that is stuck, else 0
_STREAK = "stuck_streak_T"  # reports in a row at which its weight had risen and its loss had not moved
_LOSSES = "stuck_reference_losses_T"  # mean losses when they moved last; infinity before the first report
_LAST_WEIGHTS = "stuck_last_weights_T"  # at the last report
_START_WEIGHTS = "stuck_start_weights_T"  # at the report before the streak

MOVED = 0.01  # a mean loss has moved when it is lower by this share of what it was when it moved last
CLIMBED = 1.1  # a weight has climbed when it is this many times what it was when the streak began


@dataclass(frozen=True, kw_only=True)
class StuckRule:
    """When a task counts as stuck, and how much weight it may have then.

    A task is stuck once its weight has not fallen for ``reports`` reports in a row, is 1.1 times what it was before
    them, and its mean loss between two reports has not fallen by 1 % in all that time. It stays so until its loss has.
    Judged at reports, so that a step costs nothing for it.
    """

    reports: int  # 0: no task ever counts as stuck
    weight_cap: float = 0.0  # of a stuck task's weight, where all weights sum to T; 0: none

    def initial_state(self, num_tasks: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The part of a balancer's state that this rule keeps."""
        ones_T = ones(num_tasks, device, dtype)
        zeros_T = torch.zeros_like(ones_T)
        losses_T = torch.full_like(ones_T, torch.inf)
        return {
            STUCK: zeros_T,
            _STREAK: zeros_T,
            _LOSSES: losses_T,
            _LAST_WEIGHTS: ones_T,
            _START_WEIGHTS: ones_T,
        }

    def judge(self, mean_losses_T: Tensor, state: State) -> dict[str, Tensor]:
        """That part after a report; ``mean_losses_T`` are the means over the steps since the last one."""
        weights_T = state[WEIGHTS]
        losses_T = mean_losses_T.to(weights_T.dtype)
        moved_T = ~(losses_T >= (1 - MOVED) * state[_LOSSES])  # NaN is told elsewhere, and is not stuck
        goes_on_T = ~moved_T & (weights_T >= state[_LAST_WEIGHTS])
        streak_T = torch.where(goes_on_T, state[_STREAK] + 1, 0)
        start_T = torch.where(goes_on_T, state[_START_WEIGHTS], weights_T)
        is_stuck_T = (streak_T >= self.reports) & (weights_T >= CLIMBED * start_T) & (self.reports > 0)
        return {
            STUCK: torch.where(moved_T, 0, torch.where(is_stuck_T, 1, state[STUCK])).to(weights_T.dtype),
            _STREAK: streak_T,
            _LOSSES: torch.where(moved_T, losses_T, state[_LOSSES]),
            _LAST_WEIGHTS: weights_T,
            _START_WEIGHTS: start_T,
        }

    def capped(self, weights_T: Tensor, state: State) -> Tensor:
        """The weights with those of stuck tasks at most ``weight_cap``; what they lose goes to the other tasks, each by
        its share, so that the sum stays T. Where all tasks are stuck, nobody could take it, and nothing is capped.
        """
        if self.weight_cap == 0:
            return weights_T
        is_stuck_T = state[STUCK] > 0
        zeros_T = torch.zeros_like(weights_T)
        kept_T = torch.where(is_stuck_T, weights_T.clamp(max=max(self.weight_cap, SMALLEST_WEIGHT)), zeros_T)
        others_T = torch.where(is_stuck_T, zeros_T, weights_T)
        rest = weights_T.sum(-1, keepdim=True) - kept_T.sum(-1, keepdim=True)
        capped_T = kept_T + others_T * (rest / others_T.sum(-1, keepdim=True))
        return torch.where(is_stuck_T.all(-1, keepdim=True), weights_T, capped_T)

    def notices(self, before: State, after: State, task_names: Sequence[str]) -> list[str]:
        """One sentence for each task that has become stuck at this report, or moves again. Waits for the device."""
        cap = f"capped at {self.weight_cap:g}" if self.weight_cap else "not capped (stuck_weight_cap would)"
        was = before[STUCK].tolist()
        rows = zip(task_names, was, *(after[name].tolist() for name in _TOLD), strict=True)
        told = []
        for name, was_stuck, is_stuck, loss, start, weight in rows:
            if is_stuck and not was_stuck:
                told.append(
                    f"task {name!r} is stuck: its weight rose from {start:.3g} to {weight:.3g} while its loss stayed "
                    f"at {loss:.4g}; its weight is {cap}"
                )
            elif was_stuck and not is_stuck:
                told.append(f"task {name!r} is stuck no longer: its loss has fallen to {loss:.4g}")
        return told

    def metrics(self, state: State) -> Mapping[str, Tensor]:
        """What a report says of it."""
        return {"stuck": state[STUCK]}


_TOLD = (STUCK, _LOSSES, _START_WEIGHTS, WEIGHTS)
