"""Whether a living group may change its kind, and the change (KIP-848, `group.consumer.migration.policy`).

Keeps: a group that may not change stays as it is; the reason goes to the log. Members are gone through in turns; a
change that meets another one begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import Final

from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from core.turns import Turn
from gateway.config.loading import Config
from gateway.groups import regexes
from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import GroupRecord, Instant
from gateway.groups.classic.rules import members_max
from gateway.groups.consumer.group import ConsumerGroup, rows_of_member
from gateway.groups.consumer.messages import Heartbeat, RowKey, RowKind
from gateway.groups.consumer.migration import CannotMigrate, downgraded, upgraded
from gateway.groups.journal import is_large
from gateway.groups.modern.topics import TopicView
from gateway.groups.persistence import GROUPS_TABLE, encode_group
from gateway.refusals import Refusal

_log: Final = logging.getLogger(__name__)


async def upgrade(
    config: Config, group: GroupFacts, made: ConsumerGroup, request: Heartbeat, topics: TopicView, now: Instant
) -> bool:
    """Give the members of a classic group to a new consumer group, as `request` asks to join it.

    False: the group has changed meanwhile, and the new one must be thrown away. Raises Refusal.
    """
    if request.regex:
        regexes.check(request.regex)  # refused later, it would have changed the group for nothing
    if group.is_idle:
        return True
    before = _fingerprint(group)
    turn = Turn()
    try:
        if config.group_consumer_migration_policy not in ("bidirectional", "upgrade"):
            raise CannotMigrate("online upgrade is disabled")
        if len(group.roster) >= config.group_consumer_max_size:
            raise CannotMigrate("the group size exceeds the consumer group maximum size")
        found = await turn.through(upgraded(group, topics, now.wall_ms))
    except CannotMigrate as exc:
        _log.warning(
            "a classic group cannot become a consumer group", extra={"group": group.group_id, "reason": str(exc)}
        )
        why = f"Cannot upgrade classic group {group.group_id} to consumer group because {exc}."
        raise Refusal(ErrorCode.group_id_not_found, why) from exc
    await turn.through(made.restore(found.head, found.members, found.current, found.targets, {}, now))
    for member in found.members:
        await turn.breathe()
        for key in rows_of_member(member.member_id):
            made.note(key)
    made.note(RowKey(RowKind.HEAD))
    return _fingerprint(group) == before


def _fingerprint(group: GroupFacts) -> object:
    """What a new consumer group takes over."""
    members = [(member.member_id, member.protocols, member.assignment) for member in group.roster]
    return group.state, group.generation, members


def may_downgrade(config: Config, group: ConsumerGroup) -> bool:
    """Has it only members of the classic protocol, and may it be a classic group?"""
    if group.is_empty or not group.has_only_classic_members:
        return False
    reason = None
    if config.group_consumer_migration_policy not in ("bidirectional", "downgrade"):
        reason = "online downgrade is disabled"
    elif group.member_count > members_max(config.group_max_size):
        reason = "its size is greater than group.max.size"
    if reason is not None:
        facts = {"group": group.group_id, "reason": reason}
        _log.warning("a consumer group of classic members stays a consumer group", extra=facts)
    return reason is None


async def downgrade(
    group: ConsumerGroup, take: Callable[[GroupRecord], Generator[None, None, None]], now: Instant
) -> Put | None:
    """Give the members of a consumer group, of which none is of the consumer protocol, to a new classic group, which
    takes them by `take`; returns what stores that. None: the group has changed meanwhile, and the new one must go."""
    before = _moment(group)
    turn = Turn()
    record = await turn.through(downgraded(group, now.wall_ms))
    await turn.through(take(record))
    value = await asyncio.to_thread(encode_group, record) if is_large(record) else encode_group(record)
    return Put(GROUPS_TABLE, group.group_id.encode(), value) if _moment(group) == before else None


def _moment(group: ConsumerGroup) -> object:
    return group.epoch, [(member.member_id, member.epoch, member.assigned) for member in group.members.values()]
