"""A user's own CSV or Parquet as a problem."""

from __future__ import annotations

import decimal
import math

import numpy as np
import pandas as pd
import pytest
import torch

from trainables.catalog import load_catalog, load_problem
from trainables.checkpoint import Checkpoint
from trainables.evaluation import constant_losses
from trainables.export import export_model
from trainables.losses import poisson_deviance
from trainables.problems.own_table import Rescale
from trainables.problems.table_file import DATA_ROOTS, DataError
from trainables.protocol import Lane
from trainables.training import train

NUM_ROWS = 400
TASKS = {
    "visits": {"kind": "count"},
    "churned": {"kind": "binary", "positive": "yes"},
    "revenue": {"kind": "regression", "column": "yearly revenue"},
    "plan": {"kind": "multiclass"},
}


def customers(num_rows=NUM_ROWS, seed=1):
    """A table in which every target follows from the inputs."""
    draw = np.random.default_rng(seed)
    age = draw.integers(18, 90, num_rows)
    city = draw.choice(["Bonn", "Ulm", "Köln"], num_rows)
    score = (age - 54) / 20 + (city == "Bonn")
    return pd.DataFrame(
        {
            "customer": np.arange(num_rows),
            "age": age,
            "city": city,
            "zip": draw.choice([53111, 89073], num_rows),
            "member": draw.random(num_rows) < 0.5,
            "churned": np.where(score > 0.3, "yes", "no"),
            "visits": draw.poisson(np.exp(0.5 + 0.5 * score)),
            "yearly revenue": 50_000 + 20_000 * score,
            "plan": np.where(score < -0.5, "basic", np.where(score < 0.5, "plus", "pro")),
        }
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_ROOTS, str(folder))
    return folder


@pytest.fixture
def problem_of(root):
    """Writes a table and loads it as a problem."""

    def load(table=None, *, tasks=TASKS, file="customers.csv", **params):
        table = customers() if table is None else table
        if file.endswith(".parquet"):
            table.to_parquet(root / file)
        else:
            table.to_csv(root / file, index=False)
        return load_problem("tabular", {"data": file, "tasks": tasks, "drop": ["customer"], **params})

    return load


def trained(problem, **params):
    reports = []
    lane = Lane(key="a", balancer="gradnorm", params={"steps": 2, "batch_size": 64, **params}, evaluate_test=True)
    train(problem, [lane], lambda new: reports.extend(new) or ())
    assert reports[-1].ending == "completed", reports[-1].message
    return reports[-1]


# --- what comes of a table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["customers.csv", "customers.csv.gz", "customers.parquet"])
def test_each_task_is_a_column_and_all_others_are_inputs(problem_of, file):
    problem = problem_of(file=file)
    assert [(task.name, task.kind) for task in problem.tasks] == [
        ("churned", "binary"),
        ("plan", "multiclass"),
        ("revenue", "regression"),
        ("visits", "count"),
    ]
    assert [len(split) for split in (problem.train, problem.validation, problem.test)] == [240, 80, 80]
    codes, numeric = problem.train.inputs
    assert (codes.shape[1], numeric.shape[1]) == (1, 3)  # city; age, zip, member
    assert {name: tuple(t.shape) for name, t in problem.train.targets.items()} == dict.fromkeys(TASKS, (240,))
    outputs = problem.build_model()(codes[:7], numeric[:7])
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "churned": (7,),
        "plan": (7, 3),
        "revenue": (7,),
        "visits": (7,),
    }


def test_csv_and_parquet_of_one_table_are_the_same_data(problem_of):
    table = customers()
    table["age"] = table["age"].astype(float).where(table["age"] != 30)
    assert problem_of(table).data_hash == problem_of(table, file="customers.parquet").data_hash


