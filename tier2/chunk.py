"""Writing chunks to, and reading them from, long-term storage. The bytes are `tier2.chunk_format`'s.

Entries are opaque here: a reader passes an `EntryHeadOf`, which reads an entry's own header.

Invariants: writing holds only the index in memory, entries pass through by reference; reading holds one range, and
returns no byte of an unchecked block. Any damage raises `Corrupt` with key and position, and leaves the rest of the
object readable.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from crc32c import crc32c

from tier2.chunk_format import (
    BLOCK_BYTES,
    FOOTER_SIZE,
    HEADER_SIZE,
    AbortedTransaction,
    BadChunk,
    ChunkId,
    ChunkIndex,
    Footer,
    Point,
    Run,
    SegmentRef,
    check_blocks,
    decode_footer,
    decode_header,
    decode_index,
    encode_footer,
    encode_header,
    encode_index,
)
from tier2.storage import Buffer, Corrupt

TAIL_BYTES: Final = 64 << 10
"""Bytes of an object's end that are read first: footer and index in one request, unless the index is large."""

VERIFY_BYTES: Final = 4 << 20
"""Bytes that are read at a time to verify a chunk."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry to be written."""

    first: int
    count: int
    max_timestamp: int
    leader_epoch: int
    payload: Buffer


class ChunkEntry(NamedTuple):
    """An entry that was read; `payload` is a view of its range."""

    first: int
    end: int
    max_timestamp: int
    payload: memoryview


EntryHeadOf = Callable[[memoryview, int], tuple[int, int, int, int]]
"""First sequence number, count, largest timestamp and size of the entry that begins at a position.

Raises struct.error or IndexError when the entry is cut off."""

