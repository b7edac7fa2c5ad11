"""What a key lets one do with MLflow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep_service.domain.keys import KeyRole
from sweep_service.domain.mlflow_access import may_use_mlflow, reads_mlflow

API = ("/api", "/ajax-api")
READS = [
    "/",
    "/?workflowType=machine_learning",
    "/static-files/static/js/main.1f2e.js",
    "/get-artifact?path=plots/curve.png&run_uuid=abc",
    "/model-versions/get-artifact?path=MLmodel&name=census&version=1",
    "/version",
    "/health",
]
API_READS = [
    "/2.0/mlflow/experiments/get?experiment_id=1",
    "/2.0/mlflow/experiments/get-by-name?experiment_name=a%2Fb",
    "/2.0/mlflow/experiments/search?max_results=5",
    "/2.0/mlflow/runs/get?run_id=abc",
    "/2.0/mlflow/artifacts/list?run_id=abc&path=..%2F",
    "/2.0/mlflow/metrics/get-history?run_id=a&metric_key=b",
    "/2.0/mlflow/metrics/get-history-bulk?run_id=a",
    "/2.0/mlflow/metrics/get-history-bulk-interval?run_ids=a",
    "/2.0/mlflow/registered-models/search",
    "/2.0/mlflow/registered-models/get?name=x",
    "/2.0/mlflow/model-versions/search",
    "/2.0/mlflow/model-versions/get-download-uri?name=x&version=1",
    "/2.0/mlflow/logged-models/m-0123abc",
    "/2.0/mlflow/logged-models/m-0123abc/artifacts/directories",
    "/2.0/mlflow-artifacts/artifacts?path=1",
    "/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/my%20plot.png",
    "/2.0/mlflow-artifacts/artifacts/1/k%C3%B6nig.png",
    "/3.0/mlflow/server-info",
    "/3.0/mlflow/traces/tr-abc",
    "/3.0/mlflow/get-trace-artifact?request_id=a",
]
SEARCHES = [
    "/2.0/mlflow/runs/search",
    "/2.0/mlflow/experiments/search",
    "/2.0/mlflow/experiments/search-datasets",
    "/2.0/mlflow/logged-models/search",
    "/3.0/mlflow/traces/search",
    "/3.0/mlflow/traces/metrics",
    "/3.0/mlflow/datasets/search",
]
CHANGES = [
    ("POST", "/2.0/mlflow/runs/create"),
    ("POST", "/2.0/mlflow/runs/delete"),
    ("POST", "/2.0/mlflow/runs/update"),
    ("POST", "/2.0/mlflow/runs/log-batch"),
    ("POST", "/2.0/mlflow/runs/set-tag"),
    ("POST", "/2.0/mlflow/experiments/create"),
    ("POST", "/2.0/mlflow/experiments/delete"),
    ("POST", "/2.0/mlflow/registered-models/alias"),
    ("DELETE", "/2.0/mlflow/registered-models/alias"),
    ("DELETE", "/2.0/mlflow/registered-models/delete"),
    ("PATCH", "/2.0/mlflow/model-versions/update"),
    ("POST", "/2.0/mlflow/logged-models"),
    ("DELETE", "/2.0/mlflow/logged-models/m-1"),
    ("PATCH", "/2.0/mlflow/logged-models/m-1"),
    ("PUT", "/2.0/mlflow-artifacts/artifacts/1/a.png"),
    ("DELETE", "/2.0/mlflow-artifacts/artifacts/1/a.png"),
    ("POST", "/2.0/mlflow-artifacts/mpu/create/1/a.png"),
    ("POST", "/2.0/mlflow/upload-artifact"),
    ("POST", "/2.0/mlflow/artifacts/presigned-upload-url"),
    ("POST", "/3.0/mlflow/traces/delete-traces"),
    ("POST", "/3.0/mlflow/traces"),
    ("DELETE", "/3.0/mlflow/traces/tr-1/tags"),
    ("POST", "/3.0/mlflow/datasets/create"),
    ("POST", "/3.0/mlflow/demo/generate"),
]
NOT_FOR_READERS = [  # GET, and yet no plain reading of what a sweep has left
    "/2.0/mlflow/gateway-proxy?gateway_path=api/2.0/endpoints/",
    "/2.0/mlflow/webhooks",
    "/2.0/mlflow/webhooks/1",
    "/2.0/mlflow-artifacts/presigned/1/a.png",
    "/3.0/mlflow/gateway/secrets/list",
    "/3.0/mlflow/gateway/secrets/get?id=1",
    "/3.0/mlflow/gateway/endpoints/list",
    "/3.0/mlflow/gateway/provider-config",
    "/3.0/mlflow/jobs/1",
    "/3.0/jobs/1",
    "/3.0/mlflow/assistant/status",
    "/3.0/mlflow/mcp-servers",
    "/3.0/mlflow/prompt-optimization/jobs/1",
    "/2.0/mlflow/users/list",
    "/9.0/mlflow/whatever/comes",
]
READERS = (KeyRole.VIEWER, KeyRole.SUBMITTER)


@pytest.mark.parametrize("role", READERS)
def test_readers_see_the_page_and_all_that_it_shows(role: KeyRole) -> None:
    for uri in [*READS, *(api + path for api in API for path in API_READS)]:
        assert may_use_mlflow(role, "GET", uri), uri
        assert may_use_mlflow(role, "HEAD", uri), uri


@pytest.mark.parametrize("role", READERS)
def test_readers_search_by_post(role: KeyRole) -> None:
    for uri in ["/graphql", *(api + path for api in API for path in SEARCHES)]:
        assert may_use_mlflow(role, "POST", uri), uri
        assert not may_use_mlflow(role, "PUT", uri), uri
        assert not may_use_mlflow(role, "DELETE", uri), uri


@pytest.mark.parametrize("role", READERS)
def test_readers_change_nothing(role: KeyRole) -> None:
    for method, path in CHANGES:
        for api in API:
            assert not may_use_mlflow(role, method, api + path), f"{method} {api}{path}"


@pytest.mark.parametrize("role", READERS)
def test_readers_get_nothing_but_what_is_listed(role: KeyRole) -> None:
    for path in NOT_FOR_READERS:
        for api in API:
            for method in ("GET", "HEAD", "POST"):
                assert not may_use_mlflow(role, method, api + path), f"{method} {api}{path}"
    for path in ("/gateway/mlflow/v1/models", "/v1/traces", "/metrics", "/signup", "/nothing"):
        assert not may_use_mlflow(role, "GET", path), path


@pytest.mark.parametrize("method", ["", "get", "GET ", "OPTIONS", "TRACE", "CONNECT", "QUERY", "post", "PATCH"])
def test_readers_have_three_methods(method: str) -> None:
    assert not may_use_mlflow(KeyRole.VIEWER, method, "/api/2.0/mlflow/runs/search")


def test_a_search_is_matched_as_a_whole() -> None:
    for path in (
        "/api/2.0/mlflow/runs/search/",
        "/api/2.0/mlflow/runs/searchx",
        "/api/2.0/mlflow/runs/search/delete",
        "/x/api/2.0/mlflow/runs/search",
        "/api/2x0/mlflow/runs/search",
        "/api/2.0/mlflow/runs/search\n",
        "/API/2.0/mlflow/runs/search",
    ):
        assert not may_use_mlflow(KeyRole.VIEWER, "POST", path), path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "api/2.0/mlflow/runs/get",
        "//api/2.0/mlflow/runs/get",
        "/api/2.0//mlflow/runs/get",
        "/api/2.0/mlflow/./runs/get",
        "/static-files/../api/2.0/mlflow/gateway-proxy",
        "/static-files/a/..",
        "/static-files/.",
        "/static-files/%2e%2e/api/2.0/mlflow/gateway-proxy",
        "/static-files/%2E%2E/api/2.0/mlflow/gateway-proxy",
        "/static-files/..%2Fapi/2.0/mlflow/gateway-proxy",
        "/static-files/..%2fapi",
        "/static-files/%252e%252e/api",
        "/static-files/..%5Capi",
        "/static-files/..\\api",
        "/static-files/a;/../b",
        "/static-files/%00",
        "/static-files/a%0Ab",
        "/static-files/a%3Fb",
        "/static-files/a%23b",
        "/static-files/a#b",
        "/static-files/a b",
        "/static-files/könig",
        "/static-files/%ff",
        "/static-files/%C3",
        "/static-files/%",
        "/static-files/%4",
        "/static-files/%zz",
        "/static-files/%c3%b6",
        "/%61pi/2.0/mlflow/runs/get",
        "http://mlflow/api/2.0/mlflow/runs/get",
        "*",
    ],
)
def test_what_is_not_written_as_everybody_reads_it_is_refused(path: str) -> None:
    assert not may_use_mlflow(KeyRole.VIEWER, "GET", path)
    assert not may_use_mlflow(KeyRole.VIEWER, "GET", path + "?a=b")


def test_a_prefix_is_taken_off_and_nothing_passes_without_it() -> None:
    assert may_use_mlflow(KeyRole.VIEWER, "GET", "/mlflow/", prefix="/mlflow")
    assert may_use_mlflow(KeyRole.VIEWER, "GET", "/mlflow", prefix="/mlflow")
    assert may_use_mlflow(KeyRole.VIEWER, "POST", "/mlflow/api/2.0/mlflow/runs/search", prefix="/mlflow")
    for path in ("/api/2.0/mlflow/runs/get", "/mlflowapi/2.0/mlflow/runs/get", "/MLFLOW/", "/other/mlflow/"):
        assert not may_use_mlflow(KeyRole.VIEWER, "GET", path, prefix="/mlflow"), path


def test_admins_do_everything() -> None:
    for method, path in [*CHANGES, *(("GET", path) for path in NOT_FOR_READERS)]:
        assert may_use_mlflow(KeyRole.ADMIN, method, f"/api{path}")
        assert not reads_mlflow(method, f"/api{path}")
    assert reads_mlflow("POST", "/api/2.0/mlflow/runs/search")


@given(st.text(alphabet="/.%25eEfF2aps\\;?#", max_size=30))
def test_no_way_of_writing_leads_out_of_the_static_files(tail: str) -> None:
    path = f"/static-files/{tail}"
    if may_use_mlflow(KeyRole.VIEWER, "GET", path):
        parts = path.partition("?")[0].split("/")
        assert ".." not in parts
        assert "" not in parts[1:]
        assert "%2" not in path.partition("?")[0].replace("%25", "")


def test_every_read_and_search_that_is_listed_is_a_route_of_the_installed_mlflow_and_no_other_verb_is() -> None:
    handlers = pytest.importorskip("mlflow.server.handlers")
    routes = [(path, set(methods)) for path, _, methods in handlers.get_endpoints()]
    reading_posts = {
        path for path, methods in routes if "POST" in methods and "<" not in path and reads_mlflow("POST", path)
    }
    assert {path.rsplit("/", 1)[1] for path in reading_posts} == {
        "graphql", "search", "batchGetInfos", "calculate-filter-correlation", "metrics", "get-latest-versions",
    }  # fmt: skip
    for path, methods in routes:
        filled = path.replace("<path:artifact_path>", "1/a.png").replace("<", "").replace(">", "")
        for method in methods - {"GET", "POST"}:
            assert not reads_mlflow(method, filled), f"{method} {path}"
