"""Who a commit, or a fetch, of a group's offsets is from.

Keeps: as long as a group has members, only they commit, each for itself; in a transaction whoever has its producer may.
(Kafka: ModernGroup's validateOffsetCommit.)
"""

from __future__ import annotations

from typing import Any

from kio.schema.errors import ErrorCode

from gateway.groups.modern.group import MemberT, ModernGroup


def committer(
    group: ModernGroup[MemberT, Any, Any, Any],
    member_id: str,
    instance_id: str | None,
    epoch: int,
    *,
    transactional: bool,
) -> MemberT | ErrorCode:
    """The member of a commit; NONE if it needs none: an administrator's, where there are no members."""
    if epoch < 0 and group.is_empty:
        return ErrorCode.none
    if transactional and epoch == -1 and not member_id and instance_id is None:
        return ErrorCode.none
    return group.members.get(member_id) or ErrorCode.unknown_member_id


def fetcher(group: ModernGroup[MemberT, Any, Any, Any], member_id: str | None, epoch: int) -> MemberT | ErrorCode:
    """The member of a fetch; NONE if it names none, as anybody may."""
    if member_id is None and epoch < 0:
        return ErrorCode.none
    return group.members.get(member_id or "") or ErrorCode.unknown_member_id
