"""The body of an update record: a list of outcomes, applied all or not at all.

It holds outcomes, never deltas or conditions, so applying a record twice changes nothing. Numbers are little-endian.

    body  = u16 count of operations, then the operations back to back
    put   = u8 1, u8 table name length, u16 key length, u32 value length, name, key, value
    drop  = u8 2, u8 table name length, u16 key length, name, key
    trim  = u8 3, u32 stream id, u32 slot, i64 new start, u64 bytes of the slot before it

Operation numbers are never reused.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from core.log.format import BadFrame

_COUNT: Final = struct.Struct("<H")
_PUT: Final = struct.Struct("<BBHI")
_DELETE: Final = struct.Struct("<BBH")
_TRIM: Final = struct.Struct("<BIIqQ")

OP_PUT: Final = 1
OP_DELETE: Final = 2
OP_TRIM: Final = 3

OPERATIONS_MAX: Final = 65_535
"""The most operations of one record: the largest number of its count field."""


@dataclass(frozen=True, slots=True)
class Put:
    """A table's key has this value now."""

    table: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """A table no longer has this key."""

    table: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Trim:
    """A slot starts here now; `bytes_before` is the sum of all entries that ever lay before it."""

    stream_id: int
    slot: int
    start: int
    bytes_before: int


Operation: TypeAlias = Put | Delete | Trim


def encode_update(operations: Sequence[Operation]) -> bytes:
    """The body of an update record. Raises ValueError for more than `OPERATIONS_MAX` operations."""
    if len(operations) > OPERATIONS_MAX:
        raise ValueError(f"{len(operations)} operations in one record, at most {OPERATIONS_MAX}")
    parts = [_COUNT.pack(len(operations))]
    for operation in operations:
        match operation:
            case Put(table, key, value):
                name = table.encode()
                parts += (_PUT.pack(OP_PUT, len(name), len(key), len(value)), name, key, value)
            case Delete(table, key):
                name = table.encode()
                parts += (_DELETE.pack(OP_DELETE, len(name), len(key)), name, key)
            case Trim(stream_id, slot, start, bytes_before):
                parts.append(_TRIM.pack(OP_TRIM, stream_id, slot, start, bytes_before))
            case unreachable:
                assert_never(unreachable)
    return b"".join(parts)


def decode_update(body: memoryview) -> list[Operation]:
    """The operations of an update record. Raises BadFrame when the body is not well formed."""
    try:
        (count,) = _COUNT.unpack_from(body)
        position = _COUNT.size
        operations: list[Operation] = []
        for _ in range(count):
            operation, position = _decode_operation(body, position)
            operations.append(operation)
    except (struct.error, UnicodeDecodeError) as error:
        raise BadFrame(f"update record is not well formed: {error}") from error
    if position != len(body):
        raise BadFrame("update record has bytes left over")
    return operations


def _decode_operation(body: memoryview, position: int) -> tuple[Operation, int]:
    code = body[position] if position < len(body) else -1
    if code == OP_PUT:
        _, name_size, key_size, value_size = _PUT.unpack_from(body, position)
        position += _PUT.size
        name, key, value = _slices(body, position, name_size, key_size, value_size)
        return Put(name.decode(), key, value), position + name_size + key_size + value_size
    if code == OP_DELETE:
        _, name_size, key_size = _DELETE.unpack_from(body, position)
        position += _DELETE.size
        name, key = _slices(body, position, name_size, key_size)
        return Delete(name.decode(), key), position + name_size + key_size
    if code == OP_TRIM:
        _, stream_id, slot, start, before = _TRIM.unpack_from(body, position)
        return Trim(stream_id, slot, start, before), position + _TRIM.size
    raise BadFrame(f"unknown operation {code} in an update record")


def _slices(body: memoryview, position: int, *sizes: int) -> list[bytes]:
    if position + sum(sizes) > len(body):
        raise BadFrame("update record is cut off")
    parts: list[bytes] = []
    for size in sizes:
        parts.append(bytes(body[position : position + size]))
        position += size
    return parts
