"""How many requests come through: a bucket of tokens for each key, and for each address that shows none; and how many
may stay at once.

Classes of our own: the libraries for it (limits, slowapi) read the clock themselves and count in windows, at whose
border twice as many come through.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict

BURST_SECONDS = 2.0  # of requests at the full rate that may come at once
_MOST_BUCKETS = 10_000


class TokenBuckets:
    """A bucket a name, each refilled at the same rate. Of so many names that they would not fit into memory, the ones
    that were seen the longest time ago are forgotten: theirs are full again by then, or somebody has that many names.
    For one thread.
    """

    def __init__(self, rate: float, *, burst: float | None = None) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate * BURST_SECONDS if burst is None else burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were as many

    def take(self, name: str, now: float) -> int:
        """0: a token was taken; else the whole seconds until there will be one, and nothing was taken."""
        tokens = self._tokens(name, now)
        if tokens < 1.0:
            return self._wait(tokens)
        self._buckets[name] = (tokens - 1.0, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return 0

    def give_back(self, name: str) -> None:
        """A token that was taken in vain."""
        if name in self._buckets:
            tokens, at = self._buckets[name]
            self._buckets[name] = (min(self._capacity, tokens + 1.0), at)

    def _tokens(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._capacity, now))
        return min(self._capacity, tokens + max(0.0, now - at) * self._rate)

    def _wait(self, tokens: float) -> int:
        return max(1, math.ceil((1.0 - tokens) / self._rate))


class Seats:
    """So many at once for each name. For one thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    def take(self, name: str) -> bool:
        """Whether there was one left, which has to be given back."""
        if self._taken[name] >= self._most:
            return False
        self._taken[name] += 1
        return True

    def give_back(self, name: str) -> None:
        """Of names that have none any more nothing is kept."""
        self._taken[name] -= 1
        if self._taken[name] == 0:
            del self._taken[name]
