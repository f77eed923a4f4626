"""Sorting many rows beside other work.

Keeps: it goes in pieces of `PIECE` rows, so that no step holds the loop, nor the interpreter, for long. Rows that are
equal in the wanted order keep the order that they had.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

PIECE: Final = 5_000
BY_NAME: Final = attrgetter("name")

_R = TypeVar("_R")


async def in_order(rows: Sequence[_R], key: Callable[[_R], Any], *, descending: bool = False) -> list[_R]:
    """The rows, sorted."""
    if len(rows) <= PIECE:
        return sorted(rows, key=key, reverse=descending)

    def merged() -> list[_R]:
        pieces: Iterable[list[_R]] = (
            sorted(rows[first : first + PIECE], key=key, reverse=descending) for first in range(0, len(rows), PIECE)
        )
        return list(heapq.merge(*pieces, key=key, reverse=descending))

    return await asyncio.to_thread(merged)
