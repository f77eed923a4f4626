"""Which commits of offsets a consumer group takes.

Keeps: a commit is for a partition only as long as its member has it, or gives it up: of two members that had a
partition one after the other, the former never overwrites the offset of the latter. A member may commit with an epoch
before its present one if it had the partition then already. (Kafka: ConsumerGroup.validateOffsetCommit.)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.member import Member
from gateway.groups.modern.committing import committer, fetcher

Place: TypeAlias = tuple[UUID, int]
"""A topic's id, and a partition."""


def check_commit(
    group: ConsumerGroup,
    member_id: str,
    instance_id: str | None,
    epoch: int,
    places: Collection[Place],
    *,
    modern: bool = True,
    transactional: bool = False,
) -> ErrorCode:
    """May this member commit for these partitions? An administrator may if there are no members."""
    member = committer(group, member_id, instance_id, epoch, transactional=transactional)
    if isinstance(member, ErrorCode):
        return member
    if not transactional and member.classic is None and not modern:
        return ErrorCode.unsupported_version
    if epoch == member.epoch:
        return ErrorCode.none
    if epoch < member.epoch and all(_had_it(member, place, epoch) for place in places):
        return ErrorCode.none
    return _stale(member)


def check_fetch(group: ConsumerGroup, member_id: str | None, epoch: int) -> ErrorCode:
    """May this member fetch the group's offsets? Whoever names no member may."""
    member = fetcher(group, member_id, epoch)
    if isinstance(member, ErrorCode):
        return member
    return ErrorCode.none if epoch == member.epoch else _stale(member)


def _had_it(member: Member, place: Place, epoch: int) -> bool:
    topic, partition = place
    for holdings in (member.assigned, member.revoking):
        since = holdings.get(topic, {}).get(partition)
        if since is not None:
            return epoch >= since
    return False


def _stale(member: Member) -> ErrorCode:
    return ErrorCode.stale_member_epoch if member.classic is None else ErrorCode.illegal_generation
