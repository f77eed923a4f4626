"""A consumer group's target, computed from what the group was at one moment.

Keeps: a draft never changes, so that a target may be computed in a thread; what is computed tells in which topics each
member's target differs from the one before, so that nobody need compare them whole again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from gateway.groups.consumer.assignors import ASSIGNORS
from gateway.groups.consumer.assignors.spec import GroupSpec, MemberSpec
from gateway.groups.consumer.messages import NO_PARTITIONS, Partitions
from gateway.groups.modern.subscriptions import ids_of
from gateway.groups.modern.topics import Topic


class MemberDraft(NamedTuple):
    """A member: the names that it subscribes to, and those of its regular expression."""

    member_id: str
    instance_id: str | None
    subscription: tuple[frozenset[str], frozenset[str]]
    target: Partitions


class Difference(NamedTuple):
    """A new target beside the one before: the topics of which it takes partitions away, and of which it adds some."""

    before: Partitions
    target: Partitions
    takes: dict[UUID, None]
    adds: dict[UUID, None]


class Computed(NamedTuple):
    """New targets of an epoch, of those members whose target is another; and the partitions of all targets."""

    epoch: int
    changes: Mapping[str, Difference]
    partition_count: int


class Draft(NamedTuple):
    """What a target is computed from. `topics` are all that members want and that exist."""

    epoch: int
    assignor: str
    members: tuple[MemberDraft, ...]
    topics: Mapping[str, Topic]

    def compute(self) -> Computed:
        targets = ASSIGNORS[self.assignor](self._spec())
        changes = {}
        for member in self.members:
            target = targets.get(member.member_id, NO_PARTITIONS)
            if target != member.target:
                changes[member.member_id] = _difference(member.target, target)
        count = sum(len(partitions) for target in targets.values() for partitions in target.values())
        return Computed(self.epoch, changes, count)

    def _spec(self) -> GroupSpec:
        ids: dict[tuple[frozenset[str], frozenset[str]], frozenset[UUID]] = {}
        members = []
        for member_id, instance_id, subscription, target in self.members:
            topics = ids.get(subscription)
            if topics is None:
                topics = ids[subscription] = ids_of(self.topics, subscription)
            members.append(MemberSpec(member_id, instance_id, topics, target))
        return GroupSpec(tuple(members), {topic.id: topic.partition_count for topic in self.topics.values()})


def _difference(before: Partitions, target: Partitions) -> Difference:
    takes = {topic: None for topic, held in before.items() if not held <= target.get(topic, frozenset())}
    adds = {topic: None for topic, wanted in target.items() if not wanted <= before.get(topic, frozenset())}
    return Difference(before, target, takes, adds)
