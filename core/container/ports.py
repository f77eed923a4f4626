"""What a container asks of those around it, and what they hand in. Declared here, so that it knows none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.errors import StorageFailure
from core.log.format import Buffer
from core.streams.live import Slot


class AppendWaiter(Protocol):
    """Who wants to know what became of an append; called on the event loop."""

    def appended(self) -> None:
        """It is durable."""

    def append_failed(self, error: StorageFailure) -> None:
        """Its outcome is unknown: storage failed before it was reported durable."""


class EntryMaker(Protocol):
    """Makes a marker, once its place is known."""

    def __call__(self, base: int, leader_epoch: int) -> Buffer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnd:
    """The end of one writer's transaction in one slot: what its marker is appended with."""

    slot: Slot
    writer_id: int
    writer_epoch: int  # earlier ones are stale in this slot from here on
    committed: bool
    timestamp: int
    entry: EntryMaker
