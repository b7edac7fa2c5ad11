"""The search space: what may be drawn for each searched parameter."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

Scalar: TypeAlias = bool | int | float | str

MAX_WHOLE = 2**53  # whole numbers up to here are exact as floats, which samplers compute with
MAX_POINTS = 10**9  # of a grid


class Strict(BaseModel):
    """A value that is checked when it comes in, and cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def trusted(cls, document: Mapping[str, Any]) -> Self:
        """The value of a document that was checked before it was stored, by the rules of that day; it is not checked
        again by today's. Keys that are no fields any more are dropped, fields that are newer take their defaults.
        """
        return cls.model_construct(**{name: value for name, value in document.items() if name in cls.model_fields})


def _check_choice(value: Any) -> Any:
    """One message for all that a choice cannot be, instead of one for each type that it is not."""
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be true or false, a number or a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ValueError(f"must lie between -{MAX_WHOLE} and {MAX_WHOLE}")
    if isinstance(value, str) and len(value) > 1000:
        raise ValueError("a text may have at most 1000 characters")
    return value


_SCALAR_SCHEMA: Mapping[str, Any] = {"anyOf": [{"type": t} for t in ("boolean", "number", "string")]}
_ONE_OR_SEVERAL: Mapping[str, Any] = {
    "anyOf": [*_SCALAR_SCHEMA["anyOf"], {"type": "array", "items": _SCALAR_SCHEMA, "minItems": 1}]
}

ScalarValue = Annotated[
    Any,
    AfterValidator(_check_choice),
    WithJsonSchema(dict(_SCALAR_SCHEMA)),
]


def _as_several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


When = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=200)],
        Annotated[
            tuple[ScalarValue, ...],
            BeforeValidator(_as_several),
            Field(min_length=1, max_length=1000),
            WithJsonSchema(dict(_ONE_OR_SEVERAL)),
        ],
    ],
    Field(
        max_length=100,
        description="Only where each of these other parameters, categorical ones of the space, has the given value or "
        "one of a list of them; elsewhere it is not drawn and takes its default.",
        examples=[{"balancer": "gradnorm"}],
    ),
]


