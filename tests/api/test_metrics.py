"""GET /metrics: what Prometheus reads, against stores whose content is known."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import TOY, BrokenStore, Conductor, DownStore, Service, finish_sweep, serve
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from api.metrics import ServiceMetrics
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding
from sweep_service.domain.stock import Stock
from sweep_service.domain.trial import Cluster, NodeResources, Role
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore, open_sql_store

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """What was read."""

    families: dict[str, Metric]

    @property
    def samples(self) -> dict[tuple[str, Labels], float]:
        found = [s for family in self.families.values() for s in family.samples]
        values = {(s.name, frozenset(s.labels.items())): s.value for s in found}
        assert len(values) == len(found), "no sample comes twice"
        return values

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def not_nought(self, name: str) -> dict[Labels, float]:
        """Of that name, by labels."""
        return {labels: value for (of, labels), value in self.samples.items() if of == name and value}


def scrape(http: httpx.Client) -> Scrape:
    response = http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape({family.name: family for family in text_string_to_metric_families(response.text)})


@contextmanager
def served(store: Any) -> Iterator[Service]:
    with serve(create_app(Settings(home=Path("unused")), store), store) as service:
        yield service


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def fresh_service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A server over an empty store of each kind."""
    store: MemorySweepStore | SqlSweepStore = MemorySweepStore()
    if request.param != "memory":
        url = f"sqlite:///{tmp_path / 'sweeps.db'}"
        url = url if request.param == "sqlite" else request.getfixturevalue("postgres_url")
        migrate(url)
        store = open_sql_store(url)
    store.publish_catalog([TOY])
    with served(store) as service, contextlib.closing(store):
        yield service


def labels(**values: str) -> Labels:
    return frozenset(values.items())


def test_what_the_store_has_is_what_is_told(fresh_service: Service) -> None:
    service, store = fresh_service, fresh_service.store
    finish_sweep(store, service.submit()["id"])
    running = Conductor(store, service.submit(resources={"gpus": 2, "parallel": 2})["id"])
    running.move(SweepState.RUNNING)
    lost, goes_on = running.add_trial(), running.add_trial()
    attempt = running.start(lost, pack="a", ago=timedelta(minutes=10))
    running.lose(attempt)
    again = running.start(lost, 1, pack="b", ago=timedelta(minutes=5))
    running.report(again, 10, val_loss=1.0)
    running.end(again, TrialEnding.WORKER_LOST)
    running.start(goes_on, pack="c", ago=timedelta(minutes=1))
    waiting = [service.submit()["id"] for _ in range(2)]
    store.explain_wait(waiting[0], SweepReason.UNSCHEDULABLE, "too large")
    nodes = (NodeResources(node="a", cpus=8, gpus=2), NodeResources(node="b", cpus=4, gpus=0))
    store.publish_cluster(Cluster(nodes=nodes, seen_at=datetime.now(UTC)))

    told = scrape(service.http)

    assert told.value("sweep_store_up") == 1
    assert told.not_nought("sweep_sweeps") == {
        labels(state="completed"): 1,
        labels(state="running"): 1,
        labels(state="queued"): 2,
    }
    assert told.value("sweep_sweeps_unschedulable") == 1
    assert 0 < told.value("sweep_queue_oldest_wait_seconds") < 60
    assert told.not_nought("sweep_trials_ended") == {
        labels(ending="completed", role="search"): 2,
        labels(ending="completed", role="baseline"): 1,
        labels(ending="worker_lost", role="search"): 1,
    }
    assert told.value("sweep_trials_running") == 1
    assert told.not_nought("sweep_attempts") == {
        labels(state="finished"): 3,
        labels(state="lost"): 2,
        labels(state="running"): 1,
    }
    assert told.value("sweep_trial_seconds_gcount") == told.value("sweep_trial_seconds_bucket", le="+Inf") == 4
    assert told.value("sweep_trial_seconds_bucket", le="60.0") == 4
    assert told.value("sweep_start_wait_seconds_gcount") == 2
    assert 0 <= told.value("sweep_start_wait_seconds_gsum") < 60
    assert told.value("sweep_packs_running") == 1
    assert told.value("sweep_gpus_busy") == 2
    assert told.value("sweep_gpu_seconds") / 60 == pytest.approx(2 * (10 + 5 + 1), abs=2)
    assert told.value("sweep_leases_expired") == 0
    assert 500 < told.value("sweep_lease_left_seconds") <= 600
    assert told.value("sweep_tracking_spool_reports") == 1
    assert 0 < told.value("sweep_tracking_spool_oldest_seconds") < 60
    assert told.value("sweep_tracking_overdue") == 0
    assert told.value("sweep_cluster_nodes") == 2
    assert (told.value("sweep_cluster_cpus"), told.value("sweep_cluster_gpus")) == (12, 2)
    assert 0 <= told.value("sweep_cluster_seen_seconds") < 60


