"""From the noted calls of a sweep's processes to the shares of its time, and their table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

AIM_SHARE = 0.03

PACK = "packs.train_order"  # all that a trainer does for a pack: its seconds are what the shares are of
REPORTING = ("LaneReporter.__call__", "ConductorLink.begin", "ConductorLink.refill")  # training waits, whatever for

PARTS: Mapping[str, Sequence[str]] = {
    "checkpoints: copied": ("LaneTraining._checkpoint",),
    "checkpoints: written": ("LaneReporter._write_at_once",),  # those of a pack's lanes together
    "checkpoints: removed": (
        "CheckpointFolders.drop_trial",
        "CheckpointFolders.drop_earlier_attempts",
    ),
    "writes: record": ("SqlSweepStore.record",),
    "writes: add_trials, attempts": (
        "SqlSweepStore.add_trials",
        "SqlSweepStore.start_attempt",
        "SqlSweepStore.end_attempt",
    ),
    "heartbeats": ("SqlSweepStore.renew_lease",),
    "writes: outbox, tracking refs": ("SqlSweepStore.mark_delivered", "SqlSweepStore.set_tracking_ref"),
    "writes: logs, notices": ("SqlSweepStore.append_logs", "SqlSweepStore.add_notice"),
    "claims": ("SqlSweepStore.claim_sweep",),  # twice a second, whether anything waits or not
    "writes: of the sweep": (
        "SqlSweepStore.move_sweep",
        "SqlSweepStore.set_results",
        "SqlSweepStore.release_lease",
        "CheckpointFolders.drop_other_trials",
    ),
}
"""What durability consists of."""

IN_THE_PACK = ("checkpoints: copied",)  # by the thread that trains
IN_THREADS: Mapping[str, Sequence[str]] = {"checkpoints: written": ("Checkpoint.save",)}
"""The calls whose processor time is a part's, where it has threads of its own for them."""
WAITED_FOR = tuple(PARTS)[:5]
"""The parts for which a pack stands still. All others go on beside it, and take no more than a processor's time."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One noted call."""

    what: str
    began: float  # by time.time()
    seconds: float
    processor_seconds: float  # of its own thread; what a database server does for it is not in it
    thread: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part took in a sweep."""

    calls: int
    seconds: float
    processor_seconds: float
    longest_ms: float


@dataclass(frozen=True, kw_only=True)
class Sweeping:
    """One sweep: its seconds, those of its packs, and the parts of durability."""

    seconds: float  # from the POST to the sweep's end
    pack_seconds: float  # of all packs together
    num_packs: int
    pack_processor_seconds: float  # of their threads: what others on the machine take is not in it
    reporting_seconds: float  # of all packs together: everything between two steps that is not evaluation
    parts: Mapping[str, Part]

    @property
    def waited_share(self) -> float:
        """Of the packs' time, how much they stood still for checkpoints and fenced writes."""
        return sum(self.parts[name].seconds for name in WAITED_FOR) / self.pack_seconds

    @property
    def waited_processor_share(self) -> float:
        """The same by processor time: of what training and its durability would take if nobody waited for anything, a
        disk or a processor.
        """
        seconds = {name: self.parts[name].processor_seconds for name in WAITED_FOR}
        elsewhere = sum(taken for name, taken in seconds.items() if name not in IN_THE_PACK)
        return sum(seconds.values()) / (self.pack_processor_seconds + elsewhere)

    @property
    def reporting_share(self) -> float:
        """The same for all of reporting: an upper bound, with Ray's calls and the conductor's other work in it."""
        copied = self.parts["checkpoints: copied"].seconds  # made before the report
        return (self.reporting_seconds + copied) / self.pack_seconds

    @property
    def beside_share(self) -> float:
        """Of the sweep's time, how much of one thread the parts took for which no pack waits."""
        return sum(part.seconds for name, part in self.parts.items() if name not in WAITED_FOR) / self.seconds

    def processor_share(self, num_processors: int) -> float:
        """Of what the machine's processors could do in the sweep's time, how much all parts took."""
        return sum(part.processor_seconds for part in self.parts.values()) / (num_processors * self.seconds)


def read_calls(folder: Path) -> list[Call]:
    """What the processes have noted there so far."""
    calls: list[Call] = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            what, began, seconds, processor_seconds, thread = json.loads(line)
            calls.append(
                Call(what=what, began=began, seconds=seconds, processor_seconds=processor_seconds, thread=thread)
            )
    return calls


