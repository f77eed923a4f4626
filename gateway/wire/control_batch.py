"""Control batches: the markers that end a transaction in a partition (KIP-98).

A batch of one record, never compressed. Its key is i16 version (0), i16 type (0 abort, 1 commit), its value
i16 version (0), i32 coordinator epoch. All 78 bytes:

    61 header    varint 16, i8 attributes, varint timestamp delta, varint offset delta
    varint 4     key        varint 6      value        varint 0 headers
"""

import struct
from typing import Final

from gateway.wire.record_batch import (
    CONTROL,
    HEADER,
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    MAGIC,
    TRANSACTIONAL,
)
from gateway.wire.records import seal_batch

ABORT_TYPE: Final = 0
COMMIT_TYPE: Final = 1
_VERSION: Final = 0
_RECORD: Final = struct.Struct(">BBBBBhhBhiB")
_RECORD_BYTES: Final = 17
assert _RECORD.size == _RECORD_BYTES


def _zigzag(number: int) -> int:
    return number << 1


def marker_batch(
    *,
    base_offset: int,
    leader_epoch: int,
    producer_id: int,
    producer_epoch: int,
    committed: bool,
    coordinator_epoch: int,
    timestamp_ms: int,
) -> bytes:
    """The batch that ends a producer's transaction, as it goes on the wire."""
    batch = bytearray(
        HEADER.pack(
            base_offset,
            HEADER_BYTES - LENGTH_PREFIX_BYTES + _RECORD_BYTES,
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
    batch += _RECORD.pack(
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
    seal_batch(batch)
    return bytes(batch)
