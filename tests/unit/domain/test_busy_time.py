"""How long packs have taken, of what their attempts say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sweep_service.domain.trial import BusyTime

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def lasting(*seconds: int) -> timedelta:
    return timedelta(seconds=sum(seconds))


spans = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 50).map(at), st.none() | st.integers(0, 100).map(at)
    ),  # some end before they start: two clocks
    max_size=12,
)


def test_a_pack_is_one_span_whatever_its_lanes_did_meanwhile() -> None:
    lanes = [("a", at(0), at(10)), ("a", at(5), at(20)), ("a", at(30), at(40)), ("b", at(0), at(7))]
    assert BusyTime.of(lanes) == BusyTime(ended=lasting(40, 7))


def test_a_pack_of_which_one_lane_runs_has_not_ended() -> None:
    busy = BusyTime.of([("a", at(0), at(10)), ("a", at(10), None), ("b", at(3), None), ("c", at(0), at(1))])
    assert busy == BusyTime(ended=lasting(1), running_since=(at(0), at(3)))
    assert busy.until(at(20)) == lasting(1, 20, 17)


def test_a_pack_that_ended_before_it_started_by_another_clock_took_no_time() -> None:
    assert BusyTime.of([("a", at(5), at(3)), ("a", at(6), at(4)), ("b", at(0), at(2))]) == BusyTime(ended=lasting(2))


@given(spans, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(found: list[tuple[str, datetime, datetime | None]], random: st.DrawFn) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert BusyTime.of(shuffled) == BusyTime.of(found)


@given(spans)
def test_several_lanes_of_a_pack_may_come_as_one(found: list[tuple[str, datetime, datetime | None]]) -> None:
    merged = []
    for pack in {pack for pack, _, _ in found}:
        starts = [start for name, start, _ in found if name == pack]
        ends = [end for name, _, end in found if name == pack]
        known = [end for end in ends if end is not None]
        merged.append((pack, min(starts), max(known) if len(known) == len(ends) else None))
    assert BusyTime.of(merged) == BusyTime.of(found)


@given(spans)
def test_packs_of_one_lane_are_added_up(found: list[tuple[str, datetime, datetime | None]]) -> None:
    alone = BusyTime.of((number, start, end) for number, (_, start, end) in enumerate(found))
    lengths = [max((end or at(100)) - start, timedelta(0)) for _, start, end in found]
    assert alone.until(at(100)) == sum(lengths, timedelta(0))
