"""Which members of a streams group have which tasks.

Keeps: no task is active with two members. A member may have 100,000 tasks: what is asked of all of them is asked of
whole sets, whose hashes are known, and not task by task; so is what changes. What a member has is in its record, and is
kept nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import Task, Tasks
from gateway.groups.streams.reconciliation import Role


class Owners:
    """See the module; `members` are the group's. A task that a member gives up is still its own."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self._active: set[Task] = set()  # with any member

    def __repr__(self) -> str:
        return f"<Owners of {len(self._active)} active tasks>"

    def is_active(self, task: Task) -> bool:
        """Is a task active with any member?"""
        return task in self._active

    def active(self, task: Task) -> str | None:
        """The member with which a task is active, looked for among all."""
        for member in self._members.values():
            if any(task in tasks for tasks in _active(member)):
                return member.member_id
        return None

    def move(self, member: Member, gained: Tasks, released: Tasks) -> None:
        """Some tasks become a member's own, after others have ceased to be."""
        self._active -= released.active
        count = len(self._active)
        self._active |= gained.active
        assert len(self._active) == count + len(gained.active), f"a task of {member} is active with two members"

    def taken(self, member: Member, role: Role, tasks: frozenset[Task]) -> frozenset[Task]:
        """Those of some tasks that another member keeps this one from having in a role."""
        if not tasks:
            return tasks
        beside = [one for one in self._members.values() if _is_beside(one, member)]
        found = tasks & self._active
        if found and role is Role.ACTIVE:
            found = found.difference(*_active(member))
        elif found:
            found = _among(found, chain.from_iterable(map(_active, beside)))
        return found | _among(tasks, chain.from_iterable(map(_standby, beside)))


def _is_beside(other: Member, member: Member) -> bool:
    return other.process_id == member.process_id and other.member_id != member.member_id


def _active(member: Member) -> list[frozenset[Task]]:
    """The tasks that are active with a member."""
    return [*member.current.assigned.active.sets, *member.current.revoking.active.sets]


def _standby(member: Member) -> list[frozenset[Task]]:
    return [member.current.assigned.standby, member.current.revoking.standby]


def _among(tasks: frozenset[Task], sets: Iterable[frozenset[Task]]) -> frozenset[Task]:
    """Those of some tasks that are in any of the sets."""
    return frozenset[Task]().union(*(tasks & some for some in sets))
