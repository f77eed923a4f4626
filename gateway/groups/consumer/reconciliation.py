"""The way of one member from the partitions that it has to those of the target (KIP-848).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a partition only when nobody else has it. (Kafka: CurrentAssignmentBuilder.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from uuid import UUID

from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import NO_HOLDINGS, CurrentRecord, Holdings, MemberState, Partitions


def next_step(
    member: Member,
    target_epoch: int,
    target: Partitions,
    subscribed: Collection[UUID],
    owned: Partitions | None,
    is_taken: Callable[[UUID, int], bool],
    *,
    subscription_changed: bool = False,
) -> CurrentRecord:
    """The member's next state, which may be its present one.

    `owned` are the partitions that the member says it has, None if it does not say; `is_taken` tells whether another
    member has a partition; `subscribed` are the topics that the member wants now.
    """
    step = _Step(member, owned)
    if member.state is MemberState.STABLE and member.epoch == target_epoch:
        return step.without_unsubscribed(subscribed) if subscription_changed else member.current()
    if member.state is MemberState.UNREVOKED_PARTITIONS and step.still_owns(member.revoking):
        return step.without_unsubscribed(subscribed) if subscription_changed else member.current()
    wanted = {topic: partitions for topic, partitions in target.items() if topic in subscribed}
    return step.towards(target_epoch, wanted, is_taken)


class _Step:
    def __init__(self, member: Member, owned: Partitions | None) -> None:
        self._member = member
        self._owned = owned

    def still_owns(self, revoking: Holdings) -> bool:
        """Does the member have any of these? If it does not say, it may."""
        if self._owned is None:
            return True
        return any(not partitions.isdisjoint(revoking.get(topic, ())) for topic, partitions in self._owned.items())

    def without_unsubscribed(self, subscribed: Collection[UUID]) -> CurrentRecord:
        """The same, without the topics that the member no longer wants: it need not wait for a new target."""
        member = self._member
        gone = [topic for topic in member.assigned if topic not in subscribed]
        if not gone:
            return member.current()
        kept = {topic: held for topic, held in member.assigned.items() if topic in subscribed}
        revoking: dict[UUID, dict[int, int]] = {topic: dict(held) for topic, held in member.revoking.items()}
        for topic in gone:
            revoking.setdefault(topic, {}).update(member.assigned[topic])
        if self.still_owns(revoking):
            return self._at(member.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
        return self._at(member.epoch, member.state, kept, member.revoking)

    def towards(self, target_epoch: int, target: Partitions, is_taken: Callable[[UUID, int], bool]) -> CurrentRecord:
        kept: dict[UUID, dict[int, int]] = {}
        revoking: dict[UUID, dict[int, int]] = {}
        for topic, held in self._member.assigned.items():
            wanted = target.get(topic, frozenset())
            if stays := {partition: epoch for partition, epoch in held.items() if partition in wanted}:
                kept[topic] = stays
            if goes := {partition: epoch for partition, epoch in held.items() if partition not in wanted}:
                revoking[topic] = goes
        if revoking and self.still_owns(revoking):
            return self._at(self._member.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking)
        waits = False
        for topic, partitions in target.items():
            has = kept.get(topic, {})
            new = [partition for partition in sorted(partitions) if partition not in has]
            free = [partition for partition in new if not is_taken(topic, partition)]
            waits = waits or len(free) < len(new)
            if free:
                kept[topic] = {**has, **dict.fromkeys(free, target_epoch)}
        state = MemberState.UNRELEASED_PARTITIONS if waits else MemberState.STABLE
        return self._at(target_epoch, state, kept, NO_HOLDINGS)

    def _at(self, epoch: int, state: MemberState, assigned: Holdings, revoking: Holdings) -> CurrentRecord:
        member = self._member
        # Kafka keeps the epoch before the last one that differed, so that a lost answer can be told.
        previous = member.epoch if epoch != member.epoch else member.previous_epoch
        return CurrentRecord(epoch=epoch, previous_epoch=previous, state=state, assigned=assigned, revoking=revoking)
