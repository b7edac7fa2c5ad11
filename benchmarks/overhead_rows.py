"""Calls that are timed, one after the other or by several clients at once, and the table of what they took."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

AIM_P99_MS = 50.0
REFERENCE = "reference"  # the operation that asks nothing of a store
DISTURBED = 2.0  # p99 of the reference over its p50: 1.1 on an idle machine

Call = Callable[[random.Random], object]  # what a client does once; draws what it asks for


@dataclass(frozen=True, kw_only=True)
class Load:
    """How many clients call at once, and how long each rests between its calls."""

    clients: int
    mean_pause_s: float = 0.0  # exponentially distributed; 0: none, and what is measured is how much can be had

    @property
    def is_judged(self) -> bool:
        """Of several clients that do not rest each waits for all the others, whatever the store does."""
        return self.clients == 1 or self.mean_pause_s > 0

    def rest(self, rng: random.Random) -> None:
        if self.mean_pause_s:
            time.sleep(rng.expovariate(1 / self.mean_pause_s))

    def __str__(self) -> str:
        if self.clients == 1:
            return "1 client"
        return f"{self.clients}, {f'pauses of {1000 * self.mean_pause_s:.0f} ms' if self.mean_pause_s else 'no pauses'}"


LOADS = (Load(clients=1), Load(clients=8, mean_pause_s=0.1), Load(clients=8))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One operation on one database under one load."""

    database: str
    layer: str  # service: in this process; http: of the API's process; conductor: the store, as a conductor calls it
    operation: str
    load: Load
    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    processor_p99_ms: float  # of the calling thread, without a server's
    calls_per_second: float  # of all clients together; 0: not known, for other calls came in between

    @property
    def meets_aim(self) -> bool:
        return not self.load.is_judged or self.p99_ms < AIM_P99_MS


@dataclass(frozen=True)
class Took:
    """One call."""

    seconds: float
    processor_seconds: float  # of the caller's thread: what others on the machine take is not in it


class Stopwatch:
    """What calls took, by what they are called. Not for several threads."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Took]] = defaultdict(list)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        began, processor_began = time.perf_counter(), time.thread_time()
        yield
        took = Took(time.perf_counter() - began, time.thread_time() - processor_began)
        self.calls[name].append(took)


def percentile(seconds: Sequence[float], share: float) -> float:
    """The smallest of them that is not below that share of them."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def row_of(calls: Sequence[Took], *, database: str, layer: str, operation: str, load: Load, took_s: float = 0.0) -> Row:
    """``took_s``: from the first of these calls to the last, where nothing else was done meanwhile."""
    seconds = [call.seconds for call in calls]
    return Row(
        database=database,
        layer=layer,
        operation=operation,
        load=load,
        calls=len(seconds),
        p50_ms=1000 * percentile(seconds, 0.5),
        p99_ms=1000 * percentile(seconds, 0.99),
        max_ms=1000 * max(seconds),
        processor_p99_ms=1000 * percentile([call.processor_seconds for call in calls], 0.99),
        calls_per_second=len(seconds) / took_s if took_s else 0.0,
    )


def timed(call: Call, *, num_calls: int, load: Load, warm_up: int = 5) -> tuple[list[Took], float]:
    """Each call, and the seconds of all: ``num_calls`` shared out among clients that begin at the same moment."""
    barrier = threading.Barrier(load.clients)
    share = math.ceil(num_calls / load.clients)

    def client(number: int) -> tuple[list[Took], float, float]:
        rng = random.Random(number)
        for _ in range(warm_up):
            call(rng)
        watch = Stopwatch()
        barrier.wait()
        began = time.perf_counter()
        for _ in range(share):
            load.rest(rng)
            with watch.of("call"):
                call(rng)
        return watch.calls["call"], began, time.perf_counter()

    with ThreadPoolExecutor(load.clients) as pool:
        found = list(pool.map(client, range(load.clients)))
    took_s = max(end for _, _, end in found) - min(began for _, began, _ in found)
    return [call for several, _, _ in found for call in several], took_s


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one database after another; loads side by side."""
    databases = dict.fromkeys(row.database for row in rows)
    return "\n\n".join(_table_of(name, [row for row in rows if row.database == name]) for name in databases)


def _table_of(database: str, rows: Sequence[Row]) -> str:
    loads = sorted({row.load for row in rows}, key=lambda load: (load.clients, -load.mean_pause_s))
    by_operation: dict[tuple[str, str], dict[Load, Row]] = {}
    for row in rows:
        by_operation.setdefault((row.layer, row.operation), {})[row.load] = row
    over = "".join(f" |{load!s:^32}" for load in loads)
    heads = "".join(f" |{'p50 ms':>8}{'p99':>8}{'cpu p99':>8}{'calls/s':>8}" for _ in loads)
    lines = [f"{database:38}{over} |", f"{'':9} {'operation':28}{heads} | p99 < {AIM_P99_MS:.0f} ms"]
    lines += [_line(key, found, loads) for key, found in by_operation.items()]
    return "\n".join([*lines, *_disturbance(rows)])


def _disturbance(rows: Sequence[Row]) -> Iterator[str]:
    """A line where others have used the machine, by what they made of a call that waits for nothing."""
    for row in rows:
        if row.operation == REFERENCE and row.p99_ms > DISTURBED * row.p50_ms:
            ratio = row.p99_ms / row.p50_ms
            yield f"The machine was busy: p99 of the reference, which waits for nothing, is {ratio:.0f} times its p50."


def _line(key: tuple[str, str], found: Mapping[Load, Row], loads: Sequence[Load]) -> str:
    cells = ""
    for load in loads:
        row = found.get(load)
        if row is None:
            cells += f" |{'–':>8}{'':24}"
            continue
        rate = f"{row.calls_per_second:.0f}" if row.calls_per_second else "–"
        processor = "–" if row.layer == "http" else f"{row.processor_p99_ms:.1f}"
        cells += f" |{row.p50_ms:8.1f}{row.p99_ms:8.1f}{processor:>8}{rate:>8}"
    missed = [str(load) for load, row in found.items() if not row.meets_aim]
    return f"{key[0]:9} {key[1]:28}{cells} | {'missed: ' + '; '.join(missed) if missed else 'met'}"
