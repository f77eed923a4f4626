"""A consumer group as rows of a table, and a group made from them.

Keeps: what a row says follows from the group alone, so that a row may be encoded later than it was noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from gateway.groups.classic.messages import Instant
from gateway.groups.consumer import format as stored
from gateway.groups.consumer.group import ConsumerGroup, rows_of_member
from gateway.groups.consumer.messages import RowKey, RowKind
from gateway.groups.modern.rows import STORING_TARGETS, Row


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
        size = len(member.assigned) + len(member.revoking)
        return Row(size, partial(stored.encode_current, member.current()))
    target = group.target_of(key.name)
    return Row(len(target), partial(stored.encode_target, target))


def unfinished_head(group: ConsumerGroup) -> bytes:
    """The head of a group whose targets are being stored in several records."""
    return stored.encode_head(replace(group.head(), target_epoch=STORING_TARGETS))


def all_keys(group: ConsumerGroup) -> list[RowKey]:
    """The keys of every row that the group has or may have."""
    keys = dict.fromkeys([RowKey(RowKind.HEAD), *group.changed])
    for member_id in group.members:
        keys |= dict.fromkeys(rows_of_member(member_id))
    for regex in group.subscriptions.resolved:
        keys[RowKey(RowKind.REGEX, regex)] = None
    return list(keys)


def restored(group: ConsumerGroup, rows: Mapping[RowKey, bytes], now: Instant) -> None:
    """Give a new group its stored state. Raises UnreadableRecord."""
    by_kind: dict[RowKind, dict[str, bytes]] = {kind: {} for kind in RowKind}
    for key, value in rows.items():
        by_kind[key.kind][key.name] = value
    steps = group.restore(
        stored.decode_head(by_kind[RowKind.HEAD][""]),
        [stored.decode_member(member_id, value) for member_id, value in by_kind[RowKind.MEMBER].items()],
        {member_id: stored.decode_current(value) for member_id, value in by_kind[RowKind.CURRENT].items()},
        {member_id: stored.decode_target(value) for member_id, value in by_kind[RowKind.TARGET].items()},
        {regex: stored.decode_regex(value) for regex, value in by_kind[RowKind.REGEX].items()},
        now,
    )
    for _ in steps:
        pass
