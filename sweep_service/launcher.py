"""The whole service on one machine: Ray, the dispatcher, the API and MLflow's page as children of this process.

Everything listens on loopback only, everything that is kept lies under one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import logging
import math
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_settings import SettingsError

from sweep_service.clock import SystemClock
from sweep_service.domain.errors import SchemaOutdatedError, StoreUnavailableError
from sweep_service.ports import Clock, SweepStore
from sweep_service.ray_node import CONTROL_RESOURCE, RAY_ENVIRONMENT, start_command
from sweep_service.settings import Settings
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore, open_sql_store
from sweep_service.supervisor import Child, EndRequestedError, EndSignals, Supervisor

LOOPBACK = "127.0.0.1"
TEND_INTERVAL_S = 0.5
DISPATCHER_FAREWELL_S = 10.0  # beyond its time for draining; by itself it gives up two seconds sooner
_RAY_FOLDER = "sweep-ray-"  # how the name of Ray's folder begins


class LaunchError(Exception):
    """The stack cannot start; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """Where the stack lives and what it may use."""

    home: Path
    port: int = 8000  # of the API; 0: any free one
    mlflow_port: int = 5000  # of MLflow's page; 0: any free one
    num_cpus: int | None = None  # that Ray hands out; None: all of the machine
    num_gpus: int | None = None  # that Ray hands out; None: those it finds


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A running stack."""

    api_url: str
    mlflow_url: str
    settings: Settings
    supervisor: Supervisor
    signals: EndSignals

    @property
    def mlflow_page(self) -> str:
        """The list of experiments, in the view that shows runs: by itself the page opens its view of prompts."""
        return f"{self.mlflow_url}/#/experiments?workflowType=machine_learning"

    def rest(self, seconds: float) -> None:
        """Sleep for so long, and restart what dies meanwhile.

        Raises:
            EndRequestedError: a signal has come.
        """
        until = time.monotonic() + seconds
        self.signals.check()
        self.supervisor.tend()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, TEND_INTERVAL_S))
            self.signals.check()
            self.supervisor.tend()


@contextlib.contextmanager
def running_stack(options: StackOptions, signals: EndSignals) -> Iterator[Stack]:
    """A stack that is up and ready, for the time of the block. Must be entered from the main thread.

    Raises:
        LaunchError: the folder, a port, a setting or the store cannot be used.
        ChildFailedError: a part did not come up.
        EndRequestedError: a signal came before all was up; what had been started has been ended.
    """
    home = options.home.expanduser().resolve()
    with _sole_owner(home), _ray_folder(home) as ray_tmp:
        settings = _settings(home)
        port = _port(options.port, "--port")
        # Where MLflow has a server of its own, it may be on that very port.
        mlflow_port = 0 if _is_server(settings.tracking_uri) else _port(options.mlflow_port, "--mlflow-port")
        ray_port = _port(0, "")
        env = stack_environment(home, port=port, ray_port=ray_port)
        with (
            contextlib.closing(_migrated_store(settings.store_url)) as store,
            Supervisor(log_dir=home / "logs", signals=signals) as supervisor,
        ):
            api = _api(port, env)
            ray = ray_child(ray_port, ray_tmp, options, env)
            supervisor.start(api, ray, *mlflow_children(mlflow_port, settings, env))
            supervisor.start(dispatcher_child(store, SystemClock(), env, settings))
            yield Stack(
                api_url=f"http://{LOOPBACK}:{port}",
                mlflow_url=mlflow_url(mlflow_port, settings),
                settings=settings,
                supervisor=supervisor,
                signals=signals,
            )


def up(options: StackOptions) -> int:
    """Run the stack until Ctrl-C or SIGTERM, which end all of it.

    0: it was up, and ended as it was told. 128 + the signal's number: told to end before it was up.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a dozen lines at each start
    started = time.monotonic()
    with EndSignals() as signals:
        try:
            with running_stack(options, signals) as stack:
                _say(*_welcome(stack, seconds=time.monotonic() - started))
                with contextlib.suppress(EndRequestedError):
                    stack.rest(math.inf)
                _say("Ending.")
        except EndRequestedError as error:
            _say("Ended before it was up.")
            return error.exit_code
    return 0


