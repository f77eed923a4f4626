"""One member of a consumer group: what it wants, what it has, what it must give up.

Keeps: no partition is both assigned and being revoked; `surplus` and `lacking` leave out no topic of which it has too
much or too little. A member decides nothing.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from gateway.groups.consumer.messages import (
    NO_HOLDINGS,
    ClassicFacts,
    CurrentRecord,
    Heartbeat,
    Holdings,
    MemberRecord,
    MemberState,
    Partitions,
)
from gateway.groups.deadlines import Deadline
from gateway.groups.modern.epochs import JOINING_EPOCH
from gateway.groups.modern.group import GroupAlarm

OWN_BYTES: Final = 512
"""Bytes that a member costs beside its texts, for the allowance of all groups."""
NAME_BYTES: Final = 64
"""Bytes that a subscribed topic costs beside its name. So a member cannot have more than some 16,000 of them, which
are gone through in a few milliseconds."""


class Member:
    """A member; `classic` is None for one of the consumer protocol."""

    __slots__ = (
        "assigned",
        "assignor",
        "classic",
        "client_host",
        "client_id",
        "epoch",
        "instance_id",
        "joins",
        "lacking",
        "member_id",
        "names",
        "previous_epoch",
        "rack_id",
        "rebalance",
        "rebalance_timeout_ms",
        "regex",
        "revoking",
        "session",
        "size_bytes",
        "state",
        "surplus",
        "syncs",
    )

    #: Set by the group, which acts when they pass.
    session: Deadline[GroupAlarm]
    rebalance: Deadline[GroupAlarm]
    joins: Deadline[GroupAlarm]  # a classic member must join again
    syncs: Deadline[GroupAlarm]  # a classic member must ask for its assignment

    def __init__(self, record: MemberRecord) -> None:
        self.member_id = record.member_id
        self.update(record)
        self.epoch = JOINING_EPOCH
        self.previous_epoch = JOINING_EPOCH
        self.state = MemberState.STABLE
        self.assigned: Holdings = NO_HOLDINGS
        self.revoking: Holdings = NO_HOLDINGS
        #: Every topic of which it may have partitions that the target takes from it, or its subscription.
        self.surplus: dict[UUID, None] = {}
        #: Every topic of which it may not yet have all partitions of the target; the next to look at come first.
        self.lacking: dict[UUID, None] = {}

    def __repr__(self) -> str:
        return f"Member({self.member_id}, epoch {self.epoch}, {self.state.name}, {count(self.assigned)} partitions)"

    def update(self, record: MemberRecord) -> None:
        self.instance_id = record.instance_id
        self.rack_id = record.rack_id
        self.client_id = record.client_id
        self.client_host = record.client_host
        self.rebalance_timeout_ms = record.rebalance_timeout_ms
        self.names: frozenset[str] = record.names
        self.regex = record.regex
        self.assignor = record.assignor
        self.classic: ClassicFacts | None = record.classic
        self.size_bytes = size_of(record)

    def record(self) -> MemberRecord:
        return MemberRecord(
            member_id=self.member_id,
            instance_id=self.instance_id,
            rack_id=self.rack_id,
            client_id=self.client_id,
            client_host=self.client_host,
            rebalance_timeout_ms=self.rebalance_timeout_ms,
            names=self.names,
            regex=self.regex,
            assignor=self.assignor,
            classic=self.classic,
        )

    def current(self) -> CurrentRecord:
        return CurrentRecord(
            epoch=self.epoch,
            previous_epoch=self.previous_epoch,
            state=self.state,
            assigned=self.assigned,
            revoking=self.revoking,
        )

    @property
    def is_giving_up(self) -> bool:
        return self.state is MemberState.UNREVOKED_PARTITIONS

    def must_compare(self, target: Partitions) -> None:
        """Nothing is known of how what it has differs from its target."""
        self.surplus |= dict.fromkeys(self.assigned)
        self.lacking |= dict.fromkeys(target)

    def is_reconciled_to(self, target_epoch: int) -> bool:
        return self.state is MemberState.STABLE and self.epoch == target_epoch

    def partitions(self) -> Partitions:
        """The partitions that it may consume."""
        return {topic: frozenset(held) for topic, held in self.assigned.items()}


def count(holdings: Holdings) -> int:
    return sum(map(len, holdings.values()))


def size_of(record: MemberRecord) -> int:
    """Bytes that a member holds of its client's texts, and the cost of a member."""
    size = OWN_BYTES + len(record.member_id) + len(record.client_id) + len(record.regex)
    size += len(record.instance_id or "") + len(record.rack_id or "")
    size += sum(map(len, record.names)) + NAME_BYTES * len(record.names)
    if record.classic is not None:
        size += sum(len(name) + len(metadata) for name, metadata in record.classic.protocols)
    return size


def updated(before: MemberRecord | None, request: Heartbeat, member_id: str) -> MemberRecord:
    """The member as a heartbeat describes it: what is null stays as it was."""
    if before is None:
        before = MemberRecord(
            member_id=member_id,
            instance_id=None,
            rack_id=None,
            client_id="",
            client_host="",
            rebalance_timeout_ms=-1,
            names=frozenset(),
            regex="",
            assignor=None,
            classic=None,
        )
    return MemberRecord(
        member_id=member_id,
        instance_id=before.instance_id if request.instance_id is None else request.instance_id,
        rack_id=before.rack_id if request.rack_id is None else request.rack_id,
        client_id=request.client_id,
        client_host=request.client_host,
        rebalance_timeout_ms=(
            before.rebalance_timeout_ms if request.rebalance_timeout_ms == -1 else request.rebalance_timeout_ms
        ),
        names=before.names if request.names is None else request.names,
        regex=before.regex if request.regex is None else request.regex,
        assignor=before.assignor if request.assignor is None else request.assignor,
        classic=None,
    )
