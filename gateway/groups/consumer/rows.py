"""A consumer group as rows of a table, and a group made from them.

Keeps: what a row says follows from the group alone, so that a row may be encoded later than it was noted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sized
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from gateway.groups.classic.messages import Instant
from gateway.groups.consumer import format as stored
from gateway.groups.consumer.group import ConsumerGroup, rows_of_member
from gateway.groups.consumer.messages import RowKey, RowKind
from gateway.groups.modern.rows import STORING_TARGETS, Row, every_key


def row(group: ConsumerGroup, key: RowKey) -> Row | None:
    """One row as it is now; None if there is none any more."""
    if key.kind is RowKind.HEAD:
        return Row(0, partial(stored.encode_head, group.head()))
    if key.kind is RowKind.REGEX:
        topics = group.subscriptions.resolved.get(key.name)
        return None if topics is None else Row(len(topics), partial(stored.encode_regex, topics))
    member = group.members.get(key.name)
    if member is None:
        return None
    if key.kind is RowKind.MEMBER:
        return Row(len(member.names), partial(stored.encode_member, member.record()))
    if key.kind is RowKind.CURRENT:
        size = _size_of(member.assigned) + _size_of(member.revoking)
        return Row(size, partial(stored.encode_current, member.current()))
    target = group.target_of(key.name)
    return Row(_size_of(target), partial(stored.encode_target, target))


def _size_of(partitions: Mapping[UUID, Sized]) -> int:
    """Topics and partitions."""
    return len(partitions) + sum(map(len, partitions.values()))


def unfinished_head(group: ConsumerGroup) -> bytes:
    """The head of a group whose targets are being stored in several records."""
    return stored.encode_head(replace(group.head(), target_epoch=STORING_TARGETS))


def all_keys(group: ConsumerGroup) -> Iterable[RowKey]:
    """The keys of every row that the group has now, or may have."""
    regexes = [RowKey(RowKind.REGEX, regex) for regex in group.subscriptions.resolved]
    return every_key([RowKey(RowKind.HEAD), *regexes, *group.changed], list(group.members), rows_of_member)


def decoded(key: RowKey, value: bytes) -> Any:
    """What a row says. Raises UnreadableRecord."""
    match key.kind:
        case RowKind.HEAD:
            return stored.decode_head(value)
        case RowKind.MEMBER:
            return stored.decode_member(key.name, value)
        case RowKind.CURRENT:
            return stored.decode_current(value)
        case RowKind.TARGET:
            return stored.decode_target(value)
        case RowKind.REGEX:
            return stored.decode_regex(value)


def restored(group: ConsumerGroup, rows: Mapping[RowKey, Any], now: Instant) -> Generator[None, None, None]:
    """Give a new group its stored state, from what its rows say, in steps."""
    by_kind: dict[RowKind, dict[str, Any]] = {kind: {} for kind in RowKind}
    for key, said in rows.items():
        yield
        by_kind[key.kind][key.name] = said
    yield from group.restore(
        by_kind[RowKind.HEAD][""],
        by_kind[RowKind.MEMBER].values(),
        by_kind[RowKind.CURRENT],
        by_kind[RowKind.TARGET],
        by_kind[RowKind.REGEX],
        now,
    )
