"""The command and the Python client where keys are required."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import Result
from harness import SPEC
from key_house import NO_SWEEP, SECRET, UNKNOWN, Guarded, guarding, memory_store
from typer.testing import CliRunner

from sweep_service.cli import app
from sweep_service.client import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    LimitedError,
    SweepClient,
    UnauthorizedError,
    UnencryptedKeyWarning,
)
from sweep_service.domain.keys import KeyRole

Sweep = Callable[..., Result]


@pytest.fixture(scope="module")
def house() -> Iterator[Guarded]:
    with guarding(memory_store()) as running:
        yield running


@pytest.fixture
def sweep(house: Guarded, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Runs the command with the key of that role."""
    for name in ("SWEEP_SERVER", "SWEEP_URL", "SWEEP_KEY", "SWEEP_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, role: KeyRole | None = None, **options: Any) -> Result:
        key = [] if role is None else ["--key", house.keys[role]]
        return CliRunner().invoke(app, [*arguments, "--server", house.service.url, *key], **options)

    return run


def test_a_key_is_made_and_printed_alone_once(sweep: Sweep, house: Guarded) -> None:
    made = sweep("keys", "create", "ann", "--role", "viewer", role=KeyRole.ADMIN)
    assert made.exit_code == 0, made.output
    assert SECRET.fullmatch(made.stdout.strip())
    assert "cannot be shown again" in made.stderr
    assert not SECRET.search(made.stderr)
    assert house.ask("GET", "/api/v1/keys/me", made.stdout.strip()).json()["name"] == "ann"
    listed = sweep("keys", "list", role=KeyRole.ADMIN)
    assert "ann" in listed.stdout
    assert not SECRET.search(listed.stdout)
    as_json = json.loads(sweep("keys", "list", "--json", role=KeyRole.ADMIN).stdout)
    assert {key["name"] for key in as_json} >= {"ann", "admin"}
    again = sweep("keys", "create", "ann", "--role", "viewer", role=KeyRole.ADMIN)
    assert again.exit_code == 1
    assert "Take another name" in again.stderr


def test_a_key_is_revoked_by_its_name_or_its_id(sweep: Sweep, house: Guarded) -> None:
    def make(name: str) -> dict[str, Any]:
        return json.loads(sweep("keys", "create", name, "--role", "viewer", "--json", role=KeyRole.ADMIN).stdout)

    by_name, by_id = make("by-name"), make("by-id")
    assert SECRET.fullmatch(by_id["key"])
    done = sweep("keys", "revoke", "by-name", role=KeyRole.ADMIN)
    assert done.stdout == f"{by_name['id']} (by-name) is revoked.\n"
    assert json.loads(sweep("keys", "revoke", by_id["id"], "--json", role=KeyRole.ADMIN).stdout)["revoked_at"]
    assert sweep("keys", "revoke", by_id["id"], role=KeyRole.ADMIN).exit_code == 0, "again"
    refused = sweep("keys", "revoke", "by-name", role=KeyRole.ADMIN)
    assert refused.exit_code == 2
    assert "No key that is not revoked has the name 'by-name'" in refused.stderr
    last = sweep("keys", "revoke", "admin", role=KeyRole.ADMIN)
    assert last.exit_code == 1
    assert "Make another one first" in last.stderr


def test_a_name_that_no_key_may_have_is_told_and_nothing_printed(sweep: Sweep) -> None:
    refused = sweep("keys", "create", "Ann Smith", "--role", "viewer", role=KeyRole.ADMIN)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "/name: Must be 1 to 64 characters" in refused.stderr
    assert sweep("keys", "create", "x", "--role", "king", role=KeyRole.ADMIN).exit_code == 2
    assert sweep("keys", "create", "x", role=KeyRole.ADMIN).exit_code == 2, "nobody is anything by default"


def test_without_a_key_the_way_out_is_told(sweep: Sweep) -> None:
    for arguments in (("list",), ("show", NO_SWEEP), ("events", NO_SWEEP, "-f"), ("report", NO_SWEEP)):
        refused = sweep(*arguments)
        assert refused.exit_code == 2, arguments
        assert "needs a key: give it by --key or SWEEP_KEY." in refused.stderr
        assert refused.stdout == ""


def test_a_key_that_opens_nothing_is_told_from_none_and_printed_nowhere(sweep: Sweep) -> None:
    refused = sweep("list", "--key", UNKNOWN)
    assert refused.exit_code == 2
    assert "does not take this key" in refused.stderr
    assert UNKNOWN[-43:] not in refused.output + refused.stderr


@pytest.mark.parametrize("key", ["nonsense-secret", "swk_nonsense-secret", "Bearer nonsense-secret", "nonsense-secrét"])
def test_what_is_no_key_is_refused_before_it_is_sent_and_not_repeated(sweep: Sweep, key: str) -> None:
    refused = sweep("list", "--key", key)
    assert refused.exit_code == 2
    assert "What is given as key is none" in refused.stderr
    assert "secr" not in refused.output + refused.stderr


def test_a_key_in_the_address_is_refused_and_not_repeated(house: Guarded) -> None:
    for address in (
        f"http://anybody:{house.viewer}@127.0.0.1:9",
        f"http://{house.viewer}@127.0.0.1:9",
        "http://anybody:hush@127.0.0.1:9",
        f"http://127.0.0.1:9/{house.viewer}",
        f"http://127.0.0.1:9/?key={house.viewer}",
        house.viewer,
    ):
        refused = CliRunner().invoke(app, ["list", "--server", address])
        assert refused.exit_code == 2
        assert "--key or SWEEP_KEY" in refused.stderr
        assert house.viewer[-43:] not in refused.output + refused.stderr
        assert "hush" not in refused.stderr


def test_the_role_that_is_needed_is_told(sweep: Sweep, tmp_path: Path) -> None:
    spec = tmp_path / "sweep.yaml"
    spec.write_text(yaml.safe_dump(dict(SPEC)))
    refused = sweep("submit", str(spec), role=KeyRole.VIEWER)
    assert refused.exit_code == 1
    assert "needs a key of the role submitter; that of 'viewer' is of the role viewer" in refused.stderr
    submitted = sweep("submit", str(spec), role=KeyRole.SUBMITTER)
    assert submitted.exit_code == 0, submitted.output
    sweep_id = submitted.stdout.strip()
    assert sweep("show", sweep_id, role=KeyRole.VIEWER).stdout.splitlines()[1] == "submitted by submitter"
    assert sweep("cancel", sweep_id, role=KeyRole.ADMIN).exit_code == 0
    events = sweep("events", sweep_id, role=KeyRole.VIEWER).stdout
    assert "by=submitter" in events.splitlines()[0]
    assert "by=admin" in events.splitlines()[1]


def test_server_and_key_come_from_the_environment_too(house: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_KEY", f" {house.viewer}\n")
    for variable, other in (("SWEEP_SERVER", "SWEEP_URL"), ("SWEEP_URL", "SWEEP_SERVER")):
        monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(variable, house.service.url)
        assert CliRunner().invoke(app, ["list"]).exit_code == 0
    monkeypatch.setenv("SWEEP_SERVER", "http://127.0.0.1:9")
    assert CliRunner().invoke(app, ["list", "--url", house.service.url]).exit_code == 0
    monkeypatch.setenv("SWEEP_KEY", "")
    assert CliRunner().invoke(app, ["list", "--url", house.service.url]).exit_code == 2


def test_a_key_over_http_to_another_machine_is_warned_of_and_sent() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(200, json={"trainables": []})

    transport = httpx.MockTransport(answer)
    with pytest.warns(UnencryptedKeyWarning, match=r"gpu\.example unencrypted") as warned:
        SweepClient("http://gpu.example", key=UNKNOWN, transport=transport).trainables()
    assert UNKNOWN not in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SweepClient("http://gpu.example", key=UNKNOWN, transport=transport, allow_http=True).trainables()
        SweepClient("https://gpu.example", key=UNKNOWN, transport=transport).trainables()
        SweepClient("http://127.0.0.1", key=UNKNOWN, transport=transport).trainables()
        SweepClient("http://gpu.example", transport=transport).trainables()
    assert seen == [f"Bearer {UNKNOWN}"] * 4 + [""]


def test_the_command_warns_of_it_on_standard_error_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["list", "--server", "http://no-such-host.invalid", "--key", UNKNOWN]
    assert "anybody on the way can read it" in CliRunner().invoke(app, arguments).stderr
    monkeypatch.setenv("SWEEP_ALLOW_HTTP", "1")
    assert "anybody on the way" not in CliRunner().invoke(app, arguments).stderr


def test_the_client_manages_keys_and_reads_who_did_what(house: Guarded) -> None:
    with SweepClient(house.service.url, key=house.admin) as client:
        made = client.create_key("bob", "submitter")
        with pytest.raises(ConflictError):
            client.create_key("bob", "viewer")
        with pytest.raises(InvalidRequestError):
            client.create_key("Bob", "viewer")
        assert client.own_key()["name"] == "admin"
        assert "bob" in [key["name"] for key in client.list_keys()]
        with SweepClient(house.service.url, key=made["key"]) as bob:
            sweep_id = bob.submit(SPEC)["id"]
            with pytest.raises(ForbiddenError, match="admin"):
                bob.audit()
        assert client.audit()[-1]["subject"] == sweep_id
        assert client.audit(after=client.audit()[-1]["seq"]) == []
        assert client.revoke_key(made["id"])["revoked_at"] is not None
    with SweepClient(house.service.url) as nobody, pytest.raises(UnauthorizedError):
        nobody.list()


def test_what_was_too_much_is_sent_again_when_the_service_says(house: Guarded) -> None:
    asked: list[str] = []
    pauses: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if len(asked) % 3:
            return httpx.Response(429, headers={"Retry-After": "7"}, json={"detail": "too many"})
        return httpx.Response(200, json={"id": "swp", "state": "paused", "trainables": []})

    client = SweepClient("http://127.0.0.1", transport=httpx.MockTransport(answer), sleep=pauses.append)
    client.trainables()
    client.pause("swp")
    assert (asked, pauses) == (["GET"] * 3 + ["POST"] * 3, [7.0] * 4)


@pytest.mark.parametrize("retry_after", ["3600", "1"])
def test_a_service_that_always_has_too_much_is_given_up(retry_after: str) -> None:
    pauses: list[float] = []
    refusal = httpx.Response(429, headers={"Retry-After": retry_after}, json={"detail": "too many"})
    transport = httpx.MockTransport(lambda _: refusal)
    client = SweepClient("http://127.0.0.1", transport=transport, sleep=pauses.append)
    with pytest.raises(LimitedError, match="too many"):
        client.list()
    with pytest.raises(LimitedError, match="too many"):
        next(client.follow("swp"))
    assert pauses == ([] if retry_after == "3600" else [1.0] * 4)


def completions(words: str, **environment: str) -> list[str]:
    """What bash would offer after those words."""
    asked = {"_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    script = "import sys; from sweep_service.cli import main; sys.argv = ['sweep']; main()"
    known = {name: value for name, value in os.environ.items() if not name.startswith("SWEEP_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**known, **asked, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_with_the_key_of_the_environment_or_the_one_that_is_typed(house: Guarded) -> None:
    url, key = house.service.url, house.viewer
    sweep_id = house.submit()
    assert sweep_id in completions("sweep show swp_", SWEEP_SERVER=url, SWEEP_KEY=key)
    assert sweep_id in completions("sweep show swp_", SWEEP_URL=url, SWEEP_KEY=key)
    assert sweep_id in completions(f"sweep show --server {url} --key {key} swp_")
    assert sweep_id in completions(f"sweep logs --url {url} swp_", SWEEP_KEY=key)
    assert completions("sweep show swp_", SWEEP_SERVER=url) == []
    assert completions("sweep keys revoke adm", SWEEP_SERVER=url, SWEEP_KEY=house.admin) == ["admin"]
    assert completions("sweep keys revoke adm", SWEEP_SERVER=url, SWEEP_KEY=key) == []
