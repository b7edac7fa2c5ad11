"""What MLflow's container runs: it brings the database up to its MLflow before the server starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

ROOT = Path(__file__).parents[2]

# In place of MLflow's server: it opens the database as that does, says which runs are there, and adds one.
_SERVER = """
import os
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=os.environ["MLFLOW_BACKEND_STORE_URI"])
names = sorted(run.info.run_name for run in client.search_runs(["0"]))
client.create_run("0", run_name=f"run {len(names)}")
print("serves", names)
"""

_PYTHON = """#!/bin/sh
echo "$*" >> "{folder}/arguments"
[ "$2" != mlflow ] || set -- "{folder}/server.py"
exec "{python}" "$@"
"""

# With tables of its own it would be no test: what lacks tables is brought up by MLflow's server too.
_LATER = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "of_the_test", "{head}", None, None


def upgrade():
    op.add_column("runs", sa.Column("of_the_test", sa.Integer()))
"""


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


class Container:
    """What runs in MLflow's container, with the installed MLflow or one in that folder."""

    def __init__(self, folder: Path, url: str, mlflow: Path | None = None) -> None:
        folder.mkdir()
        (folder / "mlflow_database_url").write_text(url + "\n")
        (folder / "server.py").write_text(_SERVER)
        (folder / "python").write_text(_PYTHON.format(folder=folder, python=sys.executable))
        (folder / "python").chmod(0o755)
        self._folder = folder
        self._env = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": f"{mlflow or ROOT}:{ROOT}",
            "SWEEP_SECRETS_DIR": str(folder),
            "MLFLOW_HOSTS": "mlflow",
            "MLFLOW_ORIGINS": "http://127.0.0.1:8080",
        }
        self._url = url

    def start(self) -> subprocess.CompletedProcess[str]:
        return self._run(ROOT / "deploy" / "docker" / "mlflow.sh")

    def start_server_alone(self) -> subprocess.CompletedProcess[str]:
        return self._run(sys.executable, self._folder / "server.py", MLFLOW_BACKEND_STORE_URI=self._url)

    @property
    def arguments(self) -> list[str]:
        """Of each Python process that was started."""
        return (self._folder / "arguments").read_text().splitlines()

    def _run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        env = {**self._env, **more}
        return subprocess.run(command, env=env, cwd=self._folder, capture_output=True, text=True, timeout=120)


def later_mlflow(folder: Path) -> Path:
    """The folder of an MLflow that has one migration more than the installed one, and is the same otherwise."""
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    installed, later = Path(spec.origin).parent, folder / "mlflow"
    for part, without in ((".", "store"), ("store", "db_migrations")):
        (later / part).mkdir(parents=True)
        for entry in (installed / part).iterdir():
            if entry.name != without:
                (later / part / entry.name).symlink_to(entry)
    scripts = shutil.copytree(installed / "store" / "db_migrations", later / "store" / "db_migrations")
    config = Config()
    config.set_main_option("script_location", str(scripts))
    head = ScriptDirectory.from_config(config).get_current_head()
    (scripts / "versions" / "of_the_test.py").write_text(_LATER.format(head=head))
    return folder


@pytest.mark.slow
def test_a_new_database_and_one_of_this_version_are_served(sqlite_url: str, tmp_path: Path) -> None:
    for number, names in enumerate(([], ["run 0"])):
        container = Container(tmp_path / str(number), sqlite_url)
        started = container.start()
        assert (started.returncode, started.stdout) == (0, f"serves {names}\n"), started.stderr
        migration, server = container.arguments
        assert migration == "-m sweep_service.tracking.mlflow_database", "without the URL, which has a password"
        assert server.startswith("-m mlflow server --host 0.0.0.0 ")
        assert sqlite_url not in server


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite_url", "postgres_url"])
def test_a_database_that_a_later_mlflow_refuses_is_brought_up_with_its_runs(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = request.getfixturevalue(database)
    first = Container(tmp_path / "now", url).start()
    assert first.stdout == "serves []\n", first.stderr
    later = later_mlflow(tmp_path / "later")
    refused = Container(tmp_path / "refused", url, later).start_server_alone()
    assert refused.returncode != 0
    assert "Detected out-of-date database schema" in refused.stderr
    started = Container(tmp_path / "started", url, later).start()
    assert (started.returncode, started.stdout) == (0, "serves ['run 0']\n"), started.stderr


def test_where_the_migration_fails_no_server_starts_and_the_log_says_why(sqlite_url: str, tmp_path: Path) -> None:
    with (engine := create_engine(sqlite_url)).begin() as connection:  # as one of a newer version
        connection.execute(text("CREATE TABLE runs (unlike_ours INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('of_the_future')"))
    engine.dispose()
    container = Container(tmp_path / "container", sqlite_url)
    started = container.start()
    assert (started.returncode, started.stdout) == (1, "")
    assert "Can't locate revision identified by 'of_the_future'" in started.stderr
    assert len(container.arguments) == 1
