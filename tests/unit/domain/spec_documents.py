"""A sweep spec that is right, and strategies for ones that are nearly so."""

from __future__ import annotations

import copy
import sys
from typing import Any

from hypothesis import strategies as st

from trainables.catalog import BALANCERS, TRAINING_PARAMETERS, Parameter, TaskInfo, TaskKind, Trainable

CATALOG = {
    "several": Trainable(
        name="several",
        summary="As many tasks as asked for.",
        factory="package.module:Several",
        tasks=tuple(TaskInfo(name=f"t{i}", kind=TaskKind.REGRESSION) for i in (1, 2, 3)),
        tasks_from="num_tasks",
        parameters=(
            Parameter(name="num_tasks", type="int", default=2, low=1, high=3, searchable=False, description=""),
            *TRAINING_PARAMETERS,
        ),
        problem_parameters=("num_tasks",),
    ),
    "toy": Trainable(
        name="toy",
        summary="Two tasks.",
        factory="package.module:Toy",
        tasks=(
            TaskInfo(name="income", kind=TaskKind.BINARY, metrics=("auc",)),
            TaskInfo(name="weeks", kind=TaskKind.REGRESSION),
        ),
        parameters=(
            Parameter(name="hidden", type="int_list", default=[64], low=1, high=4096, searchable=False, description=""),
            Parameter(name="shuffle", type="bool", default=True, description=""),
            Parameter(name="free", type="float", default=0.0, description="Any number."),
            Parameter(name="count", type="int", default=0, description="Any whole number."),
            *TRAINING_PARAMETERS,
        ),
        problem_parameters=("hidden", "shuffle", "free", "count"),
    ),
}

VALID: dict[str, Any] = {
    "name": "toy-gradnorm",
    "trainable": "toy",
    "params": {"hidden": [128, 64], "batch_size": 256, "lr": 1.0e-3, "steps": 1500, "shuffle": False},
    "space": {
        "alpha": {"type": "float", "low": 0.0, "high": 3.0},
        "weight_lr": {"type": "float", "low": 1.0e-4, "high": 1.0e-1, "log": True},
        "seed": {"type": "categorical", "choices": [1, 2, 3]},
    },
    "objective": {"metric": "val/normalized_loss", "direction": "minimize"},
    "search": {"sampler": "tpe", "seed": 7},
    "early_stopping": {"pruner": "asha", "min_steps": 200, "reduction_factor": 3},
    "budget": {"trials": 32},
    "resources": {"cpus": 1, "gpus": 0.5, "parallel": 2, "lanes": 1},
    "baselines": ["equal", "single_task"],
    "confirm": {"seeds": 5, "margin": 0.02},
    "retries": 2,
    "tracking": {"experiment": "toys"},
    "labels": {"team": "ads"},
}

