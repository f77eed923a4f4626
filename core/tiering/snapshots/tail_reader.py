"""Reading the last entries of recovered slots from their chunks, for `core.tiering.snapshots.tails`.

All entries of a slot that the last snapshot did not know are read, and `LOOK_BACK_BYTES` before them, because another
slot of a transaction may have come back shorter. Some slots are read at a time, each some blocks at a time.

**Invariants**: nothing is changed; unreadable entries are reported and left out; a storage that is away raises.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from core.tiering.rows import RunRow, chunk_key
from core.tiering.snapshots.format import WriterSnapshot
from core.tiering.snapshots.tails import Ends, EntryWriterOf, Tail
from tier2.chunk import ChunkEntry, ChunkReader, EntryHeadOf
from tier2.chunk_format import ChunkId, Run
from tier2.storage import Corrupt, ObjectNotFound, Storage

LOOK_BACK_BYTES: Final = 32 << 20
"""Bytes to read of each slot's end, whatever the snapshot knew of it."""
NEW_BYTES_MAX: Final = 512 << 20
"""The most bytes to read that the snapshot did not know: a minute of a partition at 8 MB/s. The rest is reported."""
READ_BYTES: Final = 2 << 20
SLOTS_AT_ONCE: Final = 8
CHUNKS_OPEN: Final = 64
"""The most chunks whose index stays in memory: many slots lie in one."""
_UNSEEN: Final = "not looked at (a batch of theirs that comes again is stored twice, a transaction there may be torn)"


@dataclass(frozen=True, slots=True)
class Ending:
    """The part of a slot to look at."""

    name: str
    place: tuple[int, int]
    end: int
    lost: Sequence[tuple[int, int]]
    head: bytes  # of its value
    rows: Sequence[RunRow]  # its last ones
    left_out: int  # the end of the rows before them
    known_end: int  # the end that the snapshot knew
    writers: Sequence[WriterSnapshot]  # as the snapshot knew them


def last_rows(rows: Sequence[RunRow], known_end: int) -> Sequence[RunRow]:
    """The rows of a slot to look at."""
    size, number = 0, len(rows)
    while number and size < NEW_BYTES_MAX and (size < LOOK_BACK_BYTES or rows[number - 1].end > known_end):
        number -= 1
        size += rows[number].length
    return rows[number:]


class TailReader:
    """The look at slots' ends; `found` gets each slot that has writers, with the writers."""

    def __init__(
        self,
        storage: Storage,
        sizes: Callable[[ChunkId], int | None],
        head_of: EntryHeadOf,
        writer_of: EntryWriterOf,
        tell: Callable[[str], None],
    ) -> None:
        self._storage = storage
        self._sizes = sizes
        self._head_of = head_of
        self._writer_of = writer_of
        self._tell = tell
        self._chunks: OrderedDict[ChunkId, asyncio.Task[ChunkReader]] = OrderedDict()

    async def look(self, endings: Sequence[Ending], ends: Ends, found: Callable[[Ending, list[bytes]], None]) -> None:
        """Look at all of them. Raises StorageError."""
        remaining: Iterator[Ending] = iter(endings)

        async def some() -> None:
            for ending in remaining:
                tail = await self._looked(ending, ends)
                found(ending, list(tail.writers()))

        tasks = [asyncio.create_task(some()) for _ in range(SLOTS_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _looked(self, ending: Ending, ends: Ends) -> Tail:
        tail = Tail(ending.place, ending.end, ending.lost, ending.writers)
        known_end = ending.known_end
        if ending.left_out > known_end:
            self._tell(f"{ending.name}: offsets {known_end} to {ending.left_out - 1} are {_UNSEEN}: they are too many")
        aborted: list[tuple[int, int]] = []
        left = sum(row.length for row in ending.rows)
        for row in ending.rows:
            skipped = max(0, left - LOOK_BACK_BYTES)
            left -= row.length
            try:
                reader, run = await self._run(row)
                aborted = [(one.writer_id, one.last) for one in run.aborted]
                async for entry in _entries(reader, run, row, _begin(run, row, skipped, known_end)):
                    writer = self._writer_of(entry.payload)
                    if writer is not None:
                        tail.passed(entry.first, entry.end, entry.max_timestamp, writer, reader.index.created_ms, ends)
            except (Corrupt, ObjectNotFound) as error:
                self._tell(f"{ending.name}: offsets {row.first} to {row.end - 1} are {_UNSEEN}: {error}")
        tail.finish(aborted, ends)
        return tail

    async def _run(self, row: RunRow) -> tuple[ChunkReader, Run]:
        reader = await self._chunk(row.chunk)
        run = reader.index.run_of(row.stream_id, row.segment_id, row.slot)
        if run is None:
            raise Corrupt(reader.key, 0, "its index has no such run")
        return reader, run

    async def _chunk(self, chunk_id: ChunkId) -> ChunkReader:
        task = self._chunks.get(chunk_id)
        if task is None:
            task = self._chunks[chunk_id] = asyncio.create_task(self._opened(chunk_id))
            while len(self._chunks) > CHUNKS_OPEN:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(chunk_id)
        return await task

    async def _opened(self, chunk_id: ChunkId) -> ChunkReader:
        key, size = chunk_key(chunk_id), self._sizes(chunk_id)
        if size is None:
            raise ObjectNotFound(key)
        return await ChunkReader.open(key, size, self._storage.get_range, self._head_of)


def _begin(run: Run, row: RunRow, skipped: int, known_end: int) -> int:
    """The offset from which a row is read, if this many bytes that the snapshot knew need not be read."""
    last = max((p.first for p in run.points if p.position <= skipped and p.first <= known_end), default=row.first)
    return max(row.first, last)


async def _entries(reader: ChunkReader, run: Run, row: RunRow, begin: int) -> AsyncIterator[ChunkEntry]:
    """The entries of a row, from an offset on."""
    offset = begin
    while offset < min(run.end, row.end):
        read = await reader.entries(run, offset, READ_BYTES)
        if not read:
            return
        for entry in read:
            if entry.first < row.end and entry.end > max(offset, row.first):  # a row may begin within an entry
                yield entry
        offset = read[-1].end
