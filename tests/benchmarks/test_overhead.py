"""A small store is filled as it should be and asked for everything; noted calls become shares. No times."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from benchmarks import overhead
from benchmarks.overhead_filling import Filling
from benchmarks.overhead_rows import REFERENCE, Load, Took, percentile, row_of, table
from benchmarks.overhead_shares import IN_THREADS, PACK, PARTS, REPORTING, WAITED_FOR, read_calls, sweeping_of
from benchmarks.overhead_shares import row_of as share_row
from benchmarks.overhead_shares import table as share_table
from benchmarks.overhead_store import Asking, measure_store
from benchmarks.overhead_sweep import PROBE, VARIANTS, spec_of
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.domain.trial import Role
from sweep_service.services.results import summarise
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store

SMALL = Filling(num_sweeps=20, trials_a_sweep=20, reports_a_trial=2)
ONE = Load(clients=1)
OPERATIONS = {
    "service": {"submit", "get", "list", "trials page", "best", "reference"},
    "http": {"submit", "get", "list", "trials page", "best"},
    "conductor": {"claim", "renew_lease", "start_attempt", "record, 4 reports", "record, report and end"},
}


def checked(store, asking):
    """All that must hold of any measurement."""
    assert store.num_rows["sweeps"] == SMALL.num_sweeps
    assert store.num_rows["trials"] == SMALL.num_sweeps * SMALL.trials_a_sweep
    assert store.num_rows["attempts"] <= store.num_rows["trials"] * 2
    assert store.num_rows["reports"] > store.num_rows["trials"]
    assert all(row.calls >= asking.num_calls for row in store.rows if row.operation in OPERATIONS[row.layer])
    assert all(0 < row.p50_ms <= row.p99_ms <= row.max_ms for row in store.rows)
    layers = {"service", "conductor"} | ({"http"} if asking.with_http else set())
    for layer in layers:
        assert {row.operation for row in store.rows if row.layer == layer} >= OPERATIONS[layer]
    assert {row.layer for row in store.rows} == layers
    assert {row.load for row in store.rows} == set(asking.loads)


def test_a_sqlite_store_is_filled_and_asked_by_users_and_conductors(tmp_path):
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    asking = Asking(num_calls=4, loads=[ONE, Load(clients=2, mean_pause_s=0.001)])
    store = measure_store("sqlite", SMALL, asking, url=url)
    checked(store, asking)
    check_contents(open_sql_store(url))
    lines = [line for line in table(store.rows).splitlines() if not line.startswith("The machine")]
    assert len(lines) == 2 + len({(row.layer, row.operation) for row in store.rows})


def test_so_is_a_postgres_store(postgres_url):
    asking = Asking(num_calls=4, loads=[ONE], with_http=False)
    checked(measure_store("postgres", SMALL, asking, url=postgres_url), asking)


def check_contents(store):
    """The service finds in it what it would have stored itself."""
    filled = store.list_sweeps(oldest_first=True, limit=SMALL.num_sweeps)
    assert [one.spec.name for one in filled] == [f"census-{number}" for number in range(SMALL.num_sweeps)]
    states = Counter(one.state for one in filled)
    assert states[SweepState.COMPLETED] > SMALL.num_sweeps // 2
    assert len(states) > 2
    ended = next(one for one in filled if one.state is SweepState.COMPLETED)
    trials = store.list_trials(ended.id)
    assert [trial.number for trial in trials] == list(range(SMALL.trials_a_sweep))
    assert {trial.role for trial in trials} == set(Role)
    whole = store.get_sweep(ended.id)
    assert whole.results is not None
    assert whole.results == json.loads(json.dumps(summarise(whole, trials)))
    assert whole.results["verdict"]["against"][0]["baseline"] == "equal"
    leader = store.find_leader(ended.id, Role.SEARCH, objective=ended.spec.objective)
    assert leader is not None
    assert leader.id == ended.best_trial_id
    seqs = [event.seq for event in store.list_events(ended.id, limit=1000)]
    assert seqs == list(range(1, 1 + len(seqs)))
    done = next(trial for trial in trials if trial.state is TrialState.COMPLETED)
    assert store.list_reports(done.id)[-1].metrics == done.metrics
    assert not store.undelivered(ended.id, limit=10)


def test_percentiles_are_values_that_were_measured():
    seconds = [float(number) for number in range(1, 201)]
    Random(0).shuffle(seconds)
    assert (percentile(seconds, 0.5), percentile(seconds, 0.99), percentile(seconds, 1.0)) == (100, 198, 200)
    assert percentile([3.0], 0.5) == percentile([3.0], 0.99) == 3.0


@pytest.mark.parametrize(
    ("load", "meets_aim"),
    [(ONE, False), (Load(clients=8, mean_pause_s=0.1), False), (Load(clients=8), True)],
)
def test_the_aim_is_not_asked_of_clients_that_do_not_pause(load, meets_aim):
    row = row_of([Took(0.01, 0.01), Took(0.2, 0.01)], database="sqlite", layer="http", operation="get", load=load)
    assert row.meets_aim is meets_aim
    assert table([row]).endswith("met" if meets_aim else f"missed: {load}")


def test_the_table_says_when_others_have_used_the_machine():
    values = {"database": "sqlite", "layer": "service", "operation": REFERENCE, "load": ONE}
    calm = row_of([Took(0.002, 0.002), Took(0.003, 0.002)], **values)
    busy = row_of([Took(0.002, 0.002), Took(0.002, 0.002), Took(0.02, 0.002)], **values)
    assert "busy" not in table([calm])
    assert "is 10 times its p50" in table([busy]).splitlines()[-1]
    heads, line = table([calm]).splitlines()[1:]
    assert heads.split("|")[1].split() == ["p50", "ms", "p99", "cpu", "p99", "calls/s"]
    assert line.split("|")[1].split() == ["2.0", "3.0", "2.0", "–"]


def noted(folder, *calls):
    """Calls as the probe writes them: what, when, for how long."""
    lines = [json.dumps([what, began, seconds, seconds / 2, "thread"]) for what, began, seconds in calls]
    (folder / "1.jsonl").write_text("\n".join(lines) + "\n")
    return read_calls(folder)


def test_the_shares_are_of_the_packs_time_and_of_the_sweeps(tmp_path):
    calls = noted(
        tmp_path,
        ("SqlSweepStore.record", 99.0, 50.0),  # of another sweep
        (PACK, 101.0, 10.0),
        (PACK, 102.0, 10.0),
        ("LaneReporter.__call__", 103.0, 2.0),
        ("LaneTraining._checkpoint", 103.0, 0.1),
        ("Checkpoint.save", 103.0, 0.25),  # two lanes', at once
        ("Checkpoint.save", 103.0, 0.25),
        ("LaneReporter._write_at_once", 103.0, 0.3),
        ("SqlSweepStore.record", 104.0, 0.6),
        ("SqlSweepStore.renew_lease", 105.0, 0.5),
    )
    one = sweeping_of(calls, began=100.0, ended=120.0)
    assert (one.seconds, one.pack_seconds, one.num_packs) == (20, 20, 2)
    assert one.waited_share == pytest.approx(0.05)
    assert one.waited_processor_share == pytest.approx((0.05 + 0.25 + 0.3) / (10 + 0.25 + 0.3))
    assert one.reporting_share == pytest.approx(2.1 / 20)
    assert one.beside_share == pytest.approx(0.5 / 20)
    assert one.processor_share(2) == pytest.approx((0.05 + 0.25 + 0.3 + 0.25) / 40)
    row = share_row("sqlite", "as they are", [one], num_processors=2)
    assert row.parts["heartbeats"].calls == 1
    assert "5.00 %" in share_table([row])
    assert set(WAITED_FOR) < set(PARTS)


@pytest.mark.parametrize("is_quick", [False, True])
def test_the_variants_are_one_sweep_but_for_what_they_are_called_by(is_quick):
    specs = {name: spec_of(name, is_quick=is_quick) for name in VARIANTS}
    read = {name: SweepSpec.model_validate(spec) for name, spec in specs.items()}
    assert {name: one.resources.lanes for name, one in read.items()} == {n: v.lanes for n, v in VARIANTS.items()}
    for name, variant in VARIANTS.items():
        assert specs[name]["params"].pop("checkpoint_every") == variant.checkpoint_every
        if variant.is_long:
            assert specs.pop(name)["params"]["steps"] == 10 * specs["4 lanes"]["params"]["steps"]
    for spec in specs.values():
        del spec["name"], spec["resources"]["lanes"]
        assert spec == specs["4 lanes"]


SCRIPT = """
import sys
from datetime import timedelta
from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.storage.sql import open_sql_store
from sweep_service.services.checkpoints import CheckpointFolders, Removals

