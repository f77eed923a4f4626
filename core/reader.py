"""Reading entries: from memory at once, from log files in a bounded pool of threads.

A read names a slot, an offset, an end that it must not pass, and a number of bytes. `cached` answers on the event loop
from the tail cache; where that has nothing, `read` goes to the log file that holds the entry, found by the rows in
memory or by a sidecar's block. What is returned is what was appended, entry by entry, in order.

**Invariant**: every entry that comes from disk has passed its frame's CRC, and its frame says the slot and the offset
that were asked for: a file that was recycled meanwhile can never be taken for the old one.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from core.config import StoreConfig
from core.errors import CorruptLog, OutOfRange
from core.index import ROW_BYTES, BlockRef, Rows, SlotColumns, decode_block, sidecar_path
from core.log.files import log_path
from core.log.format import APPEND_BODY, APPEND_BODY_SIZE, APPEND_OVERHEAD, KIND_APPEND, BadFrame, Buffer, decode_frame
from core.log.records import Trim
from core.retention import expires

if TYPE_CHECKING:
    from core.container import Container
    from core.slot import Slot
    from core.stream import StreamPolicy

_T = TypeVar("_T")

SPAN_WASTE_MAX: Final = 4
"""One read of a file may span this many times the bytes that are wanted of it, before it is cut in several."""

READ_BYTES_MAX: Final = 8 * 1024 * 1024
"""Most bytes that one read of a file takes, unless a single entry is larger."""

_ADVICE: Final = "Keep a copy of the data directory; the range cannot be served until it is restored"


class ReadResult(NamedTuple):
    """Entries in order; `size` is their sum in bytes, `end` the sequence number after the last."""

    parts: list[Buffer]
    size: int
    end: int


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry, as it was appended."""

    first: int
    count: int
    max_timestamp: int
    payload: bytes


class Location(NamedTuple):
    """Where an entry lies; the file is named by its first LSN."""

    file_lsn: int
    base: int
    end: int
    position: int
    length: int
    timestamp: int


