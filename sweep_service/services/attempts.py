"""Attempts of trials: begun by a pack, and given up."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from sweep_service.domain.errors import IllegalMoveError
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.states import AttemptState, TrialState
from sweep_service.domain.trial import Attempt, Lease, Role, Trial
from sweep_service.ports import Clock, SweepStore
from sweep_service.services.checkpoints import CheckpointFolders
from sweep_service.services.packing import Pack
from sweep_service.services.packs import LaneOrder
from sweep_service.services.trial_book import TrialBook

logger = logging.getLogger(__name__)


class Attempts:
    """The attempts that one generation makes."""

    def __init__(
        self, *, store: SweepStore, lease: Lease, book: TrialBook, clock: Clock, checkpoints: CheckpointFolders
    ) -> None:
        self._store = store
        self._lease = lease
        self._book = book
        self._clock = clock
        self._checkpoints = checkpoints

    def hand_out(self, pack: Pack, trials: Sequence[Trial]) -> tuple[LaneOrder, ...]:
        """What the pack's worker is told of those trials; their attempts are started, unless they are already. What
        the worker has not been told, because the store failed in between, is not handed out.
        """
        orders = tuple(self._order(pack, trial) for trial in trials)
        pack.handed_out.update(trial.id for trial in trials)
        return orders

    def end(self, attempt_id: str, message: str, state: AttemptState = AttemptState.LOST) -> None:
        """An attempt that brings its trial no further."""
        try:
            self._store.end_attempt(self._lease, attempt_id, state, message=message)
        except IllegalMoveError:
            logger.info("Attempt %s had ended already, in a write whose answer was lost.", attempt_id)

    def end_all_but(self, own: Collection[str], message: str) -> None:
        """End what runs by the store's account and is none of those: it is of no pack of this generation."""
        for trial in self._book.in_order:
            if trial.state is not TrialState.RUNNING:
                continue
            for attempt in self._store.list_attempts(trial.id):
                if attempt.state is AttemptState.RUNNING and attempt.id not in own:
                    self._store.end_attempt(self._lease, attempt.id, AttemptState.LOST, message=message)

    def _order(self, pack: Pack, trial: Trial) -> LaneOrder:
        resume_from = self._resumable(trial)
        if trial.id not in pack.attempts:
            pack.attempts[trial.id] = self._start(pack, trial, resume_from)
        return LaneOrder(
            trial_id=trial.id,
            balancer=trial.balancer,
            params=trial.params,
            evaluate_test=trial.role is Role.CONFIRM,
            checkpoint_dir=str(self._checkpoints.of_attempt(trial.id, pack.attempts[trial.id])),
            resume_from=resume_from,
        )

    def _start(self, pack: Pack, trial: Trial, resume_from: str | None) -> str:
        now = self._clock.now()
        attempt = Attempt(
            id=new_id(IdPrefix.ATTEMPT, now=now),
            trial_id=trial.id,
            sweep_id=trial.sweep_id,
            number=trial.num_attempts,
            state=AttemptState.RUNNING,
            generation=self._lease.generation,
            pack=pack.key,
            node=pack.node,
            resumed_from=resume_from,
            started_at=now,
        )
        self._book.take(self._store.start_attempt(self._lease, attempt))
        return attempt.id

    def _resumable(self, trial: Trial) -> str | None:
        """The trial's checkpoint; None, and a notice, where the file is gone: training anew gives the same result."""
        if trial.checkpoint is None or not self._checkpoints.is_missing(trial.checkpoint):
            return trial.checkpoint
        message = f"The checkpoint {trial.checkpoint} of trial {trial.number} is gone; it trains from its first step."
        self._store.add_notice(self._lease, message, trial_id=trial.id)
        return None
