"""Every error that the service raises on purpose, named after the fact.

SweepServiceError
├── InvalidSpecError        the spec is wrong; carries one finding per wrong field
├── NotFoundError           no row of that id
│   ├── SweepNotFoundError
│   ├── TrialNotFoundError
│   ├── KeyNotFoundError
│   └── ModelNotFoundError  nothing of that name among the stored models
├── InvalidKeyError         an API key cannot be made as it is asked for; carries one finding per wrong field
├── KeyNameTakenError       an API key that is not revoked has that name
├── LastAdminKeyError       without that API key nobody could make another one
├── KeyReusedError          another sweep was submitted under that key
├── IllegalMoveError        the state table forbids it; carries what is allowed
├── PackOverError           the pack of that worker has been given up: end it, write and delete nothing
├── LeaseLostError          somebody else owns the sweep now: drop the result, write nothing more
├── CatalogMissingError     no dispatcher has published what can be trained; try again later
├── StoreUnavailableError   the database does not answer; try again later
├── SchemaOutdatedError     the database has not been migrated
├── CheckpointsUnavailableError    there is no room for checkpoints, or their bucket does not answer; try again later
├── TrackingUnavailableError    the tracking server does not answer; deliver again later
├── TrackingRefusedError    the tracking server will not take it; sending it again is of no use
├── TrainableMissingError   a stored sweep trains what is in the catalogue no more
├── ModelUnusableError      a trial's model cannot be built from its checkpoint; its numbers stand
└── ClusterLostError        the Ray cluster is gone; connect anew
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SweepServiceError(Exception):
    """Root of the tree."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing wrong with a document: where, what kind, and how to mend it."""

    pointer: str  # JSON pointer into the document, such as "/space/alpha/low"
    code: str  # stable, snake_case
    detail: str


class InvalidSpecError(SweepServiceError):
    """A spec that cannot be run; all that is wrong with it at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.detail}" for f in self.findings))


class NotFoundError(SweepServiceError):
    """No row of that id."""


class SweepNotFoundError(NotFoundError):
    def __init__(self, sweep_id: str) -> None:
        self.sweep_id = sweep_id
        super().__init__(f"There is no sweep {sweep_id!r}.")


class TrialNotFoundError(NotFoundError):
    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        super().__init__(f"There is no trial {trial_id!r}.")


class KeyNotFoundError(NotFoundError):
    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(f"There is no key {key_id!r}.")


class ModelNotFoundError(NotFoundError):
    """No stored model is meant by a name, or none of it is left. The message says what there is."""


class InvalidKeyError(SweepServiceError):
    """An API key that cannot be made; all that is wrong with it at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.detail}" for f in self.findings))


class KeyNameTakenError(SweepServiceError):
    """Two API keys that are not revoked would have one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"There is a key named {name!r}. Take another name, or revoke that one first.")


class LastAdminKeyError(SweepServiceError):
    """Nobody could make or revoke keys any more."""

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id
        super().__init__(f"{key_id} is the last admin key that is not revoked. Make another one first.")


class KeyReusedError(SweepServiceError):
    """Something else was submitted under that key before."""

    def __init__(self, key: str) -> None:
        super().__init__(f"Another sweep was submitted under the key {key!r}; take a new key for this one.")


class IllegalMoveError(SweepServiceError):
    """A move that the table of states forbids."""

    def __init__(self, *, current: str, target: str, allowed: Sequence[str]) -> None:
        self.current, self.target, self.allowed = str(current), str(target), tuple(str(a) for a in allowed)
        choices = ", ".join(self.allowed) or "none"
        super().__init__(f"{self.current} cannot become {self.target}; allowed from here: {choices}.")


class SpecChangedError(SweepServiceError):
    """Somebody has changed what the sweep is to do, and this was decided without knowing of it."""


class PackOverError(SweepServiceError):
    """A worker speaks for a pack that has been given up; its trials may be in other hands."""


class LeaseLostError(SweepServiceError):
    """The write was fenced off: its lease has expired or belongs to somebody else."""


class CatalogMissingError(SweepServiceError):
    """Nobody has published what can be trained yet."""


class StoreUnavailableError(SweepServiceError):
    """The database does not answer."""


class SchemaOutdatedError(SweepServiceError):
    """The database's schema is not the one that this code was written for."""


class CheckpointsUnavailableError(SweepServiceError):
    """Where checkpoints lie there is no room for one, or nothing answers; the same call may do later."""


class TrackingUnavailableError(SweepServiceError):
    """The tracking server does not answer, or refuses for now."""


class TrackingRefusedError(SweepServiceError):
    """The tracking server will not take it, now or later: somebody has deleted the run, say."""


class TrainableMissingError(SweepServiceError):
    """A stored sweep names a trainable that the catalogue does not have any more."""


class ModelUnusableError(SweepServiceError):
    """The checkpoint of a trial is gone, or no model comes out of it."""


class ClusterLostError(SweepServiceError):
    """The cluster that runs the trials does not answer."""
