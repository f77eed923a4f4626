"""The stored form of groups and committed offsets: byte layouts, with writer and reader side by side.

Keeps: a released number or layout is never used for anything else; every value begins with its
version; a reader refuses unknown versions and bytes that are too few or too many.

All numbers are little-endian, except the partition in a key (big-endian: keys sort by partition).

    text   u32 length, UTF-8        text?   the same, length 0xFFFFFFFF for null
    blob   u32 length, bytes

Table "groups". Key: the group id, UTF-8. Value:

    u8    version (1)
    i32   generation
    i64   wall-clock milliseconds at which the group entered this state
    text? protocol type             text?   protocol name          text?   leader's member id
    u32   member count, then per member:
          text  member id           text?   instance id
          text  client id           text    client host
          i32   session time-out ms         i32   rebalance time-out ms
          u32   protocol count, then per protocol:   text name   blob metadata
          blob  assignment

Table "offsets". One entry per group, topic and partition. Key:

    u16 length, group id, UTF-8     u16 length, topic, UTF-8       u32 partition, big-endian

Value:

    u8    version (2; 1 has no topic id)
    i64   offset
    i32   leader epoch, -1 for none
    i64   wall-clock milliseconds of the commit
    i64   wall-clock milliseconds at which it expires, -1: by offsets.retention.minutes
    16 bytes  id of the topic, from version 2 on
    rest  metadata, UTF-8

An offset of version 1 is of whatever topic has the name. It is still written for a topic that is not known, and in a
cluster below the level of `core.cluster.levels.Feature.STREAM_IDS`.

Example: group "g", topic "t" with id 16 times 07, partition 3, offset 5, epoch 2, committed at 1,000, metadata "m":

    key    0100 67  0100 74  00000003
    value  02 0500000000000000 02000000 e803000000000000 ffffffffffffffff 07070707070707070707070707070707 6d
    or     01 0500000000000000 02000000 e803000000000000 ffffffffffffffff 6d
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from core.errors import ErrorKind, StoreError
from gateway.groups.classic.messages import GroupRecord, MemberRecord, Protocol

GROUPS_TABLE: Final = "groups"
OFFSETS_TABLE: Final = "offsets"

GROUP_VERSION: Final = 1
NAMELESS_OFFSET_VERSION: Final = 1
OFFSET_VERSION: Final = 2

#: Bytes of a group's record that is decoded at once, in some 2 ms; a larger one is decoded in a thread.
GROUP_BYTES_AT_ONCE: Final = 64 * 1024

NO_EPOCH: Final = -1
NO_EXPIRY: Final = -1
NO_TOPIC_ID: Final = b""

_NULL: Final = 0xFFFF_FFFF
_U32: Final = struct.Struct("<I")
_GROUP_HEAD: Final = struct.Struct("<Biq")
_TIMEOUTS: Final = struct.Struct("<ii")
_KEY_LENGTH: Final = struct.Struct("<H")
_KEY_PARTITION: Final = struct.Struct(">I")
_OFFSET: Final = struct.Struct("<Bqiqq")
assert _OFFSET.size == 29
_METADATA_AT: Final = {NAMELESS_OFFSET_VERSION: _OFFSET.size, OFFSET_VERSION: _OFFSET.size + 16}
#: Ids that do not fit into a key are refused where requests are checked.
KEY_TEXT_BYTES_MAX: Final = 0xFFFF


class UnreadableRecord(StoreError):
    """Stored bytes that this version cannot read: written by a newer release, or damaged."""

    kind = ErrorKind.CORRUPT

    def __init__(self, what: str) -> None:
        advice = "Start the release that wrote it; if none did, restore the data directory from a backup"
        super().__init__(f"{what}. {advice}")


class CommittedOffset(NamedTuple):
    """A consumer's commit for one partition. The topic's id is its 16 bytes, or NO_TOPIC_ID."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_ms: int
    expire_ms: int = NO_EXPIRY
    topic_id: bytes = NO_TOPIC_ID


class OffsetKey(NamedTuple):
    """The key of an offset: group, topic and partition."""

    group_id: str
    topic: str
    partition: int


def encode_offset_key(key: OffsetKey) -> bytes:
    group, topic = key.group_id.encode(), key.topic.encode()
    return b"".join(
        (
            _KEY_LENGTH.pack(len(group)),
            group,
            _KEY_LENGTH.pack(len(topic)),
            topic,
            _KEY_PARTITION.pack(key.partition),
        )
    )


def decode_offset_key(data: bytes) -> OffsetKey:
    try:
        group, position = _key_text(data, 0)
        topic, position = _key_text(data, position)
        (partition,) = _KEY_PARTITION.unpack(data[position:])
    except (struct.error, UnicodeDecodeError) as exc:
        raise UnreadableRecord(f"key of a committed offset: {data.hex()}") from exc
    return OffsetKey(group, topic, partition)


def encode_offset(committed: CommittedOffset) -> bytes:
    head = _OFFSET.pack(
        OFFSET_VERSION if committed.topic_id else NAMELESS_OFFSET_VERSION,
        committed.offset,
        committed.leader_epoch,
        committed.commit_ms,
        committed.expire_ms,
    )
    return b"".join((head, committed.topic_id, committed.metadata.encode()))


