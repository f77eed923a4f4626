"""Reading from chunks: the same answers that the log gave, from objects that lie far away.

`cached` answers on the event loop from pages in memory, for a reader that goes on where it ended. `read` and the
look-ups load missing pages. A read that is given up goes on by itself: the next reader of the same entries joins it.

**Invariants**

- An answer has entries as they were appended, in order. It goes on behind what compaction left out, and never behind
  entries that no run covers: these are lost, and readers are told.
- Bytes whose block fails its check are never returned: the error names the object, the position and the offset.
- A part of an answer keeps at most `WASTE_MAX` times its bytes alive.
- Pages, indices and bytes on their way fit into `tier2_cache_bytes` of memory; read-ahead is a part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from core.errors import CorruptChunk, CorruptState, MissingChunk, OutOfRange, StoreError
from core.streams.entries import ReadResult, StillLoading, StoredEntry
from core.streams.transactions import Aborted
from core.tiering.reading.cutting import NO_TIMESTAMP, Cut, Needs, View, cut, first_at_time, located, newest_entry
from core.tiering.reading.disk_cache import DiskCache
from core.tiering.reading.gets import Gets
from core.tiering.reading.indices import Indices
from core.tiering.reading.pages import PageCounters, Pages
from core.tiering.reading.read_ahead import Follower, FollowerKey, ReadAhead
from core.tiering.reading.yielding import Yielding
from core.tiering.rows import parse_chunk_key

if TYPE_CHECKING:
    from core.config import StoreConfig
    from core.log.format import Buffer
    from core.streams.live import Slot
    from core.tiering.reading.indices import Lookups
    from core.tiering.rows import RunRow
    from tier2.chunk import EntryHeadOf
    from tier2.chunk_format import ChunkId
    from tier2.storage import Storage

_T = TypeVar("_T")

READ_BYTES_MAX: Final = 8 << 20
"""Most bytes of one answer, unless a single entry is larger."""
WASTE_MAX: Final = 4
INDEX_SHARE: Final = 8
"""One part in this many of the cache is for indices."""
THREADS: Final = 2
ANYWHERE: Final = 1 << 62
"""A border that no offset reaches."""


class TieredReader:
    """The reader of one container's chunks. For the event loop."""

    def __init__(
        self,
        lookups: Lookups,
        storage: Storage,
        head_of: EntryHeadOf,
        config: StoreConfig,
        cache_directory: Path | None = None,
        appended: Callable[[], int] = lambda: 0,
    ) -> None:
        """`appended`: the last LSN of the log, for any thread."""
        self._lookups = lookups
        self._head_of = head_of
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tier2-check")
        for_indices = config.tier2_cache_bytes // INDEX_SHARE
        for_pages = config.tier2_cache_bytes - for_indices
        self._disk: DiskCache | None = None
        if cache_directory is not None:
            self._disk = DiskCache(cache_directory, config.tier2_disk_cache_bytes)
        self._gets = Gets(for_pages // 2)
        self._pages = Pages(storage, self._gets, self._pool, for_pages, self._disk, Yielding(appended))
        self._indices = Indices(lookups, storage, self._gets, self._pages, self._pool, for_indices)
        self._ahead = ReadAhead(lookups, self._indices, self._pages, min(config.tier2_read_ahead_bytes, for_pages // 2))
        self._reads: dict[tuple[int, ...], asyncio.Task[_Read]] = {}

    def __repr__(self) -> str:
        return f"<TieredReader {self._pages!r} {self._gets!r} {self._ahead!r}>"

    @property
    def used(self) -> int:
        """Bytes of pages and indices in memory, and on their way."""
        return self._pages.used + self._indices.used

    @property
    def counters(self) -> PageCounters:
        return self._pages.counters

    @property
    def loaded_ahead(self) -> int:
        """Bytes that were loaded for readers that have not reached them yet."""
        return self._ahead.used

    def forget(self, chunk_id: ChunkId) -> None:
        """Drop everything of an object that is gone, or about to be."""
        self._ahead.forget(chunk_id)
        self._indices.forget(chunk_id)
        self._pages.forget(chunk_id)

    async def close(self) -> None:
        """Give up all reads; readers get StoreClosed."""
        self._ahead.clear()
        await self._gets.close()
        await self._pages.close()
        await asyncio.gather(*self._reads.values(), return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)
        if self._disk is not None:
            await asyncio.to_thread(self._disk.close)

    # Reading on

    def cached(self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> ReadResult | None:
        """An answer from memory for a reader that comes back; None when memory has not enough for one."""
        key = slot.stream.id, slot.number, offset
        follower = self._ahead.find(key)
        if follower is None or not follower.runs or offset >= follower.limit:
            return None
        answer = _Answer(offset, min(max_bytes, READ_BYTES_MAX), at_least_one)
        position, stands = follower.position, (0, follower.position)
        for number, (row, run) in enumerate(follower.runs):
            if number and row.first >= follower.limit:
                break
            try:
                found = answer.take(View(run, self._pages.find, self._head_of), row, position, end)
            except (Needs, CorruptChunk):
                break
            if found.stop > position:
                stands = number, found.stop
            if answer.is_full or row.end >= end:
                break
            position = 0
        if not answer.size:
            return ReadResult([], 0, offset) if answer.is_full else None
        follower.goes_on(*stands)
        self._ahead.moved(key, (*key[:2], answer.end), follower)
        return answer.result()

    async def read(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        border: int = ANYWHERE,
        patience: asyncio.Future[None] | None = None,
    ) -> ReadResult:
        """Entries from chunks; from `border` on the log has them, too. Raises StoreError, StillLoading.

        An empty answer with an `end` behind `offset` means that the chunks have nothing more up to there.
        """
        found = self.cached(slot, offset, end, max_bytes, at_least_one)
        if found is not None:
            return found
        limit = end if end < slot.tiered_end else ANYWHERE
        key = slot.stream.id, slot.number, offset, limit, max_bytes, int(at_least_one)
        place: FollowerKey = key[:3]
        task = self._reads.get(key)
        if task is None:
            reading = partial(self._read, slot, offset, end, min(max_bytes, READ_BYTES_MAX), at_least_one, border)
            task = asyncio.ensure_future(self._again(slot, offset, reading))
            self._reads[key] = task
            task.add_done_callback(partial(self._read_done, key))
        waited = (task,) if patience is None else (task, patience)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise StillLoading
        read = task.result()
        found = self.cached(slot, offset, end, max_bytes, at_least_one)
        if found is not None and found.size:
            return found
        follower = self._ahead.find(place)
        if follower is read.follower and follower is not None and read.result.size:  # its pages did not stay in memory
            follower.goes_on(0, read.stop)
            self._ahead.moved(place, (*place[:2], read.result.end), follower)
        return read.result

    def _read_done(self, key: tuple[int, ...], task: asyncio.Task[_Read]) -> None:
        del self._reads[key]
        if not task.cancelled():
            task.exception()  # its reader may have given up

    async def _read(self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool, border: int) -> _Read:
        """Load the pages of an answer. The reader is not moved, because it may have given up."""
        key = slot.stream.id, slot.number, offset
        follower = self._ahead.find(key)
        if follower is None or not follower.is_within or offset >= follower.limit:
            opened = await self._open(slot, offset, end, max_bytes)
            if isinstance(opened, int):
                return _Read(ReadResult([], 0, opened), 0, None)
            row, view, position = opened
            follower = Follower(row, view.run, position, border)
            self._ahead.moved(None, key, follower)
        else:
            row, run = follower.runs[0]
            view, position = View(run, self._pages.find, self._head_of), follower.position
        answer = _Answer(offset, max_bytes, at_least_one)
        found = await self._filled(view, lambda: answer.take(view, row, position, end))
        if not answer.size:
            return _Read(ReadResult([], 0, offset if answer.is_full else min(end, row.end)), 0, None)
        return _Read(answer.result(), found.stop, follower)

    async def _open(self, slot: Slot, offset: int, end: int, max_bytes: int) -> tuple[RunRow, View, int] | int:
        """The first entry that ends behind `offset`, or if no chunk has one before `end`, where to go on."""
        at = offset
        while at < end:
            row = await self._lookups.run_at(slot.stream.id, slot.number, at)
            if row is None:
                if at == offset:
                    raise self._unknown(slot, offset)
                break
            if row.first > max(at, slot.start):  # the runs of a slot have no gap: this one is a loss
                if at == offset:
                    raise self._unknown(slot, offset, f". Read on from offset {row.first}")
                break
            run = await self._indices.open(row)
            if run is not None:
                view, first = View(run, self._pages.find, self._head_of), max(at, row.first)
                position = await self._filled(view, partial(located, view, first, max_bytes))
                if position < run.packed.length:
                    return row, view, position
            at = row.end
        return at

    def _unknown(self, slot: Slot, offset: int, advice: str = "") -> StoreError:
        if offset < slot.start or slot.stream.deleted:
            return OutOfRange(offset, slot.start, slot.durable_end)
        place = f"{slot.stream.name}-{slot.number}"
        return CorruptState(f"neither the log nor a chunk holds offset {offset} of {place}{advice}")

    async def _filled(self, view: View, compute: Callable[[], _T]) -> _T:
        """The result of a computation, after loading the pages that it needs."""
        while True:
            try:
                return compute()
            except Needs as needs:
                view.held |= await self._pages.load(view.run, needs.pages)

    async def _again(self, slot: Slot, offset: int, reading: Callable[[], Awaitable[_T]]) -> _T:
        """Read; once more if the object is gone because others took its place. Raises MissingChunk if none did."""
        try:
            return await reading()
        except MissingChunk as error:
            chunk = parse_chunk_key(error.key)
            if chunk is None:
                raise
            self.forget(chunk)
            row = await self._lookups.run_at(slot.stream.id, slot.number, max(offset, slot.start))
            if offset < slot.start or slot.stream.deleted:
                raise OutOfRange(offset, slot.start, slot.durable_end) from error
            if row is not None and row.chunk == chunk:
                raise
        return await reading()

    # Single entries

    async def entry_at(self, slot: Slot, offset: int) -> StoredEntry | None:
        """The first entry in chunks that ends behind `offset`. Raises StoreError."""

        async def reading() -> StoredEntry | None:
            opened = await self._open(slot, offset, ANYWHERE, 1)
            return None if isinstance(opened, int) else await self._entry(opened[1], opened[2])

        return await self._again(slot, offset, reading)

    async def entry_at_time(
        self, slot: Slot, timestamp: int, offset: int, border: int = ANYWHERE
    ) -> StoredEntry | None:
        """The first entry that ends behind `offset` and is at least that new; runs from `border` on are left out."""
        return await self._again(slot, offset, partial(self._entry_at_time, slot, timestamp, offset, border))

    async def _entry_at_time(self, slot: Slot, timestamp: int, offset: int, border: int) -> StoredEntry | None:
        def next_row() -> RunRow | None:
            for row in self._lookups.iter_runs(slot.stream.id, slot.number, offset):
                if row.first >= border:
                    return None
                if row.max_timestamp >= timestamp and row.entries:
                    return row
            return None

        while (row := await self._lookups.in_thread(next_row)) is not None:
            run = await self._indices.open(row)
            if run is not None:
                view = View(run, self._pages.find, self._head_of)
                found = await self._filled(view, partial(first_at_time, view, timestamp, max(offset, row.first)))
                if found is not None:
                    return await self._entry(view, found)
            offset = row.end
        return None

    async def entry_with_max_timestamp(
        self, slot: Slot, newer_than: int | None = None, border: int = ANYWHERE
    ) -> StoredEntry | None:
        """The first entry with the largest timestamp, if that is larger; runs from `border` on are left out."""
        least = NO_TIMESTAMP if newer_than is None else newer_than
        reading = partial(self._entry_with_max_timestamp, slot, slot.start, least, border)
        return await self._again(slot, slot.start, reading)

    async def _entry_with_max_timestamp(
        self, slot: Slot, start: int, newer_than: int, border: int
    ) -> StoredEntry | None:
        def newest(start: int) -> RunRow | None:
            rows = self._lookups.iter_runs(slot.stream.id, slot.number, start)
            within = (row for row in takewhile(lambda row: row.first < border, rows) if row.entries)
            return max(within, key=lambda row: row.max_timestamp, default=None)

        best: StoredEntry | None = None
        row = await self._lookups.in_thread(newest, start)
        while row is not None and row.max_timestamp > (newer_than if best is None else best.max_timestamp):
            run = await self._indices.open(row)
            if run is not None:
                view = View(run, self._pages.find, self._head_of)
                found = await self._filled(view, partial(newest_entry, view, max(start, row.first)))
                entry = None if found is None else await self._entry(view, found)
                if entry is not None and entry.max_timestamp > (newer_than if best is None else best.max_timestamp):
                    best = entry
            if row.first >= start:
                break
            # Its newest entry may lie before the start; then an entry of a later run may be newer.
            row = await self._lookups.in_thread(newest, row.end)
        return best

    async def _entry(self, view: View, position: int) -> StoredEntry:
        def entry() -> StoredEntry:
            head = view.head(position)
            stop = position + head.size
            view.require(position, stop)
            if (bad := view.bad_from(position, stop)) is not None:
                raise view.damaged(bad)
            return StoredEntry(head.first, head.span, head.max_timestamp, b"".join(view.parts(position, stop)))

        return await self._filled(view, entry)


class _Read(NamedTuple):
    """An answer that was loaded, its end in the run, and the reader that may go on there."""

    result: ReadResult
    stop: int
    follower: Follower | None


class _Answer:
    """The entries that one read takes, run by run."""

    __slots__ = ("_aborted", "_at_least_one", "_held", "_max_bytes", "_offset", "_parts", "end", "is_full", "size")

    def __init__(self, offset: int, max_bytes: int, at_least_one: bool) -> None:
        self._offset = offset
        self._max_bytes = max_bytes
        self._at_least_one = at_least_one
        self._parts: list[Buffer] = []
        self._aborted: dict[int, Aborted] = {}  # by their markers: those that span runs are in each
        self._held = 0
        self.size = 0
        self.end = -1
        self.is_full = False  # the next entry did not fit

    def take(self, view: View, row: RunRow, position: int, end: int) -> Cut:
        """Entries of a run from a position on. Raises Needs, CorruptChunk: then nothing was taken."""
        packed, border = view.run.packed, min(end, row.end)
        room = self._max_bytes - self.size
        found = cut(view, position, border, room, self._at_least_one and not self.size)
        is_done = found.stop == packed.length or found.end >= border
        if found.stop > position:
            self._parts += view.parts(position, found.stop)
            self._held += sum(len(view.page(number).data) for number in view.run.pages(position, found.stop))
            self.size += found.stop - position
            self.end = border if is_done else found.end
            if packed.has_aborted:
                for one in packed.aborted(self._offset, self.end):
                    self._aborted[one.last] = Aborted(one.last, one.first, one.writer_id, one.stable_end)
        self.is_full = not is_done
        return found

    def result(self) -> ReadResult:
        if self._held > WASTE_MAX * self.size:
            self._parts = [b"".join(self._parts)]
        return ReadResult(self._parts, self.size, self.end, tuple(sorted(self._aborted.values())))
