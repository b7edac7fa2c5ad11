"""The benchmark of the step runs, and the forms that it compares are the same method. Nothing here is about time."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gradnorm_step import main, table
from benchmarks.gradnorm_step_forms import FORMS, CreateGraphForm, EngineForm, missing_forms
from benchmarks.gradnorm_step_problems import PROBLEMS
from trainables.batches import Batches
from trainables.seeding import new_generator

STEPS = 6
SMALL = ["--models", "mlp", "convnet", "--tasks", "2", "3", "--batches", "8"]
FEW_STEPS = ["--rounds", "2", "--steps", "1"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=PROBLEMS)
def problem(request):
    small = PROBLEMS[request.param](num_tasks=3, rows=60)
    return small.to(device=torch.device("cpu"), dtype=torch.float64)


def trained(form, problem):
    """The form after a few steps, and the weights after each."""
    batches = Batches(problem.train, batch_size=12, generator=new_generator(0, 0))
    seen = []
    for _ in range(STEPS):
        form.step(*batches.take())
        seen.append(form.weights_T)
    return torch.stack(seen)


@pytest.mark.parametrize("other", ["create_graph", "create_graph_full"])
def test_our_step_and_the_second_order_forms_are_the_same_method(problem, other):
    ours = trained(FORMS["ours"](problem, "float64"), problem)
    torch.testing.assert_close(ours, trained(FORMS[other](problem, "float64"), problem), rtol=0, atol=1e-10)
    assert (ours[-1] - 1).abs().max() > 1e-2  # they have moved


def test_our_step_leaves_the_same_network_as_the_second_order_form(problem):
    ours, other = EngineForm("gradnorm", problem, "float64"), CreateGraphForm(problem, "float64")
    trained(ours, problem)
    trained(other, problem)
    split = problem.test
    with torch.no_grad():
        for name, output in ours.model(*split.inputs).items():
            torch.testing.assert_close(output, other.model(*split.inputs)[name], rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", FORMS)
def test_every_form_takes_steps(problem, method):
    if method == "gradnorm_pytorch":
        pytest.skip("an extra, and in float32 only")
    weights = trained(FORMS[method](problem, "float64"), problem)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.full((STEPS,), 3.0, dtype=torch.float64))


def test_the_json_is_one_object_with_a_row_for_each_form_of_each_network(capsys):
    main(["--json", *SMALL, *FEW_STEPS])
    methods = [method for method in FORMS if method not in missing_forms()]
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"rows"}
    assert [(row["model"], row["tasks"], row["batch"], row["method"]) for row in document["rows"]] == [
        (model, tasks, 8, method) for model in ("mlp", "convnet") for tasks in (2, 3) for method in methods
    ]
    for row in document["rows"]:
        assert set(row) == {"model", "tasks", "batch", "method", "median_ms", "ratio_to_plain"}
        assert row["median_ms"] > 0
        assert row["method"] != "plain" or row["ratio_to_plain"] == 1


def test_the_table_has_the_forms_that_were_asked_for_and_plain(capsys):
    main(["--models", "mlp", "--tasks", "2", "--batches", "8", "--methods", "ours", *FEW_STEPS])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert [line[3] for line in lines[1:]] == ["plain", "ours"]


def test_the_table_says_which_form_was_left_out_and_why():
    assert "left out: gradnorm_pytorch: No module" in table([], {"gradnorm_pytorch": "No module"})
