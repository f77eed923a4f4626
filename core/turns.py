"""How long background work on the event loop goes on before it lets others in.

Keeps: who asks `is_over` between small pieces of work, and gives way then, keeps nobody waiting for much longer than
`TURN_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar

TURN_S: Final = 0.005

_T = TypeVar("_T")
_now: Final = time.perf_counter


class Turn:
    """Begins when it is made."""

    __slots__ = ("_ends_at",)

    def __init__(self) -> None:
        self._ends_at = _now() + TURN_S

    @property
    def is_over(self) -> bool:
        return _now() > self._ends_at

    async def give_way(self) -> None:
        await asyncio.sleep(0)
        self._ends_at = _now() + TURN_S

    async def through(self, steps: Generator[None, None, _T]) -> _T:
        """Do something step by step, with others in between where this has had its turn; what it returns."""
        while True:
            if self.is_over:
                await self.give_way()
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
