"""Reading entries from log files, in threads: every method here may block.

Slots change meanwhile on the event loop: ints and rows are read once, rows only grow.

**Invariant**: every entry that comes from disk has passed its frame's CRC, and its frame names the slot and the
offset that were asked for. So a file that was recycled meanwhile is never taken for the old one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import CorruptLog, OutOfRange
from core.index.rows import BlockRef, Rows, SlotColumns, sidecar_path
from core.index.sidecars import Sidecars
from core.log.files import UNREADABLE, log_path
from core.log.format import (
    APPEND_BODY,
    APPEND_BODY_SIZE,
    APPEND_OVERHEAD,
    FILE_ID_AT,
    KIND_APPEND,
    BadFrame,
    Buffer,
    decode_frame,
)
from core.reading.log_pages import LogPages
from core.streams.entries import ReadResult, StoredEntry
from tier2.direct_io import open_direct, read_direct

if TYPE_CHECKING:
    from core.config import StoreConfig
    from core.reading.sources import LogSource
    from core.streams.live import Slot

SPAN_GAP_MAX: Final = 128 << 10
"""Two wanted ranges closer than this are read in one call: the gap costs less than a second read."""

SPAN_WASTE_MAX: Final = 4
"""One read takes at most this many times the wanted bytes: an entry may keep alive all bytes read with it."""

READ_BYTES_MAX: Final = 8 * 1024 * 1024
"""Most bytes that one read of a file takes, unless a single entry is larger."""

PAGES_WASTE_MAX: Final = 2
"""Whole pages of a file are read if they span at most this many times the wanted bytes. Readers of many slots are too
far apart in a file for pages to last: with 16 slots, pages made their reads three times slower."""

DENSE_BYTES_MIN: Final = 256 << 10
"""A reader that wants less than this from a file is at the tail, not catching up."""

_ADVICE: Final = "Keep a copy of the data directory; the range cannot be served until it is restored"


class Location(NamedTuple):
    """The place of an entry; the file is named by its first LSN."""

    file_lsn: int
    base: int
    end: int
    position: int
    length: int
    timestamp: int


class LogReader:
    """The reader of one container's log files."""

    def __init__(self, source: LogSource, config: StoreConfig) -> None:
        self._source = source
        self._sidecars = Sidecars(source.directory, config.index_cache_bytes)
        self._pages = LogPages(source.directory, config.log_read_cache_bytes)

    def close(self) -> None:
        self._pages.close()

    @property
    def read_cache_used(self) -> int:
        """Bytes of log files held in memory."""
        return self._pages.used

    @property
    def index_cache_used(self) -> int:
        """Bytes of sidecar blocks held in memory."""
        return self._sidecars.cached_bytes

    # Which entries

    def first_from(self, slot: Slot, offset: int) -> int:
        """The first sequence number from `offset` on that the log holds; the slot's end if it holds none."""
        memory = _on_disk(slot)
        ref = next(self._source.metadata.blocks_from(slot.stream.id, slot.number, offset), None)
        held = [columns.base[0] for columns in memory if len(columns) and columns.end > offset]
        if ref is not None:
            held.append(ref.first)
        return min(max(offset, min(held, default=slot.durable_end)), max(offset, slot.durable_end))

    def read(
        self, slot: Slot, memory: list[Location] | None, offset: int, end: int, max_bytes: int, at_least_one: bool
    ) -> ReadResult | None:
        """The entries at the places that `memory`, or else a sidecar, gives; None when the log lacks the first one."""
        wanted = self._stored_locations(slot, offset, end, max_bytes, at_least_one) if memory is None else memory
        if wanted is None:
            return None
        try:
            parts = self.payloads(slot, wanted)
        except CorruptLog:
            parts = self._payloads_before_damage(slot, wanted)
            wanted = wanted[: len(parts)]
        return ReadResult(parts, sum(map(len, parts)), wanted[-1].end if wanted else offset)

    def _payloads_before_damage(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        """One entry after the other, up to one that is damaged or cannot be read. Raises CorruptLog for the first."""
        parts: list[Buffer] = []
        try:
            for location in wanted:
                parts += self._read_span(slot, [location])
        except CorruptLog:
            if not parts:
                raise
        return parts

    def entry_at(self, slot: Slot, memory: list[Location] | None, offset: int) -> StoredEntry | None:
        """The entry that holds this offset; None when the log does not hold it."""
        wanted = self._stored_locations(slot, offset, offset + 1, 0, True) if memory is None else memory
        return self.entry(slot, wanted[0], wanted[0].end) if wanted else None

    def entry(self, slot: Slot, location: Location, end: int) -> StoredEntry:
        (payload,) = self.payloads(slot, [location])
        # The newest row's end moves with an append that is under way.
        count = min(location.end, end) - location.base
        return StoredEntry(location.base, count, location.timestamp, bytes(payload))

    def bytes_before(self, slot: Slot, offset: int) -> int | None:
        """Bytes of all entries that ever ended at or before `offset`; None when the log does not know."""
        for columns in reversed(_on_disk(slot)):
            if len(columns) and columns.base[0] <= offset:
                return columns.bytes_before + sum(columns.length[: _rows_before(columns, offset)])
        ref = self._source.metadata.block_at(slot.stream.id, slot.number, offset)
        if ref is None:
            return None
        rows = self._rows(slot, ref)
        return rows.bytes_before + sum(rows.length[: _rows_before(rows, offset)])

    def entry_at_time(self, slot: Slot, timestamp: int, offset: int) -> StoredEntry | None:
        """See `Reader.entry_at_time`."""
        start, end = max(slot.start, offset), slot.durable_end
        for file_lsn, rows in self.all_rows(slot, start, lambda ref: ref.max_timestamp >= timestamp):
            for row, stamp in enumerate(rows.timestamp):
                if stamp >= timestamp and rows.row_end(row) > start:
                    if rows.base[row] >= end:
                        return None
                    return self.entry(slot, location_of(file_lsn, rows, row), end)
        return None

    def entry_with_max_timestamp(self, slot: Slot, start: int) -> StoredEntry | None:
        """See `Reader.entry_with_max_timestamp`; from `start` on."""
        end = slot.durable_end
        best: Location | None = None

        def better(ref: BlockRef) -> bool:
            return best is None or ref.max_timestamp > best.timestamp

        for file_lsn, rows in self.all_rows(slot, start, better):
            for row, stamp in enumerate(rows.timestamp):
                if rows.row_end(row) > start and rows.base[row] < end and (best is None or stamp > best.timestamp):
                    best = location_of(file_lsn, rows, row)
        return None if best is None else self.entry(slot, best, end)

    def all_rows(
        self, slot: Slot, start: int, wanted: Callable[[BlockRef], bool]
    ) -> Iterator[tuple[int, Rows | SlotColumns]]:
        """The rows of a slot from `start` on by file (its first LSN), without blocks that are not wanted."""
        memory = _on_disk(slot)
        border = memory[0].base[0] if memory and len(memory[0]) else slot.durable_end
        for ref in self._source.metadata.blocks_from(slot.stream.id, slot.number, start):
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
        ref = self._source.metadata.block_at(slot.stream.id, slot.number, offset)
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
        try:
            return self._sidecars.rows(ref)
        except FileNotFoundError as error:
            path = sidecar_path(log_path(self._source.directory, ref.file_lsn))
            raise _missing(slot, path, ref.first, ref.end) from error

    def check(self, slot: Slot, offset: int) -> None:
        """Read the entry that holds `offset`, if the log does. Raises Corrupt, OutOfRange."""
        for file_lsn, rows in self.all_rows(slot, offset, lambda ref: True):
            self.payloads(slot, [location_of(file_lsn, rows, max(0, rows.row_of(offset)))])
            return

    # Their bytes

    def payloads(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        """The entries that lie there, checked. Blocks. Raises OutOfRange, CorruptLog."""
        parts: list[Buffer] = []
        for file_lsn, group in groupby(wanted, attrgetter("file_lsn")):
            located = list(group)
            if file_lsn < self._source.durable_file_lsn and _is_dense(located):
                parts += self._from_pages(slot, located)
                continue
            start = 0
            while start < len(located):
                stop = span(located, start)
                parts += self._read_span(slot, located[start:stop])
                start = stop
        return parts

    def _from_pages(self, slot: Slot, wanted: list[Location]) -> Iterator[Buffer]:
        path = log_path(self._source.directory, wanted[0].file_lsn)
        for location in wanted:
            size = APPEND_OVERHEAD + location.length
            try:
                data = self._pages.bytes_at(location.file_lsn, location.position, size)
            except FileNotFoundError as error:
                raise _missing(slot, path, wanted[0].base, wanted[-1].end) from error
            except OSError as error:  # of a page; the wanted part of it may be whole
                if error.errno not in UNREADABLE:
                    raise
                yield from self._read_span(slot, [location])
                continue
            try:
                yield self._checked(slot, path, memoryview(data), location.position, location)
            except CorruptLog:  # is the disk damaged, or only our copy?
                yield from self._read_span(slot, [location])

    def _read_span(self, slot: Slot, wanted: list[Location]) -> list[Buffer]:
        path = log_path(self._source.directory, wanted[0].file_lsn)
        first = wanted[0].position
        size = wanted[-1].position + APPEND_OVERHEAD + wanted[-1].length - first
        try:
            fd = open_direct(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise _missing(slot, path, wanted[0].base, wanted[-1].end) from error
        try:
            data = read_direct(fd, size, first)
        except OSError as error:
            if error.errno not in UNREADABLE:
                raise
            why = f"cannot be read: {error.strerror} (offset {wanted[0].base} of {slot.stream.name}-{slot.number})"
            raise CorruptLog(path, first, why, _ADVICE) from error
        finally:
            os.close(fd)
        return [self._checked(slot, path, data, first, location) for location in wanted]

    def _checked(self, slot: Slot, path: Path, data: memoryview, first: int, location: Location) -> memoryview:
        at = location.position - first
        try:
            (file_id,) = _FILE_ID.unpack_from(data, at + FILE_ID_AT)
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
    """The reason why a file is not there: all of its entries have left the slot, or somebody took it."""
    if end <= slot.start or slot.stream.deleted:
        return OutOfRange(first, slot.start, slot.durable_end)
    return CorruptLog(path, 0, f"the file is gone, with offset {first} of {slot.stream.name}-{slot.number}", _ADVICE)


def columns_from(slot: Slot, offset: int) -> Iterator[SlotColumns]:
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


def _on_disk(slot: Slot) -> list[SlotColumns]:
    """The slot's rows in memory that lead to files of the log."""
    known = list(slot.columns)  # at once: the loop drops the oldest ones meanwhile, and an iterator would pass over one
    return [columns for columns in known if not columns.file.gone]


def locations(slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool) -> list[Location] | None:
    """The places of the entries from `offset` on, as far as one file goes; None when no row in memory has them."""
    for columns in columns_from(slot, offset):
        if columns.file.gone:
            return None
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
    """The number of rows that end at or before `offset`."""
    row = rows.row_of(offset)
    return row + 1 if row >= 0 and rows.row_end(row) <= offset else max(row, 0)


def _is_dense(wanted: list[Location]) -> bool:
    """Whether the wanted bytes of a file are many, and a good part of the stretch that they span."""
    useful = sum(APPEND_OVERHEAD + location.length for location in wanted)
    span = wanted[-1].position + APPEND_OVERHEAD + wanted[-1].length - wanted[0].position
    return useful >= DENSE_BYTES_MIN and span <= PAGES_WASTE_MAX * useful


def span(wanted: list[Location], start: int) -> int:
    """The location up to which one read of a file makes sense."""
    first, reached, useful = wanted[start].position, wanted[start].position, 0
    for stop in range(start, len(wanted)):
        position, size = wanted[stop].position, APPEND_OVERHEAD + wanted[stop].length
        total, useful = position + size - first, useful + size
        too_far = position - reached > SPAN_GAP_MAX or total > SPAN_WASTE_MAX * useful
        if stop > start and (too_far or total > READ_BYTES_MAX):
            return stop
        reached = position + size
    return len(wanted)
