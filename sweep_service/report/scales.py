"""Where a parameter's values lie on an axis, whatever they are: numbers, their logarithms, or one of some choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sweep_service.domain.space import Choice, Dimension, FloatRange, IntRange
from sweep_service.domain.spec import BALANCER
from sweep_service.domain.trial import Trial
from sweep_service.report.material import Material, is_finite
from sweep_service.report.section import number, shown
from sweep_service.report.series import log_ticks
from sweep_service.report.theme import escaped, shortened

_MAX_CHOICE_TICKS = 25
_UNUSED = -0.12  # of an axis's length: where a trial lies that does not have the parameter


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis that a searched parameter is drawn on."""

    name: str
    dimension: Dimension

    @property
    def is_numeric(self) -> bool:
        return not isinstance(self.dimension, Choice)

    @property
    def is_log(self) -> bool:
        return not isinstance(self.dimension, Choice) and self.dimension.log

    @property
    def bounds(self) -> tuple[float, float]:
        """The places of the axis's ends."""
        if isinstance(self.dimension, Choice):
            return 0.0, float(max(1, len(self.dimension.choices) - 1))
        return self._of_number(self.dimension.low), self._of_number(self.dimension.last)

    @property
    def unused(self) -> float:
        """The place of what a trial does not have."""
        low, high = self.bounds
        return low + _UNUSED * (high - low)

    def place(self, trial: Trial) -> float:
        """Where the trial lies."""
        value: Any = trial.balancer if self.name == BALANCER else trial.searched.get(self.name)
        if isinstance(self.dimension, Choice):
            return next((float(i) for i, c in enumerate(self.dimension.choices) if _is_same(c, value)), self.unused)
        if value is None or not is_finite(value) or (self.dimension.log and value <= 0):
            return self.unused
        return self._of_number(value)

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Places and texts; the texts are as they came."""
        if isinstance(self.dimension, Choice):
            choices = self.dimension.choices
            stride = -(-len(choices) // _MAX_CHOICE_TICKS)
            places = list(range(0, len(choices), stride))
            return [float(place) for place in places], [
                shortened(shown(choices[place]), longest=24) for place in places
            ]
        values = _log_ticks(self.dimension) if self.dimension.log else _even_ticks(self.dimension)
        return [self._of_number(value) for value in values], [number(value) for value in values]

    def _of_number(self, value: float) -> float:
        return math.log10(value) if self.is_log else float(value)


def scales(material: Material) -> list[Scale]:
    """One for each parameter that could differ between trials: the more important before the less, the others as the
    spec has them.
    """
    found = [
        Scale(name=name, dimension=dimension)
        for name, dimension in material.sweep.spec.space.items()
        if dimension.num_points != 1
    ]
    return sorted(found, key=lambda scale: -material.importance.get(scale.name, 0.0))


def axis(scale: Scale) -> dict[str, Any]:
    """The axis of a figure that has the places of a scale as its coordinates."""
    places, texts = scale.ticks
    low, high = scale.bounds
    room = 0.05 * (high - low)
    return {"tickvals": places, "ticktext": [escaped(text) for text in texts], "range": [low - room, high + room]}


def _is_same(choice: object, value: object) -> bool:
    """1 and 1.0 are, as a store may give the one for the other; 1 and true are not."""
    return isinstance(choice, bool) is isinstance(value, bool) and choice == value


def _log_ticks(dimension: FloatRange | IntRange) -> list[float]:
    """The ends, and what does not touch them in between."""
    low, high = math.log10(dimension.low), math.log10(dimension.last)
    near = 0.05 * (high - low)
    between = log_ticks(dimension.low, dimension.last)
    between = [value for value in between if low + near < math.log10(value) < high - near]
    return _whole([dimension.low, *between, dimension.last], dimension)


def _even_ticks(dimension: FloatRange | IntRange) -> list[float]:
    low, high = float(dimension.low), float(dimension.last)
    if (high - low) / 5 == 0:  # too narrow for floating-point numbers
        return _whole([low, high], dimension)
    step = _round_step((high - low) / 5)
    first = math.ceil(low / step)
    between = [index * step for index in range(first, math.floor(high / step) + 1)]
    between = [value for value in between if low + step / 2 < value < high - step / 2]
    return _whole([dimension.low, *between, dimension.last], dimension)


def _round_step(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below the step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _whole(values: Sequence[float], dimension: FloatRange | IntRange) -> list[float]:
    """Of a range of whole numbers, whole ones; each once."""
    return list(dict.fromkeys(round(value) if isinstance(dimension, IntRange) else value for value in values))
