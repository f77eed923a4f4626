"""A streams group as rows of a table, and a group made from them.

Keeps: what a row says follows from the group alone, so that a row may be encoded later than it was noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from gateway.groups.classic.messages import Instant
from gateway.groups.modern.rows import STORING_TARGETS, Row
from gateway.groups.streams import format as stored
from gateway.groups.streams.group import StreamsGroup, rows_of_member
from gateway.groups.streams.messages import RowKey, RowKind


def row(group: StreamsGroup, key: RowKey) -> Row | None:
    """One row as it is now; None if there is none any more."""
    if key.kind is RowKind.HEAD:
        return Row(0, partial(stored.encode_head, group.head()))
    if key.kind is RowKind.TOPOLOGY:
        topology = group.topology
        return None if topology is None else Row(len(topology.required), partial(stored.encode_topology, topology))
    member = group.members.get(key.name)
    if member is None:
        return None
    if key.kind is RowKind.MEMBER:
        return Row(0, partial(stored.encode_member, member.record))
    if key.kind is RowKind.CURRENT:
        current = member.current
        size = sum(len(one.active) + len(one.standby) for one in (current.assigned, current.revoking))
        return Row(size, partial(stored.encode_current, current))
    target = group.target_of(key.name)
    return Row(len(target.active) + len(target.standby), partial(stored.encode_target, target))


def unfinished_head(group: StreamsGroup) -> bytes:
    """The head of a group whose targets are being stored in several records."""
    return stored.encode_head(replace(group.head(), target_epoch=STORING_TARGETS))


def all_keys(group: StreamsGroup) -> list[RowKey]:
    """The keys of every row that the group has or may have."""
    keys = dict.fromkeys([RowKey(RowKind.HEAD), RowKey(RowKind.TOPOLOGY), *group.changed])
    for member_id in group.members:
        keys |= dict.fromkeys(rows_of_member(member_id))
    return list(keys)


def restored(group: StreamsGroup, rows: Mapping[RowKey, bytes], now: Instant) -> None:
    """Give a new group its stored state. Raises UnreadableRecord."""
    by_kind: dict[RowKind, dict[str, bytes]] = {kind: {} for kind in RowKind}
    for key, value in rows.items():
        by_kind[key.kind][key.name] = value
    topology = by_kind[RowKind.TOPOLOGY].get("")
    group.restore(
        stored.decode_head(by_kind[RowKind.HEAD][""]),
        None if topology is None else stored.decode_topology(topology),
        [stored.decode_member(member_id, value) for member_id, value in by_kind[RowKind.MEMBER].items()],
        {member_id: stored.decode_current(value) for member_id, value in by_kind[RowKind.CURRENT].items()},
        {member_id: stored.decode_target(value) for member_id, value in by_kind[RowKind.TARGET].items()},
        now,
    )
