"""The members of a group: their leader, their votes, static and pending ids.

Keeps: each instance id belongs to one member at most; as long as there are members, one of them leads;
`protocol_votes` counts, per protocol, the members that support it; `joined_count` counts those that
wait for the answer to their join. The roster decides nothing and answers nobody: `group.py` does.
A member comes, changes or goes at a cost that does not depend on how many others there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final, TypeAlias

from gateway.groups.classic.allowance import Allowance, size_of
from gateway.groups.classic.messages import (
    NO_ASSIGNMENT,
    Alarm,
    JoinedMember,
    JoinRequest,
    MemberRecord,
    Protocol,
    Waiter,
)
from gateway.groups.deadlines import Deadline

#: A deadline of a member or of an id; its owner is the group, of which the roster knows nothing.
Expiry: TypeAlias = Deadline[Alarm[Any]]

#: Ids of one group that were handed out and not used yet (KIP-394); a new one displaces the oldest.
PENDING_MAX: Final = 1_000


class Member:
    """One member; its waiters are set while a JoinGroup or SyncGroup of it is unanswered."""

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "instance_id",
        "is_new",
        "join_waiter",
        "member_id",
        "protocols",
        "rebalance_timeout_ms",
        "session",
        "session_timeout_ms",
        "sync_waiter",
    )

    session: Expiry  # set by the group, which acts when it passes

    def __init__(self, member_id: str, joined: JoinRequest | MemberRecord) -> None:
        self.member_id = member_id
        self.instance_id = joined.instance_id
        self.client_id = joined.client_id
        self.client_host = joined.client_host
        self.session_timeout_ms = joined.session_timeout_ms
        self.rebalance_timeout_ms = joined.rebalance_timeout_ms
        self.protocols = joined.protocols
        self.assignment = joined.assignment if isinstance(joined, MemberRecord) else NO_ASSIGNMENT
        self.join_waiter: Waiter | None = None
        self.sync_waiter: Waiter | None = None
        # It has never had an answer, so it knows no id and cannot send heartbeats.
        self.is_new = False

    def __repr__(self) -> str:
        waits = "join" if self.join_waiter else "sync" if self.sync_waiter else "nothing"
        return f"Member({self.member_id}, instance {self.instance_id}, waits for {waits})"

    @property
    def is_static(self) -> bool:
        return self.instance_id is not None

    @property
    def size_bytes(self) -> int:
        """Bytes of its protocols and its assignment."""
        return size_of(self.protocols) + len(self.assignment)

    @property
    def awaits_join(self) -> bool:
        return self.join_waiter is not None

    @property
    def satisfies_heartbeat(self) -> bool:
        """A member that waits for our answer counts as alive, except a new one, which can expire."""
        return not self.is_new and (self.join_waiter is not None or self.sync_waiter is not None)

    def protocol_names(self) -> set[str]:
        return {protocol.name for protocol in self.protocols}

    def metadata(self, protocol_name: str | None) -> bytes:
        """The member's data for a protocol; empty if the member does not support it."""
        for name, metadata in self.protocols:
            if name == protocol_name:
                return metadata
        return b""

    def record(self, assignment: bytes) -> MemberRecord:
        return MemberRecord(
            self.member_id,
            self.instance_id,
            self.client_id,
            self.client_host,
            self.session_timeout_ms,
            self.rebalance_timeout_ms,
            self.protocols,
            assignment,
        )


