"""The records inside a batch: read one by one with every length checked, or built into a new batch.

    record = length, attributes, timestamp delta, offset delta, key, value, headers
All numbers are zigzag varints; key, value and header values have -1 for null. Batches are opened only
where a feature needs it.

Invariants: `iter_records` either yields exactly the header's record count, in rising order of offset, or
raises InvalidBatch; it holds at most `bytes_max` of decompressed bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from gateway.records.compression import compress, decompress
from gateway.records.record_batch import (
    CRC_COVERS_FROM,
    HEADER,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    LOG_APPEND_TIME,
    MAGIC,
    NONE,
    SMALLEST_RECORD_BYTES,
    TRANSACTIONAL,
    ZSTD,
    read_header,
)
from gateway.wire.error_codes import INVALID_RECORD, MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

DECOMPRESSED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Size of one opened batch: 64 times the usual largest message; larger ones are mistakes or bombs."""

RECORDS_MAX: Final = 200_000
"""Records of one opened batch: under a second of work. Clients close a batch at about a MiB before
compression, which is 150,000 of the smallest records."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
VARINT_BYTES_MAX: Final = 5
VARLONG_BYTES_MAX: Final = 10
KEEP_BYTES: Final = "surrogateescape"
"""Turns a record header's key that is not UTF-8 into a `str` and back into the same bytes: Kafka takes any."""
TOO_FAR: Final = "a timestamp lies too far from its batch's base"
HEADER_FIELD_BYTES_MIN: Final = 2  # a record header: key length and value length


class Record(NamedTuple):
    offset: int
    timestamp: int  # ms, -1 for none
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def iter_records(
    batch: bytes | bytearray | memoryview,
    bytes_max: int = DECOMPRESSED_BYTES_MAX,
    records_max: int = RECORDS_MAX,
) -> Iterator[Record]:
    """The records of one stored or received batch. Raises InvalidBatch on anything irregular."""
    header = read_header(batch)
    if header.magic != MAGIC or header.size != len(batch):
        raise InvalidBatch(INVALID_RECORD, f"{len(batch)} bytes are not one batch of magic {MAGIC}")
    if header.codec > ZSTD:
        raise InvalidBatch(INVALID_RECORD, f"compression codec {header.codec}")
    if header.record_count > records_max:
        raise InvalidBatch(MESSAGE_TOO_LARGE, f"{header.record_count} records, at most {records_max} are opened")
    body = memoryview(batch)[HEADER_BYTES:]
    payload = bytes(body) if header.codec == NONE else decompress(header.codec, body, bytes_max)
    count, end = header.record_count, len(payload)
    if count < 0 or count * SMALLEST_RECORD_BYTES > end:
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {end} bytes")
    append_time = header.max_timestamp if header.is_log_append_time else None
    position, last_delta = 0, -1
    for _ in range(count):
        position, delta, timestamp_delta, key, value, headers = _read_record(payload, position, end)
        if not last_delta < delta <= header.last_offset_delta:
            raise InvalidBatch(INVALID_RECORD, f"offset delta {delta} after {last_delta}")
        last_delta = delta
        timestamp = header.base_timestamp + timestamp_delta if append_time is None else append_time
        yield Record(header.base_offset + delta, timestamp, key, value, headers)
    if position != end:
        raise InvalidBatch(INVALID_RECORD, f"{end - position} bytes follow the last record")


class RawRecord(NamedTuple):
    """A record in its batch's decompressed bytes: its place, and the fields that decide whether it stays."""

    start: int
    after_timestamp: int
    stop: int
    attributes: int
    timestamp_delta: int
    offset_delta: int
    key: bytes | None
    has_value: bool


def iter_raw_records(
    payload: bytes | bytearray, count: int, offset_max: int, records_max: int = RECORDS_MAX
) -> Iterator[RawRecord]:
    """The records of a stored batch, in its decompressed bytes. Raises InvalidBatch on anything irregular."""
    end = len(payload)
    check_stored_count(count, end, records_max)
    position, last_delta = 0, -1
    for _ in range(count):
        start = position
        length, body = read_varint(payload, position, end)
        stop = position = body + length
        if length < SMALLEST_RECORD_BYTES - 1 or stop > end:
            raise InvalidBatch(INVALID_RECORD, f"a record of {length} bytes, {end - body} are left")
        timestamp_delta, after = read_varint(payload, body + 1, stop, VARLONG_BYTES_MAX)
        delta, p = read_varint(payload, after, stop)
        if not INT64_MIN <= timestamp_delta <= INT64_MAX:
            raise InvalidBatch(INVALID_RECORD, TOO_FAR)
        if not last_delta < delta <= offset_max:
            raise InvalidBatch(INVALID_RECORD, f"offset delta {delta} after {last_delta}")
        last_delta = delta
        key, p = _read_bytes(payload, p, stop)
        size, p = read_varint(payload, p, stop)
        if size < -1 or size > stop - p:
            raise InvalidBatch(INVALID_RECORD, f"length {size} with {stop - p} bytes left in a record")
        yield RawRecord(start, after, stop, payload[body], timestamp_delta, delta, key, size >= 0)
    if position != end:
        raise InvalidBatch(INVALID_RECORD, f"{end - position} bytes follow the last record")


def check_stored_count(count: int, size: int, records_max: int) -> None:
    """Raises InvalidBatch when that many records cannot be in that many bytes, or are more than are opened."""
    if not 0 <= count <= records_max or count * SMALLEST_RECORD_BYTES > size:
        raise InvalidBatch(INVALID_RECORD, f"{count} records cannot be in {size} bytes, or are too many")


