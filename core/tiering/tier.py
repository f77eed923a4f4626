"""A container's side of long-term storage: what the store is given, and the parts that use it, started and stopped.

**Invariants**

- Who changes rows of verified chunks holds `changing`, from look to change.
- The log gives a file up only if `releases` allows it: chunks that were looked at twice hold its entries, and a
  metadata snapshot reflects its records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.tiering.reading.disk_cache import empty
from core.tiering.reading.reader import TieredReader
from core.tiering.rewriting.rewriter import Rewriter
from core.tiering.rewriting.worker import WorkerSetup
from core.tiering.snapshots.snapshots import Snapshots
from core.tiering.upkeep.collector import Collector
from core.tiering.upkeep.scrub import Scrub
from core.tiering.writing.pins import Pins
from core.tiering.writing.storage_writer import StorageWriter

if TYPE_CHECKING:
    from core.container.container import Container
    from core.index.rows import BlockRef
    from core.log.log_file import LogFile
    from tier2.chunk import EntryHeadOf
    from tier2.chunk_format import ChunkId
    from tier2.storage import Storage

PRESSURE: Final = 0.5
"""How full the log is when everything is moved out of it, whatever its age."""
CACHE_DIRECTORY: Final = "tier2-cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class LongTermStorage:
    """Where chunks go. `head_of` reads the header of an entry as it is stored.

    `admit` is asked before anything is put or deleted there, with whether the store has chunks; it raises what ends
    the start. `had_another_life`: another copy of the store may have put things there, and was given up
    (`core.tiering.snapshots.lives`). `rewriting` is what the process that rewrites chunks is made with; without it,
    none are. `promised` are tables of which a deletion is something that a client was told: a snapshot follows soon.
    """

    storage: Storage
    cluster_id: str
    head_of: EntryHeadOf
    admit: Callable[[bool], Awaitable[None]] | None = None
    had_another_life: bool = False
    rewriting: WorkerSetup | None = None
    promised: frozenset[str] = frozenset()


class Tier:
    """Long-term storage for one container."""

    def __init__(self, container: Container, long_term: LongTermStorage) -> None:
        self.container = container
        self.long_term = long_term
        self.changing = asyncio.Lock()
        self.pins = Pins(self)
        self.writer = StorageWriter(self)
        self.collector = Collector(self)
        self.rewriter = None if long_term.rewriting is None else Rewriter(self, long_term.rewriting)
        self.snapshots = Snapshots(container, long_term)
        self.scrub = Scrub(self)
        config = container.config
        cache = container.directory / CACHE_DIRECTORY if config.tier2_disk_cache_bytes else None
        self.reader = TieredReader(container.catalog, long_term.storage, long_term.head_of, config, cache)
        container.reader.tiered = self.reader
        self._deletions: dict[ChunkId, int] = {}  # the LSN that a snapshot must cover

    async def start(self) -> None:
        """Begin to move data. Raises StoreError."""
        if not self.container.config.tier2_disk_cache_bytes:
            await asyncio.to_thread(empty, self.container.directory / CACHE_DIRECTORY)
        await self.writer.start()
        self.collector.start()
        if self.rewriter is not None:
            self.rewriter.start()
        self.snapshots.start()
        self.scrub.start()

    async def stop(self, *, clean: bool = True) -> None:
        """End what runs in the background, if `clean` with a last snapshot; the log may still be written to."""
        await self.scrub.stop()
        if self.rewriter is not None:
            await self.rewriter.stop()
        await self.collector.stop()
        await self.writer.stop()
        await self.snapshots.stop(last=clean)
        await self.reader.close()

    # What may leave the log

    def releases(self, file: LogFile, tiered: Iterable[BlockRef]) -> bool:
        """Whether the log may let go of a file of which chunks hold these rows' entries."""
        # Looked at after it was found that chunks hold them, so every chunk that was committed until then is in here.
        held = self.container.catalog.held()
        if any(ref.end > held.get((ref.stream_id, ref.slot), ref.end) for ref in tiered):
            return False
        return self.covers(file.end_lsn - 1)

    def covers(self, lsn: int) -> bool:
        """Whether a snapshot in long-term storage reflects the log up to here; if not, one is asked for."""
        if self.snapshots.covered_lsn >= lsn:
            return True
        self.snapshots.request()
        return False

    # What may leave long-term storage

    def deletion_logged(self, chunk_id: ChunkId) -> None:
        """Nothing refers to the chunk any more, as of now."""
        self._deletions[chunk_id] = self.container.applied_lsn

    def snapshot_knows(self, chunk_id: ChunkId) -> bool:
        """Whether a snapshot knows that nothing refers to the chunk, or there is no room for one before it goes."""
        covered = self.covers(self._deletions.setdefault(chunk_id, self.container.applied_lsn))
        return covered or self.snapshots.lacks_room

    def chunk_deleted(self, chunk_id: ChunkId) -> None:
        self._deletions.pop(chunk_id, None)
        self.reader.forget(chunk_id)

    # What an operator should know

    @property
    def is_full(self) -> bool:
        """Long-term storage had no room for what was put last."""
        return self.snapshots.lacks_room or self.writer.lacks_room

    def concerns(self) -> list[str]:
        """What does not go as it should, a sentence each; empty when all is well."""
        scrub = self.scrub.counters
        found = [
            ("metadata snapshots fail", self.snapshots.last_error),
            ("chunks cannot be put", self.writer.last_error),
            ("what is deleted stays in long-term storage", self.collector.last_error),
            ("chunks are not rewritten", None if self.rewriter is None else self.rewriter.last_error),
            ("chunks are not read again to look for damage", self.scrub.last_error),
            ("chunks are damaged or gone", f"{scrub.damaged} of those read again" if scrub.damaged else None),
        ]
        return [f"{what}: {why}" for what, why in found if why is not None]

    # How full the log is

    @property
    def pressure(self) -> float:
        """How full the log is; from 1 on all that makes it shorter is urgent."""
        return self.container.log_bytes / (PRESSURE * self.container.config.log_max_bytes)

    @property
    def is_pressed(self) -> bool:
        return self.pressure > 1

    def log_grew(self) -> None:
        """A log file was completed: more may be due, and who appends may have to be slowed down."""
        self.log_changed()
        self.writer.wake()

    def log_changed(self) -> None:
        """Decide anew how much those who append are slowed down."""
        container = self.container
        log_bytes = container.log_bytes
        container.throttle.observe(container.clock.monotonic_s(), log_bytes, container.appended_bytes - log_bytes)