class Reader:
    """Reads for one container."""

    def __init__(self, container: Container, config: StoreConfig) -> None:
        self._container = container
        self._pool = ThreadPoolExecutor(config.log_reader_threads, thread_name_prefix=f"log-{container.id}-reader")
        self._blocks = _BlockCache(config.index_cache_bytes)

    @property
    def index_cache_used(self) -> int:
        """Bytes of sidecar blocks held in memory."""
        return self._blocks.used

    def close(self) -> None:
        self._pool.shutdown()

    def cached(self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> ReadResult | None:
        """Entries from memory; None when the first one is not there. For the event loop.

        Takes whole entries while they fit into `max_bytes`; the first one always, if `at_least_one`.
        """
        parts: list[Buffer] = []
        size, reached = 0, offset
        for columns in _columns_from(slot, offset):
            base, length, payload = columns.base, columns.length, columns.payload
            for row in range(columns.row_of(max(reached, base[0])), len(base)):
                if base[row] >= end:
                    return ReadResult(parts, size, reached)
                held = payload[row]
                if held is None:
                    return ReadResult(parts, size, reached) if parts else None
                size += length[row]
                if size > max_bytes and (parts or not at_least_one):
                    return ReadResult(parts, size - length[row], reached)
                parts.append(held)
                reached = columns.row_end(row)
        return ReadResult(parts, size, reached) if parts or offset >= end else None

    async def read(self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> ReadResult:
        """Entries from memory or disk. Raises OutOfRange when they are gone, CorruptLog when they are damaged."""
        found = self.cached(slot, offset, end, max_bytes, at_least_one)
        if found is not None:
            return found
        memory = _locations(slot, offset, end, max_bytes, at_least_one)
        return await self._run(self._read_disk, slot, memory, offset, end, max_bytes, at_least_one)

    async def entry_at(self, slot: Slot, offset: int) -> StoredEntry | None:
        """The entry that holds this offset; None at or beyond the end."""
        if offset >= slot.durable_end:
            return None
        memory = _locations(slot, offset, slot.durable_end, 0, True)
        return await self._run(self._entry_disk, slot, memory, offset)

    async def bytes_before(self, slot: Slot, offset: int) -> int:
        """Bytes of all entries that ever ended at or before `offset`."""
        return await self._run(self._bytes_before, slot, offset)

    async def entry_at_time(self, slot: Slot, timestamp: int, offset: int) -> StoredEntry | None:
        """The first entry with anything at or beyond `offset` whose largest timestamp is `timestamp` or later."""
        return await self._run(self._entry_at_time, slot, timestamp, offset)

    async def entry_with_max_timestamp(self, slot: Slot) -> StoredEntry | None:
        """The first entry with the largest timestamp of all."""
        return await self._run(self._entry_with_max_timestamp, slot)

    async def retained(self, slots: Sequence[Slot], policy: StreamPolicy, now_ms: int) -> list[Trim]:
        """Where the policy lets each slot begin, for those that it moves."""
        return await self._run(self._retained, slots, policy, now_ms)

    async def _run(self, function: Callable[..., _T], *args: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    # In the pool's threads. Slots change meanwhile on the event loop: ints and rows are read once, rows only grow.

    def _read_disk(
        self, slot: Slot, memory: list[Location] | None, offset: int, end: int, max_bytes: int, at_least_one: bool
    ) -> ReadResult:
        wanted = self._stored_locations(slot, offset, end, max_bytes, at_least_one) if memory is None else memory
        if wanted is None:
            raise OutOfRange(offset, slot.start, slot.durable_end)
        parts = self.payloads(slot, wanted)
        return ReadResult(parts, sum(map(len, parts)), wanted[-1].end if wanted else offset)

    def _entry_disk(self, slot: Slot, memory: list[Location] | None, offset: int) -> StoredEntry:
        wanted = self._stored_locations(slot, offset, offset + 1, 0, True) if memory is None else memory
        if not wanted:
            raise OutOfRange(offset, slot.start, slot.durable_end)
        return self._entry(slot, wanted[0], wanted[0].end)

    def _entry(self, slot: Slot, location: Location, end: int) -> StoredEntry:
        (payload,) = self.payloads(slot, [location])
        # The newest row's end moves with an append that is under way.
        count = min(location.end, end) - location.base
        return StoredEntry(location.base, count, location.timestamp, bytes(payload))

    def _bytes_before(self, slot: Slot, offset: int) -> int:
        for columns in reversed(list(slot.columns)):
            if len(columns) and columns.base[0] <= offset:
                return columns.bytes_before + sum(columns.length[: _rows_before(columns, offset)])
        ref = self._container.metadata.block_at(slot.stream.id, slot.number, offset)
        if ref is None:
            return slot.start_bytes
        rows = self._rows(slot, ref)
        return rows.bytes_before + sum(rows.length[: _rows_before(rows, offset)])

    def _entry_at_time(self, slot: Slot, timestamp: int, offset: int) -> StoredEntry | None:
        start, end = max(slot.start, offset), slot.durable_end
        for file_lsn, rows in self.all_rows(slot, start, lambda ref: ref.max_timestamp >= timestamp):
            for row, stamp in enumerate(rows.timestamp):
                if stamp >= timestamp and rows.row_end(row) > start:
                    if rows.base[row] >= end:
                        return None
                    return self._entry(slot, location_of(file_lsn, rows, row), end)
        return None

    def _entry_with_max_timestamp(self, slot: Slot) -> StoredEntry | None:
        start, end = slot.start, slot.durable_end
        best: Location | None = None

        def better(ref: BlockRef) -> bool:
            return best is None or ref.max_timestamp > best.timestamp

        for file_lsn, rows in self.all_rows(slot, start, better):
            for row, stamp in enumerate(rows.timestamp):
                if rows.row_end(row) > start and rows.base[row] < end and (best is None or stamp > best.timestamp):
                    best = location_of(file_lsn, rows, row)
        return None if best is None else self._entry(slot, best, end)

    def _retained(self, slots: Sequence[Slot], policy: StreamPolicy, now_ms: int) -> list[Trim]:
        trims = (self._retained_start(slot, policy, now_ms) for slot in slots)
        return [trim for trim in trims if trim is not None]

    def _retained_start(self, slot: Slot, policy: StreamPolicy, now_ms: int) -> Trim | None:
        start, end, total = slot.start, slot.stable_end, slot.total_bytes
        new_start, before = start, slot.start_bytes
        for _, rows in self.all_rows(slot, start, lambda ref: True):
            first = max(0, rows.row_of(new_start))
            before = rows.bytes_before + sum(rows.length[:first])
            for row in range(first, len(rows.base)):
                # In this order: what is durable is whole, a row beyond may be half written by now.
                if (
                    rows.base[row] >= end
                    or rows.row_end(row) > end
                    or not expires(policy, rows.timestamp[row], total - before - rows.length[row], now_ms)
                ):
                    return Trim(slot.stream.id, slot.number, new_start, before) if new_start > start else None
                new_start, before = rows.row_end(row), before + rows.length[row]
        return Trim(slot.stream.id, slot.number, new_start, before) if new_start > start else None

    def all_rows(
        self, slot: Slot, start: int, wanted: Callable[[BlockRef], bool]
    ) -> Iterator[tuple[int, Rows | SlotColumns]]:
        """The rows of a slot from `start` on by file (its first LSN), without blocks that are not wanted. Blocks."""
        memory = list(slot.columns)
        border = memory[0].base[0] if memory and len(memory[0]) else slot.durable_end
        for ref in self._container.metadata.blocks_from(slot.stream.id, slot.number, start):
            if ref.first >= border:
                break
            if wanted(ref):
                yield ref.file_lsn, self._rows(slot, ref)
        for columns in memory:
            if columns.end > start:
                yield columns.file.first_lsn, columns

    def _stored_locations(
        self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool
    ) -> list[Location] | None:
        found: list[Location] = []
        ref = self._container.metadata.block_at(slot.stream.id, slot.number, offset)
        if ref is None or ref.end <= offset:
            return None
        rows = self._rows(slot, ref)
        size = 0
        for row in range(rows.row_of(offset), len(rows.base)):
            if rows.base[row] >= end:
                break
            size += rows.length[row]
            if size > min(max_bytes, READ_BYTES_MAX) and (found or not at_least_one):
                break
            found.append(location_of(ref.file_lsn, rows, row))
        return found

    def _rows(self, slot: Slot, ref: BlockRef) -> Rows:
        key = (ref.file_lsn, ref.stream_id, ref.slot)
        rows = self._blocks.get(key)
        if rows is None:
            path = sidecar_path(log_path(self._container.directory, ref.file_lsn))
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise _missing(slot, path, ref.first, ref.end) from error
            try:
                block = os.pread(fd, ref.rows * ROW_BYTES, ref.position)
            finally:
                os.close(fd)
            rows = decode_block(path, ref, block)
            self._blocks.put(key, rows, len(block))
        return rows

    def payloads(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        """The entries that lie there, checked. Blocks. Raises OutOfRange, CorruptLog."""
        parts: list[Buffer] = []
        start = 0
        while start < len(wanted):
            stop = _span(wanted, start)
            parts += self._read_span(slot, wanted[start:stop])
            start = stop
        return parts

    def _read_span(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        path = log_path(self._container.directory, wanted[0].file_lsn)
        first = wanted[0].position
        size = wanted[-1].position + APPEND_OVERHEAD + wanted[-1].length - first
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise _missing(slot, path, wanted[0].base, wanted[-1].end) from error
        try:
            data = memoryview(os.pread(fd, size, first))
        finally:
            os.close(fd)
        return [self._checked(slot, path, data, first, location) for location in wanted]

    def _checked(self, slot: Slot, path: Path, data: memoryview, first: int, location: Location) -> memoryview:
        at = location.position - first
        try:
            (file_id,) = _FILE_ID.unpack_from(data, at + 24)
            frame = decode_frame(data, at, file_id)
            body = APPEND_BODY.unpack_from(frame.body)
            if frame.kind != KIND_APPEND or body[1:4] != (slot.stream.id, slot.number, location.base):
                raise BadFrame("another entry lies here")
        except (BadFrame, struct.error) as error:
            if location.end <= slot.start or slot.stream.deleted:
                raise OutOfRange(location.base, slot.start, slot.durable_end) from error
            why = f"{error} (offset {location.base} of {slot.stream.name}-{slot.number})"
            raise CorruptLog(path, location.position, why, _ADVICE) from error
        return frame.body[APPEND_BODY_SIZE:]


_FILE_ID: Final = struct.Struct("<I")


def _missing(slot: Slot, path: Path, first: int, end: int) -> OutOfRange | CorruptLog:
    """Why a file is not there: all that it held has left the slot, or somebody took it."""
    if end <= slot.start or slot.stream.deleted:
        return OutOfRange(first, slot.start, slot.durable_end)
    return CorruptLog(path, 0, f"the file is gone, with offset {first} of {slot.stream.name}-{slot.number}", _ADVICE)


def _columns_from(slot: Slot, offset: int) -> Iterator[SlotColumns]:
    """The slot's rows in memory, beginning with those that hold `offset`; none if it lies before them."""
    columns = slot.columns
    newest = columns[-1] if columns else None
    if newest is not None and newest.base and newest.base[0] <= offset:
        if offset < newest.end:
            yield newest
        return
    for index, one in enumerate(columns):
        if one.base and one.base[0] <= offset < one.end:
            yield from (c for c in columns[index:] if c.base)
            return


def _locations(slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> list[Location] | None:
    """Where the entries from `offset` on lie, as far as one file goes; None when no rows in memory tell."""
    for columns in _columns_from(slot, offset):
        found: list[Location] = []
        size = 0
        for row in range(columns.row_of(offset), len(columns.base)):
            if columns.base[row] >= end:
                break
            size += columns.length[row]
            if size > min(max_bytes, READ_BYTES_MAX) and (found or not at_least_one):
                break
            found.append(location_of(columns.file.first_lsn, columns, row))
        return found
    return None


def location_of(file_lsn: int, rows: Rows | SlotColumns, row: int) -> Location:
    return Location(
        file_lsn, rows.base[row], rows.row_end(row), rows.position[row], rows.length[row], rows.timestamp[row]
    )


def _rows_before(rows: Rows | SlotColumns, offset: int) -> int:
    """How many rows end at or before `offset`."""
    row = rows.row_of(offset)
    return row + 1 if row >= 0 and rows.row_end(row) <= offset else max(row, 0)


def _span(wanted: list[Location], start: int) -> int:
    """Up to which location one read of the file makes sense."""
    first = wanted[start]
    useful, stop = 0, start
    while stop < len(wanted) and wanted[stop].file_lsn == first.file_lsn:
        useful += APPEND_OVERHEAD + wanted[stop].length
        span = wanted[stop].position + APPEND_OVERHEAD + wanted[stop].length - first.position
        if stop > start and span > SPAN_WASTE_MAX * useful:
            break
        stop += 1
    return stop


class _BlockCache:
    """Least recently used sidecar blocks, bounded in bytes; shared by the pool's threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int, int], tuple[Rows, int]] = OrderedDict()
        self.used = 0

    def get(self, key: tuple[int, int, int]) -> Rows | None:
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                return None
            self._blocks.move_to_end(key)
            return found[0]

    def put(self, key: tuple[int, int, int], rows: Rows, size: int) -> None:
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = rows, size
                self.used += size
            while self.used > self._limit and len(self._blocks) > 1:
                self.used -= self._blocks.popitem(last=False)[1][1]
