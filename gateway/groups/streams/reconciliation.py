"""The way of one member from the tasks that it has to those of the target (KIP-1071).

Keeps: a member gives up before it gets; it moves to the target's epoch only when it holds nothing that the target
takes from it; it gets a task only when nobody else has it active and, as a standby or where it was one, nobody else of
its process has it in any role. (Kafka: streams/CurrentAssignmentBuilder.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias

from gateway.groups.streams.messages import NO_HOLDINGS, CurrentRecord, Holdings, MemberState, Task, Tasks


class Role(enum.Enum):
    """How a member has a task."""

    ACTIVE = enum.auto()
    STANDBY = enum.auto()


IsTaken: TypeAlias = Callable[[Role, Task], bool]
"""Whether another member keeps a member from having a task in a role."""


def next_step(
    current: CurrentRecord, target_epoch: int, target: Tasks, owned: Tasks | None, is_taken: IsTaken
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
    return _towards(current, epoch, target_epoch, target, owned, is_taken)


def _still_owns(owned: Tasks | None, revoking: Holdings) -> bool:
    """Does the member have any of these? If it does not say, it may."""
    if owned is None:
        return True
    return not (owned.active.isdisjoint(revoking.active) and owned.standby.isdisjoint(revoking.standby))


def _towards(
    current: CurrentRecord, epoch: int, target_epoch: int, target: Tasks, owned: Tasks | None, is_taken: IsTaken
) -> CurrentRecord:
    has = current.assigned
    active = {task: since for task, since in has.active.items() if task in target.active}
    standby = has.standby & target.standby
    revoking = Holdings(
        {task: since for task, since in has.active.items() if task not in target.active}, has.standby - target.standby
    )
    if revoking != NO_HOLDINGS and _still_owns(owned, revoking):
        return _at(current, epoch, MemberState.UNREVOKED_TASKS, Holdings(active, standby), revoking)
    new_active = [task for task in target.active if task not in active]
    new_standby = [task for task in target.standby if task not in standby]
    free_active = [task for task in new_active if not is_taken(Role.ACTIVE, task)]
    free_standby = [task for task in new_standby if not is_taken(Role.STANDBY, task)]
    waits = len(free_active) < len(new_active) or len(free_standby) < len(new_standby)
    active |= dict.fromkeys(free_active, target_epoch)
    state = MemberState.UNRELEASED_TASKS if waits else MemberState.STABLE
    return _at(current, target_epoch, state, Holdings(active, standby.union(free_standby)), NO_HOLDINGS)


def _at(
    current: CurrentRecord, epoch: int, state: MemberState, assigned: Holdings, revoking: Holdings
) -> CurrentRecord:
    # Kafka keeps the epoch before the last one that differed, so that a lost answer can be told.
    previous = current.epoch if epoch != current.epoch else current.previous_epoch
    return CurrentRecord(epoch=epoch, previous_epoch=previous, state=state, assigned=assigned, revoking=revoking)
