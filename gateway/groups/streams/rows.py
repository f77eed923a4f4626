"""A streams group as rows of a table, and a group made from them.

Keeps: what a row says follows from the group alone, so that a row may be encoded later than it was noted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.groups.classic.messages import Instant
from gateway.groups.modern.rows import STORING_TARGETS, Row, every_key
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


def all_keys(group: StreamsGroup) -> Iterable[RowKey]:
    """The keys of every row that the group has now, or may have."""
    own = [RowKey(RowKind.HEAD), RowKey(RowKind.TOPOLOGY), *group.changed]
    return every_key(own, list(group.members), rows_of_member)


def decoded(key: RowKey, value: bytes) -> Any:
    """What a row says. Raises UnreadableRecord."""
    match key.kind:
        case RowKind.HEAD:
            return stored.decode_head(value)
        case RowKind.TOPOLOGY:
            return stored.decode_topology(value)
        case RowKind.MEMBER:
            return stored.decode_member(key.name, value)
        case RowKind.CURRENT:
            return stored.decode_current(value)
        case RowKind.TARGET:
            return stored.decode_target(value)


def restored(group: StreamsGroup, rows: Mapping[RowKey, Any], now: Instant) -> Generator[None, None, None]:
    """Give a new group its stored state, from what its rows say, in steps."""
    by_kind: dict[RowKind, dict[str, Any]] = {kind: {} for kind in RowKind}
    for key, said in rows.items():
        yield
        by_kind[key.kind][key.name] = said
    yield from group.restore(
        by_kind[RowKind.HEAD][""],
        by_kind[RowKind.TOPOLOGY].get(""),
        by_kind[RowKind.MEMBER].values(),
        by_kind[RowKind.CURRENT],
        by_kind[RowKind.TARGET],
        now,
    )
