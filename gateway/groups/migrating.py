"""Whether a living group may change its kind, and the change (KIP-848, `group.consumer.migration.policy`).

Keeps: a group that may not change stays as it is; the reason goes to the log.
"""

from __future__ import annotations

import logging
from typing import Final

from kio.schema.errors import ErrorCode

from core.applied.tables import Put
from gateway.config.loading import Config
from gateway.groups import regexes
from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import GroupRecord, Instant
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import Heartbeat, RowKey, RowKind, TopicView
from gateway.groups.consumer.migration import CannotMigrate, downgraded, upgraded
from gateway.groups.consumer.rows import all_keys
from gateway.groups.persistence import GROUPS_TABLE, encode_group
from gateway.refusals import Refusal

_log: Final = logging.getLogger(__name__)


def upgrade(
    config: Config, group: GroupFacts, made: ConsumerGroup, request: Heartbeat, topics: TopicView, now: Instant
) -> None:
    """Give the members of a classic group to a new consumer group, as `request` asks to join it. Raises Refusal."""
    if request.regex:
        regexes.check(request.regex)  # refused later, it would have changed the group for nothing
    if group.is_idle:
        return
    group_id = group.group_id
    try:
        if config.group_consumer_migration_policy not in ("bidirectional", "upgrade"):
            raise CannotMigrate("online upgrade is disabled")
        if len(group.roster) >= config.group_consumer_max_size:
            raise CannotMigrate("the group size exceeds the consumer group maximum size")
        found = upgraded(group, topics, now.wall_ms)
    except CannotMigrate as exc:
        _log.warning("a classic group cannot become a consumer group", extra={"group": group_id, "reason": str(exc)})
        why = f"Cannot upgrade classic group {group_id} to consumer group because {exc}."
        raise Refusal(ErrorCode.group_id_not_found, why) from exc
    made.restore(found.head, found.members, found.current, found.targets, {}, now)
    for key in all_keys(made):
        made.note(key)
    made.note(RowKey(RowKind.HEAD))


def may_downgrade(config: Config, group: ConsumerGroup) -> bool:
    """Has it only members of the classic protocol, and may it be a classic group?"""
    if group.is_empty or any(member.classic is None for member in group.members.values()):
        return False
    reason = None
    if config.group_consumer_migration_policy not in ("bidirectional", "downgrade"):
        reason = "online downgrade is disabled"
    elif group.member_count > config.group_max_size:
        reason = "its size is greater than group.max.size"
    if reason is not None:
        facts = {"group": group.group_id, "reason": reason}
        _log.warning("a consumer group of classic members stays a consumer group", extra=facts)
    return reason is None


def downgrade(group: ConsumerGroup, now: Instant) -> GroupRecord:
    """A consumer group without members of the consumer protocol, as a classic group."""
    return downgraded(group, now.wall_ms)


def put(group_id: str, record: GroupRecord) -> Put:
    return Put(GROUPS_TABLE, group_id.encode(), encode_group(record))
