"""How many writers all slots of a store know together, and its bound.

Each is counted once for each slot that knows it. Where the bound is near, those that were silent for longest are
forgotten (`core.container.forgetting`); where it is reached, a slot takes no writer that it does not know.

**Invariant**: a writer that a slot knows is never refused, and a start takes up all that it finds: a crash may bring
back what had been forgotten since the last checkpoint, so there may be more than the bound until they are forgotten
again. What replay finds is what was known when the process died, or more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import TooManyWriters

if TYPE_CHECKING:
    from core.streams.writers import WriterState

PRESSED_SHARE: Final = 0.9
"""From here on, writers that were silent for long make room, ..."""
ROOM_SHARE: Final = 0.8
"""... until there are only so many."""


class HasWriters(Protocol):
    """A slot, with the writers that it knows."""

    writers: dict[int, WriterState] | None


class KnownWriters:
    """See the module. On the event loop, but for a start."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.forgotten_early = 0  # since the start: before they had expired, for others to have room
        self.refused = 0
        self.woken = asyncio.Event()  # there is something to forget, or to free
        self.unfreed: list[dict[int, WriterState]] = []
        self._pressed_from = int(limit * PRESSED_SHARE)

    def __repr__(self) -> str:
        return f"<KnownWriters {self.count} of {self.limit}>"

    @property
    def is_pressed(self) -> bool:
        return self.count > self._pressed_from

    @property
    def surplus(self) -> int:
        """How many are to be forgotten where this is pressed."""
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

    def slot_gone(self, slot: HasWriters) -> None:
        """The slot's stream was deleted. What it knew is freed in steps: to free many objects takes time."""
        writers, slot.writers = slot.writers, None
        if writers:
            self.count -= len(writers)
            self.unfreed.append(writers)
            self.woken.set()
