"""What Prometheus and Grafana are given: that it asks for nothing that /metrics does not have."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import PATIENCE_S, ServiceMetrics
from sweep_service.domain.stock import Stock
from sweep_service.domain.trial import Cluster

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy" / "monitoring"
BOARD = json.loads((MONITORING / "grafana" / "dashboards" / "sweeps.json").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
OF_PROMETHEUS = {  # what it makes itself; None: any value
    "up": {"job": {"sweep-api"}, "instance": None},
    "ALERTS": {"alertname": None, "alertstate": {"pending", "firing"}},
}
_NAME = re.compile(r"\b(?:sweep|process)_\w+|\bup\b|\bALERTS\b")
_SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")
_MATCHER = re.compile(r"""(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*""")


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, set[str] | None]]:
    """The names of all samples, and the values of each label; None: any."""

    class FullStore:
        def take_stock(self) -> Stock:
            cluster = Cluster(nodes=(), seen_at=datetime(2026, 11, 30, tzinfo=UTC))
            return Stock(sweeps={}, lease_left=timedelta(seconds=9), cluster=cluster)

    async def read() -> str:
        metrics = ServiceMetrics(FullStore())
        metrics.requests.labels(method="GET", route="/metrics", status="200").inc()
        metrics.request_seconds.labels(method="GET", route="/metrics").observe(0.1)
        return (await metrics.exposition(""))[0].decode()

    return {**_names(text_string_to_metric_families(asyncio.run(read()))), **OF_PROMETHEUS}


def _names(families: Iterator[Metric]) -> dict[str, dict[str, set[str] | None]]:
    found: dict[str, dict[str, set[str] | None]] = {}
    for family in families:
        for sample in family.samples:
            labels = found.setdefault(sample.name, {"instance": None, "job": {"sweep-api"}})
            for name, value in sample.labels.items():
                if sample.name.startswith("sweep_http_") or name == "version":
                    labels[name] = None
                else:
                    labels.setdefault(name, set()).add(value)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_whatever_is_asked_for_is_told(told: Mapping[str, Any], where: str, expression: str) -> None:
    names = set(_NAME.findall(re.sub(r'"[^"]*"', "", expression)))
    assert names, "it asks for something"
    assert names <= set(told), "sweep_ names of series that there are"
    for name, matchers in _SELECTOR.findall(expression):
        assert _MATCHER.sub("", matchers).replace(",", "").strip() == ""
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in told[name], f"{name} has no label {label}"
            known = told[name][label]
            values = set(value.split("|")) if operator in ("=~", "!~") else {value}
            assert known is None or values <= known, f"{label} of {name} is never {values - known}"


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_what_is_grouped_by_is_a_label(told: Mapping[str, Any], where: str, expression: str) -> None:
    names = set(_NAME.findall(re.sub(r'"[^"]*"', "", expression)))
    known = {"le", *(label for name in names for label in told[name])}
    groups = [label.strip() for found in re.findall(r"\bby \(([^)]*)\)", expression) for label in found.split(",")]
    assert set(groups) <= known
    assert expression.count("(") == expression.count(")")


def test_legends_name_labels_that_their_expression_keeps() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                is_kept = re.search(rf"by \([^)]*\b{label}\b", target["expr"])
                assert is_kept or " by " not in target["expr"], target


def test_what_may_fall_is_never_taken_for_a_counter(told: Mapping[str, Any]) -> None:
    """After a deletion, rate would take all that is left for new."""
    for where, expression in expressions():
        for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
            assert name.endswith("_total") or name.startswith("sweep_http_request_seconds"), where
        for name in re.findall(r"(?:delta|deriv)\((\w+)", expression):
            assert not name.endswith("_total"), where


def test_every_metric_of_the_store_is_on_the_dashboard_or_raises_an_alarm(told: Mapping[str, Any]) -> None:
    asked = {name for _, expression in expressions() for name in _NAME.findall(expression)}
    of_store = {name for name in told if name.startswith("sweep_") and not name.startswith("sweep_http_")}
    assert of_store - asked == set()


def test_every_alert_is_explained_and_every_explanation_is_of_an_alert() -> None:
    explained = re.findall(r"^### (Sweep\w+)", (MONITORING / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert explained == [rule["alert"] for rule in RULES]
    assert len(set(explained)) == len(explained) >= 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_prometheus_scrapes_the_api_with_a_key_and_waits_longer_than_the_api_does() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": ["api:8000"]}]
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/run/secrets/metrics_key"}
    assert float(PROMETHEUS["global"]["scrape_timeout"].removesuffix("s")) > PATIENCE_S
    assert [Path(name).name for name in PROMETHEUS["rule_files"]] == ["alerts.yml"]


def test_the_dashboard_is_provisioned_with_its_source() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    uids = {target["datasource"]["uid"] for panel in panels for target in panel["targets"]}
    assert uids == {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "sweeps.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_panels_have_ids_of_their_own_and_do_not_lie_on_each_other() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Queue", "Trials", "GPU hours", "Leases and heartbeats", "MLflow", "API"]
