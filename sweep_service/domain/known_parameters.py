"""Which parameters a spec can name: its trainable's own, and those that each of the spec's tasks has for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweep_service.domain.spec_shape import suggest
from trainables.catalog import Parameter, ParameterValue, Trainable


class KnownParameters:
    """The parameters of one trainable in one spec. ``params`` are what it fixes; None: what is wrong with them leaves
    open which tasks there are, so that any task may be named.
    """

    def __init__(self, trainable: Trainable, params: Mapping[str, ParameterValue] | None) -> None:
        self._trainable = trainable
        self._are_tasks_known = params is not None
        found = trainable.parameters if params is None else trainable.parameters_for(params)
        self._by_name = {parameter.name: parameter for parameter in found}

    def find(self, name: str) -> Parameter | None:
        """The parameter of that name; None: there is none, or not of that task."""
        return self._by_name.get(name) if self._are_tasks_known else self._trainable.parameter(name)

    def alike(self, name: str, *, searchable: bool = False) -> str:
        """What may have been meant by the name of no parameter, as a sentence."""
        kinds = {parameter.name for parameter in self._trainable.task_parameters}
        of_tasks = [other for other in self._names(searchable=searchable) if "/" in other]
        kind = name.partition("/")[0]
        if kind in kinds and (own := [other for other in of_tasks if other.startswith(f"{kind}/")]):
            return suggest(name, own)
        if "/" in name and of_tasks:
            return suggest(name, of_tasks)
        return suggest(name, (other for other in self._names(searchable=searchable) if "/" not in other))

    def _names(self, *, searchable: bool) -> Sequence[str]:
        return [name for name, parameter in self._by_name.items() if parameter.searchable or not searchable]
