"""Identifiers sort by time, say what they are of, and nothing else passes for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep_service.domain.ids import IdPrefix, is_id, new_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("prefix", IdPrefix)
def test_an_identifier_is_one_of_its_kind_alone(prefix: IdPrefix) -> None:
    made = new_id(prefix, now=NOON)
    assert [kind for kind in IdPrefix if is_id(made, kind)] == [prefix]


def test_identifiers_of_one_moment_differ() -> None:
    assert len({new_id(IdPrefix.TRIAL, now=NOON) for _ in range(1000)}) == 1000


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**12))
def test_a_later_identifier_sorts_after_an_earlier_one(offset: int, milliseconds: int) -> None:
    first = NOON + timedelta(milliseconds=offset)
    second = first + timedelta(milliseconds=milliseconds)
    assert new_id(IdPrefix.SWEEP, now=first) < new_id(IdPrefix.SWEEP, now=second)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "swp_",
        "swp",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "swp_01ARZ3NDEKTSV4RRFFQ69G5FA",  # a digit short
        "swp_01ARZ3NDEKTSV4RRFFQ69G5FAVV",
        "swp_81ARZ3NDEKTSV4RRFFQ69G5FAV",  # more than 128 bits
        "swp_01ARZ3NDEKTSV4RRFFQ69G5FAI",  # a letter that is none of the 32
        "swp_01arz3ndektsv4rrffq69g5fav",
        "swp-01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV\n",
        "swp_01ARZ3NDEKTSV4RRFFQ69G5FA\x00",
    ],
)
def test_what_is_no_identifier_of_a_sweep_does_not_pass_for_one(text: str) -> None:
    assert not is_id(text, IdPrefix.SWEEP)


def test_a_written_out_identifier_is_one() -> None:
    assert is_id("swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", IdPrefix.SWEEP)
