"""The laws of SweepStore that concern what trials' code has printed: for every store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from store_values import (
    START,
    TTL,
    FakeClock,
    claimed,
    events_of,
    lines_of,
    new_attempt,
    new_end,
    new_sweep,
    new_trial,
    said,
)

from sweep_service.domain.errors import LeaseLostError, NotFoundError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.logs import HEAD_BYTES, MAX_LINE_CHARS, TAIL_BYTES, KeptLine, LogLine, LogStream
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding
from sweep_service.domain.trial import Attempt, Lease
from sweep_service.ports import SweepStore


@pytest.fixture
def lease(store: SweepStore) -> Lease:
    return claimed(store)


def started(store: SweepStore, lease: Lease, number: int = 0) -> Attempt:
    """The first attempt of a new trial."""
    trial = new_trial(lease.sweep_id, number)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial)
    store.start_attempt(lease, attempt)
    return attempt


def texts(lines: Sequence[KeptLine]) -> list[str]:
    return [kept.line.text for kept in lines]


def test_lines_come_back_as_they_were_said(store: SweepStore, lease: Lease) -> None:
    attempt = started(store, lease)
    before = store.get_sweep(lease.sweep_id), events_of(store, lease.sweep_id)
    lines = (
        LogLine(at=START, stream=LogStream.STDOUT, text="loading …"),
        LogLine(at=START + timedelta(seconds=1), stream=LogStream.LOG, level="WARNING", text="a 'quoted' \"word\""),
        LogLine(at=START + timedelta(seconds=2), stream=LogStream.STDERR, text=""),
    )
    store.append_logs(lease, [said(attempt, 0, lines)])
    expected = [
        KeptLine(seq=seq, trial_id=attempt.trial_id, trial_number=0, attempt=0, left_out=0, line=line)
        for seq, line in enumerate(lines, start=1)
    ]
    assert store.list_trial_logs(attempt.trial_id) == expected
    assert store.list_sweep_logs(lease.sweep_id) == expected
    assert (store.get_sweep(lease.sweep_id), events_of(store, lease.sweep_id)) == before


def test_lines_are_read_on_page_by_page_for_a_trial_and_for_the_whole_sweep(store: SweepStore, lease: Lease) -> None:
    one, two = started(store, lease, 0), started(store, lease, 1)
    for round_ in range(3):
        batches = [said(a, 4 * round_, [f"{a.trial_id} {4 * round_ + i}" for i in range(4)]) for a in (one, two)]
        store.append_logs(lease, batches)
    whole = store.list_sweep_logs(lease.sweep_id, limit=100)
    assert [kept.seq for kept in whole] == list(range(1, 25))
    assert [kept.trial_number for kept in whole] == 3 * [0, 0, 0, 0, 1, 1, 1, 1]
    for size in (1, 3, 4, 5, 100):
        for read, everything in (
            (lambda **page: store.list_sweep_logs(lease.sweep_id, **page), whole),
            (lambda **page: store.list_trial_logs(two.trial_id, **page), [k for k in whole if k.trial_number == 1]),
        ):
            found: list[KeptLine] = []
            while page := read(after=found[-1].seq if found else 0, limit=size):
                assert len(page) == min(size, len(everything) - len(found))
                found += page
            assert found == everything


def test_lines_that_are_stored_already_are_not_stored_again(store: SweepStore, lease: Lease) -> None:
    attempt = started(store, lease)
    for first, lines in ((0, "ab"), (0, "ab"), (0, "abc"), (2, "cd"), (1, "b"), (4, "")):
        store.append_logs(lease, [said(attempt, first, lines)])
    kept = store.list_trial_logs(attempt.trial_id)
    assert "".join(texts(kept)) == "abcd"
    assert [line.seq for line in kept] == [1, 2, 3, 4]


def test_the_line_after_some_that_never_came_tells_how_many_these_are(store: SweepStore, lease: Lease) -> None:
    attempt, other = started(store, lease), started(store, lease, 1)
    store.append_logs(lease, [said(attempt, 3, "d"), said(other, 0, "x")])
    store.append_logs(lease, [said(attempt, 4, "e"), said(attempt, 12, "mn"), said(other, 1, "y")])
    kept = store.list_sweep_logs(lease.sweep_id)
    assert [(line.line.text, line.left_out) for line in kept] == [
        ("d", 3), ("x", 0), ("e", 0), ("m", 7), ("n", 0), ("y", 0),
    ]  # fmt: skip
    assert store.list_trial_logs(attempt.trial_id, after=kept[2].seq)[0].left_out == 7, "wherever a page begins"


def test_of_much_output_the_beginning_and_the_end_are_kept(store: SweepStore, lease: Lease) -> None:
    attempt, quiet = started(store, lease), started(store, lease, 1)
    store.append_logs(lease, [said(quiet, 0, ["a word"])])
    width, num_calls, per_call = 999, 25, 100
    for call in range(num_calls):
        lines = [f"{number:0{width}}" for number in range(call * per_call, (call + 1) * per_call)]
        store.append_logs(lease, [said(attempt, call * per_call, lines)])
    kept = lines_of(store, attempt.trial_id)
    numbers = [int(line.line.text) for line in kept]
    (gap,) = [index for index, line in enumerate(kept) if line.left_out]
    assert numbers[:gap] == list(range(gap))
    assert numbers[gap:] == list(range(numbers[gap], num_calls * per_call))
    assert kept[gap].left_out == numbers[gap] - gap
    for size, wanted in ((gap, HEAD_BYTES), (len(kept) - gap, TAIL_BYTES)):
        assert wanted <= size * (width + 1) < wanted + 130_000
    seqs = [line.seq for line in kept]
    assert seqs == sorted(set(seqs))
    assert store.list_trial_logs(attempt.trial_id, after=seqs[gap - 1], limit=1) == [kept[gap]]
    assert texts(store.list_trial_logs(quiet.trial_id)) == ["a word"]


def test_a_reader_that_follows_much_output_gets_nothing_twice(store: SweepStore, lease: Lease) -> None:
    attempt = started(store, lease)
    read: list[KeptLine] = []
    for call in range(40):
        store.append_logs(lease, [said(attempt, call * 50, [f"{call * 50 + i:01000}" for i in range(50)])])
        if call % 3 == 0:
            read += store.list_trial_logs(attempt.trial_id, after=read[-1].seq if read else 0, limit=120)
    numbers = [int(line.line.text) for line in read]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + sum(line.left_out for line in read) == numbers[-1] + 1


def test_the_lines_of_every_attempt_stay_with_it(store: SweepStore, lease: Lease) -> None:
    attempt = started(store, lease)
    store.append_logs(lease, [said(attempt, 0, ["first"])])
    store.end_attempt(lease, attempt.id, AttemptState.LOST)
    store.append_logs(lease, [said(attempt, 1, ["late"])])
    again = new_attempt(new_trial(lease.sweep_id), 1)
    store.start_attempt(lease, again)
    store.append_logs(lease, [said(again, 0, ["second"])])
    store.record(lease, ends=[new_end(attempt.trial_id, TrialEnding.ERROR)])
    store.append_logs(lease, [said(again, 1, ["after the end"])])
    kept = store.list_trial_logs(attempt.trial_id)
    assert [(line.attempt, line.line.text) for line in kept] == [
        (0, "first"), (0, "late"), (1, "second"), (1, "after the end"),
    ]  # fmt: skip


def test_text_that_no_database_holds_and_lines_that_are_too_long_are_made_to_fit(
    store: SweepStore, lease: Lease
) -> None:
    attempt = started(store, lease)
    lines = ["a\x00b", "half \ud800", "📈 ü \\u0000", "x" * 1_000_000]
    store.append_logs(lease, [said(attempt, 0, lines)])
    kept = texts(store.list_trial_logs(attempt.trial_id))
    assert kept[:3] == ["a\ufffdb", "half \ufffd", "📈 ü \\u0000"]
    assert len(kept[3]) <= MAX_LINE_CHARS
    assert kept[3].startswith("xxx")
    assert kept[3].endswith("more characters")


def test_only_the_holder_of_the_lease_stores_lines(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    attempt = started(clocked_store, lease)
    fake_clock.advance(TTL + timedelta(seconds=1))
    with pytest.raises(LeaseLostError):
        clocked_store.append_logs(lease, [said(attempt, 0, ["late"])])
    assert clocked_store.list_trial_logs(attempt.trial_id) == []


def test_lines_of_an_attempt_that_is_none_of_the_trial_s_are_refused_with_all_of_the_call(
    store: SweepStore, lease: Lease
) -> None:
    attempt, other = started(store, lease), started(store, lease, 1)
    foreign = started(store, claimed(store, new_sweep(1)))
    mixed = said(Attempt(**{**vars(attempt), "trial_id": other.trial_id}), 0, ["x"])
    for wrong in (mixed, said(foreign, 0, ["x"]), said(new_attempt(new_trial(lease.sweep_id), 7), 0, ["x"])):
        with pytest.raises(NotFoundError):
            store.append_logs(lease, [said(attempt, 0, ["mine"]), wrong])
    assert store.list_sweep_logs(lease.sweep_id) == []


def test_lines_are_of_a_trial_or_a_sweep_that_there_is(store: SweepStore, lease: Lease) -> None:
    with pytest.raises(TrialNotFoundError):
        store.list_trial_logs("trl_nowhere")
    with pytest.raises(SweepNotFoundError):
        store.list_sweep_logs("swp_nowhere")
    assert store.list_sweep_logs(lease.sweep_id) == []


def test_a_deleted_sweep_takes_its_lines_along_and_no_others(store: SweepStore, lease: Lease) -> None:
    store.append_logs(lease, [said(started(store, lease), 0, ["gone"])])
    other = claimed(store, new_sweep(1))
    kept = started(store, other)
    store.append_logs(other, [said(kept, 0, ["kept"])])
    store.move_sweep(lease, SweepState.FAILED)
    store.delete_sweep(lease.sweep_id)
    with pytest.raises(SweepNotFoundError):
        store.list_sweep_logs(lease.sweep_id)
    assert texts(store.list_trial_logs(kept.trial_id)) == ["kept"]
    again = claimed(store)
    assert store.list_sweep_logs(again.sweep_id) == []
