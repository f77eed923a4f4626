"""The stored form of transactions: byte layouts, writer and reader side by side.

Keeps: a number or layout that was released is never used for anything else; every value begins with its version; a
reader refuses an unknown version. Numbers are little-endian, except the producer id in a key.

Table "transactions". Key: the transactional id, UTF-8. Value:

    u8   version (1)             u8   state (`TransactionState`)     u8   1: remembers, else 0
    i64  producer id             i16  epoch
    i64  last producer id        i16  last epoch      (-1: none)
    i64  next producer id        i16  next epoch      (-1: none)
    i32  time-out ms             i64  began, wall-clock ms (-1: not)  i64  changed, wall-clock ms
    u32  count of partitions, then (u32 stream, u32 slot) each, in the order of arrival
    u32  count of groups, then (u16 length, UTF-8) each, sorted

Table "transactions.offsets": offsets that a transaction will commit for groups. Key: i64 producer id, big-endian, then
the key of table "offsets". Value: the value for that table.
"""

from __future__ import annotations

import struct
from typing import Final

from gateway.groups.persistence import (
    OffsetKey,
    UnreadableRecord,
    decode_offset_key,
    encode_offset_key,
)
from gateway.transactions.places import PLACE_BYTES, Places
from gateway.transactions.transaction import Identity, Transaction, TransactionState

TRANSACTIONS_TABLE: Final = "transactions"
PENDING_OFFSETS_TABLE: Final = "transactions.offsets"

VERSION: Final = 1
ID_BYTES_MAX: Final = 0xFFFF // 2
"""Longest transactional id, UTF-8: it is a key of the log's records."""

_HEAD: Final = struct.Struct("<BBBqhqhqhiqq")
_COUNT: Final = struct.Struct("<I")
_LENGTH: Final = struct.Struct("<H")
_PRODUCER: Final = struct.Struct(">q")


def encode_transaction(transaction: Transaction) -> bytes:
    parts = [
        _HEAD.pack(
            VERSION,
            transaction.state,
            transaction.remembers,
            *transaction.identity,
            *transaction.last,
            *transaction.next,
            transaction.timeout_ms,
            transaction.started_ms,
            transaction.changed_ms,
        ),
        _COUNT.pack(len(transaction.partitions)),
    ]
    parts.append(transaction.places.packed())
    parts.append(_COUNT.pack(len(transaction.groups)))
    for group in sorted(transaction.groups):
        name = group.encode()
        parts += (_LENGTH.pack(len(name)), name)
    return b"".join(parts)


def decode_transaction(key: bytes, value: bytes) -> Transaction:
    """Raises UnreadableRecord."""
    if not value or value[0] != VERSION:
        raise UnreadableRecord(f"transaction has version {value[:1].hex() or 'none'}, this release reads {VERSION}")
    try:
        _, state, remembers, *identities, timeout_ms, started_ms, changed_ms = _HEAD.unpack_from(value)
        places, position = _read_places(value, _HEAD.size)
        groups, position = _read_groups(value, position)
        if position != len(value):
            raise UnreadableRecord(f"transaction: {len(value) - position} bytes too many")
        return Transaction(
            transactional_id=key.decode(),
            producer_id=identities[0],
            epoch=identities[1],
            last=Identity(*identities[2:4]),
            next=Identity(*identities[4:6]),
            remembers=bool(remembers),
            timeout_ms=timeout_ms,
            state=TransactionState(state),
            partitions=places,
            groups=groups,
            started_ms=started_ms,
            changed_ms=changed_ms,
        )
    except (struct.error, ValueError) as exc:
        raise UnreadableRecord(f"transaction of {len(value)} bytes: {exc}") from exc


def _read_places(value: bytes, position: int) -> tuple[Places, int]:
    (count,) = _COUNT.unpack_from(value, position)
    position += _COUNT.size
    end = position + count * PLACE_BYTES
    if end > len(value):
        raise struct.error(f"{count} partitions are cut off")
    return Places.unpack(value[position:end]), end


def _read_groups(value: bytes, position: int) -> tuple[frozenset[str], int]:
    (count,) = _COUNT.unpack_from(value, position)
    position += _COUNT.size
    groups = set()
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(value, position)
        position += _LENGTH.size + length
        if position > len(value):
            raise struct.error("a group is cut off")
        groups.add(value[position - length : position].decode())
    return frozenset(groups), position


def encode_pending_key(producer_id: int, key: OffsetKey) -> bytes:
    return _PRODUCER.pack(producer_id) + encode_offset_key(key)


def decode_pending_key(data: bytes) -> tuple[int, OffsetKey]:
    """Raises UnreadableRecord."""
    if len(data) < _PRODUCER.size:
        raise UnreadableRecord(f"key of a pending offset: {data.hex()}")
    return _PRODUCER.unpack_from(data)[0], decode_offset_key(data[_PRODUCER.size :])