def test_the_targets_are_those_of_the_file_in_its_own_units(problem_of):
    table = customers()
    problem = problem_of(table)
    total = {
        name: sum(
            split.targets[name].double().sum().item() for split in (problem.train, problem.validation, problem.test)
        )
        for name in TASKS
    }
    assert total["churned"] == (table["churned"] == "yes").sum()
    assert total["visits"] == table["visits"].sum()
    assert total["revenue"] == pytest.approx(table["yearly revenue"].sum(), rel=1e-6)
    assert total["plan"] == table["plan"].map({"basic": 0, "plus": 1, "pro": 2}).sum()


def test_what_a_lane_reports_is_what_the_catalogue_says_for_those_tasks(problem_of):
    metrics = trained(problem_of()).metrics
    promised = load_catalog()["tabular"].metrics_for({"tasks": TASKS})
    assert {key for key in metrics if key.startswith("val/")} == set(promised)
    assert "val/auc/churned" in promised
    assert "val/rmse/visits" in promised


def test_every_task_is_learnt(problem_of):
    metrics = trained(problem_of(), steps=600, lr=0.01, alpha=0.5).metrics
    constant = constant_losses(problem_of(), problem_of().test).tolist()
    skill = {name: 1 - metrics[f"test/loss/{name}"] / loss for name, loss in zip(sorted(TASKS), constant, strict=True)}
    assert skill["churned"] > 0.6, skill
    assert skill["plan"] > 0.5, skill
    assert skill["revenue"] > 0.8, skill
    assert skill["visits"] > 0.1, skill  # most of a count's deviance is chance


def test_a_regressions_output_starts_at_the_mean_and_a_counts_at_its_logarithm(problem_of):
    problem = problem_of()
    outputs = problem.build_model()(*problem.validation.inputs)
    revenue, visits = problem.train.targets["revenue"], problem.train.targets["visits"]
    assert (outputs["revenue"].mean() - revenue.mean()).abs() < revenue.std()
    assert (outputs["visits"].mean() - visits.mean().log()).abs() < 1
    assert isinstance(problem.build_model().heads["revenue"][-1], Rescale)


