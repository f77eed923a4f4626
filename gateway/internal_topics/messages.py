"""Rows of the store's tables as the records that Kafka's brokers keep in their internal topics.

Keys and values are those of Kafka's own schemas, in the versions that Kafka 4.3 writes. All numbers are big-endian;
`string` is an i16 length and UTF-8, `bytes` an i32 length; -1 for null. `compact` is a varint of the length and 1, and
UTF-8.

    __consumer_offsets
      offset   key    i16 1, string group, string topic, i32 partition
               value  i16 4, i64 offset, i32 leader epoch, compact metadata, i64 commit time ms,
                      one tagged field: u8 1, u8 tag 0, u8 size 16, topic id
               or     i16 3, i64 offset, i32 leader epoch, string metadata, i64 commit time ms, of a row without an id
      group    key    i16 2, string group
               value  i16 3, string protocol type, i32 generation, string? protocol, string? leader, i64 state since ms,
                      i32 count of members, for each: string member id, string? instance id, string client id,
                      string client host, i32 rebalance time-out ms, i32 session time-out ms, bytes subscription,
                      bytes assignment
    __transaction_state
               key    i16 0, string transactional id
               value  i16 0, i64 producer id, i16 epoch, i32 time-out ms, i8 state, i32 count of topics (-1: none), for
                      each: string name, i32 count of partitions, i32 each; i64 changed ms, i64 began ms

Keeps: a record reads as that of a Kafka. In which partition it lies is not decided here (`partitions.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gateway.groups.classic.messages import MemberRecord
from gateway.groups.persistence import decode_group, decode_offset, decode_offset_key
from gateway.topics.topics import CONSUMER_OFFSETS
from gateway.transactions.persistence import decode_transaction
from gateway.transactions.transaction import Transaction, TransactionState

OFFSET_KEY_VERSION, GROUP_KEY_VERSION, TRANSACTION_KEY_VERSION = 1, 2, 0
OFFSET_VALUE_VERSION, GROUP_VALUE_VERSION, TRANSACTION_VALUE_VERSION = 4, 3, 0
NAMELESS_OFFSET_VALUE_VERSION: Final = 3
STRING_BYTES_MAX: Final = 2**15 - 1

_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")
_I64: Final = struct.Struct(">q")
_OFFSET: Final = struct.Struct(">hqi")
_TRANSACTION: Final = struct.Struct(">hqhib")
_GROUP_LENGTH: Final = struct.Struct("<H")
_TOPIC_ID_FIELD: Final = bytes((1, 0, 16))
"""Before a topic's id: the count of tagged fields, the tag, the size."""


class InternalRecord(NamedTuple):
    """A row as a record; without a value it is a tombstone, whose time is that of its reading."""

    key: bytes
    value: bytes | None
    timestamp: int | None


def group_of_offset(row: bytes) -> str:
    """The group in the key of a row of committed offsets."""
    (length,) = _GROUP_LENGTH.unpack_from(row)
    return row[_GROUP_LENGTH.size : _GROUP_LENGTH.size + length].decode()


def offset_record(row: bytes, value: bytes | None) -> InternalRecord:
    at = decode_offset_key(row)
    key = b"".join((_I16.pack(OFFSET_KEY_VERSION), _string(at.group_id), _string(at.topic), _I32.pack(at.partition)))
    if value is None:
        return InternalRecord(key, None, None)
    committed = decode_offset(value)
    has_id = bool(committed.topic_id)
    version = OFFSET_VALUE_VERSION if has_id else NAMELESS_OFFSET_VALUE_VERSION
    encoded = b"".join(
        (
            _OFFSET.pack(version, committed.offset, committed.leader_epoch),
            _compact(committed.metadata) if has_id else _string(committed.metadata),
            _I64.pack(committed.commit_ms),
            _TOPIC_ID_FIELD + committed.topic_id if has_id else b"",
        )
    )
    return InternalRecord(key, encoded, committed.commit_ms)


def group_record(row: bytes, value: bytes | None) -> InternalRecord:
    key = _I16.pack(GROUP_KEY_VERSION) + _string(row.decode())
    if value is None:
        return InternalRecord(key, None, None)
    group = decode_group(value)
    parts = [
        _I16.pack(GROUP_VALUE_VERSION),
        _string(group.protocol_type or ""),
        _I32.pack(group.generation),
        _string(group.protocol_name),
        _string(group.leader),
        _I64.pack(group.state_since_ms),
        _I32.pack(len(group.members)),
    ]
    for member in group.members:
        parts += _member(member, group.protocol_name)
    return InternalRecord(key, b"".join(parts), group.state_since_ms)


def _member(member: MemberRecord, protocol: str | None) -> Iterable[bytes]:
    subscription = next((metadata for name, metadata in member.protocols if name == protocol), b"")
    return (
        _string(member.member_id),
        _string(member.instance_id),
        _string(member.client_id),
        _string(member.client_host),
        _I32.pack(member.rebalance_timeout_ms),
        _I32.pack(member.session_timeout_ms),
        _bytes(subscription),
        _bytes(member.assignment),
    )


def transaction_record(
    row: bytes,
    value: bytes | None,
    topic_of: Callable[[int], str | None],
    partition_of_group: Callable[[str], int],
) -> InternalRecord:
    """`topic_of`: the name of a stream, None if it is gone; groups count as partitions of __consumer_offsets."""
    key = _I16.pack(TRANSACTION_KEY_VERSION) + _string(row.decode())
    if value is None:
        return InternalRecord(key, None, None)
    known = decode_transaction(row, value)
    head = _TRANSACTION.pack(TRANSACTION_VALUE_VERSION, known.producer_id, known.epoch, known.timeout_ms, known.state)
    times = _I64.pack(known.changed_ms) + _I64.pack(known.started_ms)
    return InternalRecord(key, head + _partitions(known, topic_of, partition_of_group) + times, known.changed_ms)


def _partitions(
    known: Transaction, topic_of: Callable[[int], str | None], partition_of_group: Callable[[str], int]
) -> bytes:
    if known.state is TransactionState.EMPTY:
        return _I32.pack(-1)
    topics: dict[str, set[int]] = {}
    for place in known.partitions:
        if name := topic_of(place.stream_id):
            topics.setdefault(name, set()).add(place.slot)
    if known.groups:
        topics[CONSUMER_OFFSETS] = set(map(partition_of_group, known.groups))
    parts = [_I32.pack(len(topics))]
    for name, numbers in topics.items():
        parts += (_string(name), _I32.pack(len(numbers)), struct.pack(f">{len(numbers)}i", *sorted(numbers)))
    return b"".join(parts)


def _string(text: str | None) -> bytes:
    """A text that is longer than Kafka's format holds is cut."""
    if text is None:
        return _I16.pack(-1)
    encoded = _cut(text)
    return _I16.pack(len(encoded)) + encoded


def _compact(text: str) -> bytes:
    """The same in Kafka's flexible versions."""
    encoded = _cut(text)
    length, left = bytearray(), len(encoded) + 1
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + encoded


def _cut(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > STRING_BYTES_MAX:
        encoded = encoded[:STRING_BYTES_MAX].decode(errors="ignore").encode()
    return encoded


def _bytes(data: bytes) -> bytes:
    return _I32.pack(len(data)) + data
