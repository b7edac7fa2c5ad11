"""What a node must have in common with the control node to train: the storage of checkpoints, and the packages.

A node without the shared storage would fail each trial at its first checkpoint, and one with other packages wherever
the two understand each other no longer; retries would hide either for hours. So the control node puts down its terms
in the shared folder or bucket, and a worker reads them there before it joins.
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
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points, version
from typing import Any

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError

TERMS_FILE = ".cluster.json"
_THIS_PROJECT = "gradnorm-sweeps"
_SHARED_PACKAGES = ("ray", "torch", "numpy", "cloudpickle")
_PURPOSE = b"the shared folder of the cluster with this token"


class UnfitNodeError(Exception):
    """The node must not join; the message says why, and what to do."""


class NoTermsError(UnfitNodeError):
    """The control node has put down no terms, or not yet, or the storage does not answer: asked again, it may."""


def package_versions(entry_point_group: str) -> Mapping[str, str]:
    """Of Python, of what both sides must have the same of, and of the packages with problems of their own. Without the
    local part of a version: nodes with GPUs have another build of the same PyTorch. Of what is built by its users, this
    project among it, with a digest of the code, which changes more often than the version.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SHARED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = _public(version(name))
    built = {entry.dist.name: entry.dist for entry in entry_points(group=entry_point_group) if entry.dist is not None}
    with contextlib.suppress(PackageNotFoundError):
        built[_THIS_PROJECT] = distribution(_THIS_PROJECT)
    return found | {name: f"{_public(one.version)} (code {_code_digest(one)})" for name, one in built.items()}


def write_terms(files: CheckpointFiles, root: str, token: str, versions: Mapping[str, str]) -> None:
    """Put down the terms of joining in the folder or bucket ``root``, as the control node does when it starts.

    Raises:
        CheckpointsUnavailableError, OSError: nothing can be written there, for now or at all.
    """
    files.write_text(json.dumps({"cluster": _sign(token), "versions": dict(versions)}), f"{root}/{TERMS_FILE}")


def check_terms(files: CheckpointFiles, root: str, token: str, versions: Mapping[str, str]) -> None:
    """Return if a node with these packages, that sees this folder or bucket, may join the cluster of that token.

    Raises:
        NoTermsError: there are none there, or not yet.
        UnfitNodeError: the place is another cluster's, or cannot be written to; or packages differ.
    """
    terms = _read_terms(files, root)
    if not hmac.compare_digest(str(terms.get("cluster")), _sign(token)):
        raise UnfitNodeError(
            f"{root} is the shared storage of another cluster, or Ray's token here is another one: take the storage "
            "that the control node has, and the token of its deploy/secrets."
        )
    _check_packages(versions, terms.get("versions", {}))
    probe = f"{root}/.{os.uname().nodename}-{uuid.uuid4().hex}"
    try:
        files.write_text("x" * 4096, probe)
    except CheckpointsUnavailableError as error:
        raise NoTermsError(f"Whether checkpoints can be written here cannot be told yet: {error}.") from error
    except OSError as error:
        raise UnfitNodeError(
            f"{root} cannot be written to by user {os.getuid()}, and checkpoints have to: {error}."
        ) from error
    finally:
        with contextlib.suppress(CheckpointsUnavailableError, OSError):
            files.remove(probe)


def _read_terms(files: CheckpointFiles, root: str) -> Mapping[str, Any]:
    name = f"{root}/{TERMS_FILE}"
    try:
        terms = json.loads(files.read_text(name))
    except FileNotFoundError as error:
        raise NoTermsError(
            f"There is no {name}. Either the control node has not started yet, or this is not the storage that it has: "
            "all nodes need the same (SWEEP_CHECKPOINTS)."
        ) from error
    except CheckpointsUnavailableError as error:
        raise NoTermsError(f"The terms of the control node cannot be read: {error}.") from error
    except (OSError, ValueError) as error:
        raise UnfitNodeError(f"{name} cannot be read: {error}.") from error
    if not isinstance(terms, dict):
        raise UnfitNodeError(f"{name} is not what a control node writes.")
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


def _code_digest(one: Distribution) -> str:
    """Of what it has installed: its modules and their data. Not of what tells how: scripts, which name an interpreter,
    and the notes of the installer.
    """
    code = sorted(
        f"{file} {file.hash.value}"
        for file in one.files or ()
        if file.hash is not None and file.parts[0] != ".." and not file.parts[0].endswith(".dist-info")
    )
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def _public(text: str) -> str:
    return text.partition("+")[0]
