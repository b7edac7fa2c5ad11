"""The door to how the service stands: a part of :class:`sweep_service.ports.SweepStore`, whose laws hold here."""

from __future__ import annotations

from typing import Protocol

from sweep_service.domain.stock import Stock


class StockStore(Protocol):
    """Numbers over all sweeps."""

    def take_stock(self) -> Stock:
        """How everything stands now. Cheap enough to be asked every few seconds, whatever has ended since the store was
        made; the first time it takes longer.

        The reports that wait for the tracking server are those of sweeps that have not ended, and of those that have
        and are to be tried again: nobody will ever deliver what is left of others.
        """
        ...
