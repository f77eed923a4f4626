"""Reading entries, wherever they lie: in memory, in a log file, in a chunk.

A read names a slot, an offset, an end that it must not pass, and a number of bytes. `cached` answers on the event loop
from memory: the log's, or pages of chunks. If memory lacks the first entry, `read` goes to the log, in a bounded pool
of threads. If the log lacks it too, `read` goes to long-term storage.

**Invariants**

- Entries are returned as they were appended, in order.
- Entries that the log holds are read from the log, unless they have been compacted (`Slot.compacted_end`). Then chunks
  hold the rest of them, and the log is asked only while the chunks cannot be reached.
- Only reads from long-term storage wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from core.config import StoreConfig
from core.errors import Corrupt, NotHosted, OutOfRange, TierUnavailable
from core.log.format import APPEND_OVERHEAD
from core.reading.log_reader import READ_BYTES_MAX, Location, LogReader, columns_from, location_of, locations
from core.streams.entries import ENTRIES_AT_ONCE, ReadResult, StoredEntry
from core.streams.transactions import overlapping

if TYPE_CHECKING:
    from core.index.rows import BlockRef, Rows, SlotColumns
    from core.log.format import Buffer
    from core.reading.sources import ChunkReading, LogSource, Runs
    from core.streams.damage import Damage
    from core.streams.live import Slot

__all__ = ["READ_BYTES_MAX", "ReadResult", "Reader", "StoredEntry", "location_of"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Found = TypeVar("_Found", ReadResult, ReadResult | None)


class Served:
    """The reads that one tier served, and their bytes."""

    __slots__ = ("bytes", "reads")

    def __init__(self) -> None:
        self.reads = 0
        self.bytes = 0


class ReadCounters:
    """Counts of the reads that each tier served, for the operator."""

    __slots__ = ("chunk", "log", "memory")

    def __init__(self) -> None:
        self.memory = Served()
        self.log = Served()
        self.chunk = Served()


def _counted(served: Served, found: _Found) -> _Found:
    if found is not None and found.size:
        served.reads += 1
        served.bytes += found.size
    return found


def _with_aborted(rows: Sequence[int], offset: int, found: ReadResult) -> ReadResult:
    return found._replace(aborted=tuple(overlapping(rows, offset, found.end))) if rows and found.parts else found


class Reader:
    """The reader of one container."""

    def __init__(self, source: LogSource, runs: Runs, config: StoreConfig) -> None:
        self._source = source
        self._runs = runs
        self._pool = ThreadPoolExecutor(config.log_reader_threads, thread_name_prefix=f"log-{source.id}-reader")
        self._log = LogReader(source, config)
        self.tiered: ChunkReading | None = None  # where there is long-term storage
        self.counters = ReadCounters()
        self._is_closed = False

    @property
    def index_cache_used(self) -> int:
        """Bytes of sidecar blocks held in memory."""
        return self._log.index_cache_used

    @property
    def read_cache_used(self) -> int:
        """Bytes of log files held in memory."""
        return self._log.read_cache_used

    @property
    def damage(self) -> Damage:
        """The lost ranges of the log, which are refused."""
        return self._source.damage

    async def close(self) -> None:
        """End once all reads under way have ended; later ones get NotHosted."""
        self._is_closed = True
        await asyncio.to_thread(self._pool.shutdown)
        await asyncio.to_thread(self._log.close)

    async def in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        """Run a call that reads the log, in the pool."""
        if self._is_closed:
            raise NotHosted(self._source.id)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    # Entries in order

    def cached(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        max_entries: int = ENTRIES_AT_ONCE,
    ) -> ReadResult | None:
        """Entries from memory; None when the first one is not there. For the event loop.

        Takes whole entries while they fit into `max_bytes`; the first one always, if `at_least_one`. Where entries are
        found one by one it takes at most `max_entries` (1 or more), because small ones take the loop's time, not room.
        """
        if self._source.damage.ranges:
            end = self._source.damage.limit(slot, offset, end)
            if end <= offset:
                return None
        if offset < slot.compacted_end and self.tiered is not None:
            return _counted(self.counters.chunk, self.tiered.cached(slot, offset, end, max_bytes, at_least_one))
        parts: list[Buffer] = []
        size, reached = 0, offset
        for columns in columns_from(slot, offset):
            image = columns.file.image
            if image is None or (columns.file.gone and slot.transactions is not None):
                break  # the slot has forgotten the transactions of files that are gone
            views, shift, mask, slab_bytes = image.layout
            base, length, position = columns.base, columns.length, columns.position
            first = columns.row_of(max(reached, base[0]))
            for row in range(first, min(len(base), first + max_entries - len(parts))):
                if base[row] >= end:
                    return self._from_memory(slot, offset, ReadResult(parts, size, reached))
                count = length[row]
                if size + count > max_bytes and (parts or not at_least_one):
                    return self._from_memory(slot, offset, ReadResult(parts, size, reached))
                begin = position[row] + APPEND_OVERHEAD
                view, at = views[begin >> shift], begin & mask
                if view is not None and at + count <= slab_bytes:
                    parts.append(view[at : at + count])
                else:
                    pieces = image.pieces(begin, count)
                    if pieces is None:
                        return self._from_memory(slot, offset, ReadResult(parts, size, reached)) if parts else None
                    parts += pieces
                size += count
                reached = columns.row_end(row)
            if len(parts) >= max_entries:
                break
        if parts or offset >= end:
            return self._from_memory(slot, offset, ReadResult(parts, size, reached))
        if self.tiered is not None and offset < slot.tiered_end:
            return _counted(self.counters.chunk, self.tiered.cached(slot, offset, end, max_bytes, at_least_one))
        return None

    def _from_memory(self, slot: Slot, offset: int, found: ReadResult) -> ReadResult:
        if slot.transactions is not None:
            found = _with_aborted(slot.transactions.aborted, offset, found)
        return _counted(self.counters.memory, found)

    async def read(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        patience: asyncio.Future[None] | None = None,
    ) -> ReadResult:
        """Entries from memory, the log or chunks.

        Raises OutOfRange when they are gone, errors of kind CORRUPT when they are damaged, TierUnavailable when they
        cannot be reached just now, StillLoading when `patience` ends before long-term storage has answered.
        """
        wanted = end
        while True:
            found = self.cached(slot, offset, wanted, max_bytes, at_least_one)
            if found is not None:
                return found
            self._source.damage.check(slot, offset)
            end = self._source.damage.limit(slot, offset, wanted)
            if self.tiered is not None and offset < slot.compacted_end:
                with contextlib.suppress(TierUnavailable):  # the log may have it as it was
                    border = slot.compacted_end
                    found = await self.tiered.read(slot, offset, end, max_bytes, at_least_one, border, patience)
                    _counted(self.counters.chunk, found)
            if found is None:
                aborted = slot.aborted_rows  # the slot may forget these during the read
                memory = locations(slot, offset, end, max_bytes, at_least_one)
                found, border = await self._from_log(self._read_log, slot, offset, memory, end, max_bytes, at_least_one)
                if found is not None:
                    return _counted(self.counters.log, _with_aborted(aborted, offset, found))
                tiered = self._tiered(slot, offset)
                found = await tiered.read(slot, offset, end, max_bytes, at_least_one, border, patience)
                _counted(self.counters.chunk, found)
            if found.size or found.end == offset or found.end >= wanted:
                return found
            offset = found.end  # compaction left nothing up to there

    def _read_log(
        self, slot: Slot, offset: int, memory: list[Location] | None, end: int, max_bytes: int, at_least_one: bool
    ) -> tuple[ReadResult | None, int]:
        """The entries in the log from `offset` on; if there are none, the first that it holds behind it."""
        found = self._log.read(slot, memory, offset, end, max_bytes, at_least_one)
        return found, offset if found is not None else self._log.first_from(slot, offset)

    async def _from_log(
        self, reading: Callable[..., tuple[_T | None, int]], slot: Slot, offset: int, *args: object
    ) -> tuple[_T | None, int]:
        """Read the log. The result is None if it lacks the entries, or has them damaged and chunks hold them as well.

        The first of `args` is the entries' places, as far as memory has them.
        """
        moved = self._source.moved
        try:
            return await self.in_thread(reading, slot, offset, *args)
        except Corrupt as error:
            if moved != self._source.moved:  # kept entries of a file lie elsewhere now
                return await self._from_log(reading, slot, offset, None, *args[1:])
            if self.tiered is None or offset >= slot.tiered_end:
                raise
            logger.warning("read from long-term storage instead of the log", extra={"reason": str(error)})
            return None, offset + 1

    def _tiered(self, slot: Slot, offset: int) -> ChunkReading:
        """The reader of chunks, for entries that the log lacks. Raises OutOfRange when chunks lack them too."""
        if self.tiered is None or not slot.start <= offset < slot.tiered_end:
            raise OutOfRange(offset, slot.start, slot.durable_end)
        return self.tiered

    # Single entries

    async def entry_at(self, slot: Slot, offset: int) -> StoredEntry | None:
        """The entry that holds this offset, or the next one if compaction removed it; None at or beyond the end."""
        while offset < slot.durable_end:
            self._source.damage.check(slot, offset)
            memory = locations(slot, offset, slot.durable_end, 0, True)
            found, _ = await self._from_log(self._entry_in_log, slot, offset, memory)
            if found is None:
                found = await self._tiered(slot, offset).entry_at(slot, offset)
            if found is not None:
                return found
            offset = max(offset + 1, slot.tiered_end)
        return None

    def _entry_in_log(self, slot: Slot, offset: int, memory: list[Location] | None) -> tuple[StoredEntry | None, int]:
        return self._log.entry_at(slot, memory, offset), offset

    async def entry_at_time(self, slot: Slot, timestamp: int, offset: int) -> StoredEntry | None:
        """The first entry that ends behind `offset` and whose largest timestamp is `timestamp` or later."""
        start = max(slot.start, offset)

        async def search(border: int) -> StoredEntry | None:
            if self.tiered is not None and start < min(border, slot.tiered_end):
                found = await self.tiered.entry_at_time(slot, timestamp, start, border)
                if found is not None:
                    return found
            found = await self.in_thread(self._log.entry_at_time, slot, timestamp, max(start, border))
            now = await self.first_in_log(slot, max(start, border))
            return found if now <= max(start, border) else await search(now)  # what has left the log is in chunks

        return await self._searched(slot, start, search)

    async def entry_with_max_timestamp(self, slot: Slot) -> StoredEntry | None:
        """The first entry with the largest timestamp of all."""
        start = slot.start

        async def search(border: int) -> StoredEntry | None:
            best = await self.in_thread(self._log.entry_with_max_timestamp, slot, max(start, border))
            now = await self.first_in_log(slot, max(start, border))
            if now > max(start, border):  # what has left the log is in chunks
                return await search(now)
            if self.tiered is not None and start < min(border, slot.tiered_end):
                # Of several that are equally new, the first one lies in chunks.
                least = None if best is None else best.max_timestamp - 1
                return await self.tiered.entry_with_max_timestamp(slot, least, border) or best
            return best

        return await self._searched(slot, start, search)

    async def _searched(self, slot: Slot, start: int, search: Callable[[int], Awaitable[_T]]) -> _T:
        """Search chunks and log, given where the log begins; again if entries leave the log meanwhile.

        Damaged entries of the log are searched in chunks, if chunks hold them as well.
        """
        while True:
            border, moved = await self.first_in_log(slot, start), self._source.moved
            try:
                return await search(border)
            except Corrupt as error:
                if await self.first_in_log(slot, start) != border or moved != self._source.moved:
                    continue
                if self.tiered is None or border >= slot.tiered_end:
                    raise
                logger.warning("searched in long-term storage instead of the log", extra={"reason": str(error)})
                return await search(slot.tiered_end)

    # Places and sizes

    async def first_in_log(self, slot: Slot, offset: int) -> int:
        """The first sequence number from `offset` on that is read from the log; the slot's end when none is."""
        if offset >= slot.tiered_end:
            return offset
        if self.tiered is not None:
            offset = max(offset, slot.compacted_end)
        return await self.in_thread(self._log.first_from, slot, offset)

    async def local_start(self, slot: Slot) -> int:
        """The first sequence number that can be read without long-term storage; the slot's end when there is none."""
        return await self.first_in_log(slot, slot.start)

    async def bytes_before(self, slot: Slot, offset: int) -> int:
        """Bytes of all entries that ever ended at or before `offset`.

        Where only chunks hold the offset, this is reckoned from the run's bytes: no object is read for it.
        """
        moved = self._source.moved
        try:
            before = await self.in_thread(self._log.bytes_before, slot, offset)
        except (Corrupt, OutOfRange):
            if moved != self._source.moved:
                return await self.bytes_before(slot, offset)
            # Entries in chunks may leave the log meanwhile, or have left it before a crash that kept their rows.
            if self.tiered is None or offset > slot.tiered_end:
                raise
            before = None
        if before is None and self.tiered is not None and offset == slot.tiered_end:
            return slot.tiered_bytes
        if before is None and offset < slot.tiered_end:
            run = await self._runs.run_at(slot.stream.id, slot.number, offset)
            if run is not None and run.first <= offset:
                return run.bytes_before + run.appended * (offset - run.first) // (run.end - run.first)
        return slot.start_bytes if before is None else before

    # For callers that scan the log in their own thread

    def all_rows(
        self, slot: Slot, start: int, wanted: Callable[[BlockRef], bool]
    ) -> Iterator[tuple[int, Rows | SlotColumns]]:
        """See `LogReader.all_rows`. Blocks."""
        return self._log.all_rows(slot, start, wanted)

    def check(self, slot: Slot, offset: int) -> None:
        """See `LogReader.check`. Blocks."""
        self._log.check(slot, offset)

    def payloads(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        """See `LogReader.payloads`. Blocks."""
        return self._log.payloads(slot, wanted)
