"""A chunk's index as its own bytes, for readers: looked up in place, never decoded into objects.

A chunk of 32 MiB has an index of 16 KiB, one of 4,000 small runs some 500 KiB; as objects they would take ten times
that, and making them would hold the interpreter. So a cache of indices is counted in their bytes.

Invariant: all results come from bytes under the index' CRC, and agree: positions lie in the run, in order.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from crc32c import crc32c

from tier2.chunk_format import (
    ABORTED_ROW,
    BLOCK_BYTES,
    HEADER_SIZE,
    INDEX_HEAD,
    POINT_ROW,
    RUN_ROW,
    SEGMENT_ROW,
    STREAM_ROW,
    AbortedTransaction,
    BadChunk,
    ChunkId,
    Footer,
)
from tier2.joined_crcs import joined
from tier2.storage import Buffer

_I64: Final = struct.Struct("<q")
_U64: Final = struct.Struct("<Q")
_CRC: Final = struct.Struct("<I")
_POSITION_IN_POINT: Final = 8
_TIME_IN_POINT: Final = 16
_LAST_IN_ABORTED: Final = 16


class PackedIndex:
    """One chunk's index. `size` is its memory, bytes."""

    __slots__ = ("_data", "_details", "_places", "_runs_at", "block_bytes", "id", "size")

    def __init__(self, data: bytes, footer: Footer) -> None:
        """Raises BadChunk."""
        if len(data) != footer.index_length or crc32c(data) != footer.index_crc:
            raise BadChunk(footer.index_position, "index fails its CRC")
        self._data = data
        try:
            self._read(footer.index_position)
        except (struct.error, IndexError, ValueError) as error:
            raise BadChunk(footer.index_position, f"index contradicts itself ({error})") from error
        self.size = len(data) + 2 * 8 * len(self._details)

    def _read(self, base: int) -> None:
        data = self._data
        container, epoch, sequence, _, block_bytes, streams, segments, runs, end, name, _ = INDEX_HEAD.unpack_from(data)
        if not 0 < block_bytes <= BLOCK_BYTES or end != base:
            raise ValueError("runs do not end where it begins, or blocks are too large")
        self.id = ChunkId(container=container, epoch=epoch, sequence=sequence)
        self.block_bytes: int = block_bytes
        at = INDEX_HEAD.size + name
        stream_ids: list[int] = []
        for _ in range(streams):
            stream_id, _, length, _ = STREAM_ROW.unpack_from(data, at)
            stream_ids.append(stream_id)
            at += STREAM_ROW.size + length
        owners: list[tuple[int, int]] = []
        for segment_id, stream, _ in SEGMENT_ROW.iter_unpack(data[at : at + segments * SEGMENT_ROW.size]):
            owners.append((stream_ids[stream], segment_id))
        at += segments * SEGMENT_ROW.size
        self._runs_at = at
        details = at + runs * RUN_ROW.size
        self._details = array("Q")
        self._places = owners
        for row in RUN_ROW.iter_unpack(data[at:details]):
            self._details.append(details)
            details += row[9] * _CRC.size + row[10] * POINT_ROW.size + row[11] * ABORTED_ROW.size
        if len(self._details) != runs or details != len(data):
            raise ValueError("lengths do not add up")

    def run_of(self, stream_id: int, segment_id: int, slot: int) -> PackedRun | None:
        """A slot's run; None when the chunk has none. Raises BadChunk when its index contradicts itself."""
        wanted = stream_id, segment_id, slot
        number = bisect_left(range(len(self._details)), wanted, key=self._place_of)
        if number == len(self._details) or self._place_of(number) != wanted:
            return None
        row = RUN_ROW.unpack_from(self._data, self._runs_at + number * RUN_ROW.size)
        stop = self._details[number + 1] if number + 1 < len(self._details) else len(self._data)
        return PackedRun(self._data[self._details[number] : stop], row, self.block_bytes)

    def _place_of(self, number: int) -> tuple[int, int, int]:
        segment, slot = struct.unpack_from("<II", self._data, self._runs_at + number * RUN_ROW.size)
        stream_id, segment_id = self._places[segment]
        return stream_id, segment_id, slot


