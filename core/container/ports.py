"""What a container asks of those around it, and what they hand in. Declared here, so that it knows none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from core.errors import StorageFailure
from core.index.rows import BlockRef
from core.log.format import Buffer
from core.log.log_file import LogFile
from core.streams.live import Slot


class AppendWaiter(Protocol):
    """Hears what became of an append, on the event loop."""

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


class Chunks(Protocol):
    """What is known of chunks: `core.tiering.catalog`."""

    def held(self) -> Mapping[tuple[int, int], int]:
        """By stream and slot: from where on the log still backs chunks that were not looked at twice."""


class LongTerm(Protocol):
    """The container's side of long-term storage: `core.tiering.tier`."""

    @property
    def is_pressed(self) -> bool:
        """Whether the log is so full that all that makes it shorter is urgent."""

    def releases(self, file: LogFile, tiered: Iterable[BlockRef]) -> bool:
        """Whether the log may let go of a file of which chunks hold these rows' entries."""

    def is_pinned(self, slot: Slot, ref: BlockRef) -> bool:
        """Whether these rows cannot go into chunks as things stand."""

    def worst_pin(self) -> str:
        """What holds back most of the log, as a sentence; empty when nothing does."""

    def promised(self) -> None:
        """Something changed that must not come back as it was, should the disk be lost."""

    def log_grew(self) -> None:
        """A log file was completed: more may be due."""
