"""A container's side of long-term storage: it makes, starts and stops the parts that use it, and reports their state.

**Invariant**: the log lets go only of entries in chunks that were looked at twice, and only up to a metadata snapshot
(`releases`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from core.container.container import Container
from core.index.rows import BlockRef
from core.log.log_file import LogFile
from core.log.records import Delete, Put
from core.reading.reader import Reader
from core.streams.live import Slot
from core.streams.state import STREAMS_TABLE
from core.tiering.catalog import Catalog
from core.tiering.context import LongTermStorage, TierContext
from core.tiering.reading.disk_cache import empty
from core.tiering.reading.reader import TieredReader
from core.tiering.rewriting.rewriter import Rewriter
from core.tiering.snapshots.snapshots import Snapshots
from core.tiering.upkeep.collector import Collector
from core.tiering.upkeep.deletions import Deletions
from core.tiering.upkeep.scrub import Scrub
from core.tiering.writing.pins import Pins
from core.tiering.writing.storage_writer import StorageWriter
from tier2.chunk_format import ChunkId

CACHE_DIRECTORY: Final = "tier2-cache"


class Tier:
    """Long-term storage for one container."""

    def __init__(self, container: Container, reader: Reader, catalog: Catalog, long_term: LongTermStorage) -> None:
        self.long_term = long_term
        self.snapshots = Snapshots(container, long_term)
        self.context = TierContext(container, reader, catalog, long_term, self.snapshots)
        self.pins = Pins(self.context)
        self.writer = StorageWriter(self.context, self.pins)
        self.collector = Collector(self.context, Deletions(container, self.snapshots), self._forget)
        self.rewriter = None if long_term.rewriting is None else Rewriter(self.context, long_term.rewriting)
        self.scrub = Scrub(self.context)
        config = container.config
        self._cache = container.directory / CACHE_DIRECTORY
        cache = self._cache if config.tier2_disk_cache_bytes else None
        self.reader = TieredReader(
            catalog, long_term.storage, long_term.head_of, config, cache, lambda: container.log.next_lsn
        )
        self._container = container
        self._catalog = catalog
        container.on_applied(STREAMS_TABLE, self._stream_changed)
        for table in sorted(long_term.promised):
            container.on_applied(table, self._row_changed)

    async def start(self) -> None:
        """Begin to move data. Raises StoreError."""
        if not self._container.config.tier2_disk_cache_bytes:
            await asyncio.to_thread(empty, self._cache)
        await self.writer.start()
        self.collector.start()
        if self.rewriter is not None:
            self.rewriter.start()
        self.snapshots.start()
        self.scrub.start()

    async def stop(self, *, clean: bool = True) -> None:
        """End the background work, with a last snapshot if `clean`; the log may still be written to."""
        await self.scrub.stop()
        if self.rewriter is not None:
            await self.rewriter.stop()
        await self.collector.stop()
        await self.writer.stop()
        await self.snapshots.stop(last=clean)
        await self.reader.close()

    # Questions of the container

    @property
    def is_pressed(self) -> bool:
        """Whether the log is so full that all work that shortens it is urgent."""
        return self.context.is_pressed

    def releases(self, file: LogFile, tiered: Iterable[BlockRef]) -> bool:
        """Whether the log may let go of a file whose entries in these rows are in chunks."""
        # This is called after chunks were found to hold them, so it knows every chunk committed until then.
        held = self._catalog.held()
        if any(ref.end > held.get((ref.stream_id, ref.slot), ref.end) for ref in tiered):
            return False
        return self.snapshots.covers(file.end_lsn - 1)

    def is_pinned(self, slot: Slot, ref: BlockRef) -> bool:
        """Whether these rows' entries cannot go into chunks as things stand."""
        return self.pins.pins(slot, ref)

    def worst_pin(self) -> str:
        """The main reason why the log cannot shrink, as a sentence; empty when there is none."""
        return str(self.pins.named[0]) if self.pins.named else ""

    def promised(self) -> None:
        """Note a change that must not be undone if the disk is lost."""
        self.snapshots.promised()

    def log_is_long(self) -> None:
        """Note that the log has so many objects that it is to be cut: everything that waits is due."""
        self.writer.log_is_long()

    def log_grew(self) -> None:
        """Note that a log file was completed: more work may be due, and appends may have to slow down."""
        self._container.log_changed()
        self.writer.wake()

    # Connections between the parts

    def _stream_changed(self, operation: Put | Delete) -> None:
        self.snapshots.promised()

    def _row_changed(self, operation: Put | Delete) -> None:
        if isinstance(operation, Delete):
            self.snapshots.promised()

    def _forget(self, chunk_id: ChunkId) -> None:
        self.reader.forget(chunk_id)

    # Reports for the operator

    @property
    def is_full(self) -> bool:
        """Whether long-term storage had no room for the last put."""
        return self.snapshots.lacks_room or self.writer.lacks_room

    def concerns(self) -> list[str]:
        """Troubles of long-term storage, a sentence each; empty when all is well."""
        scrub = self.scrub.counters
        found = [
            ("metadata snapshots fail", self.snapshots.last_error),
            ("chunks cannot be put", self.writer.last_error),
            ("deleted data stays in long-term storage", self.collector.last_error),
            ("chunks are not rewritten", None if self.rewriter is None else self.rewriter.last_error),
            ("chunks are not read again to look for damage", self.scrub.last_error),
            ("chunks are damaged or gone", f"{scrub.damaged} of those read again" if scrub.damaged else None),
        ]
        return [f"{what}: {why}" for what, why in found if why is not None]
