"""Long work on the event loop, in turns.

Keeps: work that calls `give_way` often enough holds the loop for at most `TURN_S` and one step.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

TURN_S: Final = 0.005


class Turns:
    """The turns of one piece of work."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + TURN_S

    async def give_way(self) -> None:
        """Let others run, if this turn has lasted long enough."""
        if time.monotonic() >= self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + TURN_S
