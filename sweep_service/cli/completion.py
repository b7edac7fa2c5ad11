"""What a shell offers after a Tab. A service that is slow or away offers nothing, and says nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

_SECONDS = 0.8  # a person has pressed Tab and waits
_MOST = 100


def complete_sweep(incomplete: str) -> Iterator[tuple[str, str]]:
    """Ids of sweeps, newest first, each with its name and state."""
    for sweep in _asked("/sweeps", "sweeps"):
        if str(sweep["id"]).startswith(incomplete):
            yield str(sweep["id"]), f"{sweep['name']} ({sweep['state']})"


def complete_trainable(incomplete: str) -> Iterator[tuple[str, str]]:
    """What the service trains, with a sentence on it."""
    for trainable in _asked("/trainables", "trainables"):
        if str(trainable["name"]).startswith(incomplete):
            yield str(trainable["name"]), str(trainable["summary"])


def complete_state(incomplete: str) -> Iterator[str]:
    """States of sweeps."""
    from sweep_service.domain.states import SweepState

    yield from (str(state) for state in SweepState if state.startswith(incomplete))


def _asked(path: str, key: str) -> list[dict[str, object]]:
    import httpx

    from sweep_service.cli.service import DEFAULT_URL

    # Options that are typed already are not known here; whoever has another address sets the variable.
    url = os.environ.get("SWEEP_URL", DEFAULT_URL).rstrip("/")
    params = {"page_size": _MOST} if key == "sweeps" else {}
    try:
        return httpx.get(f"{url}/api/v1{path}", params=params, timeout=_SECONDS, trust_env=False).json()[key]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return []