class FloatRange(Strict):
    """Real numbers from low to high, both included; evenly in the logarithm with ``log``; on a grid with ``step``."""

    type: Literal["float"]
    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    step: Annotated[FiniteFloat, Field(gt=0)] | None = None
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step is not None, smallest_log_low=None)
        if not math.isfinite(self.high - self.low):
            raise ValueError("high - low is too large for a floating-point number; narrow the range")
        if self.step is not None and (self.high - self.low) / self.step > MAX_POINTS:
            raise ValueError(f"step ({self.step}) cuts the range into more than {MAX_POINTS} points; raise or drop it")
        return self

    def draw(self, generator: random.Random) -> float:
        """A uniform draw (uniform in the logarithm with ``log``)."""
        if self.log:
            drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
            return min(max(drawn, self.low), self.high)  # exp(log(x)) can leave the range by one rounding
        if self.step is None:
            return generator.uniform(self.low, self.high)
        return self._point(generator.randint(0, self._num_steps))

    @property
    def last(self) -> float:
        """The largest value that can be drawn: ``high``, or the last point of the grid below it."""
        return self.high if self.step is None else self._point(self._num_steps)

    # The grid is computed exactly, from the decimals that were written: in binary 3 × 0.3 falls short of 0.9, and
    # 0.3 / 0.1 of 3; with a limited number of digits the last point may lie above ``high``.

    @property
    def _num_steps(self) -> int:
        return (Fraction(str(self.high)) - Fraction(str(self.low))) // Fraction(str(self.step))

    def _point(self, index: int) -> float:
        return float(Fraction(str(self.low)) + index * Fraction(str(self.step)))

    def contains(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def num_points(self) -> int | None:
        """How many values there are; None: endlessly many."""
        return 1 if self.low == self.high else None if self.step is None else self._num_steps + 1

    def point(self, index: int) -> float:
        """The value of that index, counted from ``low``; only of finitely many."""
        return self.low if self.step is None else self._point(index)

    def at(self, place: float) -> float:
        """The value at that place of the range, from 0 to 1: evenly placed ones are as even as draws are."""
        if self.log:
            value = math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        elif self.step is None:
            value = self.low + place * (self.high - self.low)
        else:
            return self._point(_cell(place, self._num_steps + 1))
        return min(max(value, self.low), self.high)

    def place(self, value: float) -> float:
        """Where in the range the value lies: what :meth:`at` turns into it."""
        if self.low == self.high:
            return 0.5
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        if self.step is None:
            return (value - self.low) / (self.high - self.low)
        return (round((value - self.low) / self.step) + 0.5) / (self._num_steps + 1)


class IntRange(Strict):
    """Whole numbers from low to high, both included."""

    type: Literal["int"]
    low: Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE)]
    high: Annotated[int, Field(ge=-MAX_WHOLE, le=MAX_WHOLE)]
    log: bool = False
    step: Annotated[int, Field(ge=1)] = 1
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, log=self.log, has_step=self.step != 1, smallest_log_low=1)
        return self

    def draw(self, generator: random.Random) -> int:
        """A uniform draw (uniform in the logarithm with ``log``)."""
        if self.log:
            drawn = round(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
            return min(max(drawn, self.low), self.high)
        return self.low + self.step * generator.randint(0, (self.high - self.low) // self.step)

    @property
    def last(self) -> int:
        """The largest value that can be drawn: ``high``, or the last point of the grid below it."""
        return self.low + self.step * ((self.high - self.low) // self.step)

    def contains(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def num_points(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def point(self, index: int) -> int:
        """The value of that index, counted from ``low``."""
        return self.low + index * self.step

    def at(self, place: float) -> int:
        """The value at that place of the range, from 0 to 1: evenly placed ones are as even as draws are."""
        if not self.log:
            return self.point(_cell(place, self.num_points))
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(max(round(math.exp(low + place * (high - low))), self.low), self.high)

    def place(self, value: int) -> float:
        """Where in the range the value lies: what :meth:`at` turns into it."""
        if not self.log:
            return ((value - self.low) // self.step + 0.5) / self.num_points
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return (math.log(value) - low) / (high - low)


class Choice(Strict):
    """One of the listed values, each as likely."""

    type: Literal["categorical"]
    choices: Annotated[tuple[ScalarValue, ...], Field(min_length=1, max_length=1000, strict=False)]
    when: When = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({(_kind(choice), choice) for choice in self.choices}) < len(self.choices):
            raise ValueError("choices holds a value twice; list each once")
        return self

    @classmethod
    def trusted(cls, document: Mapping[str, Any]) -> Self:
        return super().trusted({**document, "choices": tuple(document["choices"])})

    def draw(self, generator: random.Random) -> Scalar:
        """A uniform draw."""
        return generator.choice(self.choices)

    def contains(self, value: object) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    @property
    def num_points(self) -> int:
        """How many values there are."""
        return len(self.choices)

    def point(self, index: int) -> Scalar:
        """The value of that index."""
        return self.choices[index]

    def at(self, place: float) -> Scalar:
        """The value at that place of the list, from 0 to 1."""
        return self.choices[_cell(place, len(self.choices))]


def is_same(one: Scalar, other: Scalar) -> bool:
    """Whether they are one value to a user."""
    return _kind(one) == _kind(other) and one == other


def _kind(value: Scalar) -> str:
    """Values of one kind that Python calls equal are the same to a user: 1 and 1.0, but not 1 and true."""
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


Dimension = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]
Space: TypeAlias = Mapping[str, Dimension]
_BY_TYPE: Mapping[str, type[FloatRange | IntRange | Choice]] = {
    "float": FloatRange,
    "int": IntRange,
    "categorical": Choice,
}


def trusted_dimension(document: Mapping[str, Any]) -> Dimension:
    """The dimension of a document that was checked before it was stored."""
    when = {name: tuple(values) for name, values in document.get("when", {}).items()}
    return _BY_TYPE[document["type"]].trusted({**document, "when": when})


def value_misfit(dimension: Dimension, value: object) -> str | None:
    """Why the value is none of the dimension's, as a sentence; None: it is one."""
    if dimension.contains(value):
        if isinstance(dimension, Choice) or _is_on_grid(dimension, value):
            return None
        return f"Must be {dimension.low} plus a multiple of the step {dimension.step}, not {value!r}."
    if isinstance(dimension, Choice):
        return f"Must be one of the choices, not {value!r}."
    kind = "a whole number" if isinstance(dimension, IntRange) else "a number"
    return f"Must be {kind} from {dimension.low} to {dimension.high}, not {value!r}."


def fitted(dimension: Dimension, value: Any) -> Scalar:
    """A value of the dimension as its draws are: of a range of real numbers a float, and just on the grid."""
    if not isinstance(dimension, FloatRange):
        return value
    if dimension.step is None:
        return float(value)
    return dimension.point(round((value - dimension.low) / dimension.step))


def _is_on_grid(dimension: FloatRange | IntRange, value: Any) -> bool:
    steps = 0.0 if dimension.step is None else (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-8


def _cell(place: float, number: int) -> int:
    """Which of so many equal parts of 0 to 1 the place lies in."""
    return min(max(int(place * number), 0), number - 1)


def _check_range(low: float, high: float, *, log: bool, has_step: bool, smallest_log_low: int | None) -> None:
    if low > high:
        raise ValueError(f"low ({low}) is above high ({high}); swap them")
    if log and low <= 0:
        bound = "above 0" if smallest_log_low is None else f"at least {smallest_log_low}"
        raise ValueError(f"low ({low}) must be {bound} with log: true; raise low or drop log")
    if log and has_step:
        raise ValueError("log and step exclude each other; drop one")
