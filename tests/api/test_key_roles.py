"""Who comes in with which key, and who may do what."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import SPEC, Service, problem, serve
from key_house import NO_SWEEP, UNKNOWN, Guarded, basic, bearer, key_of, memory_store

from api.access import PUBLIC_PATHS, OpenToOthersError
from api.app import create_app
from sweep_service.domain.keys import SETUP, KeyRole
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore

V, S, A = KeyRole
NEEDS: dict[str, KeyRole] = {
    **dict.fromkeys(("check_health", "check_readiness"), V),  # none at all
    **dict.fromkeys(("list_sweeps", "get_sweep", "list_trials", "get_best_trial", "list_events", "get_report"), V),
    **dict.fromkeys(("list_sweep_logs", "get_trial", "list_metrics", "list_trial_logs", "list_trainables"), V),
    **dict.fromkeys(("get_sweep_schema", "get_own_key"), V),
    **dict.fromkeys(("submit_sweep", "amend_sweep", "delete_sweep"), S),
    **dict.fromkeys(("pause_sweep", "resume_sweep", "retry_sweep", "stop_sweep", "cancel_sweep"), S),
    **dict.fromkeys(("create_key", "list_keys", "revoke_key", "list_audit"), A),
}
BESIDES = ["/docs", "/docs/oauth2-redirect", "/api/v1/openapi.json", "/metrics"]


def operations(guarded: Guarded) -> list[tuple[str, str, str]]:
    """Of the API's description: id, method, path."""
    document = guarded.ask("GET", "/api/v1/openapi.json", guarded.viewer).json()
    return [
        (operation["operationId"], method.upper(), re.sub(r"\{\w+\}", NO_SWEEP, path))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def paths_of(routes: Any) -> Iterator[str]:
    """Of every route of the application, described or not."""
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            yield from (context.path_format or context.path for context in route.effective_route_contexts())
        else:
            yield route.path


def test_every_route_has_a_role_that_somebody_has_thought_of(guarded: Guarded) -> None:
    assert {name for name, _, _ in operations(guarded)} == set(NEEDS)
    described = guarded.ask("GET", "/api/v1/openapi.json", guarded.viewer).json()["paths"]
    app = create_app(Settings(home=Path("unused")), MemorySweepStore())
    assert set(paths_of(app.router.routes)) == {*described, *BESIDES}


def test_every_route_needs_a_key_and_the_right_role(guarded: Guarded) -> None:
    for name, method, path in operations(guarded):
        if path in PUBLIC_PATHS:
            assert guarded.ask(method, path).status_code == 200
            continue
        refused = problem(guarded.ask(method, path), 401)
        assert refused["type"].endswith(":unauthorized"), name
        for role, key in guarded.keys.items():
            answer = guarded.ask(method, path, key)
            assert answer.status_code != 401, name
            if role.covers(NEEDS[name]):
                assert answer.status_code != 403, (name, role)
            else:
                assert problem(answer, 403)["needed"] == NEEDS[name], (name, role)
                assert answer.json()["role"] == role


@pytest.mark.parametrize("path", [*BESIDES, "/", "/nothing", "/api/v1", "/api/v1/nothing", "/healthz/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_whatever_is_not_public_needs_a_key_whether_it_is_there_or_not(
    guarded: Guarded, path: str, method: str
) -> None:
    answer = guarded.ask(method, path)
    assert answer.status_code == 401
    assert guarded.ask(method, path, guarded.admin).status_code != 401


def test_the_role_is_asked_for_before_the_path_is_looked_for(guarded: Guarded) -> None:
    assert problem(guarded.ask("GET", "/nothing", guarded.viewer), 404)
    assert problem(guarded.ask("POST", "/nothing", guarded.submitter), 403)["needed"] == "admin"
    assert problem(guarded.ask("GET", "/api/v1/keys/", guarded.submitter), 403)
    assert problem(guarded.ask("GET", "/api/v1/keys/me/more", guarded.submitter), 403)
    assert problem(guarded.ask("POST", "/api/v1/keys/me", guarded.submitter), 403)
    assert problem(guarded.ask("GET", "/api/v1/audit/more", guarded.submitter), 403)
    assert problem(guarded.ask("POST", "/api/v1/sweepsandmore", guarded.submitter), 403)


def test_public_paths_are_answered_without_a_key_and_with_a_wrong_one(guarded: Guarded) -> None:
    for path in PUBLIC_PATHS:
        assert guarded.ask("GET", path).status_code == 200
        assert guarded.ask("GET", path, UNKNOWN).status_code == 200


# --- how a key is shown -----------------------------------------------------------------------------------------------


def test_a_key_is_a_bearer_token_and_for_reading_also_a_password(guarded: Guarded) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {guarded.viewer}"}
        assert guarded.ask("GET", "/api/v1/keys/me", headers=headers).json()["name"] == "viewer"
    for method in ("GET", "HEAD"):
        for path in ("/api/v1/sweeps", "/docs", "/api/v1/openapi.json"):
            assert guarded.ask(method, path, headers=basic(guarded.viewer)).status_code == 200
    assert guarded.ask("GET", "/api/v1/keys/me", headers=basic(guarded.viewer, user="")).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_password_changes_nothing_since_a_browser_sends_it_for_foreign_pages(guarded: Guarded, method: str) -> None:
    for path in ("/api/v1/sweeps", f"/api/v1/sweeps/{NO_SWEEP}", f"/api/v1/sweeps/{NO_SWEEP}/pause", "/api/v1/keys"):
        answer = guarded.ask(method, path, headers=basic(guarded.admin))
        assert problem(answer, 401)
        assert answer.headers["www-authenticate"] == 'Bearer realm="sweeps"', "no page shall ask for a password"


def test_a_page_that_is_looked_at_asks_for_a_password(guarded: Guarded) -> None:
    for method in ("GET", "HEAD"):
        answer = guarded.ask(method, "/docs")
        assert answer.headers["www-authenticate"] == 'Basic realm="sweeps", charset="UTF-8", Bearer realm="sweeps"'


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer x", "Basic", "Basic x", "Basic ====", "Basic eDp4", "Digest x", "swk_", UNKNOWN],
)
def test_what_is_no_key_opens_nothing(guarded: Guarded, given: str) -> None:
    assert problem(guarded.ask("GET", "/api/v1/sweeps", headers={"Authorization": given}), 401)


def test_two_keys_are_none(guarded: Guarded) -> None:
    both = [("Authorization", f"Bearer {guarded.viewer}")] * 2
    assert problem(guarded.http.get("/api/v1/sweeps", headers=both), 401)
    joined = {"Authorization": f"Bearer {guarded.viewer}, Bearer {guarded.viewer}"}
    assert problem(guarded.ask("GET", "/api/v1/sweeps", headers=joined), 401)


def test_unknown_malformed_wrong_and_revoked_keys_are_told_nothing_of_which_they_are(guarded: Guarded) -> None:
    revoked = key_of(guarded.store, KeyRole.ADMIN, "revoked")
    key_id = guarded.ask("GET", "/api/v1/keys/me", revoked).json()["id"]
    guarded.store.revoke_key(key_id, by=SETUP)
    time.sleep(0.6)
    other_secret = guarded.viewer[:-43] + guarded.admin[-43:]
    texts = [None, "nonsense", UNKNOWN, revoked, other_secret, guarded.viewer + "x", guarded.viewer.upper()]
    answers = [guarded.ask("GET", "/api/v1/sweeps", text) for text in texts]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    own = {"date", "x-request-id"}  # each answer has its own
    assert len({json.dumps({k: v for k, v in a.headers.items() if k not in own}) for a in answers}) == 1


# --- where no keys are needed -----------------------------------------------------------------------------------------


def test_on_loopback_nobody_needs_a_key_and_everybody_may_do_everything(own_service: Service) -> None:
    assert own_service.http.get("/api/v1/keys/me").json() == {"id": None, "name": "anonymous", "role": "admin"}
    sweep_id = own_service.submit()["id"]
    made = own_service.http.post("/api/v1/keys", json={"name": "ann", "role": "viewer"}).json()
    assert own_service.http.get("/api/v1/audit").json()["records"][0]["by"] == "anonymous"
    assert own_service.store.get_sweep(sweep_id).created_by == "anonymous"
    assert own_service.http.get("/api/v1/keys/me", headers=bearer(made["key"])).json()["name"] == "ann"


def test_who_shows_a_key_is_judged_by_it_where_none_is_needed_too(own_service: Service) -> None:
    viewer = key_of(own_service.store, KeyRole.VIEWER)
    assert problem(own_service.http.post("/api/v1/sweeps", json=dict(SPEC), headers=bearer(viewer)), 403)
    assert problem(own_service.http.get("/api/v1/sweeps", headers=bearer(UNKNOWN)), 401)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.org", "::ffff:127.0.0.1", "localhost.a.b"])
def test_keys_are_required_wherever_others_come_and_it_does_not_start_without(host: str) -> None:
    store = memory_store()
    with serve(create_app(Settings(home=Path("unused"), host=host), store), store) as running:
        assert running.http.get("/api/v1/sweeps").status_code == 401
    with pytest.raises(OpenToOthersError, match=r"SWEEP_REQUIRE_KEYS.*SWEEP_HOST=127\.0\.0\.1"):
        create_app(Settings(home=Path("unused"), host=host, require_keys=False), store)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_on_loopback_keys_are_required_only_if_that_is_set(host: str) -> None:
    for wanted, status in ((None, 200), (False, 200), (True, 401)):
        store = memory_store()
        settings = Settings(home=Path("unused"), host=host, require_keys=wanted)
        with serve(create_app(settings, store), store) as running:
            assert running.http.get("/api/v1/sweeps").status_code == status
