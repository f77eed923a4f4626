"""Long work on the event loop that no client's request does, in turns.

Keeps: work that calls `give_way` often enough holds the loop for at most `TURN_S` and one step. The turns of requests,
which are shared out among clients, are `gateway.dispatch.turns`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

TURN_S: Final = 0.005

_T = TypeVar("_T")


class Turns:
    """The turns of one piece of work."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + TURN_S

    async def give_way(self) -> None:
        """Let others run, if this turn has lasted long enough."""
        if time.monotonic() >= self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + TURN_S


async def in_turns(items: Iterable[_T]) -> AsyncIterator[_T]:
    """One item after another; others run between two turns."""
    turns = Turns()
    for item in items:
        await turns.give_way()
        yield item
