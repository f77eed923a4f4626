"""Answers to members about their group, and the group's stored record.

Keeps: views read the group and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import NO_ASSIGNMENT, NO_LEADER, GroupRecord, JoinResult, SyncResult
from gateway.groups.classic.roster import Member


def joined(group: GroupFacts, member: Member) -> JoinResult:
    """The answer to a join that succeeded; the leader's lists all members."""
    is_leader = group.roster.leader_id == member.member_id
    return JoinResult(
        member_id=member.member_id,
        generation=group.generation,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        leader=group.roster.leader_id or NO_LEADER,
        members=group.roster.joined_members(group.protocol_name) if is_leader else (),
    )


def returned(group: GroupFacts, member: Member, leader_told: str) -> JoinResult:
    """The answer to a static member that goes on with its assignment; a leader need not assign (KIP-814)."""
    skips_assignment = leader_told == member.member_id
    return JoinResult(
        member_id=member.member_id,
        generation=group.generation,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        leader=leader_told,
        skip_assignment=skips_assignment,
        members=group.roster.joined_members(group.protocol_name) if skips_assignment else (),
    )


def synced(group: GroupFacts, member: Member) -> SyncResult:
    return SyncResult(
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        assignment=member.assignment,
    )


def stored(group: GroupFacts, assignments: Mapping[str, bytes] | None) -> GroupRecord:
    """The group's record with these assignments; None: with its present ones."""
    return GroupRecord(
        generation=group.generation,
        state_since_ms=group.state_since_ms,
        protocol_type=group.protocol_type,
        protocol_name=group.protocol_name,
        leader=group.roster.leader_id,
        members=tuple(
            [
                member.record(
                    member.assignment if assignments is None else assignments.get(member.member_id, NO_ASSIGNMENT)
                )
                for member in group.roster
            ]
        ),
    )


def subscriptions(group: GroupFacts) -> Iterator[bytes]:
    """The subscriptions of a group of consumers."""
    return (member.metadata(group.protocol_name) for member in group.roster)
