"""Which commits of offsets a classic group takes.

Keeps: nothing is committed for a member that the group does not have, nor in a generation that is over. Who commits is
alive. (Kafka: ClassicGroup.validateOffsetCommit.)
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from gateway.groups.classic.admission import check_member_now
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import NO_MEMBER_ID, Instant
from gateway.groups.classic.states import GroupState


def admit_commit(
    group: Group, member_id: str, instance_id: str | None, generation: int, now: Instant, *, transactional: bool = False
) -> ErrorCode:
    """May this member commit offsets now? If so, it is alive."""
    if generation < 0 and group.is_empty:  # an administrator, or a consumer that assigns its own partitions
        return ErrorCode.none
    names_nobody = generation < 0 and member_id == NO_MEMBER_ID and instance_id is None
    if names_nobody:
        # In a transaction a client that names no member may: its producer is fenced.
        return ErrorCode.none if transactional else ErrorCode.unknown_member_id
    error = check_member_now(group, member_id, instance_id, generation)
    if error is not ErrorCode.none:
        return error
    if group.state is GroupState.COMPLETING_REBALANCE and not transactional:
        # It has had the answer to its join, so it knows how to react to this error.
        return ErrorCode.rebalance_in_progress
    group.extend_session(group.roster[member_id], now)
    return ErrorCode.none
