"""The way of one member from the partitions that it has to those of the target (KIP-848).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a partition only when nobody else has it. (Kafka: CurrentAssignmentBuilder.) A step goes through
`PLACES_AT_ONCE` topics and partitions, whatever the size of the assignment: the topics in which a member differs from
its target are known, and what a step leaves, the next one does. Of one topic, however large, no more changes hands.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID

from gateway.groups.consumer.member import Member
from gateway.groups.consumer.messages import NO_HOLDINGS, CurrentRecord, Holdings, MemberState, Partitions

PLACES_AT_ONCE: Final = 5_000
"""Topics and partitions that one step goes through, and looks at one topic more: some 10 ms, and 15 if that has 100,000
partitions."""

_Change: TypeAlias = dict[UUID, dict[int, int]]
_NONE: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Bearings:
    """What a member's step depends on beside the member itself.

    `is_wanted` tells whether a topic is one that the member wants now; `owned` are the partitions that the member says
    it has, None if it does not say; `free` are those of a topic's partitions that no other member has.
    """

    target_epoch: int
    target: Partitions
    is_wanted: Callable[[UUID], bool]
    owned: Partitions | None
    free: Callable[[UUID, Iterable[int]], Sequence[int]]

    def targeted(self, topic: UUID) -> Collection[int]:
        """The partitions of a topic that the member is to have."""
        return self.target.get(topic, _NONE) if self.is_wanted(topic) else _NONE

    def still_owns(self, revoking: Holdings) -> bool:
        """Does the member have any of these? If it does not say, it may."""
        if self.owned is None:
            return bool(revoking)
        told = self.owned
        return any(not told.get(topic, _NONE).isdisjoint(held) for topic, held in revoking.items())


class Step(NamedTuple):
    """A member's next state, which may be its present one.

    `gained` is what it did not hold before, `released` what it holds no longer. `surplus_done` and `lacking_done` are
    topics in which it differs no longer from the target, `waits_for` those that it gets later. `is_partial`: more could
    be done at once.
    """

    current: CurrentRecord
    gained: Holdings = NO_HOLDINGS
    released: Holdings = NO_HOLDINGS
    surplus_done: Collection[UUID] = ()
    lacking_done: Collection[UUID] = ()
    waits_for: Collection[UUID] = ()
    is_partial: bool = False


def moves(member: Member, step: Step) -> bool:
    """Is a member's next state another than its present one?"""
    record = step.current
    is_same = (record.epoch, record.state) == (member.epoch, member.state) and record.revoking == member.revoking
    return bool(step.gained or step.released) or not is_same


def next_step(member: Member, bearings: Bearings, *, subscription_changed: bool = False) -> Step:
    """Where a member goes from where it is. Changes nothing."""
    is_there = member.state is MemberState.STABLE and member.epoch == bearings.target_epoch
    if is_there or (member.is_giving_up and bearings.still_owns(member.revoking)):
        return _without_unwanted(member, bearings) if subscription_changed else Step(member.current())
    return _towards_target(member, bearings)


def _without_unwanted(member: Member, bearings: Bearings) -> Step:
    """The same, without the topics that the member no longer wants: it need not wait for a new target."""

    def wanted(topic: UUID) -> Collection[int]:
        return member.assigned[topic].keys() if bearings.is_wanted(topic) else _NONE

    kept, gone, _ = _split(member, wanted)
    if not gone:
        return Step(member.current())
    later = [topic for topic in gone if topic in bearings.target]
    if bearings.still_owns(gone) or member.is_giving_up:
        revoking = _merged(member.revoking, gone)
        return Step(_at(member, member.epoch, MemberState.UNREVOKED_PARTITIONS, kept, revoking), waits_for=later)
    record = _at(member, member.epoch, member.state, kept, member.revoking)
    return Step(record, released=gone, waits_for=later)


