"""A reader's needs from the parts around it: the log's owner, the catalog of chunks, and long-term storage.

Declared here, so that reading knows none of them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from core.applied.metadata import Metadata
from core.streams.damage import Damage
from core.streams.entries import ReadResult, StoredEntry
from core.streams.live import Slot


class LogSource(Protocol):
    """A log that is read while it is written: `core.container.container`."""

    @property
    def id(self) -> int: ...

    @property
    def directory(self) -> Path: ...

    @property
    def metadata(self) -> Metadata: ...

    @property
    def damage(self) -> Damage: ...

    @property
    def moved(self) -> int:
        """Log files that went while some of their entries were kept. Rows looked up before may be stale."""

    @property
    def durable_file_lsn(self) -> int:
        """The first LSN of the file that holds the durable end: files before it are complete."""


class FoundRun(Protocol):
    """A stretch of a slot in a chunk, as far as a reader of the log looks at it."""

    @property
    def first(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def bytes_before(self) -> int: ...

    @property
    def appended(self) -> int: ...


class Runs(Protocol):
    """The catalog of chunks (`core.tiering.catalog`)."""

    async def run_at(self, stream_id: int, slot: int, offset: int) -> FoundRun | None:
        """The first run that ends behind `offset`."""


class ChunkReading(Protocol):
    """Reading from long-term storage: `core.tiering.reading.reader`. Every answer may raise StoreError."""

    def cached(self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> ReadResult | None:
        """The entries in memory for a reader that comes back; None if they are too few for an answer."""

    async def read(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        border: int,
        patience: asyncio.Future[None] | None,
    ) -> ReadResult:
        """Entries from chunks; from `border` on the log has them, too. Raises StillLoading."""

    async def entry_at(self, slot: Slot, offset: int) -> StoredEntry | None:
        """The first entry in chunks that ends behind `offset`."""

    async def entry_at_time(self, slot: Slot, timestamp: int, offset: int, border: int) -> StoredEntry | None:
        """The first entry behind `offset` that is at least that new; runs from `border` on are left out."""

    async def entry_with_max_timestamp(self, slot: Slot, newer_than: int | None, border: int) -> StoredEntry | None:
        """The first entry with the largest timestamp, if that is larger; runs from `border` on are left out."""
