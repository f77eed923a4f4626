"""Which commits of offsets a streams group takes.

Keeps: a commit is for a partition only as long as its member has the task that reads it, or gives it up. A member may
commit with an epoch before its present one if it had the task then already. (Kafka: StreamsGroup.validateOffsetCommit.)
"""

from __future__ import annotations

from collections.abc import Collection

from kio.schema.errors import ErrorCode

from gateway.groups.modern.committing import committer, fetcher
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import Task


def check_commit(
    group: StreamsGroup,
    member_id: str,
    instance_id: str | None,
    epoch: int,
    places: Collection[tuple[str | None, int]],
    *,
    modern: bool = True,
    transactional: bool = False,
) -> ErrorCode:
    """May this member commit for these partitions of topics? An administrator may if there are no members."""
    member = committer(group, member_id, instance_id, epoch, transactional=transactional)
    if isinstance(member, ErrorCode):
        return member
    if not transactional and not modern:
        return ErrorCode.unsupported_version
    if epoch == member.epoch:
        return ErrorCode.none
    if epoch < member.epoch and all(_had_it(group, member, topic, number, epoch) for topic, number in places):
        return ErrorCode.none
    return ErrorCode.stale_member_epoch


def check_fetch(group: StreamsGroup, member_id: str | None, epoch: int) -> ErrorCode:
    """May this member fetch the group's offsets? Whoever names no member may."""
    member = fetcher(group, member_id, epoch)
    if isinstance(member, ErrorCode):
        return member
    return ErrorCode.none if epoch == member.epoch else ErrorCode.stale_member_epoch


def _had_it(group: StreamsGroup, member: Member, topic: str | None, partition: int, epoch: int) -> bool:
    if group.topology is None or topic is None:
        return False
    for subtopology in group.topology.readers_of(topic):
        task = Task(subtopology, partition)
        for holdings in (member.current.assigned, member.current.revoking):
            since = holdings.active.epoch_of(task)
            if since is not None and since <= epoch:
                return True
    return False
