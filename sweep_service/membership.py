"""What a node must have in common with the control node to train: the folder of checkpoints, and the packages.

A node without the shared folder would fail each trial at its first checkpoint, and one with other packages wherever the
two understand each other no longer; retries would hide either for hours. So the control node puts down its terms in the
shared folder, and a worker reads them there before it joins.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import platform
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

TERMS_FILE = ".cluster.json"
_SHARED_PACKAGES = ("gradnorm-sweeps", "ray", "torch", "numpy", "cloudpickle")
_PURPOSE = b"the shared folder of the cluster with this token"


class UnfitNodeError(Exception):
    """The node must not join; the message says why, and what to do."""


class NoTermsError(UnfitNodeError):
    """The control node has put down no terms in the folder, or not yet."""


def package_versions(entry_point_group: str) -> Mapping[str, str]:
    """Of Python, of what both sides must have the same of, and of the packages with problems of their own. Without the
    local part of a version: nodes with GPUs have another build of the same PyTorch.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SHARED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = _public(version(name))
    for entry in entry_points(group=entry_point_group):
        if entry.dist is not None:
            found[entry.dist.name] = _public(entry.dist.version)
    return found


def write_terms(folder: Path, token: str, versions: Mapping[str, str]) -> None:
    """Put down the terms of joining, as the control node does when it starts.

    Raises:
        OSError: nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{TERMS_FILE}.{uuid.uuid4().hex}"
    try:
        new.write_text(json.dumps({"cluster": _sign(token), "versions": dict(versions)}))
        new.replace(folder / TERMS_FILE)
    finally:
        new.unlink(missing_ok=True)


def check_terms(folder: Path, token: str, versions: Mapping[str, str]) -> None:
    """Return if a node with these packages, that sees this folder, may join the cluster of that token.

    Raises:
        NoTermsError: there are none there, or not yet.
        UnfitNodeError: the folder is another cluster's, or cannot be written to; or packages differ.
    """
    terms = _read_terms(folder)
    if not hmac.compare_digest(str(terms.get("cluster")), _sign(token)):
        raise UnfitNodeError(
            f"{folder} is the shared folder of another cluster, or Ray's token here is another one: mount the folder "
            "that the control node has, and take the token of its deploy/secrets."
        )
    _check_packages(versions, terms.get("versions", {}))
    probe = folder / f".{os.uname().nodename}-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise UnfitNodeError(
            f"{folder} cannot be written to ({error.strerror}), and checkpoints have to: give it to user {os.getuid()}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _read_terms(folder: Path) -> Mapping[str, Any]:
    try:
        terms = json.loads((folder / TERMS_FILE).read_text())
    except FileNotFoundError as error:
        raise NoTermsError(
            f"There is no {TERMS_FILE} in {folder}. Either the control node has not started yet, or this is not the "
            "folder that it has: all nodes need the same storage there (SWEEP_CHECKPOINTS)."
        ) from error
    except (OSError, ValueError) as error:
        raise UnfitNodeError(f"{folder / TERMS_FILE} cannot be read: {error}.") from error
    if not isinstance(terms, dict):
        raise UnfitNodeError(f"{folder / TERMS_FILE} is not what a control node writes.")
    return terms


def _check_packages(here: Mapping[str, str], there: Mapping[str, str]) -> None:
    differing = [
        f"{name} is {here.get(name, 'missing')} here and {there.get(name, 'missing')} there"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]
    if differing:
        raise UnfitNodeError(
            f"This node and the control node have other packages: {'; '.join(differing)}. Build the same version of "
            "the project, with the same files in deploy/wheels, on both."
        )


def _sign(token: str) -> str:
    """What only who knows the token can write, and what tells nobody the token."""
    return hmac.new(token.strip().encode(), _PURPOSE, hashlib.sha256).hexdigest()


def _public(text: str) -> str:
    return text.partition("+")[0]