class Roster:
    """The members of one group, in the order in which they came."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._bytes_held = 0
        self._leader_id: str | None = None  # None as long as nobody has asked who leads now
        self.joined_count = 0
        self.protocol_count = 0
        """Protocols of all members, each counted for each member that supports it."""
        self.protocol_votes: Counter[str] = Counter()
        #: Ids that were handed out (KIP-394) and have not been used to join yet, with their expiry.
        self.pending: dict[str, Expiry] = {}
        self._members: dict[str, Member] = {}
        self._static_ids: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __contains__(self, member_id: str) -> bool:
        return member_id in self._members

    def __getitem__(self, member_id: str) -> Member:
        return self._members[member_id]

    def get(self, member_id: str) -> Member | None:
        return self._members.get(member_id)

    @property
    def leader_id(self) -> str | None:
        """Who leads: if nobody was made the leader, or that one has gone, the oldest member."""
        if self._leader_id is None:
            self._leader_id = next(iter(self._members), None)
        return self._leader_id

    def make_leader(self, member_id: str) -> None:
        assert member_id in self._members, "a leader is a member"
        self._leader_id = member_id

    def expect(self, member_id: str, expiry: Expiry) -> str | None:
        """Note an id that is handed out; the oldest, if it must give place. (Honest members come back at once.)"""
        self.pending[member_id] = expiry
        return next(iter(self.pending)) if len(self.pending) > PENDING_MAX else None

    def static_id(self, instance_id: str) -> str | None:
        """The present member id of an instance id."""
        return self._static_ids.get(instance_id)

    @property
    def all_joined(self) -> bool:
        return self.joined_count == len(self._members) and not self.pending

    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self), default=0)

    def add(self, member: Member) -> None:
        """Add a member; the first leads."""
        assert member.member_id not in self._members, "a member joins once"
        if member.instance_id is not None:
            assert member.instance_id not in self._static_ids, "an instance is one member"
            self._static_ids[member.instance_id] = member.member_id
        self._members[member.member_id] = member
        self._hold(member.size_bytes)
        self._add_votes(member)
        self.joined_count += member.awaits_join

    def remove(self, member: Member) -> None:
        """Remove a member; if it led, the oldest of the others leads."""
        assert member.join_waiter is None, "a member that waits is answered before it is removed"
        del self._members[member.member_id]
        self._hold(-member.size_bytes)
        if member.instance_id is not None:
            del self._static_ids[member.instance_id]
        self._withdraw_votes(member)
        if self._leader_id == member.member_id:
            self._leader_id = None

    def disband(self) -> None:
        """The group is gone; its members hold no memory any more."""
        self._hold(-self._bytes_held)

    def rename_static(self, member: Member, new_id: str) -> None:
        """Give a static member another id (KIP-345); it keeps its votes and its lead."""
        assert member.instance_id is not None, "only static members are replaced"
        old_id = member.member_id
        leads = self.leader_id == old_id
        self._members[new_id] = self._members.pop(old_id)
        self._static_ids[member.instance_id] = new_id
        member.member_id = new_id
        if leads:
            self.make_leader(new_id)

    def set_protocols(self, member: Member, protocols: tuple[Protocol, ...]) -> None:
        self._withdraw_votes(member)
        self._hold(size_of(protocols) - size_of(member.protocols))
        member.protocols = protocols
        self._add_votes(member)

    def set_assignment(self, member: Member, assignment: bytes) -> None:
        self._hold(len(assignment) - len(member.assignment))
        member.assignment = assignment

    def set_join_waiter(self, member: Member, waiter: Waiter | None) -> None:
        self.joined_count += (waiter is not None) - member.awaits_join
        member.join_waiter = waiter

    def elect_joined_leader(self) -> bool:
        """Make sure that the leader has joined; False when nobody has."""
        leader_id = self.leader_id
        if leader_id is None:
            return False
        if self._members[leader_id].awaits_join:
            return True
        joined = next((member for member in self if member.awaits_join), None)
        if joined is None:
            return False
        self.make_leader(joined.member_id)
        return True

    def supports_any(self, names: Collection[str]) -> bool:
        """Does every member support one of these protocols?"""
        return any(self.protocol_votes[name] == len(self._members) for name in names)

    def select_protocol(self) -> str:
        """Each member votes for the first of its protocols that all support; the most votes win."""
        shared = {name for name, votes in self.protocol_votes.items() if votes == len(self._members)}
        assert shared, "members that share no protocol with the others are refused"
        if len(shared) == 1:
            return shared.pop()
        firsts = (next(name for name, _ in member.protocols if name in shared) for member in self)
        return Counter(firsts).most_common(1)[0][0]

    def joined_members(self, protocol_name: str | None) -> tuple[JoinedMember, ...]:
        """All members as the leader sees them, for its assignment."""
        return tuple(
            [JoinedMember(member.member_id, member.instance_id, member.metadata(protocol_name)) for member in self]
        )

    def _hold(self, size: int) -> None:
        """The members hold as many bytes more."""
        self._bytes_held += size
        self._allowance.used += size

    def _add_votes(self, member: Member) -> None:
        self.protocol_count += len(member.protocols)
        self.protocol_votes.update(member.protocol_names())

    def _withdraw_votes(self, member: Member) -> None:
        self.protocol_count -= len(member.protocols)
        for name in member.protocol_names():
            self.protocol_votes[name] -= 1
            if not self.protocol_votes[name]:
                del self.protocol_votes[name]
