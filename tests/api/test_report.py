"""The report of a sweep over REST and by the command."""

from __future__ import annotations

import re
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import Result
from harness import Conductor, DownStore, Service, finish_sweep, problem, serve
from typer.testing import CliRunner

from api.app import create_app
from sweep_service.cli import app
from sweep_service.domain.states import SweepState
from sweep_service.settings import Settings


def sections_of(page: str) -> set[str]:
    return set(re.findall(r'<section id="(\w+)">', page))


def report_of(service: Service, sweep_id: str) -> httpx.Response:
    response = service.http.get(f"/api/v1/sweeps/{sweep_id}/report")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return response


def test_an_ended_sweep_has_a_report_with_its_verdict(service: Service) -> None:
    sweep = service.submit()
    finish_sweep(service.store, sweep["id"])
    response = service.http.get(sweep["links"]["report"])
    assert response.status_code == 200
    assert sections_of(response.text) >= {
        "overview",
        "verdict",
        "leaderboard",
        "losses",
        "landscape",
        "history",
        "spec",
    }
    assert "GradNorm helped against equal." in response.text
    assert "As of" not in response.text


def test_a_running_sweep_has_a_report_of_how_it_stands(service: Service) -> None:
    sweep = service.submit()
    conductor = Conductor(service.store, sweep["id"])
    conductor.move(SweepState.RUNNING)
    conductor.run(conductor.add_trial(alpha=1.0, weight_lr=0.01), objective=0.625, is_best=True)
    conductor.add_trial(alpha=2.0, weight_lr=0.02)
    page = report_of(service, sweep["id"]).text
    assert sections_of(page) >= {"overview", "leaderboard", "history"}
    assert "val/normalized_loss = 0.625" in page
    assert "As of" in page


def test_a_sweep_without_trials_has_a_report(service: Service) -> None:
    page = report_of(service, service.submit()["id"]).text
    assert sections_of(page) == {"overview", "spec"}


def test_the_name_of_a_sweep_is_no_mark_up(service: Service) -> None:
    page = report_of(service, service.submit(name="</title><script>alert(1)</script>")["id"]).text
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;</title>" in page
    assert "<script>alert(1)" not in page


def test_a_report_is_not_kept_and_has_no_part_in_the_address_that_it_comes_from(service: Service) -> None:
    headers = report_of(service, service.submit()["id"]).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"].split()
    assert policy[0] == "sandbox"
    assert "allow-same-origin" not in policy


def test_head_answers_as_get_without_the_page(service: Service) -> None:
    path = f"/api/v1/sweeps/{service.submit()['id']}/report"
    head, get = service.http.head(path), service.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("sweep_id", ["swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense", "%00"])
def test_a_report_of_no_sweep_is_missing(service: Service, sweep_id: str) -> None:
    problem(service.http.get(f"/api/v1/sweeps/{sweep_id}/report"), 404)


def test_a_report_takes_no_parameters(service: Service) -> None:
    answer = problem(service.http.get(f"/api/v1/sweeps/{service.submit()['id']}/report?format=pdf"), 422)
    assert [error["parameter"] for error in answer["errors"]] == ["format"]


def test_while_the_store_is_away_there_is_no_report() -> None:
    store = DownStore()
    with serve(create_app(Settings(), store), store) as down:  # pyright: ignore[reportArgumentType]
        problem(down.http.get("/api/v1/sweeps/swp_01ARZ3NDEKTSV4RRFFQ69G5FAV/report"), 503)


def test_the_api_starts_without_plotly() -> None:
    script = "import sys, api.app; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# --- the command ------------------------------------------------------------------------------------------------------


class Browser(webbrowser.BaseBrowser):
    """One that keeps what it is asked to open, or cannot be started."""

    def __init__(self) -> None:
        super().__init__("kept")
        self.opened: list[str] = []
        self.starts = True

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        self.opened += [url] if self.starts else []
        return self.starts


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    kept = Browser()
    monkeypatch.setattr(webbrowser, "_tryorder", [])  # no browser of this machine
    webbrowser.register("kept", None, kept, preferred=True)
    return kept


@pytest.fixture
def sweep_id(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    found = service.submit()["id"]
    finish_sweep(service.store, found)
    return found


def command(service: Service, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments, "--url", service.url])


def test_the_command_saves_the_page_beside_where_it_is_called(service: Service, sweep_id: str, tmp_path: Path) -> None:
    result = command(service, sweep_id)
    assert (result.exit_code, result.stdout) == (0, f"report-{sweep_id}.html\n")
    page = (tmp_path / f"report-{sweep_id}.html").read_text(encoding="utf-8")
    assert page == report_of(service, sweep_id).text


def test_the_command_saves_the_page_where_it_is_told_and_opens_it_if_asked(
    service: Service, sweep_id: str, tmp_path: Path, browser: Browser
) -> None:
    path = tmp_path / "some page.html"
    assert command(service, sweep_id.removeprefix("swp_"), "--output", str(path)).exit_code == 0
    assert browser.opened == []
    path.write_text("an older one")
    result = command(service, sweep_id, "-o", path.name, "--open")
    assert result.exit_code == 0, result.output
    assert browser.opened == [path.as_uri()]
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_without_a_browser_the_page_is_saved_all_the_same(service: Service, sweep_id: str, browser: Browser) -> None:
    browser.starts = False
    result = command(service, sweep_id, "--open")
    assert result.exit_code == 0
    assert "No browser could be started" in result.stderr


def test_a_page_that_cannot_be_written_or_got_is_wrong_usage(service: Service, sweep_id: str, tmp_path: Path) -> None:
    result = command(service, sweep_id, "--output", str(tmp_path / "nowhere" / "page.html"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert command(service, "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV").exit_code == 2
    assert list(tmp_path.iterdir()) == []
