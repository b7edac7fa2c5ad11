"""The store of one database: filled, then asked."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead_calls import (
    LANES,
    Conducting,
    begin_together,
    conduct,
    http_calls,
    served,
    service_calls,
    submit,
)
from benchmarks.overhead_filling import Filled, Filling, document, fill
from benchmarks.overhead_rows import REFERENCE, Load, Row, Took, row_of, timed
from benchmarks.postgres_server import running_server
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store
from trainables.catalog import Trainable, load_catalog

DATABASES = ("sqlite", "postgres")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How much is asked of a store."""

    num_calls: int  # of each operation, at least
    loads: Sequence[Load]  # by turns; of conductors and of HTTP
    with_http: bool = True


@dataclass(frozen=True, kw_only=True)
class Store:
    """What was measured of one database."""

    database: str
    num_rows: Mapping[str, int]  # as it was filled, by table
    fill_seconds: float
    rows: Sequence[Row]


def measure_store(database: str, filling: Filling, asking: Asking, *, url: str | None = None) -> Store:
    """``url``: of an empty database; without it there is one for as long as it takes."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        if url is None:
            url = f"sqlite:///{folder / 'sweeps.db'}"
            if database != "sqlite":
                server = stack.enter_context(running_server(Path(stack.enter_context(_folder()))))
                url = server.render_as_string(hide_password=False)
        catalog = load_catalog()
        migrate(url)
        _tell(f"{database}: {filling.num_sweeps} sweeps of {filling.trials_a_sweep} trials are put in ...")
        began = time.perf_counter()
        filled = fill(url, filling, catalog)
        fill_seconds = time.perf_counter() - began
        with contextlib.closing(open_sql_store(url)) as store:
            store.publish_catalog(list(catalog.values()))
        rows = [*_ask_services(database, url, filled, asking, filling)]
        if asking.with_http:
            rows += _ask_server(database, url, filled, asking, filling, folder)
        rows += _ask_as_conductors(database, url, asking, catalog)
        return Store(database=database, num_rows=filled.num_rows, fill_seconds=fill_seconds, rows=rows)


def _ask_services(database: str, url: str, filled: Filled, asking: Asking, filling: Filling) -> Iterator[Row]:
    """One client: several of them in one process would wait for each other's Python, as they do in the API's."""
    one = Load(clients=1)
    with contextlib.closing(open_sql_store(url)) as store:
        _forget_garbage()
        calls = {REFERENCE: _calculate, **service_calls(store, filled, document(filling.trials_a_sweep))}
        for name, call in calls.items():
            _tell(f"{database}: service, {name} ...")
            took, took_s = timed(call, num_calls=asking.num_calls, load=one)
            yield row_of(took, database=database, layer="service", operation=name, load=one, took_s=took_s)


def _ask_server(
    database: str, url: str, filled: Filled, asking: Asking, filling: Filling, folder: Path
) -> Iterator[Row]:
    with served(url, folder / "api") as address:
        for name, call in http_calls(address, filled, document(filling.trials_a_sweep)).items():
            for load in asking.loads:
                _tell(f"{database}: http, {name}, {load} ...")
                took, took_s = timed(call, num_calls=asking.num_calls, load=load)
                yield row_of(took, database=database, layer="http", operation=name, load=load, took_s=took_s)


def _ask_as_conductors(database: str, url: str, asking: Asking, catalog: Mapping[str, Trainable]) -> Iterator[Row]:
    """Each a process of its own."""
    census = catalog[document(1)["trainable"]]
    keys = [f"{key}/{task.name}" for key in ("train/loss", "weight", "grad_norm") for task in census.tasks]
    for load in asking.loads:
        _tell(f"{database}: conductors, {load} ...")
        share = math.ceil(asking.num_calls / load.clients)
        submit(url, document(1), share * load.clients)
        work = Conducting(
            database_url=url,
            params=census.defaults(),
            metrics=dict.fromkeys([*census.metrics, *keys], 0.123456789),
            rounds=math.ceil(share / LANES),
            claims=share,
            load=load,
        )
        for name, took in _merged(_at_once(work)).items():
            yield row_of(took, database=database, layer="conductor", operation=name, load=load)


def _at_once(work: Conducting) -> list[Mapping[str, list[Took]]]:
    num = work.load.clients
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num, context, initializer=begin_together, initargs=(context.Barrier(num),)) as pool:
        return list(pool.map(conduct, [work] * num))


def _merged(found: Sequence[Mapping[str, list[Took]]]) -> dict[str, list[Took]]:
    return {name: [call for one in found for call in one[name]] for name in found[0]}


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="overhead-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _calculate(_: random.Random) -> None:
    """Takes as long as ever, unless others take the processor."""
    sum(number * number for number in range(50_000))


def _forget_garbage() -> None:
    """As the API does when it has imported everything: looking through that for garbage takes tens of milliseconds."""
    gc.collect()
    gc.freeze()


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
