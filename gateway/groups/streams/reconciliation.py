"""The way of one member from the tasks that it has to those of the target (KIP-1071).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a task only when nobody else has it active and, as a standby or where it was one, nobody else of
its process has it in any role. (Kafka: streams/CurrentAssignmentBuilder.) A member may have 100,000 tasks: a step goes
through whole sets, and through no more of them than it must.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from gateway.groups.streams.held import common, joined, without
from gateway.groups.streams.messages import NO_HOLDINGS, NO_TASKS, CurrentRecord, Holdings, MemberState, Task, Tasks


class Role(enum.Enum):
    """How a member has a task."""

    ACTIVE = enum.auto()
    STANDBY = enum.auto()


Taken: TypeAlias = Callable[[Role, frozenset[Task]], frozenset[Task]]
"""Those of some tasks that another member keeps a member from having in a role."""


class Step(NamedTuple):
    """A member's next state, which may be its present one; the tasks that become its own in a role, and those that do
    not stay its own in one: what it must give up stays its own."""

    current: CurrentRecord
    gained: Tasks = NO_TASKS
    released: Tasks = NO_TASKS


def next_step(current: CurrentRecord, target_epoch: int, target: Tasks, owned: Tasks | None, taken: Taken) -> Step:
    """Where a member goes from where it is.

    `owned` are the tasks that the member says it has, None if it does not say.
    """
    if current.state is MemberState.STABLE and current.epoch == target_epoch:
        return Step(current)
    epoch = current.epoch
    if current.state is MemberState.UNREVOKED_TASKS:
        if _still_owns(owned, current.revoking):
            return Step(current)
        epoch += 1  # Kafka's: what it was to give up is behind it, whatever else the target takes
    return _towards(current, epoch, target_epoch, target, owned, taken)


def _still_owns(owned: Tasks | None, revoking: Holdings) -> bool:
    """Does the member have any of these? If it does not say, it may."""
    if owned is None:
        return True
    return revoking.active.has_any_of(owned.active) or not revoking.standby.isdisjoint(owned.standby)


def _towards(
    current: CurrentRecord, epoch: int, target_epoch: int, target: Tasks, owned: Tasks | None, taken: Taken
) -> Step:
    kept, lost = _split(current.assigned, target)
    given_up = current.revoking
    if any(lost) and _still_owns(owned, lost):
        record = _at(current, epoch, MemberState.UNREVOKED_TASKS, kept, lost)
        return Step(record, released=given_up.tasks())
    new = Tasks(without(target.active, *kept.active.sets), without(target.standby, kept.standby))
    others = Tasks(taken(Role.ACTIVE, new.active), taken(Role.STANDBY, new.standby))
    gained = Tasks(without(new.active, others.active), without(new.standby, others.standby))
    assigned = Holdings(kept.active.plus(target_epoch, gained.active), joined(kept.standby, gained.standby))
    state = MemberState.UNRELEASED_TASKS if any(others) else MemberState.STABLE
    released = Tasks(joined(lost.active.all(), given_up.active.all()), joined(lost.standby, given_up.standby))
    return Step(_at(current, target_epoch, state, assigned, NO_HOLDINGS), gained, released)


def _split(held: Holdings, target: Tasks) -> tuple[Holdings, Holdings]:
    """What the target leaves to a member, and what it takes."""
    kept, lost = held.active.split(target.active)
    standby = common(held.standby, target.standby)
    return Holdings(kept, standby), Holdings(lost, without(held.standby, standby))


def _at(
    current: CurrentRecord, epoch: int, state: MemberState, assigned: Holdings, revoking: Holdings
) -> CurrentRecord:
    # Kafka keeps the epoch before the last one that differed, so that a lost answer can be told.
    previous = current.epoch if epoch != current.epoch else current.previous_epoch
    return CurrentRecord(epoch=epoch, previous_epoch=previous, state=state, assigned=assigned, revoking=revoking)