_Buffer = bytes | bytearray | memoryview
_Fields = tuple[int, int, int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]


def _read_record(b: _Buffer, p: int, end: int) -> _Fields:
    """One record: its end, offset delta, timestamp delta, key, value, headers."""
    length, p = read_varint(b, p, end)
    stop = p + length
    if length < SMALLEST_RECORD_BYTES - 1 or stop > end:
        raise InvalidBatch(INVALID_RECORD, f"a record of {length} bytes, {end - p} are left")
    timestamp_delta, p = read_varint(b, p + 1, stop, VARLONG_BYTES_MAX)  # one byte of unused attributes
    delta, p = read_varint(b, p, stop)
    key: bytes | None = None
    value: bytes | None = None
    length, p = read_varint(b, p, stop)
    if length != -1:
        key, p = _bytes(b, p, stop, length)
    length, p = read_varint(b, p, stop)
    if length != -1:
        value, p = _bytes(b, p, stop, length)
    headers: Sequence[tuple[str, bytes | None]] = ()
    if p < stop and not b[p]:
        p += 1
    else:
        count, p = read_varint(b, p, stop)
        headers, p = _read_headers(b, p, stop, count)
    if p != stop:
        raise InvalidBatch(INVALID_RECORD, f"{stop - p} bytes are left in a record")
    return stop, delta, timestamp_delta, key, value, headers


def _read_headers(b: _Buffer, p: int, stop: int, count: int) -> tuple[list[tuple[str, bytes | None]], int]:
    if count < 0 or count * HEADER_FIELD_BYTES_MIN > stop - p:
        raise InvalidBatch(INVALID_RECORD, f"{count} record headers in {stop - p} bytes")
    headers = []
    for _ in range(count):
        raw, p = _read_bytes(b, p, stop)
        value, p = _read_bytes(b, p, stop)
        if raw is None:
            raise InvalidBatch(INVALID_RECORD, "a record header without a key")
        headers.append((raw.decode(errors=KEEP_BYTES), value))
    return headers, p


def _read_bytes(b: _Buffer, p: int, stop: int) -> tuple[bytes | None, int]:
    length, p = read_varint(b, p, stop)
    return (None, p) if length == -1 else _bytes(b, p, stop, length)


def _bytes(b: _Buffer, p: int, stop: int, length: int) -> tuple[bytes, int]:
    if length < 0 or length > stop - p:
        raise InvalidBatch(INVALID_RECORD, f"length {length} with {stop - p} bytes left in a record")
    return bytes(b[p : p + length]), p + length


def read_varint(b: _Buffer, p: int, end: int, bytes_max: int = VARINT_BYTES_MAX) -> tuple[int, int]:
    """A zigzag varint of at most `bytes_max` bytes, and the position behind it."""
    if end - p > 1:
        byte = b[p]
        if byte < 128:
            return byte >> 1 ^ -(byte & 1), p + 1
        second = b[p + 1]
        if second < 128:
            value = byte & 127 | second << 7
            return value >> 1 ^ -(value & 1), p + 2
    value = shift = 0
    for byte in b[p : min(end, p + bytes_max)]:
        p += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value >> 1 ^ -(value & 1), p
        shift += 7
    raise InvalidBatch(INVALID_RECORD, "a varint is cut short or too long")


def write_varint(out: bytearray, value: int) -> None:
    value = value << 1 if value >= 0 else (-value << 1) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def build_batch(
    records: Iterable[Record],
    codec: int = NONE,
    *,
    level: int | None = None,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    log_append_time: int | None = None,
    attributes: int = 0,
) -> bytearray:
    """A batch of these records; the first one's offset becomes the base offset."""
    held = list(records)
    if not held:
        raise ValueError("a batch has at least one record")
    base_offset, base_timestamp = held[0].offset, held[0].timestamp
    payload = bytearray()
    for record in held:
        _write_record(payload, record, base_offset, base_timestamp)
    attributes |= codec | (TRANSACTIONAL if transactional else 0)
    max_timestamp = max(record.timestamp for record in held)
    if log_append_time is not None:
        attributes |= LOG_APPEND_TIME
        max_timestamp = log_append_time
    body = compress(codec, payload, level)
    batch = bytearray(
        HEADER.pack(
            base_offset,
            HEADER_BYTES - LENGTH_PREFIX_BYTES + len(body),
            -1,
            MAGIC,
            0,
            attributes,
            held[-1].offset - base_offset,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            len(held),
        )
    )
    batch += body
    seal_batch(batch)
    return batch


def _write_record(out: bytearray, record: Record, base_offset: int, base_timestamp: int) -> None:
    body = bytearray(1)  # attributes: none are defined
    write_varint(body, record.timestamp - base_timestamp)
    write_varint(body, record.offset - base_offset)
    for data in (record.key, record.value):
        _write_bytes(body, data)
    write_varint(body, len(record.headers))
    for name, value in record.headers:
        _write_bytes(body, name.encode(errors=KEEP_BYTES))
        _write_bytes(body, value)
    write_varint(out, len(body))
    out += body


def _write_bytes(out: bytearray, data: bytes | None) -> None:
    if data is None:
        write_varint(out, -1)
        return
    write_varint(out, len(data))
    out += data


def seal_batch(batch: bytearray | memoryview) -> None:
    """Write the CRC after bytes that it covers were changed."""
    crc = crc32c(memoryview(batch)[CRC_COVERS_FROM:])
    batch[CRC_COVERS_FROM - 4 : CRC_COVERS_FROM] = crc.to_bytes(4, "big")
