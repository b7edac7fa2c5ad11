"""Brings what a pack's code says to its conductor, off the training path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from sweep_service.execution.capture import Capture
from sweep_service.services.packs import LaneLines

SEND_INTERVAL_S = 1.0  # a worker that is killed takes no more than this along
_CLOSE_S = 15.0


class LogSender:
    """Sends from entering to leaving, in a thread of its own: a step that hangs is seen by what it said before.

    ``send`` answers whether the lines have arrived; those that have not are sent again, with what came since. It must
    not raise, and must not wait for ever.
    """

    def __init__(
        self, capture: Capture, send: Callable[[Sequence[LaneLines]], bool], *, interval_s: float = SEND_INTERVAL_S
    ) -> None:
        self._capture = capture
        self._send = send
        self._interval_s = interval_s
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log sender", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_CLOSE_S)
        self.flush()

    def flush(self) -> None:
        """Send what there is, in this thread, once."""
        with self._sending:
            said = self._capture.unsent()
            if said and self._send(said):
                self._capture.forget(said)

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self.flush()
