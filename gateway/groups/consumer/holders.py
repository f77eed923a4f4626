"""The members of a consumer group as holders of partitions: whatever a member gets, gives up or hands on is done here.

Keeps: what a member has and who owns each partition change together, and the row of a member that stays is noted with
them. Who must give something up has its rebalance time-out for it; a member of the classic protocol has others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from gateway.groups.classic.messages import Instant
from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import (
    LEAVING_FOR_A_WHILE_EPOCH,
    NO_HOLDINGS,
    CurrentRecord,
    MemberState,
    Partitions,
    RowKey,
    RowKind,
)
from gateway.groups.consumer.owners import Owners
from gateway.groups.consumer.reconciliation import Bearings, Step, carried_out, lacking_now, moves, next_step
from gateway.groups.deadlines import Deadlines
from gateway.groups.modern.epochs import JOINING_EPOCH
from gateway.groups.modern.group import GroupAlarm


class Holders:
    """See the module. `note` hears of each row that must be stored."""

    def __init__(self, deadlines: Deadlines[GroupAlarm], note: Callable[[RowKey], None]) -> None:
        self._owners = Owners()
        self._deadlines = deadlines
        self._note = note

    def __repr__(self) -> str:
        return f"<Holders {self._owners!r}>"

    def owner(self, topic: UUID, partition: int) -> str | None:
        return self._owners.of(topic, partition)

    def free_for(self, member_id: str, topic: UUID, partitions: Iterable[int]) -> Sequence[int]:
        """Those of some partitions that no other member has."""
        return self._owners.free_for(member_id, topic, partitions)

    def can_get_more(self, member: Member, target: Partitions) -> bool:
        """Has a partition become free that the member waits for?"""
        for topic in lacking_now(member):
            has = member.assigned.get(topic, {})
            wanted = (partition for partition in target.get(topic, ()) if partition not in has)
            if self._owners.free_for(member.member_id, topic, wanted):
                return True
        return False

    # Changes

    def reconcile(self, member: Member, bearings: Bearings, now: Instant, *, subscription_changed: bool) -> bool:
        """Move a member one step towards the target; tell whether more could be done at once."""
        step = next_step(member, bearings, subscription_changed=subscription_changed)
        carried_out(member, step)
        if moves(member, step):
            self._move(member, step, now)
        return step.is_partial

    def leaves_for_a_while(self, member: Member, now: Instant) -> None:
        """A static member keeps what it has, and gives up what it is to give up."""
        away = replace(member.current(), epoch=LEAVING_FOR_A_WHILE_EPOCH, revoking=NO_HOLDINGS)
        self._move(member, Step(away, released=member.revoking), now)

    def hand_over(self, member: Member, member_id: str) -> None:
        """Somebody else is the static member now: it has what that one had, and goes towards the target from there."""
        self._owners.rename(member.member_id, member_id)
        self._owners.let_go(member.revoking)
        member.revoking = NO_HOLDINGS
        member.member_id = member_id
        member.epoch = member.previous_epoch = JOINING_EPOCH
        member.state = MemberState.STABLE
        self._note(RowKey(RowKind.CURRENT, member_id))

    def leaves(self, member: Member) -> None:
        """All that it had is free at once."""
        self._owners.leave(member.member_id, member.assigned, member.revoking)

    def restore(self, member: Member, record: CurrentRecord, now: Instant) -> None:
        """A new member has what is stored of it."""
        self._owners.take(member.member_id, record.revoking)
        self._move(member, Step(record, gained=record.assigned), now)

    def _move(self, member: Member, step: Step, now: Instant) -> None:
        self._owners.let_go(step.released)
        self._owners.take(member.member_id, step.gained)
        record = step.current
        member.epoch, member.previous_epoch, member.state = record.epoch, record.previous_epoch, record.state
        member.assigned, member.revoking = record.assigned, record.revoking
        self._note(RowKey(RowKind.CURRENT, member.member_id))
        if member.classic is not None:
            return  # it has time-outs of its own
        if member.is_giving_up:
            self._deadlines.set(member.rebalance, now.after(member.rebalance_timeout_ms))
        else:
            self._deadlines.cancel(member.rebalance)
