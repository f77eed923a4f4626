"""The way of one member from the tasks that it has to those of the target (KIP-1071).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a task only when nobody else has it active and, as a standby or where it was one, nobody else of
its process has it in any role. (Kafka: streams/CurrentAssignmentBuilder.) A member may have 100,000 tasks: a step goes
through whole sets, and through no more of them than it must.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

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
    return not (owned.active.isdisjoint(revoking.active) and owned.standby.isdisjoint(revoking.standby))


def _towards(
    current: CurrentRecord, epoch: int, target_epoch: int, target: Tasks, owned: Tasks | None, taken: Taken
) -> Step:
    has = current.assigned
    active, standby = frozenset(has.active), has.standby
    stays = Tasks(active & target.active, standby & target.standby)
    kept = Holdings(_of(has.active, stays.active), stays.standby)
    lost = Tasks(_without(active, stays.active), _without(standby, stays.standby))
    given_up = current.revoking.tasks()
    if any(lost):
        revoking = Holdings(_of(has.active, lost.active), lost.standby)
        if _still_owns(owned, revoking):
            record = _at(current, epoch, MemberState.UNREVOKED_TASKS, kept, revoking)
            return Step(record, released=given_up)
    new = Tasks(_without(target.active, stays.active), _without(target.standby, stays.standby))
    others = Tasks(taken(Role.ACTIVE, new.active), taken(Role.STANDBY, new.standby))
    gained = Tasks(_without(new.active, others.active), _without(new.standby, others.standby))
    got: Mapping[Task, int] = dict.fromkeys(gained.active, target_epoch)
    if kept.active:
        got = {**kept.active, **got} if got else kept.active
    assigned = Holdings(got, kept.standby | gained.standby)
    state = MemberState.UNRELEASED_TASKS if any(others) else MemberState.STABLE
    released = Tasks(lost.active | given_up.active, lost.standby | given_up.standby)
    return Step(_at(current, target_epoch, state, assigned, NO_HOLDINGS), gained, released)


def _without(tasks: frozenset[Task], some: frozenset[Task]) -> frozenset[Task]:
    """Those that are not among some of them."""
    if len(some) == len(tasks):
        return frozenset()
    return tasks - some if some else tasks


def _of(held: Mapping[Task, int], tasks: frozenset[Task]) -> Mapping[Task, int]:
    """Those of the held tasks, with their epochs."""
    if len(tasks) == len(held):
        return held
    epochs = set(held.values())
    if len(epochs) == 1:  # most members got all of theirs at once; no task need be looked at by itself
        return dict.fromkeys(tasks, epochs.pop())
    return {task: held[task] for task in tasks}


def _at(
    current: CurrentRecord, epoch: int, state: MemberState, assigned: Holdings, revoking: Holdings
) -> CurrentRecord:
    # Kafka keeps the epoch before the last one that differed, so that a lost answer can be told.
    previous = current.epoch if epoch != current.epoch else current.previous_epoch
    return CurrentRecord(epoch=epoch, previous_epoch=previous, state=state, assigned=assigned, revoking=revoking)
