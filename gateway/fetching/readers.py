"""Which reader a partition is read by: its container's, or its own where no container stores it.

Keeps: a partition whose container is not here is not read, whoever reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from core.streams.live import Slot

if TYPE_CHECKING:
    import asyncio

    from core.store import Store
    from core.streams.entries import ReadResult


class SlotReader(Protocol):
    """Reads of a partition; see `core.reading.reader`."""

    def cached(
        self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool, entries_max: int
    ) -> ReadResult | None: ...

    async def read(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        patience: asyncio.Future[None] | None,
    ) -> ReadResult: ...


class ViewedSlot(Slot):
    """A partition whose records are made when they are read."""

    __slots__ = ("reader",)

    reader: SlotReader


def reader_of(store: Store, slot: Slot) -> SlotReader:
    """Raises NotHosted."""
    hosted = store.hosted(slot)
    return slot.reader if isinstance(slot, ViewedSlot) else hosted.reader