_MISSING = object()


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The valid spec with other values at those JSON pointers."""
    document = copy.deepcopy(VALID)
    for pointer, value in changes:
        *parents, last = (part.replace("~1", "/") for part in pointer.removeprefix("/").split("/"))
        place: Any = document
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        if value is _MISSING:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return document


def without(pointer: str) -> dict[str, Any]:
    """The valid spec without that field."""
    return changed((pointer, _MISSING))


_keys = st.text(max_size=8) | st.sampled_from(["a/b", "m~n", "type", "low", "high", "log", "step", "choices", "0"])
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, -(10**4000), sys.float_info.max, 5e-324])
    | st.floats()  # JSON has no NaN, but Python's reader takes it
    | st.text(max_size=6)
    | st.sampled_from(["gradnorm", "float", "int", "categorical", "alpha", "toy", "\ud800", "\x00", *BALANCERS])
)
json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)

_bounds = (
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([10**400, sys.float_info.max])
)
_ranges = st.fixed_dictionaries(
    {"type": st.sampled_from(["float", "int"]), "low": _bounds, "high": _bounds},
    optional={"log": st.booleans(), "step": _bounds, "when": st.deferred(lambda: _conditions)},
)
_choices = st.fixed_dictionaries(
    {"type": st.just("categorical"), "choices": st.lists(_scalars | st.sampled_from(BALANCERS), max_size=4)},
    optional={"when": st.deferred(lambda: _conditions)},
)
_conditions = st.dictionaries(
    st.sampled_from(["seed", "balancer", "alpha", "dtype", "x"]) | _keys,
    st.sampled_from([1, 2, [1, 3], "equal", ["gradnorm"], ["equal", "inverse_initial_loss"]]) | json_values,
    max_size=2,
)

_places = st.sampled_from(
    [
        *(f"/{key}" for key in VALID),
        *(f"/{key}/{inner}" for key, value in VALID.items() if isinstance(value, dict) for inner in value),
        *(f"/space/{name}/{key}" for name in ("alpha", "seed") for key in ("type", "low", "high", "log", "step", "x")),
        *("/space/seed/choices/0", "/params/hidden/0", "/params/balancer", "/params/x", "/space/x", "/space/hidden"),
        *("/space/balancer", "/space/alpha/when", "/space/alpha/when/seed", "/space/seed/when", "/initial"),
        *("/space/free", "/space/count", "/space/shuffle", "/params/free", "/params/count"),
        *("/objectives", "/objectives/0", "/budget/gpu_hours", "/search/balancers"),
        *(
            "/baselines/0",
            "/params/weight~1income",
            "/space/weight~1weeks",
            "/space/weight~1x",
            "/x",
            "/params/initial_loss",
            "/space/dtype",
            "/space/batch_size",
            "/labels/x",
        ),
    ]
)


@st.composite
def nearly_valid(draw: st.DrawFn) -> Any:
    """The valid spec with a few places overwritten by anything."""
    document: Any = copy.deepcopy(VALID)
    for pointer in draw(st.lists(_places, min_size=1, max_size=4, unique=True)):
        *parents, last = (part.replace("~1", "/") for part in pointer.removeprefix("/").split("/"))
        place = document
        for parent in parents:
            if isinstance(place, dict):
                place = place.setdefault(parent, {})
            elif isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
                place = place[int(parent)]
        if isinstance(place, dict):
            place[last] = draw(_ranges | _choices | json_values if "/space/" in pointer else json_values)
        elif isinstance(place, list) and last.isdigit() and int(last) < len(place):
            place[int(last)] = draw(json_values)
    return document


_numbers = st.integers(-1000, 1000) | st.floats(-1e6, 1e6)
_values = st.booleans() | st.integers(-9, 9) | st.floats(-9.5, 9.5) | st.text("abc ", max_size=3)


_right_conditions = st.dictionaries(st.sampled_from("abc"), _values | st.lists(_values, min_size=1))


@st.composite
def _right_ranges(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted((draw(_numbers), draw(_numbers)))
    return {"type": "float", "low": low, "high": high} | draw(
        st.sampled_from([{}, {"log": False}, {"step": None}, {"step": 0.5}, {"when": {"b": 1}}, {"when": {}}])
        | st.fixed_dictionaries(
            {"when": st.dictionaries(st.sampled_from("abc"), _values | st.lists(_values, min_size=1))}
        )
    )


@st.composite
def _right_int_ranges(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted((draw(st.integers(1, 2**53)), draw(st.integers(1, 2**53))))
    return {"type": "int", "low": low, "high": high} | draw(st.just({}) | st.just({"log": True}) | st.just({"step": 2}))


_right_choices = st.lists(_values, min_size=1, max_size=5, unique_by=lambda v: (isinstance(v, bool), v)).map(
    lambda choices: {"type": "categorical", "choices": choices}
)

rightly_shaped = st.fixed_dictionaries(
    {
        "name": st.just("x") | st.just("größer 大"),
        "trainable": st.just("anything"),
        "space": st.dictionaries(
            st.sampled_from("abcd"), _right_ranges() | _right_int_ranges() | _right_choices, min_size=1
        ),
        "budget": st.fixed_dictionaries(
            {"trials": st.integers(1, 100_000)},
            optional={
                "wall_time": st.none() | st.sampled_from(["30m", "2h"]),
                "gpu_hours": st.none() | st.sampled_from([0.5, 8]),
                "target": st.floats(-9, 9) | st.integers(-9, 9),
                "no_improvement": st.none() | st.integers(1, 99),
            },
        ),
    },
    optional={
        "params": st.dictionaries(st.sampled_from("xyz"), _values | st.lists(st.integers(0, 9), max_size=3)),
        "objective": st.fixed_dictionaries(
            {}, optional={"metric": st.just("val/auc/a"), "direction": st.sampled_from(["minimize", "maximize"])}
        ),
        "objectives": st.just([])
        | st.just([{"metric": "val/loss/a"}, {"metric": "val/auc/a", "direction": "maximize"}]),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "sampler": st.sampled_from(["tpe", "random", "nsga2"]),
                "seed": st.integers(0, 2**31 - 1),
                "balancers": st.sampled_from([None, "equal_effort", "sampled"]),
            },
        ),
        "resources": st.fixed_dictionaries(
            {}, optional={"cpus": st.sampled_from([1, 0.5]), "gpus": st.sampled_from([0, 0.25, 2]), "lanes": st.just(1)}
        ),
        "initial": st.just([{"a": 1, "b": 2.5}, {"c": "x"}]),
        "early_stopping": st.none()
        | st.fixed_dictionaries({"pruner": st.sampled_from(["asha", "median", "hyperband"]), "min_steps": st.just(9)}),
        "baselines": st.lists(st.sampled_from(["equal", "inverse_initial_loss", "single_task"]), max_size=4),
        "confirm": st.none() | st.fixed_dictionaries({}, optional={"seeds": st.integers(2, 9), "margin": st.just(0.5)}),
        "retries": st.integers(0, 100),
        "tracking": st.fixed_dictionaries(
            {}, optional={"experiment": st.none() | st.just("e"), "register_as": st.none() | st.just("mtl 2.0")}
        ),
        "labels": st.dictionaries(st.sampled_from("ab"), st.just("c")),
    },
)
"""Documents whose shape is right, with every field in some and without in others."""
