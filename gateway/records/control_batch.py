"""Control batches: the markers that end a transaction in a partition (KIP-98).

A batch of one record, never compressed. Its key is i16 version (0), i16 type (0 abort, 1 commit), its value
i16 version (0), i32 coordinator epoch. All 78 bytes:

    61 header    varint 16, i8 attributes, varint timestamp delta, varint offset delta
    varint 4     key        varint 6      value        varint 0 headers

If a transaction ends in several partitions, the record has a header that Kafka's do not have: no client looks at the
headers of a control record. It lists the transaction's other markers, for a recovery that finds one of them and not
another. Its key is ``penstock.ends``, its value, big-endian:

    u8 version (1), u32 partitions in which the transaction ended, then for some of them, this one included:
    u32 stream, u32 slot, i64 offset of its marker
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.records.record_batch import CONTROL, HEADER, HEADER_BYTES, LENGTH_PREFIX_BYTES, MAGIC, TRANSACTIONAL
from gateway.records.records import Record, iter_records, seal_batch, write_varint
from gateway.wire.error_codes import INVALID_RECORD
from gateway.wire.errors import InvalidBatch

ABORT_TYPE: Final = 0
COMMIT_TYPE: Final = 1
ENDS_KEY: Final = "penstock.ends"
ENDS_VERSION: Final = 1
_VERSION: Final = 0
_KEY: Final = struct.Struct(">hh")
_ENDS: Final = struct.Struct(">BI")
_END: Final = struct.Struct(">IIq")
_RECORD: Final = struct.Struct(">BBBBBhhBhiB")
_RECORD_BYTES: Final = 17
assert _RECORD.size == _RECORD_BYTES


def _zigzag(number: int) -> int:
    return number << 1


class MarkerEnd(NamedTuple):
    """The place of a transaction's marker in one of its partitions."""

    stream_id: int
    slot: int
    offset: int


class Marker(NamedTuple):
    """A marker's content. `partitions`: 0 when it does not list its transaction's other ends."""

    committed: bool
    partitions: int
    ends: tuple[MarkerEnd, ...]


def encode_ends(partitions: int, ends: Iterable[MarkerEnd]) -> bytes:
    """The value of the header that lists a transaction's ends."""
    return b"".join((_ENDS.pack(ENDS_VERSION, partitions), *(_END.pack(*end) for end in ends)))


def read_marker(batch: bytes | memoryview) -> Marker:
    """Read a whole control batch. Raises InvalidBatch."""
    for record in iter_records(batch):
        if record.key is None or len(record.key) < _KEY.size:
            break
        _, kind = _KEY.unpack_from(record.key)
        partitions, ends = _ends_in(record)
        return Marker(kind == COMMIT_TYPE, partitions, ends)
    raise InvalidBatch(INVALID_RECORD, "no marker")


def _ends_in(record: Record) -> tuple[int, tuple[MarkerEnd, ...]]:
    value = dict(record.headers).get(ENDS_KEY)
    if value is None or value[:1] != bytes((ENDS_VERSION,)):
        return 0, ()  # another's, or a later release's
    try:
        _, partitions = _ENDS.unpack_from(value)
        return partitions, tuple(map(MarkerEnd._make, _END.iter_unpack(value[_ENDS.size :])))
    except struct.error as error:
        raise InvalidBatch(INVALID_RECORD, f"a marker's places are cut off: {error}") from error


def marker_batch(
    *,
    base_offset: int,
    leader_epoch: int,
    producer_id: int,
    producer_epoch: int,
    committed: bool,
    coordinator_epoch: int,
    timestamp_ms: int,
    ends: bytes = b"",
) -> bytes:
    """The batch that ends a producer's transaction, as bytes for the wire; `ends` comes from `encode_ends`."""
    record = _record(committed=committed, coordinator_epoch=coordinator_epoch)
    if ends:
        record = _with_header(record, ENDS_KEY.encode(), ends)
    batch = bytearray(
        HEADER.pack(
            base_offset,
            HEADER_BYTES - LENGTH_PREFIX_BYTES + len(record),
            leader_epoch,
            MAGIC,
            0,
            TRANSACTIONAL | CONTROL,
            0,
            timestamp_ms,
            timestamp_ms,
            producer_id,
            producer_epoch,
            -1,
            1,
        )
    )
    batch += record
    seal_batch(batch)
    return bytes(batch)


def _record(*, committed: bool, coordinator_epoch: int) -> bytes:
    return _RECORD.pack(
        _zigzag(_RECORD_BYTES - 1),
        0,
        0,
        0,
        _zigzag(4),
        _VERSION,
        COMMIT_TYPE if committed else ABORT_TYPE,
        _zigzag(6),
        _VERSION,
        coordinator_epoch,
        0,
    )


def _with_header(record: bytes, key: bytes, value: bytes) -> bytes:
    """A record without headers, with this one added."""
    body = bytearray(record[1:-1])  # without its length and the count of its headers
    write_varint(body, 1)
    for data in (key, value):
        write_varint(body, len(data))
        body += data
    out = bytearray()
    write_varint(out, len(body))
    return bytes(out + body)