store = open_sql_store(sys.argv[1])
assert store.claim_sweep(owner="test", ttl=timedelta(seconds=1)) is None
CheckpointFolders(FolderFiles(), sys.argv[2], "swp", Removals()).drop_trial("trl")
try:
    store.renew_lease(None, ttl=timedelta(seconds=1))
except AttributeError:
    pass
"""


def test_the_probe_notes_calls_of_a_process_that_knows_nothing_of_it(tmp_path):
    url, notes = f"sqlite:///{tmp_path / 'sweeps.db'}", tmp_path / "notes"
    notes.mkdir()
    migrate(url)
    path = os.pathsep.join([str(PROBE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OVERHEAD_FOLDER": str(notes)}
    subprocess.run([sys.executable, "-c", SCRIPT, url, str(tmp_path)], env=environment, check=True)
    found = read_calls(notes)
    expected = ["SqlSweepStore.claim_sweep", "CheckpointFolders.drop_trial", "SqlSweepStore.renew_lease"]
    assert [call.what for call in found] == expected
    assert all(call.seconds >= 0 and call.thread == "MainThread" for call in found)


def test_every_wrapped_function_is_there_and_every_counted_one_is_wrapped():
    wrapped = set()
    for name, owners in runpy.run_path(str(PROBE / "sitecustomize.py"))["WRAPPED"].items():
        module = importlib.import_module(name)
        for owner_name, functions in owners.items():
            owner = getattr(module, owner_name) if owner_name else module
            assert all(callable(vars(owner)[function]) for function in functions)
            wrapped |= {f"{owner_name or name.rpartition('.')[2]}.{function}" for function in functions}
    assert wrapped == {
        PACK,
        *REPORTING,
        *(what for names in (*PARTS.values(), *IN_THREADS.values()) for what in names),
    }


def test_the_json_is_one_object_with_the_stores_and_the_sweeps(monkeypatch, capsys):
    row = row_of([Took(0.01, 0.01), Took(0.02, 0.01)], database="sqlite", layer="service", operation="get", load=ONE)
    stores, sweeps = [], []

    def fake_store(database, filling, asking):
        stores.append(database)
        return overhead.Store(database=database, num_rows={"sweeps": filling.num_sweeps}, fill_seconds=1.0, rows=[row])

    def fake_sweeps(database, variants, *, rounds, is_quick):
        assert variants == list(VARIANTS)
        sweeps.append((database, rounds, is_quick))
        return []

    monkeypatch.setattr(overhead, "measure_store", fake_store)
    monkeypatch.setattr(overhead, "measure_sweeps", fake_sweeps)
    overhead.main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert [one["num_rows"]["sweeps"] for one in found["stores"]] == [1000, 1000]
    assert found["stores"][0]["rows"][0]["load"] == {"clients": 1, "mean_pause_s": 0.0}
    assert stores == ["sqlite", "postgres"]
    assert sweeps == [("sqlite", 3, False), ("postgres", 3, False)]
    overhead.main(["--quick", "--only", "sweep", "--databases", "sqlite"])
    assert (len(stores), sweeps[-1]) == (2, ("sqlite", 1, True))
