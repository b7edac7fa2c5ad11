"""Keys over REST: made, listed and revoked; and what is told of who changed what."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx
import pytest
from harness import SPEC, Conductor, problem
from key_house import NO_SWEEP, SECRET, Guarded, bearer, guarding, key_of, memory_store

from sweep_service.domain.keys import KeyRole
from sweep_service.domain.states import SweepState


def test_a_key_is_made_shown_once_and_opens(guarded: Guarded) -> None:
    answer = guarded.ask("POST", "/api/v1/keys", guarded.admin, json={"name": "ann", "role": "submitter"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert SECRET.fullmatch(made["key"])
    assert (made["name"], made["role"], made["created_by"]) == ("ann", "submitter", "admin")
    me = guarded.ask("GET", "/api/v1/keys/me", made["key"]).json()
    assert me == {"id": made["id"], "name": "ann", "role": "submitter"}
    listed = guarded.ask("GET", "/api/v1/keys", guarded.admin)
    assert not SECRET.search(listed.text)
    found = next(key for key in listed.json()["keys"] if key["id"] == made["id"])
    assert set(made) == {*found, "key"}
    stored = guarded.store.find_key(made["id"])
    assert stored is not None
    assert stored.digest not in listed.text + answer.text + repr(stored)
    assert made["key"][-43:] not in repr(stored) + stored.digest


def test_a_key_that_cannot_be_made_is_refused_with_every_fault(guarded: Guarded) -> None:
    def faults(document: Any) -> set[tuple[str, str]]:
        answer = guarded.ask("POST", "/api/v1/keys", guarded.admin, json=document)
        refused = problem(answer, 422)
        assert refused["type"].endswith(":invalid-key")
        return {(item["pointer"], item["code"]) for item in refused["errors"]}

    assert faults({}) == {("/name", "missing"), ("/role", "missing")}
    assert faults([]) == {("", "not_an_object")}
    assert faults({"name": 1, "role": "king", "scope": 1}) == {
        ("/name", "string_type"), ("/role", "unknown_role"), ("/scope", "unknown_key"),
    }  # fmt: skip
    for name in ("", "Ann", "-a", "a b", "a" * 65, "ä", "a\n", "anonymous", "setup"):
        assert faults({"name": name, "role": "viewer"}) == {("/name", "invalid_name")}, name
    for role in (None, 1, [], "", "Admin"):
        assert faults({"name": "x", "role": role}) == {("/role", "unknown_role")}, role


def test_a_name_that_is_taken_is_a_conflict_until_its_key_is_revoked(guarded: Guarded) -> None:
    wish = {"name": "taken", "role": "viewer"}
    first = guarded.ask("POST", "/api/v1/keys", guarded.admin, json=wish).json()
    refused = problem(guarded.ask("POST", "/api/v1/keys", guarded.admin, json=wish), 409)
    assert (refused["type"].rpartition(":")[2], refused["errors"][0]["pointer"]) == ("key-name-taken", "/name")
    guarded.ask("POST", f"/api/v1/keys/{first['id']}/revoke", guarded.admin)
    assert guarded.ask("POST", "/api/v1/keys", guarded.admin, json=wish).status_code == 201


def test_a_revoked_key_stays_listed_and_is_revoked_once(guarded: Guarded) -> None:
    made = guarded.ask("POST", "/api/v1/keys", guarded.admin, json={"name": "gone", "role": "viewer"}).json()
    first = guarded.ask("POST", f"/api/v1/keys/{made['id']}/revoke", guarded.admin)
    again = guarded.ask("POST", f"/api/v1/keys/{made['id']}/revoke", guarded.admin, json={})
    assert first.json() == again.json()
    assert first.json()["revoked_at"] is not None
    assert first.json() in guarded.ask("GET", "/api/v1/keys", guarded.admin).json()["keys"]


@pytest.mark.parametrize("key_id", ["key_01ARZ3NDEKTSV4RRFFQ69G5FAV", "me", "nothing", NO_SWEEP, "%00"])
def test_a_key_that_there_is_not_cannot_be_revoked(guarded: Guarded, key_id: str) -> None:
    assert problem(guarded.ask("POST", f"/api/v1/keys/{key_id}/revoke", guarded.admin), 404)


def test_the_last_admin_key_cannot_be_revoked() -> None:
    with guarding(memory_store()) as guarded:
        own = guarded.ask("GET", "/api/v1/keys/me", guarded.admin).json()["id"]
        refused = problem(guarded.ask("POST", f"/api/v1/keys/{own}/revoke", guarded.admin), 409)
        assert refused["type"].endswith(":last-admin-key")
        assert "Make another one first" in refused["detail"]
        key_of(guarded.store, KeyRole.ADMIN, "second")
        assert guarded.ask("POST", f"/api/v1/keys/{own}/revoke", guarded.admin).status_code == 200


def test_a_revoked_key_opens_nothing_within_a_second(guarded: Guarded) -> None:
    made = guarded.ask("POST", "/api/v1/keys", guarded.admin, json={"name": "brief", "role": "admin"}).json()
    assert guarded.ask("GET", "/api/v1/sweeps", made["key"]).status_code == 200
    guarded.ask("POST", f"/api/v1/keys/{made['id']}/revoke", guarded.admin)
    until = time.monotonic() + 1.0
    asked_at = time.monotonic()  # what counts: the answer may be slow to come
    while guarded.ask("GET", "/api/v1/sweeps", made["key"]).status_code == 200:
        assert asked_at < until
        asked_at = time.monotonic()


def test_a_stream_ends_when_its_key_is_revoked(guarded: Guarded) -> None:
    made = guarded.ask("POST", "/api/v1/keys", guarded.admin, json={"name": "streamer", "role": "viewer"}).json()
    events = f"/api/v1/sweeps/{guarded.submit()}/events"
    headers = {**bearer(made["key"]), "Accept": "text/event-stream"}
    with guarded.http.stream("GET", events, headers=headers) as stream:
        chunks = stream.iter_raw()
        assert b"sweep.submitted" in next(chunks)
        guarded.ask("POST", f"/api/v1/keys/{made['id']}/revoke", guarded.admin)
        began = time.monotonic()
        assert list(chunks) == []
        assert time.monotonic() - began < 20.0  # two looks, on a machine that is busy; without them it has no end
    assert problem(guarded.http.get(events, headers=headers), 401)


def test_the_use_of_a_key_is_noted(guarded: Guarded) -> None:
    made = guarded.ask("POST", "/api/v1/keys", guarded.admin, json={"name": "used", "role": "viewer"}).json()

    def last_used_at() -> datetime | None:
        stored = guarded.store.find_key(made["id"])
        assert stored is not None
        return stored.key.last_used_at

    assert last_used_at() is None
    guarded.ask("GET", "/api/v1/sweeps", made["key"])
    until = time.monotonic() + 60
    while last_used_at() is None:
        assert time.monotonic() < until
        time.sleep(0.01)


# --- what is told of changes ------------------------------------------------------------------------------------------


def test_every_change_is_recorded_with_the_name_of_its_key() -> None:
    with guarding(memory_store()) as guarded:
        sweep_id = guarded.submit(guarded.submitter)
        here = f"/api/v1/sweeps/{sweep_id}"
        guarded.ask("PATCH", here, guarded.submitter, json={"budget": {"trials": 9}})
        guarded.ask("PATCH", here, guarded.submitter, json={"budget": {"trials": 9}})
        for verb in ("pause", "pause", "resume", "retry", "cancel"):
            guarded.ask("POST", f"{here}/{verb}", guarded.admin)
        events = guarded.ask("GET", f"{here}/events", guarded.viewer).json()["events"]
        assert [(event["kind"], event["data"].get("by")) for event in events] == [
            ("sweep.submitted", "submitter"),
            ("sweep.amended", "submitter"),
            ("sweep.moved", "admin"),
            ("sweep.moved", "admin"),
            ("sweep.moved", "admin"),
        ]
        assert guarded.ask("GET", here, guarded.viewer).json()["created_by"] == "submitter"
        assert guarded.ask("DELETE", here, guarded.submitter).status_code == 204
        page = guarded.ask("GET", "/api/v1/audit?page_size=500", guarded.admin).json()
        told = [(record["by"], record["action"]) for record in page["records"] if record["subject"] == sweep_id]
        assert told == [
            ("submitter", "sweep.submit"),
            ("submitter", "sweep.amend"),
            ("admin", "sweep.pause"),
            ("admin", "sweep.resume"),
            ("admin", "sweep.cancel"),
            ("submitter", "sweep.delete"),
        ]
        assert {record["key_id"] is None for record in page["records"] if record["subject"] == sweep_id} == {False}


def test_records_are_read_on_after_the_last_one(guarded: Guarded) -> None:
    for _ in range(3):
        guarded.submit()
    first = guarded.ask("GET", "/api/v1/audit?page_size=2", guarded.admin).json()
    assert [record["seq"] for record in first["records"]] == [1, 2]
    assert (first["next_after"], first["has_more"]) == (2, True)
    rest = guarded.ask("GET", "/api/v1/audit?after=2&page_size=500", guarded.admin).json()
    assert rest["records"][0]["seq"] == 3
    end = guarded.ask("GET", f"/api/v1/audit?after={rest['next_after']}", guarded.admin).json()
    assert end == {"records": [], "next_after": rest["next_after"], "has_more": False}
    assert problem(guarded.ask("GET", "/api/v1/audit?page=1", guarded.admin), 422)


def test_a_preview_changes_nothing_and_needs_a_submitter(guarded: Guarded) -> None:
    before = guarded.store.list_audit(limit=10_000)
    path = "/api/v1/sweeps?validate_only=true"
    assert guarded.ask("POST", path, guarded.submitter, json=SPEC).status_code == 200
    assert problem(guarded.ask("POST", path, guarded.viewer, json=SPEC), 403)
    assert guarded.store.list_audit(limit=10_000) == before


def test_a_submission_key_is_its_keys_own(guarded: Guarded) -> None:
    def submit(key: str) -> httpx.Response:
        return guarded.ask("POST", "/api/v1/sweeps", key, json=SPEC, headers={"Idempotency-Key": "word"})

    first, again, other = submit(guarded.submitter), submit(guarded.submitter), submit(guarded.admin)
    assert again.headers["idempotent-replayed"] == "true"
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


def test_a_running_sweep_is_paused_in_the_name_of_its_user(guarded: Guarded) -> None:
    sweep_id = guarded.submit()
    Conductor(guarded.store, sweep_id).move(SweepState.RUNNING)
    guarded.ask("POST", f"/api/v1/sweeps/{sweep_id}/pause", guarded.submitter)
    moved = guarded.store.list_events(sweep_id, limit=100)[-1]
    assert moved.data == {"from": "running", "to": "pausing", "reason": "user", "by": "submitter"}
    assert moved.message == ""
