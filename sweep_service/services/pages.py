"""Parts of lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_ItemT = TypeVar("_ItemT")


@dataclass(frozen=True, kw_only=True)
class Page(Generic[_ItemT]):
    """A part of a list, in the list's order."""

    items: tuple[_ItemT, ...]
    has_more: bool


def page_of(items: Sequence[_ItemT], limit: int) -> Page[_ItemT]:
    """Of ``limit + 1`` items asked for: the first ``limit``, and whether there was another."""
    return Page(items=tuple(items[:limit]), has_more=len(items) > limit)
