"""The number of writers that all slots of a store know together, and its bound.

A writer counts once for each slot that knows it. Near the bound, the writers silent for longest are forgotten
(`core.container.forgetting`). At the bound, a slot takes no writer that is new to it.

**Invariants**

- A writer that a slot knows is never refused.
- A start takes up all writers that it finds: those known when the process died, or more. A crash may bring back writers
  forgotten since the last checkpoint, so there may be more than the bound until they are forgotten again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import TooManyWriters

if TYPE_CHECKING:
    from core.streams.writers import WriterState

PRESSED_SHARE: Final = 0.9
"""From this share of the bound on, writers that were silent for long make room, ..."""
ROOM_SHARE: Final = 0.8
"""... until this share of it is left."""
SLOTS_AT_ONCE: Final = 1_000
"""Slots whose writers are taken over in one turn of the loop, however many streams go in it."""


class HasWriters(Protocol):
    """A slot, with the writers that it knows."""

    writers: dict[int, WriterState] | None


class KnownWriters:
    """The count and its bound. For the event loop, but for a start."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.forgotten_early = 0  # since the start: before they had expired, to make room for others
        self.refused = 0
        self.woken = asyncio.Event()  # set when there is something to forget, or to free
        self.unfreed: list[dict[int, WriterState]] = []
        self.has_loop = False  # a store runs: this is no recovery in a thread
        self._gone: deque[HasWriters] = deque()  # slots of deleted streams, whose writers still count
        self._has_taken = False  # some of them, in this turn of the loop
        self._pressed_from = int(limit * PRESSED_SHARE)

    def __repr__(self) -> str:
        return f"<KnownWriters {self.count} of {self.limit}>"

    @property
    def is_pressed(self) -> bool:
        return self.count > self._pressed_from

    @property
    def surplus(self) -> int:
        """The number of writers to forget while there are too many."""
        return self.count - int(self.limit * ROOM_SHARE)

    def admit(self) -> None:
        """Whether a slot may know one writer more. Raises TooManyWriters."""
        if self.count >= self.limit:
            self.refused += 1
            raise TooManyWriters(self.limit)

    def added(self, count: int = 1) -> None:
        self.count += count
        if self.count > self._pressed_from:
            self.woken.set()

    def removed(self, count: int) -> None:
        self.count -= count

    def slots_gone(self, slots: Sequence[HasWriters]) -> None:
        """All slots of a stream are gone for ever, and their writers: those of SLOTS_AT_ONCE count no more at once, and
        others from the next turns of the loop on."""
        if not self.has_loop:
            for slot in slots:
                self.slot_gone(slot)
            return
        self._gone.extend(slot for slot in slots if slot.writers)
        if self._gone and not self._has_taken:
            self._take_over()

    def _take_over(self) -> None:
        taken = min(len(self._gone), SLOTS_AT_ONCE)
        for _ in range(taken):
            self.slot_gone(self._gone.popleft())
        self._has_taken = taken > 0
        if self._has_taken:
            asyncio.get_running_loop().call_soon(self._take_over)

    def slot_gone(self, slot: HasWriters) -> None:
        """Take over the writers of a slot whose stream was deleted. They are freed in steps: many objects take time."""
        writers, slot.writers = slot.writers, None
        if writers:
            self.count -= len(writers)
            self.unfreed.append(writers)
            self.woken.set()