def sweeping_of(calls: Sequence[Call], *, began: float, ended: float) -> Sweeping:
    """The calls of the sweep that ran, alone, between these times."""
    own = [call for call in calls if began <= call.began <= ended]
    packs = [call for call in own if call.what == PACK]
    return Sweeping(
        seconds=ended - began,
        pack_seconds=sum(call.seconds for call in packs),
        num_packs=len(packs),
        pack_processor_seconds=sum(call.processor_seconds for call in packs),
        reporting_seconds=sum(call.seconds for call in own if call.what in REPORTING),
        parts={name: _part(own, names, IN_THREADS.get(name, names)) for name, names in PARTS.items()},
    )


def _part(own: Sequence[Call], names: Sequence[str], working: Sequence[str]) -> Part:
    """Of the calls of these names; by processor time, of those that do the work."""
    calls = [call for call in own if call.what in names]
    return Part(
        calls=len(calls),
        seconds=sum(call.seconds for call in calls),
        processor_seconds=sum(call.processor_seconds for call in own if call.what in working),
        longest_ms=1000 * max((call.seconds for call in calls), default=0.0),
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of running the sweep on one database: medians over its rounds."""

    database: str
    variant: str
    round_seconds: Sequence[float]
    round_waited_shares: Sequence[float]
    pack_seconds: float
    num_packs: int
    waited_share: float  # the aim is below AIM_SHARE
    waited_processor_share: float
    reporting_share: float
    beside_share: float
    processor_share: float
    parts: Mapping[str, Part]  # of the round whose waited share is the median


def row_of(database: str, variant: str, rounds: Sequence[Sweeping], *, num_processors: int) -> Row:
    middle = sorted(rounds, key=lambda one: one.waited_share)[(len(rounds) - 1) // 2]
    return Row(
        database=database,
        variant=variant,
        round_seconds=[one.seconds for one in rounds],
        round_waited_shares=[one.waited_share for one in rounds],
        pack_seconds=statistics.median(one.pack_seconds for one in rounds),
        num_packs=middle.num_packs,
        waited_share=statistics.median(one.waited_share for one in rounds),
        waited_processor_share=statistics.median(one.waited_processor_share for one in rounds),
        reporting_share=statistics.median(one.reporting_share for one in rounds),
        beside_share=statistics.median(one.beside_share for one in rounds),
        processor_share=statistics.median(one.processor_share(num_processors) for one in rounds),
        parts=middle.parts,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as text: shares first, then what they consist of."""
    heads = ("waited for", "by cpu", "reporting", "beside", "processors", "sweep s", "packs' s")
    lines = [f"{'database':10} {'sweep':32}" + "".join(f"{head:>12}" for head in heads) + "  rounds"]
    for row in rows:
        shares = (
            row.waited_share,
            row.waited_processor_share,
            row.reporting_share,
            row.beside_share,
            row.processor_share,
        )
        cells = "".join(f"{100 * share:10.2f} %" for share in shares)
        seconds = f"{statistics.median(row.round_seconds):12.1f}{row.pack_seconds:12.1f}"
        raw = ", ".join(
            f"{seconds:.1f} s {100 * share:.2f} %"
            for seconds, share in zip(row.round_seconds, row.round_waited_shares, strict=True)
        )
        lines.append(f"{row.database:10} {row.variant:32}{cells}{seconds}  {raw}")
    lines.append(f"aim: waited for < {100 * AIM_SHARE:.0f} %")
    for row in rows:
        lines += ["", f"{f'{row.database}, {row.variant}:':38} {'calls':>8}{'s':>9}{'ms each':>9}{'longest':>9}"]
        lines += [_part_line(name, part, row) for name, part in row.parts.items()]
    return "\n".join(lines)


def _part_line(name: str, part: Part, row: Row) -> str:
    each = 1000 * part.seconds / part.calls if part.calls else 0.0
    waited = name in WAITED_FOR
    share = f"{100 * part.seconds / row.pack_seconds:8.2f} % of the packs' time" if waited else "    beside"
    return f"  {name:36}{part.calls:8}{part.seconds:9.3f}{each:9.1f}{part.longest_ms:9.1f}{share}"
