"""The 61-byte header of a Kafka record batch, and the checks that a batch passes before it is stored.

    0 i64 base offset          8 i32 batch length (of all that follows)   12 i32 partition leader epoch
   16 i8  magic (2)           17 u32 CRC-32C (of byte 21 to the end)      21 i16 attributes
   23 i32 last offset delta   27 i64 base timestamp                       35 i64 max timestamp
   43 i64 producer id         51 i16 producer epoch                       53 i32 base sequence
   57 i32 record count        61 records

Base offset and leader epoch lie outside the CRC, so the store sets them in place.

Invariant: a batch that `validate_batch` accepts is exactly one well-formed client batch; its records are
not opened.
"""

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from core.log.format import HOLDING_GIL
from gateway.wire.error_codes import CORRUPT_MESSAGE, INVALID_RECORD, MESSAGE_TOO_LARGE, UNSUPPORTED_COMPRESSION_TYPE
from gateway.wire.errors import InvalidBatch

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = 61
assert HEADER.size == HEADER_BYTES

PLACE: Final = struct.Struct(">qii")
"""Base offset, batch length, leader epoch: the part of a batch that the broker writes, and its CRC does not cover."""

ATTRIBUTES: Final = struct.Struct(">H")
ATTRIBUTES_AT: Final = 21
MAX_TIMESTAMP: Final = struct.Struct(">q")
MAX_TIMESTAMP_AT: Final = 35

_SUMMARY: Final = struct.Struct(">qi9xhi8xq")
"""Base offset, length, attributes, last offset delta, max timestamp: the fields that the store needs on reading."""

LENGTH_PREFIX_BYTES: Final = 12
"""Base offset and batch length, which the batch length does not count."""
CRC_COVERS_FROM: Final = 21
MAGIC: Final = 2

CODEC_MASK: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

SMALLEST_RECORD_BYTES: Final = 7
"""Length, attributes, two deltas, key length, value length, header count: one byte each."""

NO_TIMESTAMP: Final = -1
MARKER_TIMESTAMP: Final = 0
"""The store's timestamp for control batches: no look-up by time may find them, and retention by age may drop them with
the entries before them."""


class BatchHeader(NamedTuple):
    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size(self) -> int:
        return self.batch_length + LENGTH_PREFIX_BYTES

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def has_producer_id(self) -> bool:
        return self.producer_id >= 0

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)


_unpack = HEADER.unpack_from
_new = tuple.__new__


def read_header(batch: bytes | bytearray | memoryview, position: int = 0) -> BatchHeader:
    """The header of a stored batch. Checks only that its bytes are there (InvalidBatch)."""
    if len(batch) - position < HEADER_BYTES:
        raise InvalidBatch(CORRUPT_MESSAGE, f"{len(batch) - position} bytes are no batch header")
    return _new(BatchHeader, _unpack(batch, position))


def entry_head(data: memoryview, position: int) -> tuple[int, int, int, int]:
    """First offset, offsets, largest timestamp and size of a stored batch: an `EntryHeadOf`.

    Offsets are counted by the last one: compaction takes records out of a batch, never offsets. Control batches have
    a timestamp of their own here. Raises struct.error when the head is cut off; the caller checks that the numbers make
    sense.
    """
    first, length, attributes, last_delta, newest = _SUMMARY.unpack_from(data, position)
    return first, last_delta + 1, MARKER_TIMESTAMP if attributes & CONTROL else newest, length + LENGTH_PREFIX_BYTES


def first_timestamp_delta_is_zero(batch: memoryview) -> bool:
    """Whether an uncompressed batch's first record has the batch's base timestamp, as every known client writes it."""
    length_ends = 61 if batch[61] < 128 else 62 if batch[62] < 128 else 63 if batch[63] < 128 else 64
    return not batch[length_ends + 2]


def validate_batch(records: memoryview | None, message_bytes_max: int = 2**31 - 1) -> BatchHeader:
    """The header of the one batch that `records` must be, or InvalidBatch with Kafka's error code.

    Not checked here, because it depends on the request's version or the topic: zstd before Produce
    v7 (76), null keys of compacted topics, timestamps.
    """
    if records is None or len(records) < HEADER_BYTES:
        raise InvalidBatch(INVALID_RECORD, "no record batch, or one cut short")
    size = len(records)
    fields = _unpack(records)
    base_offset, length, _, magic, crc, attributes, last_delta, _, _, writer, epoch, sequence, count = fields
    if (
        magic != MAGIC
        or length + LENGTH_PREFIX_BYTES != size
        or size > message_bytes_max
        or base_offset
        or count <= 0
        or last_delta != count - 1
        or (writer >= 0 and (sequence < 0 or epoch < 0))
        or attributes & (CODEC_MASK | CONTROL)
        or count * SMALLEST_RECORD_BYTES > size - HEADER_BYTES
    ):
        _refuse(_new(BatchHeader, fields), size, message_bytes_max)
    if crc32c(records[CRC_COVERS_FROM:], 0, HOLDING_GIL) != crc:
        raise InvalidBatch(CORRUPT_MESSAGE, "the batch's CRC does not match")
    return _new(BatchHeader, fields)


def _refuse(header: BatchHeader, size: int, message_bytes_max: int) -> None:
    """Raises for the first fault, in Kafka's order; a compressed batch may have none."""
    count, codec = header.record_count, header.codec
    if header.magic != MAGIC:
        raise InvalidBatch(INVALID_RECORD, f"magic {header.magic}, only 2 is accepted")
    if header.batch_length < HEADER_BYTES - LENGTH_PREFIX_BYTES:
        raise InvalidBatch(CORRUPT_MESSAGE, f"batch length {header.batch_length}")
    if header.size != size:
        raise InvalidBatch(INVALID_RECORD, f"{size} bytes are not one batch of {header.size}")
    if header.base_offset:
        raise InvalidBatch(INVALID_RECORD, f"base offset {header.base_offset}, must be 0")
    if size > message_bytes_max:
        raise InvalidBatch(MESSAGE_TOO_LARGE, f"{size} bytes, at most {message_bytes_max}")
    if count <= 0:
        raise InvalidBatch(INVALID_RECORD, f"record count {count}")
    if header.last_offset_delta != count - 1:
        reason = f"last offset delta {header.last_offset_delta} with {count} records"
        raise InvalidBatch(INVALID_RECORD, reason)
    if header.is_control:
        raise InvalidBatch(INVALID_RECORD, "clients may not write control batches")
    if header.has_producer_id and (header.base_sequence < 0 or header.producer_epoch < 0):
        raise InvalidBatch(INVALID_RECORD, "a producer id without an epoch or a sequence")
    if codec > ZSTD:
        raise InvalidBatch(UNSUPPORTED_COMPRESSION_TYPE, f"compression codec {codec}")
    if codec == NONE and count * SMALLEST_RECORD_BYTES > size - HEADER_BYTES:
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {size} bytes")
