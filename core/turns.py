"""Long work on the event loop that belongs to no client's request, in turns.

**Invariant**: work that asks between its small pieces, and gives way when its turn is over, holds the loop for `TURN_S`
and one piece at most. The turns of requests, which clients share, are in `gateway.network.turns`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any, Final, TypeVar

TURN_S: Final = 0.005

_T = TypeVar("_T")
_now: Final = time.perf_counter


class Turn:
    """A turn, which begins when this is made."""

    __slots__ = ("_ends_at",)

    def __init__(self) -> None:
        self._ends_at = _now() + TURN_S

    @property
    def is_over(self) -> bool:
        return _now() > self._ends_at

    async def give_way(self) -> None:
        """Let others run; the next turn begins."""
        await asyncio.sleep(0)
        self._ends_at = _now() + TURN_S

    async def breathe(self) -> None:
        """Let others run if this turn is over."""
        if self.is_over:
            await self.give_way()

    async def through(self, steps: Generator[None, None, _T]) -> _T:
        """Do work step by step, with others in between when a turn is over; returns what the work returns."""
        while True:
            if self.is_over:
                await self.give_way()
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]


def at_once(steps: Generator[None, None, _T]) -> _T:
    """Do work in one turn, however many steps it has; returns what the work returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


async def in_turns(items: Iterable[_T]) -> AsyncIterator[_T]:
    """The items one after another; other work runs between two turns."""
    turn = Turn()
    for item in items:
        await turn.breathe()
        yield item


async def let_go(entries: dict[Any, Any]) -> None:
    """Empty a dictionary that nobody else has, in turns: to free a million entries at once takes a tenth of a second.
    And where something that is nobody's has them, in a circle with itself, the collector looks for it late or never."""
    turn = Turn()
    while entries:
        entries.popitem()
        if turn.is_over:
            await turn.give_way()