def test_a_trained_model_can_be_exported_and_read_again(problem_of, tmp_path):
    problem = problem_of()
    checkpoint = trained(problem).checkpoint
    checkpoint.save(tmp_path / "c.pt")
    model = export_model(Checkpoint.load(tmp_path / "c.pt"), problem)
    assert set(model(*problem.test.inputs)) == set(TASKS)


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_by_the_training_split(problem_of):
    numeric = problem_of().train.inputs[1].double()
    torch.testing.assert_close(numeric.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(numeric.std(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_missing_number_is_the_mean_and_sets_an_indicator(problem_of):
    table = customers()
    table["age"] = table["age"].astype(float)
    table.loc[::7, "age"] = math.nan
    numeric = problem_of(table, split="in_order").train.inputs[1]
    assert numeric.shape[1] == 4
    missing = torch.arange(240) % 7 == 0
    assert torch.equal(numeric[:, 3], missing.float())
    assert numeric[missing, 0].abs().max() == 0
    assert numeric[~missing, 0].mean().abs() < 1e-5


def test_a_missing_text_is_a_category_and_one_that_training_never_saw_says_nothing(problem_of):
    table = customers()
    table.loc[::9, "city"] = None
    table.loc[399, "city"] = "Trier"
    problem = problem_of(table, split="in_order")
    embedding = problem.build_model().trunk.stem.embedding
    assert embedding.num_embeddings == 5  # unknown, missing, Bonn, Köln, Ulm
    assert problem.test.inputs[0][-1].item() == 0
    assert embedding.weight[0].abs().max() == 0
    assert len(set(problem.train.inputs[0][::9].flatten().tolist())) == 1


def test_parquets_own_types_are_numbers_and_texts_too(problem_of):
    table = customers()
    money = [decimal.Decimal(cents) / 100 for cents in range(NUM_ROWS)]
    table["yearly revenue"], table["spent"] = money, [None, *money[1:]]
    table["age"] = table["age"].astype("Int64").where(table.index % 3 != 0)
    table["city"] = table["city"].astype("category")
    codes, numeric = problem_of(table, file="customers.parquet").train.inputs
    assert (codes.shape[1], numeric.shape[1]) == (1, 6)  # age, zip, member, spent, and two indicators


def test_a_column_of_numbers_can_stand_for_categories(problem_of):
    codes, numeric = problem_of(categorical=["zip"]).train.inputs
    assert (codes.shape[1], numeric.shape[1]) == (2, 2)
    table = customers()
    table["zip"] = table["zip"].astype(float).where(table.index % 5 != 0)
    assert problem_of(table, categorical=["zip"]).train.inputs[1].shape[1] == 2


def test_a_number_that_never_changes_in_training_is_nothing(problem_of):
    table = customers().assign(age=0.1)
    table.loc[399, "age"] = 1e9
    problem = problem_of(table, split="in_order")
    assert problem.test.inputs[1][:, 0].abs().max() == 0


@pytest.mark.parametrize(("drop", "num_inputs"), [(["city"], 1), (["age", "zip", "member"], 2)])
def test_a_table_may_have_no_texts_or_no_numbers(problem_of, drop, num_inputs):
    problem = problem_of(drop=["customer", *drop])
    assert len(problem.train.inputs) == num_inputs
    assert trained(problem).step == 2


# --- splits and targets ----------------------------------------------------------------------------------------------


def test_rows_can_be_split_in_their_order_or_by_a_column(problem_of):
    table = customers().drop(columns="customer").assign(customer=np.arange(NUM_ROWS) + 0.0)
    in_order = problem_of(table, split="in_order", drop=[], tasks={"customer": {"kind": "regression"}})
    assert in_order.train.targets["customer"].tolist() == list(range(240))
    assert in_order.test.targets["customer"].tolist() == list(range(320, 400))
    table["part"] = np.resize(["train", "train", "validation", "test"], NUM_ROWS)
    by_column = problem_of(
        table, split="column", split_column="part", drop=[], tasks={"customer": {"kind": "regression"}}
    )
    assert by_column.validation.targets["customer"].tolist() == list(range(2, 400, 4))
    assert by_column.train.inputs[0].shape[1] == 3  # city, churned, plan: the split's column is no input


def test_rows_without_a_target_are_refused_or_dropped(problem_of):
    table = customers()
    table.loc[:9, "plan"] = None
    table.loc[5:14, "yearly revenue"] = math.nan
    with pytest.raises(DataError, match=r"of 400 rows.*'plan' in 10, 'yearly revenue' in 10; .*drop_rows"):
        problem_of(table)
    problem = problem_of(table, missing_targets="drop_rows")
    assert sum(len(split) for split in (problem.train, problem.validation, problem.test)) == 385


@pytest.mark.parametrize(
    ("values", "positive"),
    [([0, 1], None), ([True, False], None), (["false", "true"], None), ([3, 4], "4"), ([3.0, 4.0], "4"), ("ab", "b")],
    ids=repr,
)
def test_a_binary_target_may_be_numbers_texts_or_booleans(problem_of, values, positive):
    table = customers().assign(churned=np.resize(np.array(list(values)), NUM_ROWS))
    description = {"kind": "binary"} | ({} if positive is None else {"positive": positive})
    problem = problem_of(table, split="in_order", tasks={"churned": description})
    expected = 1 if values == [True, False] else 0
    assert problem.train.targets["churned"].tolist()[:2] == [expected, 1 - expected]


def test_the_positive_value_stands_against_all_others(problem_of):
    problem = problem_of(tasks={"pro": {"kind": "binary", "column": "plan", "positive": "pro"}})
    assert 0 < problem.train.targets["pro"].mean() < 1
    assert problem.train.inputs[0].shape[1] == 2  # city, churned; plan is the task's


def test_the_same_file_is_other_data_once_it_has_changed(problem_of):
    first = problem_of(customers(seed=1)).data_hash
    assert problem_of(customers(seed=1)).data_hash == first
    assert problem_of(customers(seed=2)).data_hash != first


# Of tables as they were encoded before the encoding became a value: results of old sweeps are compared with new ones.
DATA_HASHES = {
    "plain": "921bf81d62da576fc9637ce9458fc8f6c6558c5382dc7f74dae3bdd23fb0d4a6",
    "with gaps": "b5a08d3e53453eac7e2ee1af2c37123fc656c4b01541d8dd75db7a50efe3f503",
    "with gaps and categories of numbers": "eeba447a031ad67d012abe35c97353ccde080fe8911c3edc13bea16f80e117e4",
}


def test_the_data_is_bit_for_bit_what_it_was(problem_of):
    gaps = customers()
    gaps["age"] = gaps["age"].astype(float).where(gaps.index % 7 != 0)
    gaps["member"] = gaps["member"].astype(object).where(gaps.index % 11 != 0)
    gaps.loc[::9, "city"] = None
    numbers = gaps.copy()
    numbers["zip"] = numbers["zip"].astype(float).where(numbers.index % 5 != 0)
    assert {
        "plain": problem_of().data_hash,
        "with gaps": problem_of(gaps).data_hash,
        "with gaps and categories of numbers": problem_of(numbers, categorical=["zip"], split="in_order").data_hash,
    } == DATA_HASHES


# --- what cannot be --------------------------------------------------------------------------------------------------


def with_column(name, values):
    return customers().assign(**{name: values})


REFUSED = {
    "a task's column is missing": ({"tasks": {"visit": {"kind": "count"}}}, "no column 'visit'; did you mean 'visits'"),
    "a dropped column is missing": ({"drop": ["xyzzy"]}, "drop: .*no column 'xyzzy'; there are 'customer', 'age'"),
    "a categorical column is missing": ({"categorical": ["zipp"]}, "categorical: .*did you mean 'zip'"),
    "one class": ({"table": with_column("churned", "yes")}, "one class only in the training rows"),
    "one class of many": ({"table": with_column("plan", "x")}, "one class only in the training rows"),
    "no positive": ({"tasks": {"churned": {"kind": "binary"}}}, "values 'no', 'yes': say which one is 1"),
    "never positive": ({"tasks": {"churned": {"kind": "binary", "positive": "YES"}}}, "never has the positive .*'YES'"),
    "texts for a regression": ({"tasks": {"plan": {"kind": "regression"}}}, "texts such as '.*but a regression needs"),
    "a constant regression": ({"table": with_column("yearly revenue", 7.5)}, "the same value in every training row"),
    "a huge regression": (
        {"table": with_column("yearly revenue", np.geomspace(1, 1e30, NUM_ROWS))},
        "another unit",
    ),
    "negative counts": ({"table": with_column("visits", np.arange(NUM_ROWS) - 5)}, "whole numbers from 0 on"),
    "a constant count": ({"table": with_column("visits", 0)}, "the same value in every training row"),
    "too few rows": ({"table": customers(49)}, "49 rows are too few"),
    "an identifier": ({"table": with_column("who", [f"id {i}" for i in range(NUM_ROWS)])}, "'who' has .*looks like"),
    "dates": (
        {"table": with_column("since", pd.date_range("2020-01-01", periods=NUM_ROWS)), "file": "customers.parquet"},
        "since.*datetime64.*no number and no text",
    ),
    "infinity": ({"table": with_column("age", [math.inf] * NUM_ROWS)}, "age is infinite"),
    "no inputs": ({"drop": ["customer", "age", "city", "zip", "member"]}, "no column is left"),
    "an unused split column": ({"split_column": "city"}, "split: column only"),
    "a split column of other words": ({"split": "column", "split_column": "city"}, "must say train, .*not Bonn"),
    "no split column": ({"split": "column"}, "split_column: the data has no column ''"),
    "an empty split": (
        {"table": with_column("part", ["train"] * NUM_ROWS), "split": "column", "split_column": "part"},
        "no row to validation",
    ),
    "a name of torch's": ({"tasks": {"keys": {"kind": "count", "column": "visits"}}}, "name 'keys'; give"),
    "no table": ({"file": "customers.xlsx.csv.txt"}, "must end in .csv"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_is_told_with_the_column_and_the_way_out(problem_of, case):
    changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        problem_of(**changes)


def test_fractions_are_no_counts(problem_of):
    with pytest.raises(DataError, match="column 'yearly revenue' is a count, so it must be whole numbers"):
        problem_of(
            with_column("yearly revenue", np.arange(NUM_ROWS) / 2),
            tasks={"revenue": {"kind": "count", "column": "yearly revenue"}},
        )


def test_a_number_a_row_is_no_class(problem_of):
    table = customers(1500)
    with pytest.raises(DataError, match="'customer' has 1500 different values"):
        problem_of(table, tasks={"customer": {"kind": "multiclass"}}, drop=[])


def test_a_file_that_is_not_what_its_name_says_is_told(root):
    (root / "x.parquet").write_text("no parquet")
    (root / "x.csv").write_bytes(b"\x00\xff\xfe")
    for file in ("x.parquet", "x.csv"):
        with pytest.raises(DataError, match=rf"'{file}' cannot be read"):
            load_problem("tabular", {"data": file, "tasks": TASKS})


def test_data_outside_of_the_allowed_folders_is_refused(root, tmp_path, monkeypatch):
    customers().to_csv(tmp_path / "secret.csv", index=False)
    customers().to_csv(root / "inside.csv", index=False)
    (root / "link.csv").symlink_to(tmp_path / "secret.csv")
    params = {"tasks": TASKS, "drop": ["customer"]}
    for data in ("../secret.csv", str(tmp_path / "secret.csv"), "link.csv", "/etc/passwd", str(root) + "2/x.csv"):
        with pytest.raises(DataError, match=f"outside of {DATA_ROOTS}"):
            load_problem("tabular", {"data": data, **params})
    with pytest.raises(DataError, match=r"URL"):
        load_problem("tabular", {"data": "s3://bucket/x.csv", **params})
    with pytest.raises(DataError, match=r"no file 'absent.csv'"):
        load_problem("tabular", {"data": "absent.csv", **params})
    hashes = {
        load_problem("tabular", {"data": d, **params}).data_hash for d in ("inside.csv", str(root / "inside.csv"))
    }
    assert len(hashes) == 1
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv(DATA_ROOTS, f"{other}:{root}")
    assert load_problem("tabular", {"data": "inside.csv", **params}).data_hash in hashes
    for unset in ("", ":"):
        monkeypatch.setenv(DATA_ROOTS, unset)
        with pytest.raises(DataError, match=f"{DATA_ROOTS}.* is not set"):
            load_problem("tabular", {"data": "inside.csv", **params})


def test_parameters_without_a_default_must_be_given():
    with pytest.raises(KeyError, match="tabular needs a value for data, tasks"):
        load_problem("tabular", {})


# --- the deviance ----------------------------------------------------------------------------------------------------


def test_the_poisson_deviance_by_hand():
    log_rates, counts = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 3.0, 5.0])
    rates = log_rates.exp()
    expected = (
        2 * (rates[0] + 3 * (3 / rates[1]).log() - (3 - rates[1]) + 5 * (5 / rates[2]).log() - (5 - rates[2])) / 3
    )
    assert poisson_deviance(log_rates, counts).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_poisson_deviance_is_zero_at_the_counts_and_never_below():
    counts = torch.arange(1.0, 20_000.0)
    assert poisson_deviance(counts.log(), counts).item() == pytest.approx(0, abs=1e-9)
    for step in (-1e-3, -1e-5, -1e-7, 1e-7, 1e-5, 1e-3):
        assert poisson_deviance(counts.log() + step, counts) >= 0
    assert poisson_deviance(torch.tensor([-20.0]), torch.tensor([0.0])) > 0


def test_the_gradient_of_the_poisson_deviance_is_twice_rate_minus_count():
    log_rates = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([0.0, 2.0, 7.0], dtype=torch.float64)
    poisson_deviance(log_rates, counts).backward()
    torch.testing.assert_close(log_rates.grad, 2 * (log_rates.detach().exp() - counts) / 3)
