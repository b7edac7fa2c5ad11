"""The table of the throughput benchmark follows from its measurements, and its variants ask for the same. No times."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from benchmarks import sweep_throughput
from benchmarks.sweep_throughput_memory import PeakMemory
from benchmarks.sweep_throughput_processes import Family, private_environment
from benchmarks.sweep_throughput_rows import rows_of, table
from benchmarks.sweep_throughput_stack import ServiceVariant, spec_of, warm_up_spec
from benchmarks.sweep_throughput_variants import STOPPING_VARIANTS, VARIANTS
from benchmarks.sweep_throughput_workload import (
    NUM_REPORTS,
    PARALLEL,
    Curve,
    Measurement,
    NotAvailableError,
    VariantFailedError,
    Workload,
)
from sweep_service.domain.spec import SweepSpec

DIGITS = Workload(problem="digits", trials=8, steps=200, batch_size=64)
KEYS = {"problem", "variant", "trials", "seconds", "trials_per_minute", "peak_mb", "best"}
SERVICE_VARIANTS = {
    name: variant for name, variant in {**VARIANTS, **STOPPING_VARIANTS}.items() if isinstance(variant, ServiceVariant)
}


def measured(
    seconds: float, *, curve: Curve = ((1.0, 0.9), (2.0, 0.5)), peak_mb: float = 1000.0, best: float | None = 0.5
) -> Measurement:
    return Measurement(seconds=seconds, cold_seconds=seconds + 10, peak_mb=peak_mb, completed=8, curve=curve, best=best)


def by_variant(rounds):
    return {row.variant: row for row in rows_of(DIGITS, VARIANTS, rounds)}


def test_a_row_has_medians_over_the_rounds_and_the_largest_peak():
    rounds = {"lanes_1": [measured(30), measured(10, peak_mb=2000.0), measured(20, best=0.25)]}
    row = by_variant(rounds)["lanes_1"]
    assert (row.seconds, row.trials_per_minute, row.peak_mb, row.cold_seconds) == (20, 24, 2000, 30)
    assert row.best == 0.5
    assert row.round_seconds == [30, 10, 20]
    assert row.ratio_to_script is None


def test_a_ratio_is_taken_within_a_round():
    rounds = {"tune_script": [measured(40), measured(100), measured(60)], "lanes_1": [measured(20), measured(10), None]}
    rows = by_variant(rounds)
    assert rows["lanes_1"].ratio_to_script == pytest.approx((2 + 10) / 2)
    assert rows["tune_script"].ratio_to_script == 1


def test_the_seconds_to_one_per_cent_are_to_the_lowest_value_of_all_variants():
    curves = {
        "tune_script": [(5.0, 0.6), (9.0, 0.404)],
        "lanes_1": [(3.0, 0.41), (4.0, 0.4)],
        "lanes_auto": [(1.0, 1.0)],
    }
    rows = by_variant({name: [measured(10, curve=curve)] for name, curve in curves.items()})
    reached = {name: row.seconds_to_1pct for name, row in rows.items()}
    assert reached == {"tune_script": 9.0, "lanes_1": 4.0, "lanes_auto": None}


def test_a_variant_of_which_no_trial_completed_has_no_best():
    assert by_variant({"lanes_1": [measured(10, curve=(), best=None)]})["lanes_1"].best is None


@pytest.fixture
def fake_measure(monkeypatch):
    """In place of the processes; the calls are kept."""
    calls = []

    def fake(workload, variant):
        name = next(name for name, one in VARIANTS.items() if one is variant)
        calls.append((workload.problem, name))
        if name == "lanes_auto":
            raise NotAvailableError("/resources/lanes: must be 1")
        if name == "lanes_most" and workload.problem == "digits":
            raise VariantFailedError("the sweep failed")
        return measured(30 if name == "tune_script" else 15)

    monkeypatch.setattr(sweep_throughput, "measure", fake)
    monkeypatch.setattr(sweep_throughput, "_read_libraries", lambda: None)
    return calls


def test_the_json_is_one_object_with_a_row_for_each_variant_of_each_problem(fake_measure, capsys):
    names = ["tune_script", "lanes_1", "lanes_auto"]
    sweep_throughput.main(["--json", "--problems", "digits", "census_income", "--variants", *names, "--rounds", "2"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"rows"}
    assert [(row["problem"], row["variant"], row["batch_size"]) for row in document["rows"]] == [
        (problem, variant, 64) for problem in ("digits", "census_income") for variant in ("tune_script", "lanes_1")
    ]
    assert all(set(row) >= KEYS and row["trials"] == 32 and row["steps"] == 1500 for row in document["rows"])
    assert document["rows"][1]["ratio_to_script"] == 2
    assert "digits, lanes_auto: not available: /resources/lanes: must be 1" in err


def test_the_variants_take_turns_in_being_first(fake_measure):
    names = ["tune_script", "lanes_1", "tune_script_tuned"]
    sweep_throughput.main(["--quick", "--problems", "digits", "--variants", *names, "--rounds", "3"])
    assert [name for _, name in fake_measure[::3]] == names
    assert len(fake_measure) == 9


def test_the_table_says_what_is_not_available_and_what_failed_and_the_status_too(fake_measure, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep_throughput.main(["--quick", "--problems", "digits", "toy_regression"])
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "torch" in text.splitlines()[0]
    lines = [line.split(maxsplit=2) for line in text.splitlines()[3:] if line]
    assert [line[1] for line in lines if line[0] == "digits"] == list(VARIANTS)
    assert ["digits", "lanes_auto", "not available: /resources/lanes: must be 1"] in lines
    assert ["digits", "lanes_most", "failed: the sweep failed"] in lines
    assert next(line[2] for line in lines if line[:2] == ["toy_regression", "lanes_most"]).startswith("4 ")


def test_the_table_shows_the_seconds_of_each_round():
    rows = rows_of(DIGITS, VARIANTS, {"tune_script": [measured(40), measured(41.26)]})
    assert table(rows, {}).endswith("  40.0 41.3")


@pytest.mark.parametrize("steps", [15, 200, 1500, 3000])
def test_a_trial_reports_so_often_whatever_its_steps(steps):
    workload = Workload(problem="digits", trials=8, steps=steps, batch_size=64)
    reports = {*range(workload.report_every, steps + 1, workload.report_every), steps}
    assert len(reports) == NUM_REPORTS
    assert workload.min_steps in reports


@pytest.mark.parametrize("name", SERVICE_VARIANTS)
def test_the_specs_are_those_of_one_sweep_but_for_the_lanes(name):
    variant = SERVICE_VARIANTS[name]
    spec = {**spec_of(DIGITS, variant)}
    assert spec["resources"] == {"cpus": 1, "parallel": 2, "lanes": {"lanes_1": 1, "lanes_most": 4}.get(name, "auto")}
    assert ("early_stopping" in spec) == name.endswith("_asha")
    spec["resources"] = {**spec["resources"], "lanes": 1}
    read = SweepSpec.model_validate(spec)
    assert read.baselines == ()
    assert read.confirm is None
    assert read.budget.trials == 8
    assert SweepSpec.model_validate(warm_up_spec(DIGITS)).budget.trials == PARALLEL


def test_a_family_is_what_has_been_started_since_with_its_memory_and_all_of_it_can_be_ended():
    script = (
        "import subprocess, sys\n"
        "argv, nowhere = [sys.executable, '-c', 'import time; time.sleep(600)'], subprocess.DEVNULL\n"
        "print(subprocess.Popen(argv, stdout=nowhere).pid)"
    )
    earlier = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        family = Family()
        with PeakMemory(family, interval_s=0.01) as memory:
            pid = int(subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE).stdout)
            # Not the only one, perhaps: a server of other tests, which is a child too, may start something meanwhile.
            (orphan,) = (process for process in family.members() if process.pid == pid)
            name = orphan.name()
            deadline = time.monotonic() + 60  # a look at every process of a busy machine may take long
            while memory.peak_mb <= 1 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert memory.peak_mb > 1
        assert name in family.end()
        assert orphan not in family.members()
        assert earlier.poll() is None
    finally:
        earlier.communicate(b"\n")


def test_no_setting_of_ones_own_service_reaches_a_variant(monkeypatch, tmp_path):
    for name in ("SWEEP_DATABASE_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "somewhere else")
    assert "somewhere else" not in private_environment(tmp_path).values()