def test_the_labels_are_those_of_the_domain_and_are_there_before_anything_has_happened(fresh_service: Service) -> None:
    told = scrape(fresh_service.http)
    with_labels: dict[str, set[Labels]] = {}
    for name, found in told.samples:
        if name.startswith("sweep_") and not name.startswith("sweep_http_") and not name.endswith("_bucket") and found:
            with_labels.setdefault(name, set()).add(found)
    assert with_labels.pop("sweep_build_info")
    assert with_labels == {
        "sweep_sweeps": {labels(state=str(state)) for state in SweepState},
        "sweep_attempts": {labels(state=str(state)) for state in AttemptState},
        "sweep_trials_ended": {labels(ending=str(e), role=str(r)) for e in TrialEnding for r in Role},
    }
    absent = {"sweep_cluster_nodes", "sweep_cluster_seen_seconds", "sweep_lease_left_seconds"}
    assert not absent & set(told.families), "what is not known is not told"


def test_the_numbers_of_sweeps_and_trials_may_fall_and_are_no_counters(own_service: Service) -> None:
    finish_sweep(own_service.store, own_service.submit()["id"])
    told = scrape(own_service.http)
    assert told.value("sweep_trials_ended", ending="completed", role="search") == 2
    (sweep,) = own_service.store.list_sweeps()
    assert own_service.http.delete(f"/api/v1/sweeps/{sweep.id}").status_code == 204
    assert not scrape(own_service.http).not_nought("sweep_trials_ended")
    counters = {name for name, family in told.families.items() if family.type == "counter"}
    assert counters == {"sweep_http_requests", "process_cpu_seconds"}


def test_names_keep_to_the_conventions_of_prometheus(own_service: Service) -> None:
    told = scrape(own_service.http)
    for name, family in told.families.items():
        assert name.startswith(("sweep_", "process_"))
        assert family.documentation
        assert not name.endswith(("_total", "_ms", "_minutes", "_hours", "_percent"))
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
    assert told.value("sweep_build_info", version=told.families["sweep_build_info"].samples[0].labels["version"]) == 1


def test_whoever_prefers_openmetrics_gets_it(own_service: Service) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response = own_service.http.get("/metrics", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(response.text)}
    assert families["sweep_trial_seconds"].type == "gaugehistogram"
    assert families["sweep_build"].type == "info"


def test_a_store_that_does_not_answer_is_told_and_nothing_else_of_it(tmp_path: Path) -> None:
    for store in (DownStore(), open_sql_store(f"sqlite:///{tmp_path / 'never-migrated.db'}")):
        with served(store) as service:
            assert service.http.get("/readyz").status_code == 503
            told = scrape(service.http)
        assert told.value("sweep_store_up") == 0
        own = {"sweep_build_info", "sweep_store_up", "sweep_http_requests", "sweep_http_request_seconds"}
        assert {name for name in told.families if not name.startswith("process_")} == own
        assert told.value("sweep_http_requests_total", method="GET", route="/readyz", status="503") == 1


def test_a_fault_of_our_own_is_none_of_the_stores() -> None:
    with served(BrokenStore()) as service:
        assert service.http.get("/metrics").status_code == 500


