"""Watchers hear what has happened to many slots at once, in steps: a stream may have a hundred thousand.

**Invariants**

- Each watcher that a slot has hears of it, at its turn; a later one looks at the slot itself. An error in one keeps the
  news from nobody else.
- A turn of the loop tells `TOLD_AT_ONCE` watchers, and the rest of one slot's, however many streams go in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from core.streams.live import Slot

TOLD_AT_ONCE: Final = 2_000
"""Watchers that hear of their slots in one turn of the loop: some 3 ms."""


class Telling:
    """See the module. Where nobody watches, as in a recovery, it needs no loop."""

    def __init__(self) -> None:
        self._waiting: deque[Slot] = deque()
        self._has_told = False  # in this turn

    def __repr__(self) -> str:
        return f"<Telling watchers of {len(self._waiting)} slots>"

    def changed(self, slots: Iterable[Slot]) -> None:
        """Have the watchers of these slots look again: the first at once, if none were told in this turn."""
        self._waiting.extend(slot for slot in slots if slot.watchers)
        if self._waiting and not self._has_told:
            self._tell()

    def _tell(self) -> None:
        told = 0
        while self._waiting and told < TOLD_AT_ONCE:
            slot = self._waiting.popleft()
            told += len(slot.watchers or ())
            slot.changed()
        self._has_told = told > 0
        if self._has_told:
            asyncio.get_running_loop().call_soon(self._tell)
