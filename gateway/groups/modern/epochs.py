"""Epochs of groups and their members, as the protocols of consumer, share and streams groups have them in common.

Keeps: an epoch is a positive i32 that only grows until it wraps; a member with another epoch than its own is fenced.
"""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal

JOINING_EPOCH: Final = 0
LEAVING_EPOCH: Final = -1
FIRST_EPOCH: Final = 1
"""A new group's epoch; the first target is for it or a later one."""
EPOCH_MAX: Final = 2**31 - 1
WAITING_INTERVAL_MS: Final = 1_000
"""Time between two heartbeats of a member that waits for others, or for a target, if the usual one is not shorter."""
WAITING_INTERVAL_MS_PER_MEMBER: Final = 2
"""With many members it is longer: together they send 500 heartbeats a second at most, a tenth of a core."""


def next_epoch(epoch: int) -> int:
    return epoch % EPOCH_MAX + 1


def waiting_interval_ms(usual_ms: int, members: int) -> int:
    """The time to the next heartbeat of a member that waits, in a group of so many."""
    return min(usual_ms, max(WAITING_INTERVAL_MS, WAITING_INTERVAL_MS_PER_MEMBER * members))


def fenced(kind: str, told: int, known: int) -> Refusal:
    """A member of a group of this kind told an epoch that is not its own. Kafka's words."""
    order = "greater" if told > known else "smaller"
    why = (
        f"The {kind} group member has a {order} member epoch ({told}) than the one known by the group coordinator "
        f"({known}). The member must abandon all its partitions and rejoin."
    )
    return Refusal(ErrorCode.fenced_member_epoch, why)


def unknown_member(member_id: str, group_id: str) -> Refusal:
    return Refusal(ErrorCode.unknown_member_id, f"Member {member_id} is not a member of group {group_id}.")


def full(kind: str, members_max: int) -> Refusal:
    """A group of this kind has as many members as it may have. Kafka's words."""
    why = f"The {kind} group has reached its maximum capacity of {members_max} members."
    return Refusal(ErrorCode.group_max_size_reached, why)
