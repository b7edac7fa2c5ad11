"""What a key lets one do with MLflow's page and its API, by method and address alone.

MLflow stands behind a gateway that asks here before it passes a request on. Viewers and submitters read and search,
and nothing else: what is allowed is listed, so that whatever MLflow adds is refused until somebody has looked at it.
The lists are of MLflow 3.17: its handlers, the routes of its server, and what its page asks for when it shows
experiments, runs, comparisons, models, artifacts and traces. Left out on purpose, though they are GET: its gateways to
language models with their secrets, webhooks, jobs, presigned addresses, users and roles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from sweep_service.domain.keys import KeyRole

_ID = r"[A-Za-z0-9_.:@=-]+"
_ANY_PATH = r"[^\\%\x00-\x1f\x7f]*[^\\%\x00-\x1f\x7f/]"  # artifacts have the names that trials' code gives them
_API = "/(?:ajax-)?api"

_READS = (  # by GET and HEAD
    "/",
    "/health",
    "/version",
    "/favicon.ico",
    f"/static-files/{_ANY_PATH}",
    "/get-artifact",
    "/model-versions/get-artifact",
    f"{_API}/2.0/mlflow-artifacts/artifacts",
    f"{_API}/2.0/mlflow-artifacts/artifacts/{_ANY_PATH}",
    f"{_API}/2.0/mlflow/artifacts/list",
    f"{_API}/2.0/mlflow/experiments/(?:get|get-by-name|search)",
    f"{_API}/2.0/mlflow/logged-models/{_ID}",
    f"{_API}/2.0/mlflow/logged-models/{_ID}/artifacts/(?:directories|files)",
    f"{_API}/2.0/mlflow/metrics/(?:get-history|get-history-bulk|get-history-bulk-interval)",
    f"{_API}/2.0/mlflow/model-versions/(?:get|get-download-uri|search)",
    f"{_API}/2.0/mlflow/registered-models/(?:alias|get|get-latest-versions|search)",
    f"{_API}/2.0/mlflow/runs/get",
    f"{_API}/2.0/mlflow/(?:traces|unified-traces)",
    f"{_API}/2.0/mlflow/traces/{_ID}/info",
    f"{_API}/[23].0/mlflow/get-trace-artifact",
    f"{_API}/3.0/mlflow/datasets/search",
    f"{_API}/3.0/mlflow/datasets/{_ID}(?:/experiment-ids|/records)?",
    f"{_API}/3.0/mlflow/server-info",
    f"{_API}/3.0/mlflow/traces/(?:batchGet|get)",
    f"{_API}/3.0/mlflow/traces/{_ID}(?:/assessments/{_ID})?",
)
_SEARCHES = (  # by POST: their conditions do not fit into an address
    # All of what GraphQL offers reads: an experiment, a run, its artifacts, its curves, and searches for runs, models
    # and datasets. Those that it calls mutations are searches as well, and one that repeats a text.
    "/graphql",
    f"{_API}/2.0/mlflow/experiments/(?:search|search-datasets)",
    f"{_API}/2.0/mlflow/logged-models/search",
    f"{_API}/2.0/mlflow/registered-models/get-latest-versions",
    f"{_API}/2.0/mlflow/runs/search",
    f"{_API}/3.0/mlflow/datasets/search",
    f"{_API}/3.0/mlflow/issues/search",
    f"{_API}/3.0/mlflow/traces/(?:batchGetInfos|calculate-filter-correlation|metrics|search)",
)
_ALLOWED: Mapping[str, re.Pattern[str]] = {
    "GET": re.compile("|".join(path.replace(".0/", r"\.0/") for path in _READS)),
    "POST": re.compile("|".join(path.replace(".0/", r"\.0/") for path in _SEARCHES)),
}
_ESCAPED = re.compile(r"%[0-9A-F]{2}")
_PLAIN = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/-]*", re.ASCII)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_MEANS_MORE = frozenset(b"/\\%?#")  # in a name it could be read as a part of the address, by somebody on the way


def may_use_mlflow(role: KeyRole, method: str, uri: str, *, prefix: str = "") -> bool:
    """Whether a key of that role may send that request to MLflow.

    Args:
        role: of the key.
        method: as it stands in the request, in capitals.
        uri: path and query, as they stand in the request.
        prefix: what the path has before MLflow's own, such as ``/mlflow``; empty: nothing.
    """
    if role is KeyRole.ADMIN:
        return True
    path = _canonical(uri.partition("?")[0])
    allowed = _ALLOWED.get("GET" if method == "HEAD" else method)
    if path is None or allowed is None or not path.startswith(prefix):
        return False
    return allowed.fullmatch(path.removeprefix(prefix) or "/") is not None


def reads_mlflow(method: str, uri: str, *, prefix: str = "") -> bool:
    """Whether that request changes nothing, as far as that is known."""
    return may_use_mlflow(KeyRole.VIEWER, method, uri, prefix=prefix)


def _canonical(path: str) -> str | None:
    """The path with its escapes resolved; None unless it is written as everybody reads it. Servers and proxies differ
    in how often they resolve escapes, dots and double slashes, and what they differ in gets past a list.
    """
    if not path.startswith("/") or not _PLAIN.fullmatch(_ESCAPED.sub("", path)):
        return None
    for escape in _ESCAPED.findall(path):
        byte = int(escape[1:], 16)
        if byte in _UNRESERVED or byte in _MEANS_MORE or byte < 0x20 or byte == 0x7F:
            return None
    *folders, last = path[1:].split("/")
    if any(part in ("", ".", "..") for part in folders) or last in (".", ".."):
        return None
    try:
        return unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return None
