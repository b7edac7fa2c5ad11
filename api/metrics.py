"""What Prometheus is told: how the service stands, by the store, and what this process is asked.

Of sweeps, trials and attempts the store is asked at every scrape, so that any API process tells the same. Their numbers
are gauges, although they mostly rise: they fall when a sweep is deleted or a trial is tried again, and a counter that
falls is taken for one that began anew, which makes a leap of all that it had counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool

from sweep_service.domain.errors import SchemaOutdatedError, StoreUnavailableError
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding
from sweep_service.domain.stock import TIME_BOUNDS_S, Stock, Times, Work
from sweep_service.domain.trial import Cluster, Role
from sweep_service.stock_port import StockStore

_State = TypeVar("_State", SweepState, AttemptState)

PATIENCE_S = (
    8.0  # with the store: shorter than that of a scrape (10 s), which is to hear of a store that does not answer
)

disable_created_metrics()  # they would double the series of counters, and nobody asks for them


class ServiceMetrics:
    """The metrics of one application."""

    def __init__(self, store: StockStore, *, patience_s: float = PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._own = CollectorRegistry()
        self._reading: asyncio.Task[Stock | None] | None = None
        ProcessCollector(registry=self._own)
        self.requests = Counter(
            "sweep_http_requests",
            "Requests whose answer has begun, by the template of their route; none: no route, or no answer.",
            ("method", "route", "status"),
            registry=self._own,
        )
        self.request_seconds = Histogram(
            "sweep_http_request_seconds",
            "From a request to the beginning of its answer.",
            ("method", "route"),
            registry=self._own,
        )

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All of it in the format that the reader prefers, and the name of that format."""
        stock = await self._stock()
        encode, media_type = choose_encoder(accept)
        return encode(_Together([_StockCollector(stock), self._own])), media_type

    async def _stock(self) -> Stock | None:
        """None: the store does not answer. It is asked once at a time, however many scrapes wait for it."""
        reading = self._reading
        if reading is None or reading.done():
            reading = self._reading = asyncio.ensure_future(run_in_threadpool(self._ask))
        done, _ = await asyncio.wait({reading}, timeout=self._patience_s)
        return reading.result() if done else None

    def _ask(self) -> Stock | None:
        try:
            return self._store.take_stock()
        except (StoreUnavailableError, SchemaOutdatedError):
            return None


class _Together(Collector):
    """Several as one."""

    def __init__(self, collectors: Iterable[Collector | CollectorRegistry]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            yield from collector.collect()


class _StockCollector(Collector):
    """How the service stands; None: the store does not answer."""

    def __init__(self, stock: Stock | None) -> None:
        self._stock = stock

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("sweep_build", "The version of this API.", value={"version": _version()})
        yield _gauge(
            "sweep_store_up", "1: the store answers; 0: it does not, and nothing is known.", self._stock is not None
        )
        if self._stock is not None:
            yield from _queue(self._stock)
            yield from _leases(self._stock)
            yield from _work(self._stock.work)
            yield from _tracking(self._stock)
            if self._stock.cluster is not None:
                yield from _cluster(self._stock.cluster, self._stock.cluster_age.total_seconds())


def _queue(stock: Stock) -> Iterator[Metric]:
    yield _by_state("sweep_sweeps", "Sweeps in each state.", SweepState, stock.sweeps)
    told = "Queued sweeps of which no node of the cluster could ever hold a trial."
    yield _gauge("sweep_sweeps_unschedulable", told, stock.num_unschedulable)
    told = "How long the queued sweep that waits for longest has waited; 0: none is queued."
    yield _gauge("sweep_queue_oldest_wait_seconds", told, stock.longest_wait.total_seconds())
    told = "From the submission of a sweep to its first moment in running: of all sweeps that have been started."
    yield _spread("sweep_start_wait_seconds", told, stock.work.start_waits)


def _leases(stock: Stock) -> Iterator[Metric]:
    told = "Sweeps that a conductor should run, and on which nobody has a live lease: it has run out or was given up."
    yield _gauge("sweep_leases_expired", told, stock.num_unattended)
    if stock.lease_left is not None:
        told = "Until the first of the live leases on unfinished sweeps runs out, unless it is renewed."
        yield _gauge("sweep_lease_left_seconds", told, stock.lease_left.total_seconds())


def _work(work: Work) -> Iterator[Metric]:
    yield _gauge("sweep_trials_running", "Trials that are being trained.", work.num_trials_running)
    told = "Trials that have ended, by how and by role."
    ended = GaugeMetricFamily("sweep_trials_ended", told, labels=["ending", "role"])
    for ending, role in product(TrialEnding, Role):
        ended.add_metric([str(ending), str(role)], work.trials_ended.get((ending, role), 0))
    yield ended
    told = "From a trial's first start to its end, with the pauses in between: of all that have ended."
    yield _spread("sweep_trial_seconds", told, work.trial_times)
    yield _by_state("sweep_attempts", "Attempts in each state; lost: its worker died.", AttemptState, work.attempts)
    yield _gauge("sweep_packs_running", "Packs of which some attempt runs.", work.num_packs_running)
    yield _gauge("sweep_gpus_busy", "GPUs that these hold.", work.gpus_busy)
    told = "Time of all packs times the GPUs of each, up to now; that of lanes is their pack's."
    yield _gauge("sweep_gpu_seconds", told, work.gpu_time.total_seconds())


def _tracking(stock: Stock) -> Iterator[Metric]:
    told = "Reports that wait to be delivered to MLflow."
    yield _gauge("sweep_tracking_spool_reports", told, stock.num_undelivered)
    told = "How long the report that waits for longest has waited; 0: none waits."
    yield _gauge("sweep_tracking_spool_oldest_seconds", told, stock.longest_undelivered.total_seconds())
    told = "Ended sweeps of which MLflow has yet to take something."
    yield _gauge("sweep_tracking_overdue", told, stock.num_overdue)


def _cluster(cluster: Cluster, age_s: float) -> Iterator[Metric]:
    yield _gauge("sweep_cluster_nodes", "Nodes that the dispatcher has found.", len(cluster.nodes))
    yield _gauge("sweep_cluster_cpus", "Their CPUs, busy or not.", sum(node.cpus for node in cluster.nodes))
    yield _gauge("sweep_cluster_gpus", "Their GPUs, busy or not.", sum(node.gpus for node in cluster.nodes))
    told = "Since a dispatcher has last told what the cluster has, which it does every few seconds while it lives."
    yield _gauge("sweep_cluster_seen_seconds", told, age_s)


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=value)


def _by_state(name: str, told: str, states: type[_State], numbers: Mapping[_State, int]) -> Metric:
    """Also of states that nothing is in: a series that is not there cannot be told from one that is not known."""
    family = GaugeMetricFamily(name, told, labels=["state"])
    for state in states:
        family.add_metric([str(state)], numbers.get(state, 0))
    return family


def _spread(name: str, told: str, times: Times) -> Metric:
    family = GaugeHistogramMetricFamily(name, told)
    bounds = [*(str(float(bound)) for bound in TIME_BOUNDS_S), "+Inf"]
    buckets = list(zip(bounds, accumulate(times.counts), strict=True))
    family.add_metric([], buckets, gsum_value=times.total.total_seconds())
    return family


@cache
def _version() -> str:
    try:
        return version("gradnorm-sweeps")
    except PackageNotFoundError:  # run from a folder of sources
        return "unknown"