class PackedRun:
    """One slot's stretch in a chunk, with its own part of the index. Positions are bytes from the stretch's start."""

    __slots__ = (
        "_aborted_at",
        "_aborted_n",
        "_data",
        "_points_at",
        "_points_n",
        "block_bytes",
        "end",
        "first",
        "length",
        "max_timestamp",
        "position",
        "slot",
    )

    def __init__(self, details: bytes, row: tuple[int, ...], block_bytes: int) -> None:
        self._data = details
        _, self.slot, self.first, self.end, _, self.max_timestamp, self.position, self.length, *counts = row
        _, blocks, self._points_n, self._aborted_n = counts[:4]
        self._points_at = blocks * _CRC.size
        self._aborted_at = self._points_at + self._points_n * POINT_ROW.size
        self.block_bytes = block_bytes
        if blocks != -(-self.length // block_bytes) or self.position < HEADER_SIZE or not self._points_n:
            raise BadChunk(self.position, f"index of slot {self.slot} contradicts itself")

    @property
    def points(self) -> int:
        """The number of points: the first entries that begin in a block."""
        return self._points_n

    def point_first(self, number: int) -> int:
        """A point's first sequence number."""
        first: int = _I64.unpack_from(self._data, self._points_at + number * POINT_ROW.size)[0]
        return first

    def point_position(self, number: int) -> int:
        """The position of a point's first entry; behind the last point, the end of the run."""
        if number >= self._points_n:
            return self.length
        at = self._points_at + number * POINT_ROW.size + _POSITION_IN_POINT
        position: int = _U64.unpack_from(self._data, at)[0]
        return position

    def point_timestamp(self, number: int) -> int:
        """The largest timestamp from a point to the next."""
        newest: int = _I64.unpack_from(self._data, self._points_at + number * POINT_ROW.size + _TIME_IN_POINT)[0]
        return newest

    def point_of(self, offset: int) -> int:
        """The number of the last point at or before `offset`, 0 if all come after it."""
        return max(0, bisect_right(range(self._points_n), offset, key=self.point_first) - 1)

    def point_at(self, position: int) -> int:
        """The number of the last point that lies at or before a position."""
        return max(0, bisect_right(range(self._points_n), position, key=self.point_position) - 1)

    def point_at_time(self, timestamp_ms: int, number: int) -> int | None:
        """The first point, from `number` on, with an entry of at least that time."""
        for later in range(number, self._points_n):
            if self.point_timestamp(later) >= timestamp_ms:
                return later
        return None

    @property
    def has_aborted(self) -> bool:
        """Whether any aborted transaction overlaps this run."""
        return self._aborted_n > 0

    def aborted(self, first: int, end: int) -> Iterator[AbortedTransaction]:
        """Aborted transactions that overlap [first, end), in the order of their last sequence numbers."""
        for number in range(bisect_left(range(self._aborted_n), first, key=self._last_of_aborted), self._aborted_n):
            at = self._aborted_at + number * ABORTED_ROW.size
            writer_id, begin, last, stable_end = ABORTED_ROW.unpack_from(self._data, at)
            if begin < end:
                yield AbortedTransaction(writer_id=writer_id, first=begin, last=last, stable_end=stable_end)
            if stable_end >= end:
                return

    def _last_of_aborted(self, number: int) -> int:
        at = self._aborted_at + number * ABORTED_ROW.size + _LAST_IN_ABORTED
        last: int = _I64.unpack_from(self._data, at)[0]
        return last

    def bad_blocks(self, start: int, data: Buffer) -> tuple[tuple[int, int], ...]:
        """Check whole blocks that begin at `start`; returns begin and end of each damaged one."""
        assert start % self.block_bytes == 0, "not the beginning of a block"
        view, step = memoryview(data), self.block_bytes
        crcs = _crcs(len(view) // step + (len(view) % step > 0)).unpack_from(self._data, start // step * _CRC.size)
        if crc32c(view) == joined(crcs, step, len(view)):
            return ()
        return tuple(
            (start + at, start + min(at + step, len(view)))
            for at, crc in zip(range(0, len(view), step), crcs, strict=True)
            if crc32c(view[at : at + step]) != crc
        )


@lru_cache(256)
def _crcs(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")
