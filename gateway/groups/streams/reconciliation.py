"""The way of one member from the tasks that it has to those of the target (KIP-1071).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a task only when nobody else has it active and, as a standby or where it was one, nobody else of
its process has it in any role. (Kafka: streams/CurrentAssignmentBuilder.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gateway.groups.streams.messages import NO_HOLDINGS, CurrentRecord, Holdings, MemberState, Task, Tasks


class Role(enum.Enum):
    """How a member has a task."""

    ACTIVE = enum.auto()
    STANDBY = enum.auto()


Taken: TypeAlias = Callable[[Role, frozenset[Task]], frozenset[Task]]
"""Those of some tasks that another member keeps a member from having in a role."""


def next_step(
    current: CurrentRecord, target_epoch: int, target: Tasks, owned: Tasks | None, taken: Taken
) -> CurrentRecord:
    """A member's next state, which may be its present one.

    `owned` are the tasks that the member says it has, None if it does not say.
    """
    if current.state is MemberState.STABLE and current.epoch == target_epoch:
        return current
    epoch = current.epoch
    if current.state is MemberState.UNREVOKED_TASKS:
        if _still_owns(owned, current.revoking):
            return current
        epoch += 1  # Kafka's: what it was to give up is behind it, whatever else the target takes
    return _towards(current, epoch, target_epoch, target, owned, taken)


def _still_owns(owned: Tasks | None, revoking: Holdings) -> bool:
    """Does the member have any of these? If it does not say, it may."""
    if owned is None:
        return True
    return not (owned.active.isdisjoint(revoking.active) and owned.standby.isdisjoint(revoking.standby))


def _towards(
    current: CurrentRecord, epoch: int, target_epoch: int, target: Tasks, owned: Tasks | None, taken: Taken
) -> CurrentRecord:
    has = current.assigned
    active, standby = frozenset(has.active), has.standby
    kept = Holdings(_of(has.active, active & target.active), standby & target.standby)
    lost = active - target.active, standby - target.standby
    if any(lost):
        revoking = Holdings(_of(has.active, lost[0]), lost[1])
        if _still_owns(owned, revoking):
            return _at(current, epoch, MemberState.UNREVOKED_TASKS, kept, revoking)
    new_active, new_standby = target.active - active, target.standby - standby
    taken_active, taken_standby = taken(Role.ACTIVE, new_active), taken(Role.STANDBY, new_standby)
    free = new_active - taken_active
    assigned = Holdings(
        {**kept.active, **dict.fromkeys(free, target_epoch)} if free else kept.active,
        kept.standby | (new_standby - taken_standby),
    )
    state = MemberState.UNRELEASED_TASKS if taken_active or taken_standby else MemberState.STABLE
    return _at(current, target_epoch, state, assigned, NO_HOLDINGS)


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
