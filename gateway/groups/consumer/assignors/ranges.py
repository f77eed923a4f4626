"""The assignor `range`: neighbouring partitions of each topic to each of its members, in one order for all topics.

Keeps: topics with as many partitions and the same members are co-partitioned: a member has the same partitions of
each. Static members come first, by instance id, so that a restart moves nothing. (Kafka: RangeAssignor.)
"""

from __future__ import annotations

from uuid import UUID

from gateway.groups.consumer.assignors.spec import GroupSpec, MemberSpec
from gateway.groups.consumer.messages import Partitions


def assign(group: GroupSpec) -> dict[str, Partitions]:
    """Each member's partitions."""
    members = sorted(group.members, key=_place)
    subscribers: dict[UUID, int] = {}
    for member in members:
        for topic in member.topics:
            subscribers[topic] = subscribers.get(topic, 0) + 1
    begun: dict[UUID, tuple[int, int]] = {}  # members served, and partitions given, so far
    targets: dict[str, Partitions] = {}
    for member in members:
        target: dict[UUID, frozenset[int]] = {}
        for topic in member.topics:
            served, start = begun.get(topic, (0, 0))
            share, extra = divmod(group.partition_counts[topic], subscribers[topic])
            end = start + share + (served < extra)
            begun[topic] = served + 1, end
            if end > start:
                target[topic] = frozenset(range(start, end))
        targets[member.member_id] = target
    return targets


def _place(member: MemberSpec) -> tuple[bool, str]:
    is_dynamic = member.instance_id is None
    return is_dynamic, member.member_id if member.instance_id is None else member.instance_id
