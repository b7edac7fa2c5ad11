"""What can be said of a document that may be wrong in places: the parts of it that are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from sweep_service.domain.space import Choice, Dimension, Scalar
from sweep_service.domain.spec import BALANCER, EarlyStopping, Objective, Search
from sweep_service.domain.spec_shape import Location, places_around

_DIMENSION: TypeAdapter[Dimension] = TypeAdapter(Dimension)


class SoundParts:
    """The parts of a document whose shape is right: the catalogue can judge them, whatever is wrong with the rest."""

    def __init__(self, document: Mapping[str, Any], faults: Sequence[Location]) -> None:
        self._document = document
        self._faults = frozenset(faults)
        self._not_whole = self._faults | places_around(faults)
        self.params = self._entries("params")
        self.space = {name: _DIMENSION.validate_python(value) for name, value in self._entries("space").items()}
        self.initial: dict[int, dict[str, Any]] = self._items("initial")
        self.objectives: dict[int, dict[str, Any]] = self._items("objectives")
        self.baselines: dict[int, str] = self._items("baselines")

    @property
    def trainable(self) -> str | None:
        return self._document["trainable"] if self._is_whole("trainable") else None

    def said(self, part: str, name: str, default: Any = None) -> Any:
        """That field of that part; the default where it is left out, None where it is wrong or cannot be told."""
        if not self._is_readable(part) or not self._is_whole(part, name):
            return None
        return (self._document.get(part) or {}).get(name, default)

    @property
    def metric(self) -> str | None:
        return self.said("objective", "metric", Objective().metric)

    @property
    def trials(self) -> int | None:
        """How many search trials there may be."""
        return self.said("budget", "trials")

    def is_searched(self, name: str) -> bool:
        """Whether space gives that parameter a range, be it a right one or not."""
        return not self._is_readable("space") or name in self._document.get("space", {})

    @property
    def has_direction(self) -> bool:
        """Whether the document itself says which way is better, rightly or not."""
        return self._is_readable("objective") and "direction" in self._document.get("objective", {})

    @property
    def has_no_baselines(self) -> bool:
        return self._is_whole("baselines") and not self.baselines

    @property
    def has_confirm(self) -> bool:
        return self._document.get("confirm") is not None

    @property
    def sampler(self) -> str | None:
        """What chooses the trials; None where the document does not say it rightly."""
        return self.said("search", "sampler", Search().sampler)

    @property
    def stops_early(self) -> bool:
        """Whether the document asks for a pruner, and not for none."""
        is_asked = self._is_readable("early_stopping") and self._document.get("early_stopping") is not None
        return is_asked and self.said("early_stopping", "pruner", EarlyStopping().pruner) not in (None, "none")

    @property
    def from_sweep(self) -> bool:
        """Whether the search is to begin with another sweep's trials."""
        return self._is_readable("search") and self._document.get("search", {}).get("from_sweep") is not None

    @property
    def min_steps(self) -> int | None:
        """Before which step nothing is stopped early, where the document says so rightly."""
        return self.said("early_stopping", "min_steps")

    def balancers(self, default: str | None) -> Sequence[Scalar | None]:
        """What may train the search trials; none where that cannot be told."""
        if self.is_searched(BALANCER):
            dimension = self.space.get(BALANCER)
            return dimension.choices if isinstance(dimension, Choice) else ()
        is_known = self._is_readable("params") and self._is_whole("params", BALANCER)
        return (self.params.get(BALANCER, default),) if is_known else ()

    @property
    def methods(self) -> Sequence[str]:
        """The balancers that are searched each by itself; none where that is not so, or cannot be told."""
        dimension = self.space.get(BALANCER)
        is_said = self._is_readable("search") and self._is_whole("search", "balancers")
        if not is_said or not isinstance(dimension, Choice) or self.said("search", "balancers") == "sampled":
            return ()
        return [str(choice) for choice in dimension.choices]

    def may_be_given(self, name: str) -> bool:
        """Whether params gives that parameter a value, or is itself so wrong that nobody can tell."""
        return self.is_fixed(name) or not self._is_readable("params")

    def is_fixed(self, name: str) -> bool:
        """Whether params gives that parameter a value, be it a right one or not."""
        return self._is_readable("params") and name in self._document.get("params", {})

    def _entries(self, field: str) -> dict[str, Any]:
        entries = self._document.get(field, {}) if self._is_readable(field) else {}
        return {name: value for name, value in entries.items() if self._is_whole(field, name)}

    def _items(self, field: str) -> dict[int, Any]:
        """The right ones of a list, by their places."""
        items = self._document.get(field, ()) if self._is_readable(field) else ()
        return {index: item for index, item in enumerate(items) if self._is_whole(field, index)}

    def _is_whole(self, *place: str | int) -> bool:
        """Nothing is wrong with it nor within it."""
        return place not in self._not_whole

    def _is_readable(self, *place: str | int) -> bool:
        """It is of the right type; single entries may be wrong."""
        return place not in self._faults