GetRange = Callable[[str, int, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One slot's entries for a chunk; each call of `entries` begins with the first one.

    After the entries, `aborted` is read. After a compaction the run covers more than its entries: `covered` returns its
    range. A source with `covered` may have no entries; then the chunk has no such run.
    """

    segment: SegmentRef
    slot: int
    entries: Callable[[], Iterable[Entry]]
    aborted: Iterable[AbortedTransaction] = ()
    covered: Callable[[], tuple[int, int]] | None = None


class ChunkWriter:
    """A `Body`: each `open` makes the whole chunk, part by part. Runs are sorted by (stream id, segment id, slot).

    `index` and `size` are set at the end of a pass.
    """

    def __init__(
        self,
        chunk_id: ChunkId,
        cluster_id: str,
        created_ms: int,
        runs: Iterable[RunSource],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._id = chunk_id
        self._cluster_id = cluster_id
        self._created_ms = created_ms
        self._sources = tuple(runs)
        self._block_bytes = block_bytes
        keys = [(source.segment.stream.id, source.segment.id, source.slot) for source in self._sources]
        if keys != sorted(set(keys)):
            raise ValueError("runs are not sorted, or not one for each slot")
        self.index: ChunkIndex | None = None
        self.size = 0

    def open(self) -> Iterator[Buffer]:
        yield encode_header(self._id, self._created_ms)
        position = HEADER_SIZE
        runs: list[Run] = []
        for source in self._sources:
            building = _RunBuilder(self._block_bytes)
            for entry in source.entries():
                building.add(entry)
                yield entry.payload
            if building.is_empty and source.covered is not None:
                continue
            run = building.finish(source, position)
            position += run.length
            runs.append(run)
        index = ChunkIndex(
            id=self._id,
            cluster_id=self._cluster_id,
            created_ms=self._created_ms,
            block_bytes=self._block_bytes,
            runs=tuple(runs),
        )
        encoded = encode_index(index)
        yield encoded
        yield encode_footer(Footer(position, len(encoded), crc32c(encoded)))
        self.index, self.size = index, position + len(encoded) + FOOTER_SIZE


class _RunBuilder:
    """A run's part of the index, gathered while its entries pass."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._crcs: list[int] = []
        self._crc = 0
        self._points: list[tuple[int, int]] = []
        self._newest_of_points: list[int] = []
        self._point_block = -1
        self._first = self._end = -1
        self._length = self._entries = self._leader_epoch = 0
        self._oldest = self._newest = -1

    @property
    def is_empty(self) -> bool:
        return not self._entries

    def add(self, entry: Entry) -> None:
        if not len(entry.payload) or entry.count < 1 or entry.first < self._end:
            raise ValueError(f"entry at {entry.first} is empty or not behind {self._end}")
        block = self._length // self._block_bytes
        if block != self._point_block:
            self._points.append((entry.first, self._length))
            self._newest_of_points.append(entry.max_timestamp)
            self._point_block = block
        elif entry.max_timestamp > self._newest_of_points[-1]:
            self._newest_of_points[-1] = entry.max_timestamp
        if not self._entries:
            self._first, self._oldest = entry.first, entry.max_timestamp
        self._oldest = min(self._oldest, entry.max_timestamp)
        self._newest = max(self._newest, entry.max_timestamp)
        self._leader_epoch = max(self._leader_epoch, entry.leader_epoch)
        self._end = entry.first + entry.count
        self._entries += 1
        self._pass(memoryview(entry.payload))

    def _pass(self, data: memoryview) -> None:
        while data:
            room = self._block_bytes - self._length % self._block_bytes
            piece, data = data[:room], data[room:]
            self._crc = crc32c(piece, self._crc)
            self._length += len(piece)
            if len(piece) == room:
                self._crcs.append(self._crc)
                self._crc = 0

    def finish(self, source: RunSource, position: int) -> Run:
        if not self._entries:
            raise ValueError(f"run of slot {source.slot} has no entries")
        if self._length % self._block_bytes:
            self._crcs.append(self._crc)
        first, end = (self._first, self._end) if source.covered is None else source.covered()
        if first > self._first or end < self._end:
            raise ValueError(f"run of slot {source.slot} covers [{first}, {end}), not all of its entries")
        return Run(
            segment=source.segment,
            slot=source.slot,
            first=first,
            end=end,
            min_timestamp=self._oldest,
            max_timestamp=self._newest,
            position=position,
            length=self._length,
            entries=self._entries,
            leader_epoch=self._leader_epoch,
            block_crcs=tuple(self._crcs),
            points=tuple(
                Point(first, at, newest)
                for (first, at), newest in zip(self._points, self._newest_of_points, strict=True)
            ),
            aborted=tuple(source.aborted),
        )


class ChunkReader:
    """One chunk, with its index in memory."""

    def __init__(self, key: str, size: int, index: ChunkIndex, get_range: GetRange, head_of: EntryHeadOf) -> None:
        self.key = key
        self.size = size
        self.index = index
        self._get_range = get_range
        self._head_of = head_of

    def __repr__(self) -> str:
        return f"<ChunkReader {self.key}: {len(self.index.runs)} runs, {self.size} bytes>"

    @classmethod
    async def open(cls, key: str, size: int, get_range: GetRange, head_of: EntryHeadOf) -> ChunkReader:
        """Read footer and index, in one request or two. Raises StorageError, Corrupt if it is damaged."""
        try:
            if size < HEADER_SIZE + FOOTER_SIZE:
                raise BadChunk(size, "too short for a chunk")
            tail = await get_range(key, max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
            footer = decode_footer(tail[-FOOTER_SIZE:], size)
            missing = footer.index_length + FOOTER_SIZE - len(tail)
            if missing > 0:
                tail = await get_range(key, footer.index_position, missing) + tail
            start = len(tail) - FOOTER_SIZE - footer.index_length
            index = decode_index(tail[start : len(tail) - FOOTER_SIZE], footer)
        except BadChunk as error:
            raise Corrupt(key, error.position, error.why) from error
        return cls(key, size, index, get_range, head_of)

    async def entries(self, run: Run, offset: int, max_bytes: int) -> list[ChunkEntry]:
        """Entries that end after `offset`, up to `max_bytes`, at least one; none when the run ends before."""
        if offset >= run.end:
            return []
        found: list[ChunkEntry] = []
        size = 0
        for entry in await self._range(run, run.point_of(offset), max_bytes):
            if entry.end <= offset:
                continue
            size += len(entry.payload)
            if found and size > max_bytes:
                break
            found.append(entry)
        if found:
            return found
        # The offset lies between two entries, and the next one is behind this range.
        following = run.point_of(offset) + 1
        return await self.entries(run, run.points[following].first, max_bytes) if following < len(run.points) else []

    async def entry_at_time(self, run: Run, timestamp_ms: int, offset: int) -> ChunkEntry | None:
        """The first entry that ends after `offset` and is at least that new."""
        point = run.point_at_time(timestamp_ms, run.point_of(offset))
        while point is not None:
            for entry in await self._range(run, point, 0):
                if entry.end > offset and entry.max_timestamp >= timestamp_ms:
                    return entry
            point = run.point_at_time(timestamp_ms, point + 1)
        return None

    async def verify(self) -> None:
        """Read and check the whole chunk, entry by entry, in bounded memory. Raises StorageError."""
        try:
            if decode_header(await self._get_range(self.key, 0, HEADER_SIZE)) != (self.index.id, self.index.created_ms):
                raise BadChunk(0, "header and index are those of different chunks")
            for run in self.index.runs:
                await self._verify_run(run)
        except BadChunk as error:
            raise Corrupt(self.key, error.position, error.why) from error

    async def _verify_run(self, run: Run) -> None:
        offset, count, size = run.first, 0, 0
        while found := await self.entries(run, offset, VERIFY_BYTES):
            offset = found[-1].end
            count += len(found)
            size += sum(len(entry.payload) for entry in found)
        if (count, size) != (run.entries, run.length):
            raise BadChunk(run.position, f"{count} entries of slot {run.slot} up to {offset} contradict the index")

    async def _range(self, run: Run, point: int, max_bytes: int) -> list[ChunkEntry]:
        """Read, in one request, a point's entries and those after them, up to `max_bytes`."""
        begin = run.points[point].position
        start, stop = block_range(run, point, max_bytes, self.index.block_bytes)
        data = await self._get_range(self.key, run.position + start, stop - start)
        try:
            check_blocks(run, self.index.block_bytes, start, data)
            return list(walk(run, memoryview(data), start, begin, self._head_of))
        except BadChunk as error:
            raise Corrupt(self.key, error.position, error.why) from error


def block_range(run: Run, point: int, max_bytes: int, block_bytes: int) -> tuple[int, int]:
    """The bytes of the run to read: whole blocks that hold at least all entries of the point."""
    begin = run.points[point].position
    wanted = max(run.point_end(point), begin + max_bytes)
    return begin - begin % block_bytes, min(run.length, -(-wanted // block_bytes) * block_bytes)


def walk(run: Run, data: memoryview, start: int, begin: int, head_of: EntryHeadOf) -> Iterator[ChunkEntry]:
    """The whole entries of a run from `begin` on, in bytes that begin at `start` in it. Raises BadChunk."""
    at, end = begin - start, run.first
    complete = start + len(data) == run.length
    while at < len(data):
        try:
            first, count, newest, size = head_of(data, at)
        except (struct.error, IndexError) as error:
            if not complete:
                return
            raise BadChunk(run.position + start + at, f"entry of slot {run.slot} is cut off") from error
        stop = at + size
        if stop > len(data) and not complete:
            return
        if stop > len(data) or size < 1 or count < 1 or first < end or first + count > run.end:
            why = f"entry of slot {run.slot} at {first} contradicts the index"
            raise BadChunk(run.position + start + at, why)
        end = first + count
        yield ChunkEntry(first, end, newest, data[at:stop])
        at = stop
