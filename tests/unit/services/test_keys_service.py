"""Whose key a text is, and for how long what was found is trusted."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from api.limits import TokenBuckets
from sweep_service.domain.audit import AuditAction
from sweep_service.domain.keys import (
    ANONYMOUS,
    SETUP,
    ApiKey,
    KeyRole,
    KeyText,
    StoredKey,
    name_fault,
    new_key_text,
    parse_key,
    without_keys,
)
from sweep_service.domain.states import Verb
from sweep_service.services.keys import TRUST_SECONDS, KeyRing, KeyService, NewKey
from sweep_service.storage.memory import MemorySweepStore

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clocks:
    """A clock and a timer that stand still unless the test moves them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def timer(self) -> float:
        return self.seconds


class CountingStore(MemorySweepStore):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.num_finds = self.num_notes = 0

    def find_key(self, key_id: str) -> StoredKey | None:
        self.num_finds += 1
        return super().find_key(key_id)

    def note_use(self, key_id: str, at: datetime) -> None:
        self.num_notes += 1
        super().note_use(key_id, at)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def ring(store: CountingStore, clocks: Clocks) -> KeyRing:
    return KeyRing(store=store, clock=clocks, timer=clocks.timer)


def made(store: CountingStore, name: str = "ann", role: str = "viewer") -> tuple[ApiKey, KeyText]:
    new = KeyService(store=store, clock=Clocks()).create({"name": name, "role": role}, by=SETUP)
    text = parse_key(new.text)
    assert text is not None
    return new.key, text


# --- the text ---------------------------------------------------------------------------------------------------------


def test_a_key_can_be_found_by_its_look_and_read_back() -> None:
    text = new_key_text(now=START)
    assert parse_key(text.text) == text
    assert text.text.startswith("swk_")
    assert text.id == f"key_{text.text[4:30]}"
    assert len(text.secret) == 43
    assert text.secret not in repr(text)
    assert text.secret not in text.digest
    assert new_key_text(now=START).secret != text.secret


def test_a_key_that_was_made_without_python_is_read_too() -> None:
    assert parse_key("swk_0" + "Z" * 25 + "_" + "-" * 43) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "x",
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: "swk_8" + text[5:],
        lambda text: text.replace("swk_", "swp_"),
        lambda text: text[:29] + "U" + text[30:],
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "=",
        lambda _: "",
    ],
)
def test_what_only_looks_like_a_key_is_none(change: object) -> None:
    assert callable(change)
    assert parse_key(change(new_key_text(now=START).text)) is None


def test_a_key_opens_itself_alone() -> None:
    text, other = new_key_text(now=START), new_key_text(now=START)
    key = ApiKey(id=text.id, name="a", role=KeyRole.VIEWER, created_at=START, created_by="b")
    assert text.opens(StoredKey(key=key, digest=text.digest))
    assert not text.opens(StoredKey(key=key, digest=other.digest))
    assert not KeyText(id=other.id, secret=text.secret).opens(StoredKey(key=key, digest=text.digest))
    assert not text.opens(StoredKey(key=key, digest=""))


def test_texts_are_rid_of_every_key_in_them() -> None:
    first, second = new_key_text(now=START), new_key_text(now=START)
    cleaned = without_keys(f"GET /x?a={first.text}&b={second.text} and no key: swk_1")
    assert first.secret not in cleaned
    assert second.secret not in cleaned
    assert cleaned.endswith("and no key: swk_1")
    assert first.id.removeprefix("key_") in cleaned, "which one it was may be known"


def test_roles_cover_those_before_them() -> None:
    order = [KeyRole.VIEWER, KeyRole.SUBMITTER, KeyRole.ADMIN]
    for index, role in enumerate(order):
        assert [role.covers(other) for other in order] == [place <= index for place in range(3)]


@pytest.mark.parametrize("name", ["a", "ann", "0", "ann.smith_laptop-2", "x" * 64])
def test_names_that_keys_may_have(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "_a", "a b", "a\n", "ä", "x" * 65, "a/b", "anonymous", "setup"])
def test_names_that_keys_may_not_have(name: str) -> None:
    assert name_fault(name)


def test_every_verb_has_an_action() -> None:
    assert {AuditAction.of(verb) for verb in Verb} < set(AuditAction)


