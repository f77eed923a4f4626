"""The durable log's bytes: the layout of a log file and of a frame, and nothing else.

A log file is a header block followed by frames back to back. Each frame is one log record and carries
one LSN; LSNs are consecutive through all files of a container. All numbers are little-endian.

File header (one block of 4,096 bytes, the rest of it zero):

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       8s    magic ``PSTKLOG\\n``
    8       u16   format version (1)
    10      u16   zero
    12      u32   container id
    16      u64   LSN of the file's first frame
    24      u32   file id, random: tells this file's frames from recycled bytes
    28      u32   container epoch when the file was begun
    32      u64   creation time, ms since the epoch
    40      u32   CRC-32C of bytes 0-39
    ======  ====  =====================================================

Frame:

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u32   length of the body, bytes
    4       u32   CRC-32C of bytes 8 to the frame's end
    8       u64   LSN
    16      u64   LSN up to which the log was known to be synced when this was queued
    24      u32   file id
    28      u8    kind: 1 append, 2 update
    29      u8    1: the next frame belongs to the same step, and both are applied or neither; else 0
    30      u16   zero
    32      ...   body
    ======  ====  =====================================================

Body of an append (kind 1): one entry for one slot.

    ======  ====  =====================================================
    offset  type  field
    ======  ====  =====================================================
    0       u64   segment id: its number, which no other segment of the stream ever has
    8       u32   stream id
    12      u32   slot
    16      i64   first sequence number
    24      u32   count of sequence numbers
    28      u32   leader epoch
    32      i64   largest timestamp, ms since the epoch, -1 = none
    40      i64   writer id, -1 = none
    48      i32   first writer sequence, -1 = none
    52      i16   writer epoch, -1 = none
    54      u16   flags: 1 of the writer's transaction, 2 marker that commits it, 4 marker that aborts it
    56      ...   the entry, as it goes on the wire
    ======  ====  =====================================================

Body of an update (kind 2): operations that are applied all or not at all; see `core.log.records`.

The synced LSN in each frame tells a torn tail from damage. A torn tail is legal: nothing in it was acknowledged. Damage
is fatal: a bad frame x was acknowledged once if a later frame says "synced up to >= x".

A *step* is a run of frames that are queued and synced together; each but its last says that another follows. A log
that ends within a step ends before it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

Buffer = bytes | bytearray | memoryview

HOLDING_GIL: Final = 0
"""Tells crc32c to keep the interpreter's lock, which it lets go by default from 32 KiB on. Otherwise the log's writer
takes the lock twice for each batch of 100 KB and the loop waits for it: 4 % of the gateway's CPU."""

FILE_MAGIC: Final = b"PSTKLOG\n"
FORMAT_VERSION: Final = 1
FILE_HEADER_SIZE: Final = 4096
_FILE_HEADER: Final = struct.Struct("<8sHHIQIIQ")
_CRC: Final = struct.Struct("<I")
assert _FILE_HEADER.size == 40

FRAME_PREFIX: Final = struct.Struct("<II")
FRAME_REST: Final = struct.Struct("<QQIBBH")
FRAME_HEADER: Final = struct.Struct("<IIQQIBBH")
FRAME_HEADER_SIZE: Final = 32
assert FRAME_HEADER.size == FRAME_HEADER_SIZE == FRAME_PREFIX.size + FRAME_REST.size

APPEND_BODY: Final = struct.Struct("<QIIqIIqqihH")
APPEND_BODY_SIZE: Final = 56
assert APPEND_BODY.size == APPEND_BODY_SIZE

# The header after its CRC, and the append's own header, packed in one call on the hot path.
APPEND_REST: Final = struct.Struct("<QQIBBHQIIqIIqqihH")
APPEND_OVERHEAD: Final = FRAME_HEADER_SIZE + APPEND_BODY_SIZE
assert APPEND_REST.size == APPEND_OVERHEAD - FRAME_PREFIX.size

FILE_ID_AT: Final = 24
"""The position of the file id in a frame."""

# Stream id and slot of an append, as they lie in its frame.
SLOT_OF_APPEND: Final = struct.Struct("<II")
SLOT_POSITION: Final = FRAME_HEADER_SIZE + 8

