"""Who may join a cluster: who sees its shared folder, can write there, and has its packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

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


@pytest.fixture
def folder(tmp_path):
    write_terms(tmp_path, TOKEN, VERSIONS)
    return tmp_path


def test_a_node_with_the_same_folder_token_and_packages_may_join_and_leaves_nothing_there(folder):
    check_terms(folder, f"{TOKEN}\n", VERSIONS)  # a file's last line ends
    assert [path.name for path in folder.iterdir()] == [TERMS_FILE]


def test_another_folder_is_told_from_the_shared_one(folder, tmp_path_factory):
    with pytest.raises(NoTermsError, match="SWEEP_CHECKPOINTS"):
        check_terms(tmp_path_factory.mktemp("another"), TOKEN, VERSIONS)


def test_the_folder_of_another_cluster_is_refused(folder):
    with pytest.raises(UnfitNodeError, match="another cluster"):
        check_terms(folder, "b" * 64, VERSIONS)


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({**VERSIONS, "torch": "2.12.0"}, "torch is 2.12.0 here and 2.13.0 there"),
        ({**VERSIONS, "our-problems": "1.0"}, "our-problems is 1.0 here and missing there"),
        ({"python": "3.11", "torch": "2.13.0"}, "ray is missing here and 2.60.0 there"),
    ],
)
def test_other_packages_are_refused_by_name(folder, here, words):
    with pytest.raises(UnfitNodeError, match=words):
        check_terms(folder, TOKEN, here)


def test_the_terms_do_not_tell_the_token(folder):
    assert TOKEN not in (folder / TERMS_FILE).read_text()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cluster": null}'])
def test_what_no_control_node_has_written_lets_nobody_in(folder, text):
    (folder / TERMS_FILE).write_text(text)
    with pytest.raises(UnfitNodeError):
        check_terms(folder, TOKEN, VERSIONS)


def test_a_later_control_node_has_the_word(folder):
    newer = {**VERSIONS, "ray": "2.61.0"}
    write_terms(folder, TOKEN, newer)
    check_terms(folder, TOKEN, newer)
    with pytest.raises(UnfitNodeError, match="ray"):
        check_terms(folder, TOKEN, VERSIONS)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_written_to_is_told_of():
    script = (
        "import os, sys; from pathlib import Path; from sweep_service.membership import *\n"
        "os.setuid(65534)\n"
        f"try: check_terms(Path(sys.argv[1]), {TOKEN!r}, {VERSIONS!r})\n"
        "except UnfitNodeError as error: print(error)"
    )
    with tempfile.TemporaryDirectory() as name:  # not pytest's, which others cannot even look into
        folder = Path(name)
        write_terms(folder, TOKEN, VERSIONS)
        folder.chmod(0o755)
        (folder / TERMS_FILE).chmod(0o644)
        said = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True, timeout=60)
    assert "cannot be written to" in said.stdout, said.stderr


def test_builds_of_one_version_for_other_hardware_are_the_same():
    versions = package_versions(ENTRY_POINT_GROUP)
    assert versions["torch"] == "2.13.0"
    assert {"python", "ray", "gradnorm-sweeps"} <= set(versions)
