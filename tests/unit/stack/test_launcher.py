"""The parts of a stack: what they are told, when they are ready, why a stack is refused."""

from __future__ import annotations

import importlib.util
import socket
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.trial import Cluster, NodeResources
from sweep_service.launcher import (
    LaunchError,
    StackOptions,
    answers,
    dispatcher_child,
    mlflow_children,
    mlflow_url,
    ray_child,
    running_stack,
    stack_environment,
)
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.supervisor import EndSignals

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class FixedClock:
    def now(self) -> datetime:
        return NOW


class AbsentStore(MemorySweepStore):
    def read_cluster(self) -> Cluster | None:
        raise StoreUnavailableError("it is being started")


def cluster_seen(at: datetime) -> Cluster:
    return Cluster(nodes=(NodeResources(node="here", cpus=2.0, gpus=0.0),), seen_at=at)


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_server_on_loopback_is_asked_without_the_proxy_of_the_environment(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # It gives up after two seconds, which a thread of a busy machine may take.
    assert any(answers(server.server_port, "/readyz") for _ in range(30))
    assert not answers(server.server_port, "/elsewhere")


def test_a_port_on_which_nobody_listens_does_not_answer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not answers(free.getsockname()[1], "/readyz")


def test_a_dispatcher_is_not_ready_by_what_an_earlier_one_has_published() -> None:
    store = MemorySweepStore()
    store.publish_catalog([])
    store.publish_cluster(cluster_seen(NOW - timedelta(seconds=1)))
    child = dispatcher_child(store, FixedClock(), {}, Settings())
    assert not child.is_ready()
    store.publish_cluster(cluster_seen(NOW + timedelta(seconds=5)))
    assert child.is_ready()


def test_a_dispatcher_is_not_ready_where_none_has_ever_looked() -> None:
    assert not dispatcher_child(MemorySweepStore(), FixedClock(), {}, Settings()).is_ready()


def test_a_dispatcher_has_the_time_to_drain_before_it_is_killed() -> None:
    from sweep_service import worker  # ray comes with it

    settings = Settings(drain_grace=timedelta(minutes=2))
    child = dispatcher_child(MemorySweepStore(), FixedClock(), {}, settings)
    assert child.term_grace_s > 120 + worker.FAREWELL_S


def test_a_dispatcher_is_waited_for_while_the_store_does_not_answer() -> None:
    assert not dispatcher_child(AbsentStore(), FixedClock(), {}, Settings()).is_ready()


def test_ray_counts_the_machine_itself_unless_it_is_told(tmp_path: Path) -> None:
    """It knows of a container's quota, which os.cpu_count does not."""
    counted = ray_child(1, tmp_path, StackOptions(home=tmp_path), {})
    assert not [word for word in counted.argv if word.startswith(("--num-cpus", "--num-gpus"))]
    told = ray_child(1, tmp_path, StackOptions(home=tmp_path, num_cpus=3, num_gpus=0), {})
    assert {"--num-cpus=3", "--num-gpus=0"} <= set(told.argv)


def test_mlflows_page_is_ours_over_a_database(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri="")
    (child,) = mlflow_children(5000, settings, {})
    assert settings.tracking_uri in child.argv
    assert mlflow_url(5000, settings) == "http://127.0.0.1:5000"


def test_a_server_of_mlflow_has_a_page_of_its_own_whose_password_is_not_shown(tmp_path: Path) -> None:
    """MLflow's server ends at once where it is to be put over another one."""
    settings = Settings(home=tmp_path, mlflow_tracking_uri="https://ann:secret@example.org:5000/mlflow/")
    assert mlflow_children(5000, settings, {}) == ()
    assert mlflow_url(5000, settings) == "https://example.org:5000/mlflow"


@pytest.mark.parametrize(
    ("name", "read_in"),
    [
        ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "tune/trainable/function_trainable.py"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "_private/accelerators/accelerator.py"),
        ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "_private/ray_constants.py"),
    ],
)
def test_the_installed_ray_reads_what_it_is_told(tmp_path: Path, name: str, read_in: str) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    assert f'"{name}"' in (Path(spec.origin).parent / read_in).read_text()
    assert name in stack_environment(tmp_path, port=1, ray_port=2)


def test_rays_folder_of_a_stack_that_was_killed_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = Path(tempfile.mkdtemp(prefix="sweep-ray-", dir=tmp_path))
    (left / "session_latest").mkdir()
    note = tmp_path / "ray-folder"
    note.write_text(str(left))
    refuse(StackOptions(home=tmp_path, port=taken_port()))
    assert not left.exists()
    assert not note.exists()


def test_a_note_of_rays_folder_that_names_another_folder_removes_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "ray-folder").write_text(str(precious))
    refuse(StackOptions(home=tmp_path, port=taken_port()))
    assert precious.exists()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "choose another --home" in refuse(StackOptions(home=tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("SWEEP_LEASE_TTL", "soon", "SWEEP_LEASE_TTL: "),
        ("SWEEP_ALLOWED_HOSTS", "example.org", "SWEEP_ALLOWED_HOSTS: "),
        ("SWEEP_LIMITS", "four", "SWEEP_LIMITS: "),
        ("SWEEP_LIMITS", '[{"packs": 4}]', "SWEEP_LIMITS at 0: Value error, name either a label"),
        ("SWEEP_LIMITS", '[{"label": "team", "packs": 4}]', "SWEEP_LIMITS at 0/label: "),
        ("SWEEP_LIMITS", '[{"project": "a", "packs": 0}]', "SWEEP_LIMITS at 0/packs: "),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    assert named in refuse(StackOptions(home=tmp_path, port=0, mlflow_port=0))


def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_DATABASE_URL", "sqlite:////proc/nothing/sweeps.db")
    assert "The store cannot be used" in refuse(StackOptions(home=tmp_path, port=0, mlflow_port=0))


def refuse(options: StackOptions) -> str:
    """Why that stack does not start; nothing of it has been started then."""
    with pytest.raises(LaunchError) as refused, running_stack(options, EndSignals()):
        raise AssertionError("it is up")
    return str(refused.value)


def taken_port() -> int:
    """A port that stays taken for the rest of the process."""
    _TAKEN.listen()
    return _TAKEN.getsockname()[1]


_TAKEN = socket.socket()
_TAKEN.bind(("127.0.0.1", 0))
