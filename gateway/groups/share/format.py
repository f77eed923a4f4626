"""The stored form of share groups (KIP-932): a row for each group, and one for each of its partitions.

Keeps: a released number or layout is never used for anything else; every value begins with its version; a reader
refuses unknown versions and bytes that are too few or too many. Who holds a record is not stored: after a restart
nobody does. Deliveries that ended are still counted, one that the restart cut off is not.

All numbers are little-endian, except the partition in a key.

Table "sharegroups", in the container of the group. Key: group id, UTF-8. Value:

    u8    version (1)
    i32   epoch

Table "sharepartitions", in the container of the partition. Key:

    u16   length, group id, UTF-8       16 bytes topic id       u32 partition, big-endian

Value:

    u8    version (1)
    i64   start offset
    then for each run of records up to the end: u32 records, u8 state, u8 deliveries
    states: 0 available, 2 settled, 3 rejected and 4 exhausted, which wait for their place in a dead-letter topic

Example: group "g", topic id 16 times 07, partition 3, start 5, one record delivered twice, two settled:

    key    0100 67 07070707070707070707070707070707 00000003
    value  01 0500000000000000 01000000 00 02 02000000 02 00
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple
from uuid import UUID

from gateway.groups.persistence import UnreadableRecord
from gateway.groups.share.partition import Run, SharePartition, State

GROUPS_TABLE: Final = "sharegroups"
PARTITIONS_TABLE: Final = "sharepartitions"
VERSION: Final = 1

_GROUP: Final = struct.Struct("<Bi")
_LENGTH: Final = struct.Struct("<H")
_PLACE: Final = struct.Struct(">16sI")
_HEAD: Final = struct.Struct("<Bq")
_RUN: Final = struct.Struct("<IBB")
_RUN_MAX: Final = 2**32 - 1


class PlaceKey(NamedTuple):
    """A partition as one group shares it."""

    group_id: str
    topic: UUID
    partition: int


def encode_epoch(epoch: int) -> bytes:
    return _GROUP.pack(VERSION, epoch)


def decode_epoch(data: bytes) -> int:
    """Raises UnreadableRecord."""
    _check_version("share group", data)
    if len(data) != _GROUP.size:
        raise UnreadableRecord(f"share group of {len(data)} bytes instead of {_GROUP.size}")
    epoch: int = _GROUP.unpack(data)[1]
    return epoch


def encode_group_prefix(group_id: str) -> bytes:
    """What the keys of all partitions of a group begin with."""
    group = group_id.encode()
    return _LENGTH.pack(len(group)) + group


def encode_place(topic: UUID, partition: int) -> bytes:
    """What the keys of a partition end with, whichever group they are of."""
    return _PLACE.pack(topic.bytes, partition)


def encode_key(key: PlaceKey) -> bytes:
    return encode_group_prefix(key.group_id) + encode_place(key.topic, key.partition)


def decode_key(data: bytes) -> PlaceKey:
    """Raises UnreadableRecord."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        topic, partition = _PLACE.unpack(data[2 + length :])
        return PlaceKey(data[2 : 2 + length].decode(), UUID(bytes=topic), partition)
    except (struct.error, ValueError) as exc:
        raise UnreadableRecord(f"key of a share group's partition: {data.hex()}") from exc


def encode_partition(partition: SharePartition) -> bytes:
    parts = [_HEAD.pack(VERSION, partition.start)]
    for run in partition.runs:
        is_held = run.state is State.HELD
        state = State.AVAILABLE if is_held else run.state
        size = run.size
        while size > 0:
            parts.append(_RUN.pack(min(size, _RUN_MAX), state, run.count - is_held))
            size -= _RUN_MAX
    return b"".join(parts)


def decode_partition(data: bytes) -> SharePartition:
    """Raises UnreadableRecord."""
    _check_version("share group's partition", data)
    try:
        _, start = _HEAD.unpack_from(data)
        runs = []
        first = start
        for size, state, count in _RUN.iter_unpack(data[_HEAD.size :]):
            runs.append(Run(first, first + size - 1, _STORED[state], count))
            first += size
    except (struct.error, KeyError) as exc:
        raise UnreadableRecord(f"share group's partition of {len(data)} bytes: {exc}") from exc
    return SharePartition(start, runs)


_STORED: Final = {int(state): state for state in State if state is not State.HELD}


def _check_version(what: str, data: bytes) -> None:
    if not data or data[0] != VERSION:
        told = f"version {data[0]}" if data else "no bytes"
        raise UnreadableRecord(f"{what} has {told}, this release reads {VERSION}")
