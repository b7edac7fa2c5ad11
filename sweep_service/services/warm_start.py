"""Where a new sweep finds what it adopts of an earlier one."""

from __future__ import annotations

from collections.abc import Iterator

from sweep_service.domain.adoption import Adoption, adopt
from sweep_service.domain.errors import Finding, InvalidSpecError, SweepNotFoundError
from sweep_service.domain.ids import check_sweep_id
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.trial import Sweep
from sweep_service.ports import SweepStore
from trainables.catalog import Trainable

_POINTER = "/search/from_sweep"


def find_adoption(store: SweepStore, spec: SweepSpec, trainable: Trainable) -> Adoption | None:
    """What the sweep of that spec adopts; None: it asks for nothing.

    Raises:
        InvalidSpecError: there is nothing to adopt, with the reason.
        StoreUnavailableError.
    """
    source_id = spec.search.from_sweep
    if source_id is None:
        return None
    try:
        check_sweep_id(source_id)
        source = store.get_sweep(source_id)
        if findings := list(_findings(spec, source)):
            raise InvalidSpecError(findings)
        adoption = adopt(spec, trainable, source, store.list_trials(source_id))
    except SweepNotFoundError as error:
        detail = f"There is no sweep {source_id!r}. It may have been deleted; name another one, or drop from_sweep."
        raise InvalidSpecError([Finding(pointer=_POINTER, code="unknown_sweep", detail=detail)]) from error
    if not any(line.adopted for line in adoption.search):
        detail = f"None of its trials can be adopted. {adoption.summary}"
        raise InvalidSpecError([Finding(pointer=_POINTER, code="nothing_to_adopt", detail=detail)])
    return adoption


def _findings(spec: SweepSpec, source: Sweep) -> Iterator[Finding]:
    """What makes all of the source's trials unfit."""
    if source.spec.trainable != spec.trainable:
        detail = (
            f"That sweep trains {source.spec.trainable!r}, this one {spec.trainable!r}: name one that trains it too."
        )
        yield Finding(pointer=_POINTER, code="other_trainable", detail=detail)
    elif source.spec.objective != spec.objective:
        was, here = (f"{one.direction} {one.metric}" for one in (source.spec.objective, spec.objective))
        detail = f"That sweep was to {was}, this one is to {here}: their results cannot be compared."
        yield Finding(pointer=_POINTER, code="other_objective", detail=detail)
