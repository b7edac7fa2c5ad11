"""From a document to a spec that can be run, or to everything that is wrong with it.

Two steps: the shape (:mod:`sweep_service.domain.spec_shape`), then what only the catalogue knows, also of those parts
of a document whose shape is right while that of others is not. Each wrong field gives one :class:`Finding` with a JSON
pointer and a way out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from sweep_service.domain.adoption import LEARNERS
from sweep_service.domain.branches import active_part, grid_size
from sweep_service.domain.condition_check import (
    balancer_findings,
    condition_findings,
    with_implied_conditions,
)
from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.known_parameters import KnownParameters
from sweep_service.domain.method_check import method_findings, sampler_findings
from sweep_service.domain.resources import Resources
from sweep_service.domain.sound_parts import SoundParts
from sweep_service.domain.space import Choice, Dimension, FloatRange, IntRange, Space, is_same, value_misfit
from sweep_service.domain.spec import BALANCER, SweepSpec, is_loss
from sweep_service.domain.spec_shape import (
    MAX_FINDINGS,
    json_pointer,
    read_shape,
    shape_findings,
    suggest,
)
from sweep_service.domain.task_params import MAX_TEXT, is_text, tasks_faults
from trainables.catalog import BALANCERS, Parameter, Trainable

MAX_GRID = 100_000  # points: as many trials as a budget can have


def check_spec(document: Any, catalog: Mapping[str, Trainable]) -> SweepSpec:
    """The spec that the document describes, with the conditions of its space that need not be written, and with how
    balancers are searched, where they are.

    Raises:
        InvalidSpecError: with every finding, at most MAX_FINDINGS.
    """
    if not isinstance(document, Mapping):
        raise InvalidSpecError([Finding(pointer="", code="not_an_object", detail="A sweep spec is a JSON object.")])
    spec, faults = read_shape(document)
    findings = shape_findings(faults, document)
    parts = SoundParts(document, [fault["loc"] for fault in faults])
    findings += islice(_catalog_findings(parts, catalog), MAX_FINDINGS - len(findings))
    if findings or spec is None:
        raise InvalidSpecError(findings)
    space = with_implied_conditions(spec.space, catalog[spec.trainable])
    balancers = spec.search.balancers or ("equal_effort" if BALANCER in space else None)
    search = spec.search.model_copy(update={"balancers": balancers})
    return spec.model_copy(update={"space": space, "search": search})


def _catalog_findings(parts: SoundParts, catalog: Mapping[str, Trainable]) -> Iterator[Finding]:
    trainable = None if parts.trainable is None else catalog.get(parts.trainable)
    space: Space = parts.space
    if trainable is not None:
        space = with_implied_conditions(parts.space, trainable)
        known = KnownParameters(trainable, parts.params if _are_tasks_known(parts, trainable) else None)
        yield from _params_findings(parts, trainable, known)
        yield from _space_findings(parts, trainable, known)
        yield from _objective_findings(parts, trainable)
        yield from _early_stopping_findings(parts, trainable)
    elif parts.trainable is not None:
        detail = f"There is no trainable {parts.trainable!r}.{suggest(parts.trainable, catalog)}"
        yield Finding(pointer="/trainable", code="unknown_trainable", detail=detail)
    conditions = list(condition_findings(space, is_searched=parts.is_searched, is_fixed=parts.is_fixed))
    yield from conditions
    yield from sampler_findings(parts, space)
    yield from _warm_start_findings(parts)
    if not conditions:
        yield from _grid_findings(parts, space)
        yield from method_findings(parts, space)
    yield from _several_objectives_findings(parts)
    yield from _gpu_hours_findings(parts)
    yield from _initial_findings(parts, space)
    yield from _comparison_findings(parts)


def _params_findings(parts: SoundParts, trainable: Trainable, known: KnownParameters) -> Iterator[Finding]:
    for name, value in parts.params.items():
        pointer = json_pointer(("params", name))
        parameter = known.find(name)
        if parameter is None:
            detail = f"{trainable.name} has no parameter {name!r}.{known.alike(name)}"
            yield Finding(pointer=pointer, code="unknown_parameter", detail=detail)
        else:
            yield from _value_findings(pointer, parameter, value)
    for parameter in trainable.parameters:
        if parameter.default is None and not parts.may_be_given(parameter.name):
            detail = f"{trainable.name} has no default for {parameter.name!r}; give it."
            yield Finding(pointer=json_pointer(("params", parameter.name)), code="missing", detail=detail)


def _value_findings(pointer: str, parameter: Parameter, value: Any) -> Iterator[Finding]:
    if parameter.type == "tasks":
        for place, code, detail in tasks_faults(value):
            yield Finding(pointer=pointer + json_pointer(place), code=code, detail=detail)
    elif fault := value_fault(parameter, value):
        yield Finding(pointer=pointer, code="invalid_value", detail=fault)


def _space_findings(parts: SoundParts, trainable: Trainable, known: KnownParameters) -> Iterator[Finding]:
    balancers = parts.balancers(str(trainable.defaults()[BALANCER]))
    yield from balancer_findings(parts.space, trainable)
    for name, dimension in parts.space.items():
        pointer = json_pointer(("space", name))
        parameter = known.find(name)
        if parameter is None or not parameter.searchable:
            fact = "cannot be searched" if parameter else f"is no parameter of {trainable.name}"
            detail = f"{name!r} {fact}.{known.alike(name, searchable=True)}"
            yield Finding(pointer=pointer, code="not_searchable" if parameter else "unknown_parameter", detail=detail)
            continue
        if parts.is_fixed(name):
            detail = f"{name!r} is fixed in params and searched in space; keep one of the two."
            yield Finding(pointer=pointer, code="fixed_and_searched", detail=detail)
        known_ones = [balancer for balancer in balancers if balancer in BALANCERS]
        if parameter.used_by is not None and known_ones and not set(known_ones) & set(parameter.used_by):
            who = (
                f"The balancer {balancers[0]!r} does not read"
                if len(balancers) == 1
                else "No balancer of the space reads"
            )
            detail = f"{who} {name!r}: searching it changes nothing. Remove it."
            yield Finding(pointer=pointer, code="unused_parameter", detail=detail)
        yield from _dimension_findings(pointer, parameter, dimension)


def _objective_findings(parts: SoundParts, trainable: Trainable) -> Iterator[Finding]:
    metrics = trainable.metrics_for(parts.params) if _are_tasks_known(parts, trainable) else None
    named = {
        "/objectives" + json_pointer([i]): (one["metric"], "direction" in one) for i, one in parts.objectives.items()
    }
    if parts.metric is not None:
        named = {"/objective": (parts.metric, parts.has_direction), **named}
    for pointer, (metric, has_direction) in named.items():
        if metrics is not None and metric not in metrics:
            detail = f"{trainable.name} does not report it.{suggest(metric, metrics)}"
            yield Finding(pointer=f"{pointer}/metric", code="unknown_metric", detail=detail)
        elif not is_loss(metric) and not has_direction:
            detail = f"{metric!r} is no loss: say direction: maximize if more of it is better, else minimize."
            yield Finding(pointer=f"{pointer}/direction", code="missing", detail=detail)


def _several_objectives_findings(parts: SoundParts) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, objective in parts.objectives.items():
        if objective["metric"] in seen:
            pointer = json_pointer(("objectives", index, "metric"))
            yield Finding(pointer=pointer, code="duplicate", detail="Another objective has this metric; list it once.")
        seen.add(objective["metric"])
    if parts.objectives and parts.sampler == "cmaes":
        detail = "cmaes drives one number only: take the sampler tpe, gp or nsga2, or leave objectives out."
        yield Finding(pointer="/search/sampler", code="not_for_objectives", detail=detail)
    if parts.objectives and parts.stops_early:
        detail = (
            "A pruner compares trials by one number, and would end those that are good in another. "
            "Leave early_stopping out, or objectives."
        )
        yield Finding(pointer="/early_stopping", code="not_for_objectives", detail=detail)
    if parts.objectives and parts.from_sweep:
        detail = "Of an earlier sweep's trials one number each is taken over. Leave from_sweep out, or objectives."
        yield Finding(pointer="/search/from_sweep", code="not_for_objectives", detail=detail)


def _gpu_hours_findings(parts: SoundParts) -> Iterator[Finding]:
    if parts.said("budget", "gpu_hours") is not None and parts.said("resources", "gpus", Resources().gpus) == 0:
        detail = "resources.gpus is 0: this bound would never be reached. Ask for GPUs, or remove it."
        yield Finding(pointer="/budget/gpu_hours", code="never_reached", detail=detail)


def _are_tasks_known(parts: SoundParts, trainable: Trainable) -> bool:
    """Whether the parameter that decides which tasks there are, if one does, is right."""
    name = trainable.tasks_from
    if name is None:
        return True
    parameter = trainable.parameter(name)
    assert parameter is not None, name
    if name in parts.params:
        return not any(_value_findings("", parameter, parts.params[name]))
    return parameter.default is not None and not parts.may_be_given(name)


def _warm_start_findings(parts: SoundParts) -> Iterator[Finding]:
    if parts.from_sweep and parts.sampler is not None and parts.sampler not in LEARNERS:
        detail = f"{parts.sampler} learns nothing, and has no use for other trials. Drop it, or take tpe or cmaes."
        yield Finding(pointer="/search/from_sweep", code="not_for_sampler", detail=detail)


def _grid_findings(parts: SoundParts, space: Space) -> Iterator[Finding]:
    if parts.sampler == "grid":
        endless = [name for name, dimension in space.items() if dimension.num_points is None]
        for name in endless:
            detail = f"A grid needs finitely many values of {name!r}: give it a step, or take type: categorical."
            yield Finding(pointer=json_pointer(("space", name)), code="not_for_sampler", detail=detail)
        size = 0 if endless else grid_size(space)
        if size is not None and size > MAX_GRID:
            detail = f"The grid of this space has {size} points; at most {MAX_GRID} can be tried. Widen the steps."
            yield Finding(pointer="/space", code="too_large", detail=detail)


def _initial_findings(parts: SoundParts, space: Space) -> Iterator[Finding]:
    if parts.trials is not None and len(parts.initial) > parts.trials:
        detail = f"There are {len(parts.initial)} points, but only {parts.trials} trials in the budget."
        yield Finding(pointer="/initial", code="too_many", detail=detail)
    seen: list[dict[str, Any]] = []
    for index, point in parts.initial.items():
        for name, value in point.items():
            pointer = json_pointer(("initial", index, name))
            if not parts.is_searched(name):
                detail = f"{name!r} is not searched.{suggest(name, space)}"
                yield Finding(pointer=pointer, code="not_searched", detail=detail)
            elif name in space:
                # Where each balancer is searched by itself, a point that names none is for all that read of it.
                open_parents = () if BALANCER in point or not parts.methods else (BALANCER,)
                yield from _given_value_findings(pointer, name, value, point, space, open_parents)
        # Whole: nothing is left to the sampler. What has a condition may be left out, where it does not hold.
        left_out = {name: None for name in space if name not in point}
        is_whole = not left_out.keys() & active_part(space, {**point, **left_out}).keys()
        if point in seen and is_whole:
            detail = "This point is listed twice, and would give the same result again; list it once."
            yield Finding(pointer=json_pointer(("initial", index)), code="duplicate", detail=detail)
        seen.append(point)


def _given_value_findings(
    pointer: str, name: str, value: Any, point: Mapping[str, Any], space: Space, open_parents: Collection[str]
) -> Iterator[Finding]:
    dimension = space[name]
    if fault := value_misfit(dimension, value):
        yield Finding(pointer=pointer, code="invalid_value", detail=fault)
    for parent, values in dimension.when.items():
        wanted = " or ".join(repr(one) for one in values)
        if parent in open_parents:
            continue
        if parent not in point:
            detail = f"{name!r} is searched only where {parent!r} is {wanted}: give that one in this point as well."
        elif not any(is_same(point[parent], one) for one in values):
            detail = f"{name!r} is searched only where {parent!r} is {wanted}; leave it out of this point."
        else:
            continue
        yield Finding(pointer=pointer, code="not_active", detail=detail)
        return


def _early_stopping_findings(parts: SoundParts, trainable: Trainable) -> Iterator[Finding]:
    parameter = trainable.parameter("steps")
    steps = parts.params.get("steps", trainable.defaults().get("steps"))
    if parts.min_steps is None or parameter is None or value_fault(parameter, steps):
        return  # steps that are wrong have a finding of their own
    if parts.min_steps >= steps:
        detail = f"A trial trains for {steps} steps: no trial would ever be stopped early. Lower min_steps."
        yield Finding(pointer="/early_stopping/min_steps", code="above_steps", detail=detail)


def _dimension_findings(pointer: str, parameter: Parameter, dimension: Dimension) -> Iterator[Finding]:
    fits = {"float": FloatRange | IntRange | Choice, "int": IntRange | Choice}.get(parameter.type, Choice)
    if not isinstance(dimension, fits):
        detail = f"{parameter.name!r} is of type {parameter.type}; a range of type {dimension.type} does not fit it."
        yield Finding(pointer=f"{pointer}/type", code="wrong_type", detail=detail)
        return
    if isinstance(dimension, Choice):
        points = [(f"/choices/{index}", choice) for index, choice in enumerate(dimension.choices)]
    else:
        points = [("/low", dimension.low), ("/high", dimension.high)]
    for suffix, value in points:
        if fault := value_fault(parameter, value):
            yield Finding(pointer=pointer + suffix, code="invalid_value", detail=fault)


def _comparison_findings(parts: SoundParts) -> Iterator[Finding]:
    if len(set(parts.baselines.values())) < len(parts.baselines):
        yield Finding(pointer="/baselines", code="duplicate", detail="A baseline is listed twice; list each once.")
    balancers = parts.balancers(None)
    for index, name in parts.baselines.items():
        if len(parts.methods) > 1 and name in parts.methods:
            detail = f"{name!r} is searched as well, and compared with the other balancers from there; list it once."
            yield Finding(pointer=f"/baselines/{index}", code="same_as_search", detail=detail)
    index = next((i for i, name in parts.baselines.items() if [name] == list(balancers)), None)
    if index is not None:
        detail = f"{balancers[0]!r} is what the search trials use; a baseline must differ from it."
        yield Finding(pointer=f"/baselines/{index}", code="same_as_search", detail=detail)
    if parts.has_confirm and parts.has_no_baselines and len(parts.methods) < 2:
        detail = "confirm compares the best trial with the baselines, but there are none: list some, or drop confirm."
        yield Finding(pointer="/confirm", code="nothing_to_compare", detail=detail)


def value_fault(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with that value for that parameter, as a sentence; None if nothing is."""
    if parameter.type == "int_list":
        if not isinstance(value, list) or not value:
            return f"{parameter.name!r} must be a list of at least one whole number, such as {parameter.default}."
        return next((fault for item in value if (fault := _number_fault(parameter, item, whole=True))), None)
    if parameter.type == "string":
        is_right = is_text(value) or (value == "" and parameter.default is not None)
        return None if is_right else f"{parameter.name!r} must be a text on one line, of at most {MAX_TEXT} characters."
    if parameter.type == "string_list":
        is_right = isinstance(value, list) and all(is_text(item) for item in value)
        return None if is_right else f"{parameter.name!r} must be a list of texts, each on one line."
    if parameter.type == "bool":
        return None if isinstance(value, bool) else f"{parameter.name!r} must be true or false."
    if parameter.type == "categorical":
        known = ", ".join(parameter.choices)
        return None if value in parameter.choices else f"{parameter.name!r} must be one of: {known}."
    return _number_fault(parameter, value, whole=parameter.type == "int")


def _number_fault(parameter: Parameter, value: Any, *, whole: bool) -> str | None:
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return f"{parameter.name!r} must be {kind}, not {value!r}."
    too_low = parameter.low is not None and (
        value <= parameter.low if parameter.exclusive_low else value < parameter.low
    )
    if too_low:
        bound = "above" if parameter.exclusive_low else "at least"
        return f"{parameter.name!r} must be {bound} {parameter.low:g}, not {value!r}."
    if parameter.high is not None and value > parameter.high:
        return f"{parameter.name!r} must be at most {parameter.high:g}, not {value!r}."
    return None
