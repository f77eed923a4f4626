"""The read index: where each entry of the log lies, in memory for the newest files, in sidecars for the rest.

For the open log file and those before it of which memory has bytes (`core.log.slabs`), each slot that was written has
*columns*, one row per entry: first sequence number, position, length, largest timestamp. When a file is complete its
columns are written beside it as a sidecar. They leave memory with the file's bytes; the container's metadata then
names, per slot, the sidecars that hold its rows.

**Invariant**: rows of a slot are dense. A row's entry ends where the next one begins, and a slot's columns follow
one another without a gap. So no row stores its count.

Sidecar (``<log file>.idx``), little-endian:

    header, 64 bytes
        0   8s   magic ``PSTKIDX\\n``
        8   u16  format version (1)
        10  u16  zero
        12  u32  file id of the log file
        16  u64  first LSN of the log file
        24  u64  LSN after its last frame
        32  u64  bytes of the log file in use
        40  u64  position of the directory
        48  u32  count of directory entries
        52  u32  CRC-32C of the directory
        56  u32  CRC-32C of bytes 0-55
        60  u32  zero
    blocks, one for each slot: four columns back to back
        i64 × rows first sequence number, u32 × rows position, u32 × rows length, i64 × rows largest timestamp
    directory, sorted by (stream, slot), 64 bytes for each slot
        0   u32  stream id              4   u32  slot
        8   i64  first sequence number  16  i64  sequence number after the last
        24  i64  largest timestamp      32  u64  bytes of the slot that lie before the first row
        40  u64  position of the block  48  u32  rows
        52  u32  CRC-32C of the block   56  u64  bytes of the slot in this file
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from crc32c import crc32c

from core.errors import Corrupt
from core.log.files import UNREADABLE, write_durably
from core.log.format import APPEND_OVERHEAD, Buffer
from core.log.log_file import LogFile

SIDECAR_SUFFIX: Final = ".idx"
SIDECAR_MAGIC: Final = b"PSTKIDX\n"
SIDECAR_VERSION: Final = 1
ROW_BYTES: Final = 24

_HEADER: Final = struct.Struct("<8sHHIQQQQII")
_CRC: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<IIqqqQQIIQ")
HEADER_SIZE: Final = 64
assert _HEADER.size + _CRC.size == HEADER_SIZE
assert _ENTRY.size == 64
assert sys.byteorder == "little", "sidecars hold the bytes of memory as they are"

ADVICE: Final = "Delete the sidecar: the next start builds it again from the log file"


class SlotColumns:
    """One slot's rows in one log file."""

    __slots__ = ("base", "bytes_before", "end", "file", "length", "position", "timestamp", "total")

    def __init__(self, file: LogFile, first: int, bytes_before: int) -> None:
        self.file = file
        self.end = first  # after the last row
        self.bytes_before = bytes_before  # of the slot, in all earlier files
        self.total = 0  # bytes of these rows' entries
        self.base = array("q")
        self.position = array("I")
        self.length = array("I")
        self.timestamp = array("q")

    def __len__(self) -> int:
        return len(self.base)

    def row_of(self, offset: int) -> int:
        """The row whose entry holds `offset`, which must not lie before the first row."""
        return bisect_right(self.base, offset) - 1

    def row_end(self, row: int) -> int:
        """The sequence number after this row's entry."""
        return self.base[row + 1] if row + 1 < len(self.base) else self.end

    def max_timestamp(self) -> int:
        return max(self.timestamp, default=-1)


class BlockRef(NamedTuple):
    """The place of a slot's rows of one log file in its sidecar, and the range that they span.

    A tuple, as a log file may have as many as entries: it is made in a fifth of an object's time, and the collector of
    garbage leaves it out.
    """

    stream_id: int
    slot: int
    file_lsn: int
    first: int
    end: int
    max_timestamp: int
    bytes_before: int
    position: int
    rows: int
    crc: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Rows:
    """A block that was read back: columns of equal length, and the end of the last entry."""

    base: array[int]
    position: array[int]
    length: array[int]
    timestamp: array[int]
    end: int
    bytes_before: int

    def row_of(self, offset: int) -> int:
        return bisect_right(self.base, offset) - 1

    def row_end(self, row: int) -> int:
        return self.base[row + 1] if row + 1 < len(self.base) else self.end


def held_entry(rows: Rows | SlotColumns, row: int) -> Buffer | None:
    """The row's entry, if memory has it. For any thread."""
    image = rows.file.image if isinstance(rows, SlotColumns) else None
    return None if image is None else image.bytes_at(rows.position[row] + APPEND_OVERHEAD, rows.length[row])


