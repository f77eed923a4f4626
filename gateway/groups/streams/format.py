"""The stored form of streams groups (KIP-1071): one table, a row for each part of a group that changes by itself.

Keeps: a released number or layout is never used for anything else; every value begins with its version; a reader
refuses unknown versions and bytes that are too few or too many.

All numbers are little-endian; text and text? are those of `gateway/groups/fields.py`.

    names   u32 count, text each
    pairs   u32 count, then for each: text key, text value
    topics  u32 count, then for each: text name, i32 partitions, i16 replication factor, pairs: configs
    tasks   u32 count, then per subtopology: text id, u32 count, u32 each partition; sorted
    held    u32 count, then per subtopology: text id, u32 count, then u32 partition, i32 epoch each; sorted

Table "streamsgroups". Key: u16 length, group id, UTF-8; u8 kind; rest: name, UTF-8. Values by kind, each after u8
version (1):

    0 head      name empty. i32 epoch, i32 target epoch (-1: targets are being stored), i32 validated topology epoch,
                i64 signature of the topics, i32 standbys, i64 wall-clock milliseconds at which the group became empty,
                or ceased to be, text member that asked for the application's end (empty: none)
    1 member    name: member id. text? rack id, text client id, text client host, i32 rebalance time-out ms,
                i32 topology epoch, text process id, u8: 1 for an endpoint, then text host, u32 port; pairs: client tags
    2 current   name: member id. i32 epoch, i32 previous epoch, u8 state (1 stable, 2 must give up, 3 waits),
                held: active, tasks: standby, held: active being given up, tasks: standby being given up
    3 target    name: member id. tasks: active, tasks: standby
    4 topology  name empty. i32 epoch, u32 count, then per subtopology: text id, names: sources, topics: repartition
                sources, names: repartition sinks, topics: changelogs, u32 count, names: topics read together, each
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from gateway.groups.fields import I32, U32, Reader, text, whole
from gateway.groups.modern import rows
from gateway.groups.streams.held import Held
from gateway.groups.streams.messages import (
    CurrentRecord,
    Endpoint,
    HeadRecord,
    Holdings,
    MemberRecord,
    MemberState,
    RowKey,
    RowKind,
    Task,
    Tasks,
    by_subtopology,
)
from gateway.groups.streams.topology import Subtopology, TopicInfo, Topology

STREAMS_TABLE: Final = "streamsgroups"
VERSION: Final = 1

_VERSION: Final = bytes([VERSION])
_HEAD: Final = struct.Struct("<iiiqiq")
_CURRENT: Final = struct.Struct("<iiB")
_HELD: Final = struct.Struct("<Ii")
_TOPIC: Final = struct.Struct("<ih")

_T = TypeVar("_T")


encode_key: Final = rows.encode_key


def decode_key(data: bytes) -> tuple[str, RowKey]:
    """Raises UnreadableRecord."""
    return rows.decode_key(data, RowKind)


def encode_head(head: HeadRecord) -> bytes:
    numbers = _HEAD.pack(
        head.epoch, head.target_epoch, head.validated_epoch, head.signature, head.standbys, head.state_since_ms
    )
    return _VERSION + numbers + text(head.shutdown_by)


def decode_head(data: bytes) -> HeadRecord:
    def read(reader: _Reader) -> HeadRecord:
        epoch, target_epoch, validated_epoch, signature, standbys, state_since_ms = reader.take(_HEAD)
        return HeadRecord(
            epoch=epoch,
            target_epoch=target_epoch,
            validated_epoch=validated_epoch,
            signature=signature,
            standbys=standbys,
            state_since_ms=state_since_ms,
            shutdown_by=reader.text(),
        )

    return _whole("head", data, read)


def encode_member(record: MemberRecord) -> bytes:
    endpoint = record.endpoint
    parts = [
        _VERSION,
        text(record.rack_id),
        text(record.client_id),
        text(record.client_host),
        I32.pack(record.rebalance_timeout_ms),
        I32.pack(record.topology_epoch),
        text(record.process_id),
        bytes([0]) if endpoint is None else bytes([1]) + text(endpoint.host) + U32.pack(endpoint.port),
        _pairs(record.tags),
    ]
    return b"".join(parts)


def decode_member(member_id: str, data: bytes) -> MemberRecord:
    def read(reader: _Reader) -> MemberRecord:
        return MemberRecord(
            member_id=member_id,
            rack_id=reader.optional_text(),
            client_id=reader.text(),
            client_host=reader.text(),
            rebalance_timeout_ms=reader.number(),
            topology_epoch=reader.number(),
            process_id=reader.text(),
            endpoint=Endpoint(reader.text(), reader.count()) if reader.raw(1)[0] else None,
            tags=reader.pairs(),
        )

    return _whole("member", data, read)


def encode_current(record: CurrentRecord) -> bytes:
    head = _CURRENT.pack(record.epoch, record.previous_epoch, record.state)
    assigned, revoking = record.assigned, record.revoking
    held = (_held(assigned.active), _tasks(assigned.standby), _held(revoking.active), _tasks(revoking.standby))
    return b"".join((_VERSION, head, *held))


def decode_current(data: bytes) -> CurrentRecord:
    def read(reader: _Reader) -> CurrentRecord:
        epoch, previous_epoch, state = reader.take(_CURRENT)
        return CurrentRecord(
            epoch=epoch,
            previous_epoch=previous_epoch,
            state=MemberState(state),
            assigned=Holdings(reader.held(), reader.tasks()),
            revoking=Holdings(reader.held(), reader.tasks()),
        )

    return _whole("current assignment", data, read)


def encode_target(target: Tasks) -> bytes:
    return _VERSION + _tasks(target.active) + _tasks(target.standby)


def decode_target(data: bytes) -> Tasks:
    return _whole("target assignment", data, lambda reader: Tasks(reader.tasks(), reader.tasks()))


def encode_topology(topology: Topology) -> bytes:
    parts = [_VERSION, I32.pack(topology.epoch), U32.pack(len(topology.subtopologies))]
    for subtopology in topology.subtopologies:
        parts += (
            text(subtopology.id),
            _names(subtopology.sources),
            _topics(subtopology.repartition_sources),
            _names(subtopology.repartition_sinks),
            _topics(subtopology.changelogs),
            U32.pack(len(subtopology.copartitioned)),
            *(_names(sorted(topics)) for topics in subtopology.copartitioned),
        )
    return b"".join(parts)


def decode_topology(data: bytes) -> Topology:
    def read(reader: _Reader) -> Topology:
        epoch = reader.number()
        return Topology(epoch=epoch, subtopologies=tuple(reader.subtopology() for _ in range(reader.count())))

    return _whole("topology", data, read)


class _Reader(Reader):
    """Reads what streams groups have beside texts and numbers."""

    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.text(), self.text()) for _ in range(self.count()))

    def topics(self) -> tuple[TopicInfo, ...]:
        return tuple(self._topic() for _ in range(self.count()))

    def _topic(self) -> TopicInfo:
        name, (partitions, replication_factor) = self.text(), self.take(_TOPIC)
        return TopicInfo(name, partitions, replication_factor, self.pairs())

    def tasks(self) -> frozenset[Task]:
        found: set[Task] = set()
        for _ in range(self.count()):
            subtopology, count = self.text(), self.count()
            found.update(Task(subtopology, self.count()) for _ in range(count))
        return frozenset(found)

    def held(self) -> Held[Task]:
        found: dict[Task, int] = {}
        for _ in range(self.count()):
            subtopology, count = self.text(), self.count()
            for _ in range(count):
                partition, epoch = self.take(_HELD)
                found[Task(subtopology, partition)] = epoch
        return Held.of(found.items())

    def subtopology(self) -> Subtopology:
        return Subtopology(
            id=self.text(),
            sources=self.names(),
            repartition_sources=self.topics(),
            repartition_sinks=self.names(),
            changelogs=self.topics(),
            copartitioned=tuple(frozenset(self.names()) for _ in range(self.count())),
        )


def _whole(what: str, data: bytes, read: Callable[[_Reader], _T]) -> _T:
    """Raises UnreadableRecord."""
    return whole(f"{what} of a streams group", data, VERSION, _Reader, read)


def _names(names: Iterable[str]) -> bytes:
    parts = [text(name) for name in names]
    return U32.pack(len(parts)) + b"".join(parts)


def _pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    parts = [text(key) + text(value) for key, value in pairs]
    return U32.pack(len(parts)) + b"".join(parts)


def _topics(topics: Iterable[TopicInfo]) -> bytes:
    parts = [text(t.name) + _TOPIC.pack(t.partitions, t.replication_factor) + _pairs(t.configs) for t in topics]
    return U32.pack(len(parts)) + b"".join(parts)


def _tasks(tasks: Iterable[Task]) -> bytes:
    numbers = by_subtopology(tasks)
    parts = [text(name) + struct.pack(f"<I{len(some)}I", len(some), *some) for name, some in numbers.items()]
    return U32.pack(len(numbers)) + b"".join(parts)


def _held(tasks: Held[Task]) -> bytes:
    epochs: dict[str, dict[int, int]] = {}
    for (name, number), epoch in tasks.pairs():
        epochs.setdefault(name, {})[number] = epoch
    parts = [U32.pack(len(epochs))]
    for name in sorted(epochs):
        some = epochs[name]
        parts += (text(name), U32.pack(len(some)), *(_HELD.pack(number, some[number]) for number in sorted(some)))
    return b"".join(parts)
