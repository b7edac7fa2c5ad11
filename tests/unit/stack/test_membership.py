"""Who may join a cluster: who sees its shared folder or bucket, can write there, and has its packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_server import BucketServer, bucket_server, reach

from sweep_service.checkpoint_files import checkpoint_files
from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.membership import (
    TERMS_FILE,
    NoTermsError,
    UnfitNodeError,
    check_terms,
    package_versions,
    write_terms,
)
from trainables.catalog import ENTRY_POINT_GROUP

TOKEN = "a" * 64
VERSIONS = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0"}


class Place:
    """A storage that the control node has put its terms into."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: CheckpointFiles = checkpoint_files()
        self.write(VERSIONS)

    def write(self, versions: dict[str, str]) -> None:
        write_terms(self.files, self.root, TOKEN, versions)

    def check(self, token: str = TOKEN, versions: dict[str, str] = VERSIONS) -> None:
        check_terms(self.files, self.root, token, versions)


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with bucket_server() as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path))
    server = request.getfixturevalue("server")
    reach(server, monkeypatch)
    return Place(f"s3://{server.bucket}/{tmp_path.name}")


def test_a_node_with_the_same_storage_token_and_packages_may_join(place):
    terms = place.files.read_text(f"{place.root}/{TERMS_FILE}")
    place.check(token=f"{TOKEN}\n")  # a file's last line ends
    assert place.files.read_text(f"{place.root}/{TERMS_FILE}") == terms, "nothing is raised or changed"


def test_a_node_that_has_looked_leaves_nothing_there(tmp_path):
    Place(str(tmp_path)).check()
    assert [path.name for path in tmp_path.iterdir()] == [TERMS_FILE]


def test_another_storage_is_told_from_the_shared_one(place):
    with pytest.raises(NoTermsError, match="SWEEP_CHECKPOINTS"):
        check_terms(place.files, f"{place.root}/another", TOKEN, VERSIONS)


def test_the_storage_of_another_cluster_is_refused(place):
    with pytest.raises(UnfitNodeError, match="another cluster"):
        place.check(token="b" * 64)


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({**VERSIONS, "torch": "2.12.0"}, "torch is 2.12.0 here and 2.13.0 there"),
        ({**VERSIONS, "our-problems": "1.0"}, "our-problems is 1.0 here and missing there"),
        ({"python": "3.11", "torch": "2.13.0"}, "ray is missing here and 2.60.0 there"),
    ],
)
def test_other_packages_are_refused_by_name(place, here, words):
    with pytest.raises(UnfitNodeError, match=words):
        place.check(versions=here)


def test_the_terms_do_not_tell_the_token(place):
    assert TOKEN not in place.files.read_text(f"{place.root}/{TERMS_FILE}")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cluster": null}'])
def test_what_no_control_node_has_written_lets_nobody_in(place, text):
    place.files.write_text(text, f"{place.root}/{TERMS_FILE}")
    with pytest.raises(UnfitNodeError):
        place.check()


def test_a_later_control_node_has_the_word(place):
    newer = {**VERSIONS, "ray": "2.61.0"}
    place.write(newer)
    place.check(versions=newer)
    with pytest.raises(UnfitNodeError, match="ray"):
        place.check()


def test_a_bucket_that_does_not_answer_may_answer_later(monkeypatch):
    with bucket_server() as server:
        reach(server, monkeypatch)
        place = Place(f"s3://{server.bucket}/cluster")
        server.stop()
        with pytest.raises(NoTermsError, match="does not answer"):
            place.check()
        server.start()
        place.check()


def test_a_bucket_that_is_not_there_lets_nobody_in_and_is_named(server, monkeypatch):
    reach(server, monkeypatch)
    with pytest.raises(UnfitNodeError, match="s3://no-such-bucket-here"):
        check_terms(checkpoint_files(), "s3://no-such-bucket-here", TOKEN, VERSIONS)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_written_to_is_told_of():
    script = (
        "import os, sys; from sweep_service.checkpoint_files.folder import FolderFiles\n"
        "from sweep_service.membership import *\n"
        "os.setuid(65534)\n"
        f"try: check_terms(FolderFiles(), sys.argv[1], {TOKEN!r}, {VERSIONS!r})\n"
        "except UnfitNodeError as error: print(error)"
    )
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which others cannot even look into
        folder = Path(name)
        write_terms(FolderFiles(), name, TOKEN, VERSIONS)
        folder.chmod(0o755)
        (folder / TERMS_FILE).chmod(0o644)
        said = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, timeout=60)
    assert "cannot be written to" in said.stdout, said.stderr


def test_builds_of_one_version_for_other_hardware_are_the_same():
    versions = package_versions(ENTRY_POINT_GROUP)
    assert versions["torch"] == "2.13.0"
    assert {"python", "ray", "gradnorm-sweeps"} <= set(versions)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: str, script: str) -> str:
    """What is told of a team's own package, which pip has installed there."""
    info = folder / "own_problems-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "own_problems.py").touch()  # later releases of importlib.metadata tell only of files that are there
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-problems\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nown = own_problems:trainables\n")
    record = [
        f"own_problems.py,sha256={code},9",
        f"../../../bin/own,sha256={script},9",
        "own_problems-1.0.dist-info/RECORD,,",
    ]
    (info / "RECORD").write_text("\n".join(record))
    monkeypatch.syspath_prepend(folder)
    return package_versions(ENTRY_POINT_GROUP)["own-problems"]


def test_a_version_that_was_built_again_with_other_code_is_another(tmp_path, monkeypatch):
    first = installed(tmp_path / "a", monkeypatch, code="x", script="s")
    assert first.startswith("1.0 (code ")
    assert installed(tmp_path / "b", monkeypatch, code="x", script="of another interpreter") == first
    assert installed(tmp_path / "c", monkeypatch, code="y", script="s") != first
