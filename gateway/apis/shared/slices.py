"""Long lists in slices: a handler that goes through one looks at the clock between two slices.

Keeps: no slice is longer than LOOKS_AT_ONCE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from gateway.network.turns import Stint

LOOKS_AT_ONCE: Final = 256
"""Partitions that are looked at, or answered, between two looks at the clock."""

_T = TypeVar("_T")


def slices(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    """Slices of LOOKS_AT_ONCE items. An empty sequence has one slice, too, so that many empty ones also give way."""
    if len(items) <= LOOKS_AT_ONCE:
        return (items,)
    return (items[first : first + LOOKS_AT_ONCE] for first in range(0, len(items), LOOKS_AT_ONCE))


async def breathe(stint: Stint) -> None:
    """Give way if the stint is over."""
    if stint.is_over:
        await stint.give_way()
