"""The stored form of consumer groups (KIP-848): one table, a row for each part of a group that changes by itself.

Keeps: a released number or layout is never used for anything else; every value begins with its version; a reader
refuses unknown versions and bytes that are too few or too many.

All numbers are little-endian.

    text   u32 length, UTF-8        text?   the same, length 0xFFFFFFFF for null
    blob   u32 length, bytes
    topics u32 count, then per topic: 16 bytes topic id, u32 count, u32 each partition; sorted
    held   u32 count, then per topic: 16 bytes topic id, u32 count, then u32 partition, i32 epoch each; sorted

Table "consumergroups". Key: u16 length, group id, UTF-8; u8 kind; rest: name, UTF-8. Values by kind, each after u8
version (1):

    0 head     name empty. i32 epoch, i32 target epoch (-1: targets are being stored), i64 signature of the topics,
               i64 wall-clock milliseconds at which the group became empty, or ceased to be
    1 member   name: member id. text? instance id, text? rack id, text client id, text client host,
               i32 rebalance time-out ms, u32 count and texts: topic names, text regular expression, text? assignor,
               u8: 1 for a member of the classic protocol, then i32 session time-out ms,
               u32 count, then per protocol: text name, blob metadata
    2 current  name: member id. i32 epoch, i32 previous epoch, u8 state (1 stable, 2 must give up, 3 waits),
               held: assigned, held: being given up
    3 target   name: member id. topics
    4 regex    name: the regular expression. u32 count and texts: topic names

A name that exceeds no bound of a request fits: keys are bounded by the log's records only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final, TypeVar
from uuid import UUID

from gateway.groups.classic.messages import Protocol
from gateway.groups.consumer.messages import (
    ClassicFacts,
    CurrentRecord,
    HeadRecord,
    Holdings,
    MemberRecord,
    MemberState,
    Partitions,
    RowKey,
    RowKind,
)
from gateway.groups.fields import I32, U32, Reader, blob, text, whole
from gateway.groups.modern import rows

CONSUMER_TABLE: Final = "consumergroups"
VERSION: Final = 1

_HEAD: Final = struct.Struct("<iiqq")
_CURRENT: Final = struct.Struct("<iiB")
_HELD: Final = struct.Struct("<Ii")
_TOPIC_ID_BYTES: Final = 16

_T = TypeVar("_T")


encode_key: Final = rows.encode_key


def decode_key(data: bytes) -> tuple[str, RowKey]:
    """Raises UnreadableRecord."""
    return rows.decode_key(data, RowKind)


def encode_head(head: HeadRecord) -> bytes:
    return _VERSION + _HEAD.pack(head.epoch, head.target_epoch, head.signature, head.state_since_ms)


def decode_head(data: bytes) -> HeadRecord:
    return _whole("head", data, lambda reader: _read_head(*reader.take(_HEAD)))


def _read_head(epoch: int, target_epoch: int, signature: int, state_since_ms: int) -> HeadRecord:
    return HeadRecord(epoch=epoch, target_epoch=target_epoch, signature=signature, state_since_ms=state_since_ms)


def encode_member(record: MemberRecord) -> bytes:
    parts = [
        _VERSION,
        text(record.instance_id),
        text(record.rack_id),
        text(record.client_id),
        text(record.client_host),
        I32.pack(record.rebalance_timeout_ms),
        _names(record.names),
        text(record.regex),
        text(record.assignor),
        bytes([record.classic is not None]),
    ]
    if record.classic is not None:
        parts += (I32.pack(record.classic.session_timeout_ms), U32.pack(len(record.classic.protocols)))
        for name, metadata in record.classic.protocols:
            parts += (text(name), blob(metadata))
    return b"".join(parts)


def decode_member(member_id: str, data: bytes) -> MemberRecord:
    def read(reader: _Reader) -> MemberRecord:
        return MemberRecord(
            member_id=member_id,
            instance_id=reader.optional_text(),
            rack_id=reader.optional_text(),
            client_id=reader.text(),
            client_host=reader.text(),
            rebalance_timeout_ms=reader.take(I32)[0],
            names=reader.name_set(),
            regex=reader.text(),
            assignor=reader.optional_text(),
            classic=reader.classic(),
        )

    return _whole("member", data, read)


def encode_current(record: CurrentRecord) -> bytes:
    head = _CURRENT.pack(record.epoch, record.previous_epoch, record.state)
    return b"".join((_VERSION, head, _held(record.assigned), _held(record.revoking)))


def decode_current(data: bytes) -> CurrentRecord:
    def read(reader: _Reader) -> CurrentRecord:
        epoch, previous_epoch, state = reader.take(_CURRENT)
        return CurrentRecord(
            epoch=epoch,
            previous_epoch=previous_epoch,
            state=MemberState(state),
            assigned=reader.held(),
            revoking=reader.held(),
        )

    return _whole("current assignment", data, read)


def encode_target(target: Partitions) -> bytes:
    parts = [_VERSION, U32.pack(len(target))]
    for topic in sorted(target, key=_number):
        partitions = sorted(target[topic])
        parts += (topic.bytes, U32.pack(len(partitions)), struct.pack(f"<{len(partitions)}I", *partitions))
    return b"".join(parts)


def decode_target(data: bytes) -> Partitions:
    return _whole("target assignment", data, lambda reader: reader.topics())


def encode_regex(topics: frozenset[str]) -> bytes:
    return _VERSION + _names(topics)


def decode_regex(data: bytes) -> frozenset[str]:
    return _whole("regular expression", data, lambda reader: reader.name_set())


_VERSION: Final = bytes([VERSION])


class _Reader(Reader):
    """Reads what consumer groups have beside texts and numbers."""

    def name_set(self) -> frozenset[str]:
        return frozenset(self.text() for _ in range(self.count()))

    def classic(self) -> ClassicFacts | None:
        if not self.raw(1)[0]:
            return None
        (timeout_ms,) = self.take(I32)
        return ClassicFacts(timeout_ms, tuple(Protocol(self.text(), self.blob()) for _ in range(self.count())))

    def topics(self) -> Partitions:
        found: dict[UUID, frozenset[int]] = {}
        for _ in range(self.count()):
            topic, count = self._topic_id(), self.count()
            found[topic] = frozenset(self.take(U32)[0] for _ in range(count))
        return found

    def held(self) -> Holdings:
        found: dict[UUID, dict[int, int]] = {}
        for _ in range(self.count()):
            topic, count = self._topic_id(), self.count()
            found[topic] = dict(self.take(_HELD) for _ in range(count))
        return found

    def _topic_id(self) -> UUID:
        return UUID(bytes=self.raw(_TOPIC_ID_BYTES))


def _whole(what: str, data: bytes, read: Callable[[_Reader], _T]) -> _T:
    """Raises UnreadableRecord."""
    return whole(f"{what} of a consumer group", data, VERSION, _Reader, read)


#: Topics are in the order of their ids, which are compared as numbers: that is twice as fast.
_number: Final = attrgetter("int")


def _held(holdings: Mapping[UUID, Mapping[int, int]]) -> bytes:
    parts = [U32.pack(len(holdings))]
    for topic in sorted(holdings, key=_number):
        held = holdings[topic]
        parts += (topic.bytes, U32.pack(len(held)), *(_HELD.pack(p, held[p]) for p in sorted(held)))
    return b"".join(parts)


def _names(names: frozenset[str]) -> bytes:
    return U32.pack(len(names)) + b"".join(map(text, sorted(names)))