def _towards_target(member: Member, bearings: Bearings) -> Step:
    kept, goes, compared = _split(member, bearings.targeted)
    later = [topic for topic in goes if topic in bearings.target]
    if goes and bearings.still_owns(goes):
        record = _at(member, member.epoch, MemberState.UNREVOKED_PARTITIONS, kept, goes)
        return Step(record, released=member.revoking, surplus_done=compared, waits_for=later)
    released = _merged(member.revoking, goes)
    if len(compared) < len(member.surplus):  # what comes next may have to be given up, so it gets nothing yet
        record = _at(member, member.epoch, MemberState.UNREVOKED_PARTITIONS, kept, NO_HOLDINGS)
        return Step(record, released=released, surplus_done=compared, waits_for=later, is_partial=True)
    free = _free(member, kept, bearings)
    if free.gained:
        kept = {**kept, **{topic: {**kept.get(topic, {}), **held} for topic, held in free.gained.items()}}
    left = len(member.lacking) - len(free.done) - len(free.unwanted) - len(free.waits_for)
    state = MemberState.UNRELEASED_PARTITIONS if left or free.waits_for else MemberState.STABLE
    record = _at(member, bearings.target_epoch, state, kept, NO_HOLDINGS)
    waits_for = [*free.waits_for, *free.unwanted, *later]
    return Step(record, free.gained, released, compared, free.done, waits_for, bool(free.gained) and left > 0)


def _split(member: Member, wanted: Callable[[UUID], Collection[int]]) -> tuple[Holdings, _Change, list[UUID]]:
    """What stays with a member and what goes, of the topics of which it may have too much; and those of these topics of
    which no more will have to go."""
    stays: dict[UUID, Mapping[int, int]] = {}
    goes: _Change = {}
    compared: list[UUID] = []
    size = 0
    for topic in member.surplus:
        if size >= PLACES_AT_ONCE:
            break
        held = member.assigned.get(topic, {})
        keeps = wanted(topic) if held else _NONE
        surplus = [partition for partition in held if partition not in keeps]
        some = surplus[: _room(size)]
        size += 1 + len(held)
        if some:
            gone = goes[topic] = {partition: held[partition] for partition in some}
            stays[topic] = {partition: epoch for partition, epoch in held.items() if partition not in gone}
        if len(some) == len(surplus):
            compared.append(topic)
    if not goes:
        return member.assigned, goes, compared
    kept = {**member.assigned, **stays}
    for topic, left in stays.items():
        if not left:
            del kept[topic]
    return kept, goes, compared


def _room(size: int) -> int:
    """Partitions of its next topic that a step may take after that many places: at least one."""
    return max(1, PLACES_AT_ONCE - size - 1)


class _Free(NamedTuple):
    """What a member gets of the topics that it lacks. `done`: it has them whole then; `unwanted`: in the target, but no
    longer in its subscription, which may yet change again."""

    gained: _Change
    done: list[UUID]
    waits_for: list[UUID]
    unwanted: list[UUID]


def _free(member: Member, kept: Holdings, bearings: Bearings) -> _Free:
    found = _Free({}, [], [], [])
    size = 0
    for topic in member.lacking:
        if size >= PLACES_AT_ONCE:
            break
        if topic in bearings.target and not bearings.is_wanted(topic):
            size += 1
            found.unwanted.append(topic)
            continue
        has = kept.get(topic, {})
        new = [partition for partition in sorted(bearings.targeted(topic)) if partition not in has]
        free = bearings.free(topic, new)
        some = free[: _room(size)]
        size += 1 + len(new)
        if some:
            found.gained[topic] = dict.fromkeys(some, bearings.target_epoch)
        if len(some) == len(free):  # else the next step goes on with it
            (found.done if len(free) == len(new) else found.waits_for).append(topic)
    return found


def carried_out(member: Member, step: Step) -> None:
    """Note how a member differs from its target after a step. What it waits for comes last the next time."""
    for topic in step.surplus_done:
        del member.surplus[topic]
    for topic in step.lacking_done:
        del member.lacking[topic]
    for topic in step.waits_for:
        member.lacking.pop(topic, None)
        member.lacking[topic] = None


def lacking_now(member: Member) -> Iterable[UUID]:
    """Some of the topics that a member lacks."""
    return islice(member.lacking, PLACES_AT_ONCE)


def _merged(some: Holdings, more: _Change) -> Holdings:
    if not some:
        return more
    merged: _Change = {topic: dict(held) for topic, held in some.items()}
    for topic, held in more.items():
        merged[topic] = {**merged.get(topic, {}), **held}
    return merged


def _at(member: Member, epoch: int, state: MemberState, assigned: Holdings, revoking: Holdings) -> CurrentRecord:
    # Kafka keeps the epoch before the last one that differed, so that a lost answer can be told.
    previous = member.epoch if epoch != member.epoch else member.previous_epoch
    return CurrentRecord(epoch=epoch, previous_epoch=previous, state=state, assigned=assigned, revoking=revoking)