KIND_APPEND: Final = 1
KIND_UPDATE: Final = 2
KINDS: Final = frozenset({KIND_APPEND, KIND_UPDATE})

STEP_GOES_ON: Final = 1

IN_TRANSACTION: Final = 1
COMMIT_MARKER: Final = 2
ABORT_MARKER: Final = 4
MARKER: Final = COMMIT_MARKER | ABORT_MARKER

BODY_SIZE_MAX: Final = 2**31 - 1
"""The largest body that a reader accepts, bytes. No configuration lets the gateway take a larger request."""


class BadFrame(Exception):
    """The bytes at this position are no whole, undamaged frame of this file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """The facts about a log file in its header."""

    container: int
    first_lsn: int
    file_id: int
    epoch: int
    created_ms: int


def encode_file_header(header: FileHeader) -> bytes:
    """The header block, `FILE_HEADER_SIZE` bytes."""
    fixed = _FILE_HEADER.pack(
        FILE_MAGIC,
        FORMAT_VERSION,
        0,
        header.container,
        header.first_lsn,
        header.file_id,
        header.epoch,
        header.created_ms,
    )
    block = fixed + _CRC.pack(crc32c(fixed))
    return block.ljust(FILE_HEADER_SIZE, b"\0")


def decode_file_header(block: Buffer) -> FileHeader:
    """Read a header block. Raises BadFrame with the reason."""
    if len(block) < FILE_HEADER_SIZE:
        raise BadFrame(f"file header is cut off after {len(block)} bytes")
    magic, version, _, container, first_lsn, file_id, epoch, created = _FILE_HEADER.unpack_from(block)
    if magic != FILE_MAGIC:
        raise BadFrame("no log file: the magic is missing")
    if version != FORMAT_VERSION:
        raise BadFrame(f"log format version {version}, this release reads {FORMAT_VERSION}")
    (crc,) = _CRC.unpack_from(block, _FILE_HEADER.size)
    if crc != crc32c(bytes(block[: _FILE_HEADER.size])):
        raise BadFrame("file header fails its CRC")
    return FileHeader(container=container, first_lsn=first_lsn, file_id=file_id, epoch=epoch, created_ms=created)


def encode_frame(lsn: int, synced_lsn: int, file_id: int, kind: int, body: bytes, follows: int = 0) -> bytes:
    """A whole frame. The append path packs its own (see `Container.append`)."""
    rest = FRAME_REST.pack(lsn, synced_lsn, file_id, kind, follows, 0)
    crc = crc32c(body, crc32c(rest))
    return b"".join((FRAME_PREFIX.pack(len(body), crc), rest, body))


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that was read back; `body` is a view of the file's bytes."""

    position: int
    lsn: int
    synced_lsn: int
    kind: int
    body: memoryview

    @property
    def end(self) -> int:
        return self.position + FRAME_HEADER_SIZE + len(self.body)


def stored_before(data: Buffer, position: int) -> int:
    """The LSN up to which the log was stored when the frame at this position was queued, by its header alone."""
    return int(FRAME_HEADER.unpack_from(data, position)[3])


def decode_frame(data: memoryview, position: int, file_id: int) -> Frame:
    """Read and check the frame at `position`. Raises BadFrame with the reason."""
    if position + FRAME_HEADER_SIZE > len(data):
        raise BadFrame("cut off within a frame header")
    length, crc, lsn, synced, own_id, kind, _, _ = FRAME_HEADER.unpack_from(data, position)
    if own_id != file_id:
        raise BadFrame("not a frame of this file")
    if length > BODY_SIZE_MAX:
        raise BadFrame(f"frame claims {length} bytes")
    end = position + FRAME_HEADER_SIZE + length
    if end > len(data):
        raise BadFrame(f"frame of {length} bytes is cut off")
    if crc != crc32c(data[position + 8 : end]):
        raise BadFrame("frame fails its CRC")
    if kind not in KINDS:
        raise BadFrame(f"unknown kind {kind}")
    return Frame(position, lsn, synced, kind, data[position + FRAME_HEADER_SIZE : end])