def offset_times_ms(data: bytes) -> tuple[int, int]:
    """Commit time and expiry of a stored offset that was read before: a sweep needs no more."""
    _, _, _, commit_ms, expire_ms = _OFFSET.unpack_from(data)
    return commit_ms, expire_ms


def offset_topic_id(data: bytes) -> bytes:
    """The topic's id in a stored offset that was read before; NO_TOPIC_ID if it has none."""
    return data[_OFFSET.size : _METADATA_AT[data[0]]]


def decode_offset(data: bytes) -> CommittedOffset:
    _check_version("committed offset", data, OFFSET_VERSION)
    try:
        version, offset, leader_epoch, commit_ms, expire_ms = _OFFSET.unpack_from(data)
        metadata_at = _METADATA_AT[version]
        if len(data) < metadata_at:
            raise struct.error("the topic's id is cut off")
        metadata = data[metadata_at:].decode()
    except (struct.error, KeyError, UnicodeDecodeError) as exc:
        raise UnreadableRecord(f"committed offset: {data.hex()}") from exc
    return CommittedOffset(offset, leader_epoch, metadata, commit_ms, expire_ms, data[_OFFSET.size : metadata_at])


def encode_group(record: GroupRecord) -> bytes:
    parts = [
        _GROUP_HEAD.pack(GROUP_VERSION, record.generation, record.state_since_ms),
        _text(record.protocol_type),
        _text(record.protocol_name),
        _text(record.leader),
        _U32.pack(len(record.members)),
    ]
    for member in record.members:
        parts += (
            _text(member.member_id),
            _text(member.instance_id),
            _text(member.client_id),
            _text(member.client_host),
            _TIMEOUTS.pack(member.session_timeout_ms, member.rebalance_timeout_ms),
            _U32.pack(len(member.protocols)),
        )
        for name, metadata in member.protocols:
            parts += (_text(name), _U32.pack(len(metadata)), metadata)  # not put together first: it may be a megabyte
        parts += (_U32.pack(len(member.assignment)), member.assignment)
    return b"".join(parts)


def least_bytes(record: GroupRecord) -> int:
    """What a group's record has at least: what its members said of themselves, and were assigned."""
    return sum(
        [len(member.assignment) + sum([len(metadata) for _, metadata in member.protocols]) for member in record.members]
    )


def decode_group(data: bytes) -> GroupRecord:
    _check_version("group", data, GROUP_VERSION)
    reader = _Reader(data)
    try:
        _, generation, state_since_ms = reader.take(_GROUP_HEAD)
        record = GroupRecord(
            generation=generation,
            state_since_ms=state_since_ms,
            protocol_type=reader.optional_text(),
            protocol_name=reader.optional_text(),
            leader=reader.optional_text(),
            members=tuple(_read_member(reader) for _ in range(reader.count())),
        )
    except (struct.error, UnicodeDecodeError) as exc:
        raise UnreadableRecord(f"group of {len(data)} bytes: {exc}") from exc
    if reader.position != len(data):
        raise UnreadableRecord(f"group: {len(data) - reader.position} bytes too many")
    return record


def _read_member(reader: _Reader) -> MemberRecord:
    member_id, instance_id = reader.text(), reader.optional_text()
    client_id, client_host = reader.text(), reader.text()
    session_timeout_ms, rebalance_timeout_ms = reader.take(_TIMEOUTS)
    return MemberRecord(
        member_id=member_id,
        instance_id=instance_id,
        client_id=client_id,
        client_host=client_host,
        session_timeout_ms=session_timeout_ms,
        rebalance_timeout_ms=rebalance_timeout_ms,
        protocols=tuple(Protocol(reader.text(), reader.blob()) for _ in range(reader.count())),
        assignment=reader.blob(),
    )


class _Reader:
    """Reads a value field by field; struct.error if it is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self._data, self.position)
        self.position += form.size
        return values

    def count(self) -> int:
        return self.take(_U32)[0]

    def blob(self) -> bytes:
        return self._bytes(self.count())

    def text(self) -> str:
        return self.blob().decode()

    def optional_text(self) -> str | None:
        length = self.count()
        return None if length == _NULL else self._bytes(length).decode()

    def _bytes(self, length: int) -> bytes:
        value = self._data[self.position : self.position + length]
        if len(value) != length:
            raise struct.error(f"{length} bytes wanted, {len(value)} left")
        self.position += length
        return value


def _key_text(data: bytes, position: int) -> tuple[str, int]:
    (length,) = _KEY_LENGTH.unpack_from(data, position)
    start = position + _KEY_LENGTH.size
    return data[start : start + length].decode(), start + length


def _text(value: str | None) -> bytes:
    return _U32.pack(_NULL) if value is None else _blob(value.encode())


def _blob(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _check_version(what: str, data: bytes, newest: int) -> None:
    """Check the version before anything else: the layout of the rest depends on it."""
    if not data:
        raise UnreadableRecord(f"{what}: no bytes")
    if not 1 <= data[0] <= newest:
        raise UnreadableRecord(f"{what} has version {data[0]}, this release reads up to {newest}")
