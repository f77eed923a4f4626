"""The marker that ends a transaction in a slot, on its way to the disk: what changes when it is durable."""

from __future__ import annotations

from typing import Protocol

from core.errors import StorageFailure
from core.streams.transactions import SlotTransactions
from core.streams.writers import WriterState


class Marked(Protocol):
    """A marker's needs from its slot."""

    transactions: SlotTransactions | None

    @property
    def stable_bytes(self) -> int:
        """Bytes of all entries that committed readers may see."""

    def settled(self, size: int) -> None:
        """A transaction ended, and they may see `size` more bytes."""


class Marker:
    """The waiter of a marker."""

    __slots__ = ("committed", "epoch", "first", "offset", "slot", "writer")

    def __init__(
        self, slot: Marked, writer: WriterState, epoch: int, first: int | None, offset: int, committed: bool
    ) -> None:
        self.slot = slot
        self.writer = writer
        self.epoch = epoch
        self.first = first
        self.offset = offset
        self.committed = committed

    def appended(self) -> None:
        slot = self.slot
        self.writer.marked(self.epoch)
        if self.first is not None and slot.transactions is not None:
            before = slot.stable_bytes
            slot.transactions.ended(self.first, self.offset, committed=self.committed)
            slot.settled(slot.stable_bytes - before)

    def append_failed(self, error: StorageFailure) -> None:
        """The process ends; whether the marker is there is seen at the next start."""