def sidecar_path(log_path: Path) -> Path:
    return log_path.with_suffix(SIDECAR_SUFFIX)


def write_sidecar(file: LogFile, columns: Iterable[tuple[int, int, SlotColumns]]) -> list[BlockRef]:
    """Write and sync a complete file's sidecar; `columns` are (stream id, slot, rows). Raises OSError."""
    blocks: list[bytes] = []
    refs: list[BlockRef] = []
    position = HEADER_SIZE
    for stream_id, slot, rows in sorted(columns, key=lambda c: c[:2]):
        block = b"".join(
            (rows.base.tobytes(), rows.position.tobytes(), rows.length.tobytes(), rows.timestamp.tobytes())
        )
        refs.append(
            BlockRef(
                stream_id,
                slot,
                file.first_lsn,
                rows.base[0],
                rows.end,
                rows.max_timestamp(),
                rows.bytes_before,
                position,
                len(rows),
                crc32c(block),
                rows.total,
            )
        )
        blocks.append(block)
        position += len(block)
    directory = b"".join(map(_encode_ref, refs))
    fixed = _HEADER.pack(
        SIDECAR_MAGIC,
        SIDECAR_VERSION,
        0,
        file.file_id,
        file.first_lsn,
        file.end_lsn,
        file.size,
        position,
        len(refs),
        crc32c(directory),
    )
    header = fixed + _CRC.pack(crc32c(fixed), 0)
    write_durably(sidecar_path(file.path), b"".join((header, *blocks, directory)))
    return refs


def _encode_ref(ref: BlockRef) -> bytes:
    return _ENTRY.pack(
        ref.stream_id,
        ref.slot,
        ref.first,
        ref.end,
        ref.max_timestamp,
        ref.bytes_before,
        ref.position,
        ref.rows,
        ref.crc,
        ref.bytes,
    )


def read_directory(file: LogFile) -> list[BlockRef]:
    """A sidecar's directory; sets the file's end and size. Raises Corrupt, FileNotFoundError."""
    path = sidecar_path(file.path)
    try:
        return _read_directory(file, path)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        raise Corrupt(path, 0, f"cannot be read: {error.strerror}", ADVICE) from error


def _read_directory(file: LogFile, path: Path) -> list[BlockRef]:
    with path.open("rb", buffering=0) as stream:
        header = stream.read(HEADER_SIZE)
        if len(header) < HEADER_SIZE:
            raise Corrupt(path, 0, "header is cut off", ADVICE)
        magic, version, _, file_id, first, end, size, position, count, crc = _HEADER.unpack_from(header)
        own_crc, _ = _CRC.unpack_from(header, _HEADER.size)
        if magic != SIDECAR_MAGIC or version != SIDECAR_VERSION or own_crc != crc32c(header[: _HEADER.size]):
            raise Corrupt(path, 0, "header is damaged or of another version", ADVICE)
        if file_id != file.file_id or first != file.first_lsn:
            raise Corrupt(path, 0, "belongs to another log file", ADVICE)
        stream.seek(position)
        directory = stream.read(count * _ENTRY.size)
    if len(directory) != count * _ENTRY.size or crc32c(directory) != crc:
        raise Corrupt(path, position, "directory is damaged", ADVICE)
    file.end_lsn, file.size, file.indexed = end, size, True
    return list(_decode_directory(directory, first))


def _decode_directory(directory: bytes, file_lsn: int) -> Iterator[BlockRef]:
    for stream_id, slot, first, end, stamp, before, position, rows, crc, size in _ENTRY.iter_unpack(directory):
        yield BlockRef(stream_id, slot, file_lsn, first, end, stamp, before, position, rows, crc, size)


def decode_block(path: Path, ref: BlockRef, block: bytes) -> Rows:
    """Check and unpack a slot's block as read from its sidecar. Raises Corrupt."""
    if len(block) != ref.rows * ROW_BYTES or crc32c(block) != ref.crc:
        raise Corrupt(path, ref.position, f"rows of stream {ref.stream_id} slot {ref.slot} are damaged", ADVICE)
    n = ref.rows
    columns = array("q"), array("I"), array("I"), array("q")
    start = 0
    for column in columns:
        size = n * column.itemsize
        column.frombytes(block[start : start + size])
        start += size
    base, position, length, timestamp = columns
    return Rows(base, position, length, timestamp, ref.end, ref.bytes_before)
