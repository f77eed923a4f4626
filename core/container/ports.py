"""The parts around a container, as it sees them. They are declared here, so that it imports none of them."""

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
    """A listener that hears the outcome of an append, on the event loop."""

    def appended(self) -> None:
        """The append is durable."""

    def append_failed(self, error: StorageFailure) -> None:
        """Its outcome is unknown: storage failed before it was reported durable."""


class EntryMaker(Protocol):
    """The maker of a marker, which is called once its place is known."""

    def __call__(self, base: int, leader_epoch: int) -> Buffer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnd:
    """The end of one writer's transaction in one slot, with the facts for its marker."""

    slot: Slot
    writer_id: int
    writer_epoch: int  # earlier ones are stale in this slot from here on
    committed: bool
    timestamp: int
    entry: EntryMaker


class Chunks(Protocol):
    """The catalog of chunks: `core.tiering.catalog`."""

    def held(self) -> Mapping[tuple[int, int], int]:
        """By stream and slot: the offset from which the log still backs chunks that were not looked at twice."""


class LongTerm(Protocol):
    """The container's side of long-term storage: `core.tiering.tier`."""

    @property
    def is_pressed(self) -> bool:
        """Whether the log is so full that all work that shortens it is urgent."""

    def releases(self, file: LogFile, tiered: Iterable[BlockRef]) -> bool:
        """Whether the log may let go of a file whose entries in these rows are in chunks."""

    def is_pinned(self, slot: Slot, ref: BlockRef) -> bool:
        """Whether these rows' entries cannot go into chunks as things stand."""

    def worst_pin(self) -> str:
        """The main reason why the log cannot shrink, as a sentence; empty when there is none."""

    def promised(self) -> None:
        """Note a change that must not be undone if the disk is lost."""

    def log_is_long(self) -> None:
        """Note that the log has so many objects that it is to be cut: everything that waits is due."""

    def log_grew(self) -> None:
        """Note that a log file was completed: more work may be due."""
