"""Damaged ranges in the middle of a slot: the log held their entries, and cannot give them any more.

A range is recorded once its bytes, as they are, lie in a file of their own in ``damaged/`` beside the log's files
(`core.reading.setting_aside`). From then on the slot is tiered past it: the next run covers the range and holds none of
its entries. Readers are refused there for good, by name, and go on behind it; the slot's start does not move. The
record leaves when the start passes it (retention, deletion of records), or with its stream. The file stays until a
person deletes it.

Table ``damaged``: key u32 stream, u32 slot, u64 first sequence number, big-endian; value, little-endian:
    u8 version (1), i64 end, u64 bytes of the slot's entries in it, then the file's name in UTF-8

**Invariants**

- A range ends at or before the slot's stable end, so the outcome of every transaction in it is known.
- A read that begins in a range is never answered with entries from behind it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from core.errors import CorruptLog, CorruptState
from core.log.records import Delete, Put
from core.streams.live import Slot

DAMAGED_TABLE: Final = "damaged"
DAMAGED_DIRECTORY: Final = "damaged"
VERSION: Final = 1
_KEY: Final = struct.Struct(">IIQ")
_VALUE: Final = struct.Struct("<BqQ")
_ADVICE: Final = "Read on behind it, or delete the records up to there"


class DamagedRange(NamedTuple):
    """Sequence numbers [first, end) of a slot; the named file has their bytes."""

    stream_id: int
    slot: int
    first: int
    end: int
    size: int  # bytes of its entries
    file: str

    @property
    def key(self) -> bytes:
        return _KEY.pack(self.stream_id, self.slot, self.first)

    def put(self) -> Put:
        return Put(DAMAGED_TABLE, self.key, _VALUE.pack(VERSION, self.end, self.size) + self.file.encode())

    def delete(self) -> Delete:
        return Delete(DAMAGED_TABLE, self.key)


def decode(key: bytes, value: bytes) -> DamagedRange:
    """Raises CorruptState."""
    try:
        stream_id, slot, first = _KEY.unpack(key)
        version, end, size = _VALUE.unpack_from(value)
        if version != VERSION:
            raise CorruptState(f"the record of a damaged range has version {version}, newer than this release")
        return DamagedRange(stream_id, slot, first, end, size, value[_VALUE.size :].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptState(f"the record of a damaged range cannot be read: {error}") from error


class Damage:
    """All ranges of one container, by slot. False when there are none, as is normal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / DAMAGED_DIRECTORY
        self.ranges: dict[tuple[int, int], tuple[DamagedRange, ...]] = {}  # in order; replaced, never changed

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __iter__(self) -> Iterator[DamagedRange]:
        return (one for ranges in list(self.ranges.values()) for one in ranges)

    def apply(self, operation: Put | Delete) -> None:
        """Take in an operation of a durable record."""
        stream_id, slot, first = _KEY.unpack(operation.key)
        ranges = [one for one in self.ranges.get((stream_id, slot), ()) if one.first != first]
        if isinstance(operation, Put):
            ranges.append(decode(operation.key, operation.value))
        self.ranges[stream_id, slot] = tuple(sorted(ranges))
        if not ranges:
            del self.ranges[stream_id, slot]

    def of(self, slot: Slot) -> tuple[DamagedRange, ...]:
        """A slot's ranges, in order. For any thread."""
        return self.ranges.get((slot.stream.id, slot.number), ())

    def bytes_in(self, slot: Slot, first: int, end: int) -> int:
        """The lost entries among those in [first, end)."""
        return sum(one.size for one in self.of(slot) if first <= one.first < end)

    def at(self, slot: Slot, offset: int) -> DamagedRange | None:
        """The range that holds `offset`. For any thread."""
        ranges = self.of(slot)
        index = bisect_right(ranges, offset, key=lambda one: one.first) - 1
        return ranges[index] if index >= 0 and offset < ranges[index].end else None

    def limit(self, slot: Slot, offset: int, end: int) -> int:
        """The end of a read from `offset` up to `end`: that, or the next damaged range."""
        following = next((one.first for one in self.of(slot) if one.end > offset), end)
        return max(offset, min(following, end))

    def check(self, slot: Slot, offset: int) -> None:
        """Raises CorruptLog when `offset` lies in a range."""
        found = self.at(slot, offset)
        if found is not None:
            why = f"offsets {found.first} to {found.end - 1} of {slot.stream.name}-{slot.number} are damaged"
            raise CorruptLog(self.directory / found.file, 0, why, _ADVICE)
