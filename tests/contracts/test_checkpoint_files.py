"""Laws of where checkpoints lie: a real folder, and a real bucket behind HTTP."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from bucket_server import BucketServer, bucket_server, reach

from sweep_service.checkpoint_files import bucket as bucket_module
from sweep_service.checkpoint_files import checkpoint_files
from sweep_service.checkpoint_files.bucket import BucketFiles
from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError
from trainables.checkpoint import Checkpoint, CheckpointError
from trainables.protocol import Lane
from trainables.testing import tiny_problem
from trainables.training import train


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A real one, of a short training."""
    kept: list[Checkpoint] = []

    def keep(reports):
        kept.extend(report.checkpoint for report in reports if report.checkpoint is not None)
        return ()

    train(tiny_problem(), [Lane(key="a", balancer="gradnorm", params={"steps": 2})], keep)
    return kept[-1]


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with bucket_server() as running:
        yield running


@pytest.fixture
def bucket(server: BucketServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A part of the bucket that no other test has, where this process can get at it."""
    reach(server, monkeypatch)
    return f"s3://{server.bucket}/{abs(hash(request.node.nodeid))}"


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared") if request.param == "folder" else request.getfixturevalue("bucket")


@pytest.fixture
def files(root: str) -> CheckpointFiles:
    return checkpoint_files()


def is_there(files: CheckpointFiles, name: str) -> bool:
    try:
        files.read_text(name)
    except FileNotFoundError:
        return False
    return True


def test_a_checkpoint_is_read_as_it_was_written(files: CheckpointFiles, root: str, checkpoint: Checkpoint) -> None:
    name = f"{root}/swp/trl/att/step-00000002.pt"
    files.save(checkpoint, name)
    assert not files.is_missing(name)
    read = checkpoint_files().load(name)
    assert (read.step, read.balancer) == (2, "gradnorm")
    assert all(torch.equal(tensor, read.model[key]) for key, tensor in checkpoint.model.items())


def test_the_next_of_a_name_takes_the_place_of_the_first(
    files: CheckpointFiles, root: str, checkpoint: Checkpoint
) -> None:
    files.save(checkpoint, f"{root}/one.pt")
    files.save(replace(checkpoint, step=3), f"{root}/one.pt")
    assert files.load(f"{root}/one.pt").step == 3


def test_a_checkpoint_that_could_not_be_read_again_leaves_nothing(
    files: CheckpointFiles, root: str, checkpoint: Checkpoint
) -> None:
    with pytest.raises(TypeError, match="plain data"):
        files.save(replace(checkpoint, rng={"generator": object()}), f"{root}/folder/one.pt")
    assert not is_there(files, f"{root}/folder/one.pt")
    assert files.folders(f"{root}/folder") == []


@pytest.mark.parametrize("method", ["load", "read_text"])
def test_what_is_not_there_is_told_from_all_else(files: CheckpointFiles, root: str, method: str) -> None:
    files.write_text("x", f"{root}/another")
    with pytest.raises(FileNotFoundError, match="none"):
        getattr(files, method)(f"{root}/none")


def test_what_is_no_checkpoint_is_refused_by_its_name(files: CheckpointFiles, root: str) -> None:
    files.write_text("weights", f"{root}/one.pt")
    with pytest.raises(CheckpointError, match=r"one\.pt cannot be read as a checkpoint"):
        files.load(f"{root}/one.pt")


def test_text_is_read_as_it_was_written_last(files: CheckpointFiles, root: str) -> None:
    for text in ("first", "schließlich"):
        files.write_text(text, f"{root}/.cluster.json")
    assert files.read_text(f"{root}/.cluster.json") == "schließlich"


def test_folders_are_those_that_hold_something(files: CheckpointFiles, root: str) -> None:
    assert files.folders(root) == []
    for name in ("swp_1/trl_a/att_1/x", "swp_1/trl_a/att_1/y", "swp_1/trl_b/att_1/x", "swp_1/file", "swp_12/trl_c/x"):
        files.write_text("x", f"{root}/{name}")
    assert sorted(files.folders(root)) == ["swp_1", "swp_12"]
    assert sorted(files.folders(f"{root}/swp_1")) == ["trl_a", "trl_b"]


def test_a_folder_goes_with_all_below_it_and_nothing_else(files: CheckpointFiles, root: str) -> None:
    names = ("swp/trl_1/att_1/x", "swp/trl_1/att_2/x", "swp/trl_10/att_1/x", "swp/trl_1.txt")
    for name in names:
        files.write_text("x", f"{root}/{name}")
    files.remove_folder(f"{root}/swp/trl_1")
    files.remove_folder(f"{root}/swp/trl_1")  # is gone already
    assert [is_there(files, f"{root}/{name}") for name in names] == [False, False, True, True]


def test_a_file_is_removed_once_and_not_missed_twice(files: CheckpointFiles, root: str) -> None:
    files.write_text("x", f"{root}/one")
    for _ in range(2):
        files.remove(f"{root}/one")
        assert not is_there(files, f"{root}/one")


def test_several_threads_write_at_once(files: CheckpointFiles, root: str, checkpoint: Checkpoint) -> None:
    threads = [
        threading.Thread(target=files.save, args=[replace(checkpoint, step=n), f"{root}/{n}.pt"]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [files.load(f"{root}/{n}.pt").step for n in range(8)] == list(range(8))


def test_names_of_both_kinds_are_known_at_once(bucket: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = checkpoint_files()
    for root in (str(tmp_path), bucket):
        files.save(checkpoint, f"{root}/one.pt")
        assert files.load(f"{root}/one.pt").step == checkpoint.step
        assert files.folders(root) == []
    assert [path.name for path in tmp_path.iterdir()] == ["one.pt"]


# --- a folder alone ------------------------------------------------------------------------------------------------


def test_a_file_that_is_gone_from_a_folder_is_known_to_be_at_once(tmp_path: Path) -> None:
    assert FolderFiles().is_missing(str(tmp_path / "one.pt"))


def test_a_folder_that_is_full_is_waited_for(checkpoint: Checkpoint) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("needs a disk that is always full")

    class Full:
        def save(self, path: Path) -> None:
            with Path("/dev/full").open("wb", buffering=0) as disk:
                checkpoint.write(disk)

    with pytest.raises(CheckpointsUnavailableError, match="no room for a checkpoint in /shared: No space left"):
        FolderFiles().save(Full(), "/shared/one.pt")  # type: ignore[arg-type]


def test_a_folder_that_is_not_ones_own_is_not_waited_for(checkpoint: Checkpoint) -> None:
    with pytest.raises(OSError, match="one") as raised:
        FolderFiles().save(checkpoint, "/proc/one/two.pt")
    assert not isinstance(raised.value, CheckpointsUnavailableError)


# --- a bucket alone ------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_sent_in_parts_arrives_whole(bucket: str, checkpoint: Checkpoint) -> None:
    large = {"weight": torch.arange(3_000_000, dtype=torch.float64)}  # 24 MB: three parts
    BucketFiles().save(replace(checkpoint, model=large), f"{bucket}/large.pt")
    assert torch.equal(BucketFiles().load(f"{bucket}/large.pt").model["weight"], large["weight"])


def test_a_folder_of_more_files_than_one_answer_lists_goes_as_a_whole(bucket: str) -> None:
    files = BucketFiles()
    for number in range(1005):
        files.write_text("x", f"{bucket}/swp/{number:04d}/x")
    assert len(files.folders(f"{bucket}/swp")) == 1005
    files.remove_folder(f"{bucket}/swp")
    assert files.folders(f"{bucket}/swp") == []


def test_a_store_that_is_down_is_waited_for_and_serves_again(checkpoint: Checkpoint, monkeypatch) -> None:
    with bucket_server() as server:
        reach(server, monkeypatch)
        name, files = f"s3://{server.bucket}/one.pt", BucketFiles()
        files.save(checkpoint, name)
        server.stop()
        calls = {
            "save": lambda: files.save(checkpoint, name),
            "load": lambda: files.load(name),
            "remove": lambda: files.remove(name),
            "folders": lambda: files.folders(f"s3://{server.bucket}"),
            "write_text": lambda: files.write_text("x", name),
            "read_text": lambda: files.read_text(name),
        }
        assert not files.is_missing(name), "it is not asked"
        for call in calls.values():
            with pytest.raises(CheckpointsUnavailableError, match="does not answer"):
                call()
        files.remove_folder(f"s3://{server.bucket}/folder")  # what is left lying is no error
        server.start()
        assert files.load(name).step == checkpoint.step


@pytest.mark.parametrize(("prefix", "word"), [("s3://no-such-bucket-here", "NoSuchBucket"), ("s3://UPPER/x", "UPPER")])
def test_a_bucket_that_is_not_there_is_refused_by_its_name(bucket: str, prefix: str, word: str) -> None:
    with pytest.raises(PermissionError, match=word):
        BucketFiles().write_text("x", f"{prefix}/one")


def test_credentials_that_are_missing_are_said_to_be(bucket: str, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(PermissionError, match="credentials"):
        BucketFiles().write_text("x", f"{bucket}/one")


class Answering(BaseHTTPRequestHandler):
    """Answers everything in one way."""

    status, body = 200, b""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(status: int, code: str, patch: pytest.MonkeyPatch) -> Iterator[BucketFiles]:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    handler = type("Handler", (Answering,), {"status": status, "body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(bucket_module, "MOST_TRIES", 1)
        yield BucketFiles()
        server.shutdown()


PASSING, REFUSED, MISSING = CheckpointsUnavailableError, PermissionError, FileNotFoundError


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "NoSuchKey", MISSING),
        (404, "NoSuchBucket", REFUSED),
        (404, "", REFUSED),  # anybody's on the way
        (403, "AccessDenied", REFUSED),
        (400, "InvalidRequest", REFUSED),
        (408, "", PASSING),
        (429, "", PASSING),
        (429, "TooManyRequests", PASSING),
        (400, "ThrottlingException", PASSING),
        (404, "NoSuchUpload", PASSING),
        (400, "RequestTimeout", PASSING),
        (500, "InternalError", PASSING),
        (502, "", PASSING),
        (503, "SlowDown", PASSING),
    ],
)
def test_what_a_store_answers_is_told_apart_by_whether_it_passes(status, code, error, monkeypatch) -> None:
    with answering(status, code, monkeypatch) as files:
        calls = [lambda: files.read_text("s3://bucket/key"), lambda: files.write_text("x", "s3://bucket/key")]
        for call in calls:
            with pytest.raises(error, match="s3://bucket/key") as raised:
                call()
            assert type(raised.value) is error


def test_an_endpoint_that_is_no_address_is_said_to_be(bucket: str, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "store.example.org:9000")
    with pytest.raises(PermissionError, match=r"store\.example\.org:9000"):
        BucketFiles().write_text("x", f"{bucket}/one")
