"""What durability costs: how long users and conductors wait for a store that has been in use for a while, and how much
of a sweep's time goes into heartbeats, fenced writes and checkpoints.

    python -m benchmarks.overhead --quick
    python -m benchmarks.overhead --only store --databases postgres --json > overhead.json

**The store** (``--only store``) holds 1,000 sweeps of 100 trials, put in past the service (``overhead_filling``):
most have ended, with results and a verdict; sixty run, rest or wait. A trial has one attempt, some have two; five
reports of 25 metrics, where the default is 25 reports, for the time that filling takes; some five events; no lines of
logs. Then there are timed, at least 200 calls each, on random sweeps:

    service     what the API calls for each request, in this process, one call after the other
    http        the same through the API, a process of its own, with ``httpx``: one client; eight, each of which pauses
                for 100 ms on average between its calls; eight that do not pause
    conductor   what a conductor writes, each a process of its own under the same loads: it claims sweeps, then runs
                packs of 4 trials that report 10 times, without training anything

Clients that do not pause show how much can be had (calls/s): then each waits for all others, so the aim, a p99 below 50
ms, is not asked of them. ``cpu p99`` is of the processor time of the calling thread, which others on the machine do not
lengthen as they do the clock's; of HTTP it is not known, nor of a PostgreSQL server. How busy others keep the machine
shows in ``reference``: a loop of some 2 ms of arithmetic, timed in the same way. SQLite's file is as the service opens
it (write-ahead log, synchronous = NORMAL: its commits wait for no disk, its checkpoints do); PostgreSQL's settings are
its defaults (fsync), after a ``VACUUM ANALYZE``, as its autovacuum would have done. Both are on the machine that asks.

**The sweep** (``--only sweep``) is the demo's, of census_income, over REST in a stack of its own, once with each
database. Certain calls in the trainers and the conductor are timed from outside (``overhead_probe``, a
``sitecustomize`` on their PYTHONPATH), each in the thread that makes it:

    waited for   copies and files of checkpoints, with fsync, and their removal; ``record``, ``add_trials`` and the
                 starts and ends of attempts, which a pack waits for: seconds of these over seconds of all packs, from
                 the moment they have a place to their end. This is what the aim, below 3 %, is of.
    by cpu       the same by processor time, which others on the machine do not lengthen; without the waits for disks
    reporting    an upper bound: all that training waits for at reports and for trials, with Ray's calls, the wait for
                 the other pack's report, early stopping, log lines, and the notes of this benchmark
    beside       heartbeats, the outbox, lines, notices and moves of the sweep: their seconds, of threads that nobody
                 waits for, over the sweep's
    processors   processor time of all of it over what all processors have in the sweep's time; a PostgreSQL server's
                 own is not in it

Not counted: what the store is asked for and does not change (the watch's look at the state, twice a second), Ray, and
MLflow, which is for people. A write that waits for a processor, or for Python's lock, is counted whole: so on a machine
that trains on all processors, ``waited for`` is more than the write takes on an idle one. Packs have 4 lanes, as
``lanes: auto`` would make them on an idle machine, so that all sweeps are alike; ``1 lane`` trains trials one by one,
with a report of one lane at a time. In the last variant there are ten times as many steps between two reports and two
checkpoints. ``checkpoints at the end`` is the sweep with no checkpoints but each trial's last one
(``checkpoint_every``): what the sweeps' seconds differ by is the check of what is counted, as far as sweeps of one kind
do not differ by more. The exit status is 0 whatever is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import overhead_rows, overhead_shares
from benchmarks.overhead_filling import Filling
from benchmarks.overhead_rows import LOADS
from benchmarks.overhead_store import DATABASES, Asking, Store, measure_store
from benchmarks.overhead_sweep import VARIANTS, measure_sweeps
from benchmarks.sweep_throughput import machine

FULL = Filling(num_sweeps=1000, trials_a_sweep=100, reports_a_trial=5), Asking(num_calls=400, loads=LOADS)
QUICK = Filling(num_sweeps=50, trials_a_sweep=100, reports_a_trial=5), Asking(num_calls=100, loads=LOADS[:1])
ROUNDS, QUICK_ROUNDS = 3, 1
PARTS = ("store", "sweep")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, _leave)  # by the way that ends what has been started
    where = machine()
    stores: list[Store] = []
    sweeps: list[overhead_shares.Row] = []
    filling, asking = QUICK if options.quick else FULL
    for database in options.databases:
        if "store" in options.only:
            stores.append(measure_store(database, filling, asking))
            _tell_load()
        if "sweep" in options.only:
            sweeps += measure_sweeps(database, options.sweeps, rounds=options.rounds, is_quick=options.quick)
            _tell_load()
    if options.json:
        print(where, file=sys.stderr)
        print(json.dumps({"stores": [asdict(one) for one in stores], "sweeps": [asdict(row) for row in sweeps]}))
    else:
        print("\n\n".join([where, *map(_store_text, stores), *([overhead_shares.table(sweeps)] if sweeps else [])]))


def _store_text(store: Store) -> str:
    filled = ", ".join(f"{number:,} {name}" for name, number in store.num_rows.items())
    return f"{filled}; filled in {store.fill_seconds:.0f} s\n{overhead_rows.table(store.rows)}"


def _tell_load() -> None:
    if hasattr(os, "getloadavg"):
        print(f"load averages now: {' '.join(f'{load:.2f}' for load in os.getloadavg())}", file=sys.stderr)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description="What durability costs.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--sweeps", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=None, help=f"of the sweep; {ROUNDS}, or 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="a smaller store, fewer calls, a shorter sweep")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1:
        parser.error("there is at least 1 round")
    return options


if __name__ == "__main__":
    main()
