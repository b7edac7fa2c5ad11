"""What a shell offers after a Tab. A service that is slow or away offers nothing, and says nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import typer

_SECONDS = 0.8  # a person has pressed Tab and waits
_MOST = 100


def complete_sweep(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of sweeps, newest first, each with its name and state."""
    for sweep in _asked(ctx, "/sweeps", "sweeps"):
        if str(sweep["id"]).startswith(incomplete):
            yield str(sweep["id"]), f"{sweep['name']} ({sweep['state']})"


def complete_trainable(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """What the service trains, with a sentence on it."""
    for trainable in _asked(ctx, "/trainables", "trainables"):
        if str(trainable["name"]).startswith(incomplete):
            yield str(trainable["name"]), str(trainable["summary"])


def complete_state(incomplete: str) -> Iterator[str]:
    """States of sweeps."""
    from sweep_service.domain.states import SweepState

    yield from (str(state) for state in SweepState if state.startswith(incomplete))


def complete_key(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Names of keys that are not revoked, each with its role."""
    for key in _asked(ctx, "/keys", "keys"):
        if str(key["name"]).startswith(incomplete) and key["revoked_at"] is None:
            yield str(key["name"]), str(key["role"])


def _asked(ctx: typer.Context, path: str, name: str) -> list[dict[str, object]]:
    import httpx

    from sweep_service.cli.service import DEFAULT_SERVER, KEY_VARIABLE, SERVER_VARIABLES

    # What is typed before the Tab, else what the variables say.
    set_ones = (os.environ[variable] for variable in SERVER_VARIABLES if os.environ.get(variable))
    server = str(ctx.params.get("server") or next(set_ones, DEFAULT_SERVER)).rstrip("/")
    key = str(ctx.params.get("key") or os.environ.get(KEY_VARIABLE, "")).strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    params = {"page_size": _MOST} if name == "sweeps" else {}
    try:
        answer = httpx.get(f"{server}/api/v1{path}", params=params, headers=headers, timeout=_SECONDS, trust_env=False)
        return answer.json()[name]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return []
