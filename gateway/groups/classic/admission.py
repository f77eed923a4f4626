"""Checks of a member's requests to its group, in Kafka's order, each with its error.

Keeps: the checks read the group and change nothing.
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import JoinRequest, SyncRequest
from gateway.groups.classic.roster import Roster
from gateway.groups.classic.states import GroupState


def supports(group: GroupFacts, request: JoinRequest) -> bool:
    """Does the member share a protocol of the group's type with all others?"""
    names = {protocol.name for protocol in request.protocols}
    if group.is_empty:
        return bool(request.protocol_type and names)
    return group.protocol_type == request.protocol_type and group.roster.supports_any(names)


def check_member(roster: Roster, member_id: str, instance_id: str | None) -> ErrorCode:
    """Is this member in the group, and does it still hold its instance id?"""
    if instance_id is not None:
        current_id = roster.static_id(instance_id)
        if current_id is None:
            return ErrorCode.unknown_member_id
        if current_id != member_id:
            return ErrorCode.fenced_instance_id
    return ErrorCode.none if member_id in roster else ErrorCode.unknown_member_id


def check_member_now(group: GroupFacts, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
    """Is it a member of the present generation?"""
    if group.state is GroupState.DEAD:
        return ErrorCode.coordinator_not_available
    error = check_member(group.roster, member_id, instance_id)
    if error is ErrorCode.none and generation != group.generation:
        return ErrorCode.illegal_generation
    return error


def check_sync(group: GroupFacts, request: SyncRequest) -> ErrorCode:
    """May this member have its assignment?"""
    error = check_member_now(group, request.member_id, request.instance_id, request.generation)
    if error is not ErrorCode.none:
        return error
    # KIP-559: a client that names the protocol must mean the one that was chosen.
    named = ((request.protocol_type, group.protocol_type), (request.protocol_name, group.protocol_name))
    if any(None not in (said, chosen) and said != chosen for said, chosen in named):
        return ErrorCode.inconsistent_group_protocol
    if group.state is GroupState.PREPARING_REBALANCE:
        return ErrorCode.rebalance_in_progress
    return ErrorCode.none