def test_a_new_keys_text_is_not_shown_by_accident(store: CountingStore) -> None:
    new = KeyService(store=store, clock=Clocks()).create({"name": "ann", "role": "viewer"}, by=ANONYMOUS)
    assert isinstance(new, NewKey)
    assert new.text not in repr(new)
    assert new.key.created_by == "anonymous"


# --- whose it is ------------------------------------------------------------------------------------------------------


def test_a_key_is_looked_up_twice_a_second_however_often_it_is_shown(
    ring: KeyRing, store: CountingStore, clocks: Clocks
) -> None:
    key, text = made(store)
    for _ in range(10):
        assert ring.find(text) == key
    assert store.num_finds == 1
    clocks.seconds += TRUST_SECONDS
    assert ring.fresh(text) is None
    assert ring.find(text) == key
    assert store.num_finds == 2


def test_a_revoked_key_opens_nothing_after_half_a_second(ring: KeyRing, store: CountingStore, clocks: Clocks) -> None:
    key, text = made(store)
    ring.find(text)
    store.revoke_key(key.id, by=SETUP)
    clocks.seconds += TRUST_SECONDS
    assert TRUST_SECONDS <= 0.5
    assert ring.find(text) is None
    assert not ring.knows(text)
    assert ring.fresh(text) is None


def test_another_secret_opens_nothing_whatever_was_found_a_moment_ago(ring: KeyRing, store: CountingStore) -> None:
    key, text = made(store)
    ring.find(text)
    forged = KeyText(id=key.id, secret="x" * 43)
    assert ring.fresh(forged) is None
    assert not ring.knows(forged)
    assert ring.find(forged) is None
    assert ring.fresh(text) == key, "a guess does not drive it out"


def test_a_key_that_is_made_is_found_though_it_was_asked_for_before(ring: KeyRing, store: CountingStore) -> None:
    text = new_key_text(now=START)
    assert ring.find(text) is None
    key = ApiKey(id=text.id, name="a", role=KeyRole.VIEWER, created_at=START, created_by="b")
    store.add_key(key, digest=text.digest, by=SETUP)
    assert ring.find(text) == key


def test_what_is_remembered_is_bounded(ring: KeyRing, store: CountingStore) -> None:
    first, text = made(store, "first")
    ring.find(text)
    for index in range(1024):
        ring.find(made(store, f"key-{index}")[1])
    assert ring.fresh(text) is None
    assert ring.find(text) == first


def test_a_use_is_noted_where_the_last_one_is_a_minute_ago(ring: KeyRing, store: CountingStore, clocks: Clocks) -> None:
    _, text = made(store)

    def use() -> int:
        clocks.seconds += TRUST_SECONDS
        found = ring.find(text)
        assert found is not None
        ring.note_use(found)
        return store.num_notes

    assert [use() for _ in range(5)] == [1] * 5
    clocks.seconds += 60
    assert use() == 2


# --- how many ---------------------------------------------------------------------------------------------------------


def test_those_of_two_seconds_come_at_once_and_then_one_by_one() -> None:
    buckets = TokenBuckets(5.0)
    assert [buckets.take("a", 0.0) for _ in range(12)] == [0] * 10 + [1, 1]
    assert buckets.take("b", 0.0) == 0
    assert [buckets.take("a", 0.2), buckets.take("a", 0.2)] == [0, 1]
    assert [buckets.take("a", 100.0) for _ in range(11)] == [0] * 10 + [1], "no more is saved up"


def test_the_wait_is_as_long_as_it_takes() -> None:
    buckets = TokenBuckets(0.1)
    assert buckets.take("a", 0.0) == 0
    assert buckets.take("a", 0.0) == buckets.take("a", 0.0) == 10
    assert buckets.take("a", 4.5) == math.ceil(5.5)
    assert buckets.take("a", 10.0) == 0


def test_what_is_given_back_can_be_taken_again_and_is_no_more_than_there_was() -> None:
    buckets = TokenBuckets(1.0)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 1]
    buckets.give_back("a")
    assert [buckets.take("a", 0.0) for _ in range(2)] == [0, 1]
    for _ in range(9):
        buckets.give_back("a")
    buckets.give_back("unknown")
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 1]


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    buckets = TokenBuckets(1.0)
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0, 0, 1]
    assert buckets.take("a", 50.0) == 1


def test_names_beyond_number_do_not_fill_the_memory() -> None:
    buckets = TokenBuckets(1.0)
    for index in range(30_000):
        buckets.take(str(index), float(index))
    assert len(buckets._buckets) == 10_000