class HangingStore:
    """A store that answers when it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.num_asked = 0

    def take_stock(self) -> Stock:
        self.num_asked += 1
        self.may_answer.wait(30)
        return Stock(sweeps={})


def test_a_store_that_hangs_is_not_waited_for_and_not_asked_again_meanwhile() -> None:
    store = HangingStore()
    app = create_app(Settings(home=Path("unused")), store)  # type: ignore[arg-type]
    app.state.metrics = ServiceMetrics(store, patience_s=0.2)
    with serve(app, store) as service:  # type: ignore[arg-type]
        began = time.monotonic()
        assert [scrape(service.http).value("sweep_store_up") for _ in range(3)] == [0, 0, 0]
        assert time.monotonic() - began < 20
        assert store.num_asked == 1
        assert service.http.get("/healthz").status_code == 200
        store.may_answer.set()
        deadline = time.monotonic() + 60
        while scrape(service.http).value("sweep_store_up") == 0:
            assert time.monotonic() < deadline


def test_requests_are_counted_by_the_template_of_their_route(own_service: Service) -> None:
    http, sweep_id = own_service.http, own_service.submit()["id"]
    for _ in range(2):
        http.get(f"/api/v1/sweeps/{sweep_id}")
    http.get("/api/v1/sweeps/swp_nowhere")
    http.head(f"/api/v1/sweeps/{sweep_id}")
    http.post("/api/v1/sweeps", json={})
    http.post("/api/v1/sweeps", content="x", headers={"Content-Type": "text/plain"})
    http.get("/healthz", headers={"Host": "elsewhere"})
    told = scrape(http)
    assert told.not_nought("sweep_http_requests_total") == {
        labels(method="POST", route="/sweeps", status="201"): 1,
        labels(method="GET", route="/sweeps/{sweep_id}", status="200"): 2,
        labels(method="GET", route="/sweeps/{sweep_id}", status="404"): 1,
        labels(method="HEAD", route="/sweeps/{sweep_id}", status="200"): 1,
        labels(method="POST", route="/sweeps", status="422"): 1,
        labels(method="POST", route="none", status="415"): 1,  # refused before it came to a route
        labels(method="GET", route="none", status="421"): 1,
    }
    assert told.value("sweep_http_request_seconds_count", method="GET", route="/sweeps/{sweep_id}") == 3
    assert 0 < told.value("sweep_http_request_seconds_sum", method="GET", route="/sweeps/{sweep_id}") < 30
    again = scrape(http)
    assert again.value("sweep_http_requests_total", method="GET", route="/metrics", status="200") == 1


def test_made_up_paths_and_methods_make_no_series_of_their_own(own_service: Service) -> None:
    own_service.http.get("/nowhere/0")
    own_service.http.request("PURGE", "/healthz")
    before = set(scrape(own_service.http).samples)
    for number, method in enumerate(("LINK", "MKCOL", "SEARCH", "TRACE")):  # others the server itself refuses
        own_service.http.get(f"/nowhere/{number + 1}")
        own_service.http.request(method, "/healthz")
    told = scrape(own_service.http)
    assert {name for name in set(told.samples) - before if dict(name[1]).get("route") != "/metrics"} == set()
    assert told.value("sweep_http_requests_total", method="GET", route="none", status="404") == 5
    assert told.value("sweep_http_requests_total", method="other", route="/healthz", status="405") == 5


def test_a_stream_counts_when_it_begins_and_not_for_as_long_as_it_is_open(own_service: Service) -> None:
    events = own_service.submit()["links"]["events"]
    with own_service.http.stream("GET", events, headers={"Accept": "text/event-stream"}) as stream:
        assert b"sweep.submitted" in next(stream.iter_raw())
        with httpx.Client(base_url=own_service.url, trust_env=False, timeout=60) as other:
            told = scrape(other)
    name = labels(method="GET", route="/sweeps/{sweep_id}/events", status="200")
    assert told.not_nought("sweep_http_requests_total")[name] == 1


def test_each_application_counts_for_itself(own_service: Service) -> None:
    own_service.http.get("/healthz")
    with served(MemorySweepStore()) as other:
        assert not scrape(other.http).not_nought("sweep_http_requests_total")


def test_metrics_are_not_in_the_description(own_service: Service) -> None:
    assert "/metrics" not in own_service.http.get("/api/v1/openapi.json").json()["paths"]
