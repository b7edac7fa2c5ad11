"""The small programs that every container runs: its entry and its health check."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"


def enter(secrets: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SWEEP_SECRETS_DIR": str(secrets)}
    return subprocess.run(
        [DOCKER / "entrypoint.sh", "echo", "started with two words"], env=env, capture_output=True, text=True
    )


def health(target: str) -> int:
    return subprocess.run([sys.executable, DOCKER / "health.py", target], timeout=30, check=False).returncode


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n"])
def test_a_container_with_an_empty_secret_does_not_start_and_says_what_to_run(tmp_path, text):
    (tmp_path / "ray_token").write_text(text)
    (tmp_path / "admin_key").write_text("something")
    refused = enter(tmp_path)
    assert refused.returncode == 78
    assert refused.stdout == ""
    assert "ray_token is empty" in refused.stderr
    assert "deploy/init" in refused.stderr


def test_a_container_becomes_its_command(tmp_path):
    (tmp_path / "ray_token").write_text("something\n")
    started = enter(tmp_path)
    assert (started.returncode, started.stdout) == (0, "started with two words\n")
    assert enter(tmp_path / "none").returncode == 0  # not every service has secrets


def test_a_server_is_well_if_it_says_so():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/well" else 503)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert health(f"http://127.0.0.1:{port}/well") == 0
        assert health(f"http://127.0.0.1:{port}/ill") == 1
        assert health(f"tcp://127.0.0.1:{port}") == 0
        server.shutdown()
    assert health(f"http://127.0.0.1:{port}/well") == 1
    assert health(f"tcp://127.0.0.1:{port}") == 1


def test_who_touches_a_file_is_well_for_a_while(tmp_path):
    alive = tmp_path / "alive"
    assert health(f"file:{alive}?60") == 1
    alive.touch()
    assert health(f"file:{alive}?60") == 0
    os.utime(alive, (time.time() - 61,) * 2)
    assert health(f"file:{alive}?60") == 1


def test_what_is_installed_into_the_small_image_is_what_the_project_needs_anyhow():
    names = (DOCKER / "service-packages.txt").read_text().split("\n")
    wanted = {name for name in names if name and not name.startswith("#")}
    project = (DOCKER.parents[1] / "pyproject.toml").read_text()
    assert [name for name in wanted if not re.search(rf'^    "{re.escape(name)}[<>=]', project, re.MULTILINE)] == []
    assert not wanted & {"ray[tune]", "torch", "optuna", "mlflow"}
