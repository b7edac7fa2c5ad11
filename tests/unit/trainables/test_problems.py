"""The problems that ship with the package, and the catalogue that describes them."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from importlib import resources

import pytest
import torch
from sklearn.metrics import roc_auc_score

from trainables.catalog import TRAINING_PARAMETERS, load_catalog, load_problem
from trainables.metrics import auc, binary_accuracy, mae, multiclass_accuracy, rmse
from trainables.problems import census_income
from trainables.protocol import Lane
from trainables.training import train

NAMES = ["census_income", "digits", "toy_regression"]

# The first rows of train, validation and test: results of other splits cannot be compared.
PINNED = [[6196, 12448, 2107, 11261, 2980], [2056, 872, 4263, 3881, 10036], [18642, 19257, 6705, 15734, 5699]]


# Of all rows and their splits: other numbers here, and results of old sweeps cannot be compared with new ones.
DATA_HASHES = {
    "census_income": "fd484a1a2c864ccb63d823b88a4755ef275b8730ec9d96041ce0d4e01cd34f00",
    "digits": "93c5bddbfdca023812e04911a46348d5198da547b2a2583e6a20c01cb5b0a5e5",
}


@pytest.fixture(params=NAMES)
def trainable(request):
    return load_catalog()[request.param]


@pytest.fixture
def problem(trainable):
    return load_problem(trainable, {})


def test_the_catalogue_describes_the_problem(trainable, problem):
    assert [(t.name, t.kind) for t in problem.tasks] == [(t.name, t.kind) for t in trainable.tasks_for({})]
    assert [tuple(t.metrics) for t in problem.tasks] == [t.metrics for t in trainable.tasks_for({})]
    assert set(trainable.problem_parameters) <= set(trainable.defaults())
    assert {p.name for p in TRAINING_PARAMETERS} < set(trainable.defaults())
    assert trainable.default_objective in trainable.metrics


@pytest.mark.parametrize("balancer", ["gradnorm", "single_task"])
def test_what_a_lane_reports_is_what_the_catalogue_promises(trainable, problem, balancer):
    reports = []
    params = {**trainable.defaults(), "steps": 2, "batch_size": 32}
    train(problem, [Lane(key="a", balancer=balancer, params=params)], lambda new: reports.extend(new) or ())
    assert reports[-1].ending == "completed", reports[-1]
    assert {key for key in reports[-1].metrics if key.startswith("val/")} == set(trainable.metrics)


def test_splits_have_60_20_20_of_the_rows(trainable, problem):
    sizes = [len(split) for split in (problem.train, problem.validation, problem.test)]
    total = sum(sizes)
    assert total == {"census_income": 20_000, "digits": 1797, "toy_regression": 20_000}[trainable.name]
    assert [round(size / total, 2) for size in sizes] == [0.6, 0.2, 0.2]


def test_splits_are_the_same_in_every_process_and_for_every_seed():
    from trainables.problems.tabular import split_rows

    torch.manual_seed(1)
    assert [rows[:5].tolist() for rows in split_rows(20_000)] == PINNED
    assert len({load_problem("census_income", {"dropout": share}).data_hash for share in (0.0, 0.5)}) == 1


@pytest.mark.parametrize("name", list(DATA_HASHES))
def test_the_data_is_bit_for_bit_what_it_was(name):
    assert load_problem(name, {}).data_hash == DATA_HASHES[name]


def test_twenty_census_steps_reach_what_they_always_reached():
    reports = []
    params = {"steps": 20, "batch_size": 64, "seed": 3}
    lane = Lane(key="a", balancer="gradnorm", params=params)
    train(load_problem("census_income", {}), [lane], lambda new: reports.extend(new) or ())
    expected = {"income": 0.2693558633327484, "never_married": 0.6777742505073547, "weeks_worked": 766.9689331054688}
    # Not to the last bit: another processor adds up in another order.
    assert {name: reports[-1].metrics[f"val/loss/{name}"] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_splits_are_disjoint_rows_of_the_data():
    from trainables.problems.tabular import split_rows

    for num_rows in (5, 1797, 20_000):
        rows = torch.cat(split_rows(num_rows))
        assert sorted(rows.tolist()) == list(range(num_rows))


def test_splits_share_no_memory_with_each_other_or_with_the_next_call(trainable, problem):
    again = load_problem(trainable, {})
    pointers = [
        tensor.data_ptr()
        for each in (problem, again)
        for split in (each.train, each.validation, each.test)
        for tensor in (*split.inputs, *split.targets.values())
    ]
    assert len(set(pointers)) == len(pointers)
    assert again.data_hash == problem.data_hash


def test_a_model_answers_each_task_in_the_shape_that_its_loss_expects(problem):
    outputs = problem.build_model()(*[tensor[:7] for tensor in problem.train.inputs])
    for task in problem.tasks:
        target = problem.train.targets[task.name][:7]
        loss = task.loss(outputs[task.name], target)
        assert loss.shape == ()
        assert loss > 0
        if task.kind != "multiclass":
            assert outputs[task.name].shape == target.shape


def test_digits_never_show_the_pixels_they_ask_for():
    problem = load_problem("digits", {})
    assert problem.train.inputs[0].shape[1] == 32
    assert problem.train.targets["lower_half"].shape[1] == 32
    assert set(problem.train.targets["digit"].tolist()) == set(range(10))
    assert torch.equal(problem.train.targets["odd"], (problem.train.targets["digit"] % 2).float())


def test_the_census_targets_and_the_instance_weight_are_no_inputs():
    used = {*census_income.CATEGORICAL, *census_income.CONTINUOUS}
    assert used.isdisjoint({7, 24, 39, 41})
    assert len(used) == 38


def test_the_census_targets_are_those_of_the_file():
    source = resources.files("trainables") / "data" / "census20k.csv.gz"
    rows = [line.split(",") for line in gzip.decompress(source.read_bytes()).decode().splitlines()]
    problem = load_problem("census_income", {})
    splits = (problem.train, problem.validation, problem.test)
    total = {name: sum(split.targets[name].sum().item() for split in splits) for name in problem.train.targets}
    assert total["income"] == sum("50000+" in row[41] for row in rows)
    assert total["never_married"] == sum(row[7].strip() == "Never married" for row in rows)
    assert total["weeks_worked"] == sum(int(row[39]) for row in rows)


def test_continuous_census_columns_are_standardised_by_the_training_split():
    continuous = load_problem("census_income", {}).train.inputs[1].double()
    torch.testing.assert_close(continuous.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(continuous.std(0), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_census_category_that_training_never_saw_says_nothing():
    problem = load_problem("census_income", {})
    stem = problem.build_model().trunk.stem
    seen = set(problem.train.inputs[0].flatten().tolist())
    unseen = [code for code in range(stem.embedding.num_embeddings) if code not in seen]
    assert len(unseen) == len(census_income.CATEGORICAL)
    assert stem.embedding.weight[unseen].abs().max() == 0


def test_the_problems_own_parameters_reach_the_model():
    model = load_problem("census_income", {"hidden": [20, 10], "embedding_dim": 3, "dropout": 0.5}).build_model()
    assert model.shared_layer.weight.shape == (10, 20)
    assert model.trunk.stem.embedding.embedding_dim == 3
    assert any(isinstance(module, torch.nn.Dropout) for module in model.modules())
    single = load_problem("digits", {"hidden": [7]}).build_model()
    assert single.shared_layer.weight.shape == (7, 32)


@pytest.mark.parametrize("ties", [False, True])
def test_the_own_auc_is_scikit_learns(ties):
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        scores = torch.randn(200, generator=generator)
        scores = scores.round(decimals=0 if ties else 6)
        labels = (torch.rand(200, generator=generator) < 0.2).float()
        assert auc(scores, labels).item() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_metrics_by_hand():
    assert auc(torch.tensor([0.1, 0.2]), torch.tensor([1.0, 1.0])).item() == 0.5
    assert auc(torch.tensor([3.0, 3.0, 3.0]), torch.tensor([1.0, 0.0, 1.0])).item() == 0.5
    assert binary_accuracy(torch.tensor([1.0, -1.0, 2.0, -3.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])).item() == 0.75
    assert multiclass_accuracy(torch.tensor([[1.0, 2.0], [5.0, 1.0]]), torch.tensor([1, 1])).item() == 0.5
    assert rmse(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 1.0])).item() == pytest.approx(8**0.5)
    assert mae(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 1.0])).item() == 2


def test_describing_the_problems_imports_no_torch():
    code = (
        "import json, sys; from trainables.catalog import load_catalog; names = sorted(load_catalog());"
        "print(json.dumps([names, sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = json.loads(found.stdout)
    assert set(NAMES) <= set(names)
    assert {"torch", "numpy", "pandas", "sklearn", "ray", "optuna", "mlflow"}.isdisjoint(modules)


def test_an_unknown_trainable_is_told_with_those_there_are():
    with pytest.raises(KeyError, match="census_income"):
        load_problem("no_such_problem", {})


def test_an_installed_package_adds_its_problems_and_a_broken_one_takes_none_away(tmp_path, monkeypatch, caplog):
    (tmp_path / "theirs.py").write_text(
        "from trainables.catalog import Trainable, TaskInfo, TRAINING_PARAMETERS, load_catalog\n"
        "OURS = Trainable(name='theirs', summary='s', factory='trainables.testing:tiny_problem',\n"
        "    tasks=(TaskInfo(name='task_0', kind='regression'),),\n"
        "    parameters=TRAINING_PARAMETERS, problem_parameters=())\n"
        "TAKEN = OURS.model_copy(update={'name': 'digits'})\n"
        "NOTHING = 3\n"
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sweep_service.trainables]\nours = theirs:OURS\nbroken = theirs_missing:X\nnothing = theirs:NOTHING\n"
        "taken = theirs:TAKEN\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        catalog = load_catalog()
    assert {"theirs", *NAMES} <= set(catalog)
    assert catalog["digits"].factory.startswith("trainables.problems")
    assert [task.name for task in load_problem("theirs", {}).tasks] == ["task_0", "task_1"]
    for name in ("broken", "nothing", "taken"):
        assert any(f"entry point {name} " in message for message in caplog.messages)