def _welcome(stack: Stack, *, seconds: float) -> tuple[str, ...]:
    return (
        f"The service is up ({seconds:.0f} s).",
        f"  API     {stack.api_url}  (documentation: {stack.api_url}/docs)",
        f"  MLflow  {stack.mlflow_page}",
        f"  Data    {stack.settings.root}  (logs in {stack.settings.root / 'logs'})",
        "Submit a sweep with: sweep submit FILE --watch. Ctrl-C ends everything; sweeps go on at the next start.",
    )


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def stack_environment(home: Path, *, port: int, ray_port: int) -> Mapping[str, str]:
    """What the parts of a stack are told through their environment; Ray's workers inherit it."""
    return {
        **RAY_ENVIRONMENT,
        "SWEEP_HOME": str(home),
        "SWEEP_HOST": LOOPBACK,
        "SWEEP_PORT": str(port),
        "SWEEP_RAY_ADDRESS": f"{LOOPBACK}:{ray_port}",
        # Loopback is shared by all users of a machine.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps every port of a local cluster on loopback
        # Told to end, Ray would wait 30 s for the sweeps that run to move to another machine. There is none.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }


def dispatcher_child(store: SweepStore, clock: Clock, env: Mapping[str, str], settings: Settings) -> Child:
    """The dispatcher, to be started now: it is ready when it has seen the cluster and published the catalogue. Told to
    end, it needs the time that its conductors have for their checkpoints.
    """
    created = clock.now()

    def is_ready() -> bool:
        # Not what the API says: it would answer from what the dispatcher of an earlier start has published.
        with contextlib.suppress(StoreUnavailableError):
            cluster = store.read_cluster()
            return cluster is not None and cluster.seen_at > created
        return False

    grace_s = settings.drain_grace.total_seconds() + DISPATCHER_FAREWELL_S
    argv = (sys.executable, "-m", "sweep_service.worker")
    return Child(name="dispatcher", argv=argv, env=env, is_ready=is_ready, term_grace_s=grace_s)


def _api(port: int, env: Mapping[str, str]) -> Child:
    argv = (sys.executable, "-m", "api")
    return Child(name="api", argv=argv, env=env, is_ready=lambda: answers(port, "/readyz"))


def mlflow_children(port: int, settings: Settings, env: Mapping[str, str]) -> tuple[Child, ...]:
    """MLflow's page over its database. None where results go to a server, which has a page of its own."""
    if _is_server(settings.tracking_uri):
        return ()
    # One worker and no job execution: two processes instead of fifteen. The page only reads; conductors write directly.
    argv = (sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1")
    argv += ("--backend-store-uri", settings.tracking_uri)
    if settings.artifact_location is not None:
        argv += ("--default-artifact-root", settings.artifact_location)
    child = Child(
        name="mlflow",
        argv=argv,
        env={**env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        is_ready=lambda: answers(port, "/health"),
        ready_within_s=120.0,
    )
    return (child,)


def mlflow_url(port: int, settings: Settings) -> str:
    """Where MLflow's page is: on that port, or the server's own, without the password that its URI may hold."""
    if not _is_server(settings.tracking_uri):
        return f"http://{LOOPBACK}:{port}"
    parts = urlsplit(settings.tracking_uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/")).geturl()


def _is_server(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


def ray_child(port: int, tmp: Path, options: StackOptions, env: Mapping[str, str]) -> Child:
    """The head of a Ray cluster on this machine alone."""
    argv = start_command(
        "--head",
        f"--port={port}",
        f"--node-ip-address={LOOPBACK}",
        "--include-dashboard=false",
        f"--temp-dir={tmp}",
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        resources={CONTROL_RESOURCE: 1},
    )
    return Child(name="ray", argv=argv, env=env, is_ready=lambda: listens(port))


def answers(port: int, path: str) -> bool:
    """Whether a server on loopback answers that path with 200."""
    # Not httpx: it would ask a proxy of the environment, which has another loopback, and reads all certificates anew.
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(port: int) -> bool:
    """Whether something on loopback takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _port(wanted: int, option: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError as error:
            raise LaunchError(f"Port {wanted} is taken: choose another one with {option}, or 0 for any.") from error
        return probe.getsockname()[1]


def _settings(home: Path) -> Settings:
    try:
        return Settings(home=home)
    except ValidationError as error:
        faults = (f"{_variable(*map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise LaunchError(f"Wrong in the environment: {'; '.join(faults)}.") from error
    except SettingsError as error:  # no JSON where a list is wanted
        field = re.search(r'field "(\w+)"', str(error))
        fault = f"{_variable(field[1])}: it is no JSON" if field else str(error)
        raise LaunchError(f"Wrong in the environment: {fault}.") from error


def _variable(name: str = "", *path: str) -> str:
    """What a setting is read from, and where in it."""
    return " at ".join(part for part in (f"SWEEP_{name.upper()}", "/".join(path)) if part)


def _migrated_store(url: str) -> SqlSweepStore:
    try:
        migrate(url)
        return open_sql_store(url)
    except (ValueError, StoreUnavailableError, SchemaOutdatedError) as error:
        raise LaunchError(f"The store cannot be used: {error}") from error


@contextlib.contextmanager
def _ray_folder(home: Path) -> Iterator[Path]:
    """A private folder for Ray, whose path is noted in ``home``: the next start removes what a killed one left."""
    note = home / "ray-folder"
    _remove_ray_folder(note)
    folder = Path(tempfile.mkdtemp(prefix=_RAY_FOLDER, dir=_short_tmp()))
    note.write_text(str(folder))
    try:
        yield folder
    finally:
        _remove_ray_folder(note)


def _remove_ray_folder(note: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder = Path(note.read_text())
        if folder.is_absolute() and folder.name.startswith(_RAY_FOLDER):  # the note may be cut short
            shutil.rmtree(folder, ignore_errors=True)
        note.unlink()


def _short_tmp() -> str:
    """Ray's sockets have long names, and a socket's path at most 107 characters: a deep TMPDIR would not do."""
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 - a private folder is made in it


@contextlib.contextmanager
def _sole_owner(home: Path) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "up.lock").open("a+")
    except OSError as error:
        raise LaunchError(f"{home} cannot be used ({error.strerror}): choose another --home.") from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LaunchError(f"Another stack runs on {home}: end it first, or choose another --home.") from error
        yield
