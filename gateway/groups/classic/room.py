"""Whether a classic group has room for a member, and who must go if it has too many.

Keeps: a member that is in the group, or a static one that returns to its place, does not make the group larger, and is
not refused for its size. Ids that were handed out and not used yet are no members. (Kafka:
GroupMetadataManager.acceptJoiningMember.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from kio.schema.errors import ErrorCode

from gateway.groups.classic import rules
from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import JoinRequest
from gateway.groups.classic.roster import Member, Roster
from gateway.groups.classic.states import GroupState


def place_of(roster: Roster, request: JoinRequest) -> Member | None:
    """The member whose place in the group the request is for; None: it is for a new one."""
    if request.instance_id is not None and (holder := roster.static_id(request.instance_id)) is not None:
        return roster[holder]
    return roster.get(request.member_id)


def has_room_for(group: GroupFacts, request: JoinRequest, max_size: int) -> bool:
    """May this member join without exceeding group.max.size?"""
    if group.state in (GroupState.EMPTY, GroupState.DEAD):
        return True
    place = place_of(group.roster, request)
    if group.state is GroupState.PREPARING_REBALANCE:
        # In a group that is too large, the last to join must leave.
        return (place is not None and place.awaits_join) or group.roster.joined_count < max_size
    return place is not None or len(group.roster) < max_size


def check_room(group: GroupFacts, request: JoinRequest) -> ErrorCode:
    """May the group grow by this member, and by its protocols?"""
    roster = group.roster
    place = place_of(roster, request)
    if place is None and len(roster) >= rules.MEMBERS_MAX:
        # Those who joined are fewer: members that are away take up the room until this rebalance, or their sessions,
        # have ended. A client asks again.
        return ErrorCode.coordinator_load_in_progress
    more = len(request.protocols) - (len(place.protocols) if place is not None else 0)
    if more > 0 and roster.protocol_count + more > rules.PROTOCOLS_MAX:
        return ErrorCode.group_max_size_reached
    return ErrorCode.none


def absent(roster: Roster) -> tuple[Sequence[Member], bool]:
    """Members that a rebalance goes on without, since they did not join, and whether these are all of them.

    Static ones may be away, but not where a group has more members than any may have.
    """
    away = [member for member in roster if not member.awaits_join and not member.is_static]
    surplus = len(roster) - len(away) - rules.MEMBERS_MAX
    if surplus > 0:
        away += islice((m for m in roster if not m.awaits_join and m.is_static), surplus)
    return away[: rules.MEMBERS_MAX], len(away) <= rules.MEMBERS_MAX
