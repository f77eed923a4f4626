"""Which members of a streams group have which tasks.

Keeps: no task is active with two members. A member may have 100,000 tasks: what is asked of all of them is asked of
whole sets, whose hashes are known, and not task by task.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import Task, Tasks
from gateway.groups.streams.reconciliation import Role


class Owners:
    """See the module. A task that a member gives up is still its own."""

    def __init__(self) -> None:
        self._actives: dict[Task, str] = {}
        self._standbys: dict[Task, set[str]] = {}

    def __repr__(self) -> str:
        return f"<Owners of {len(self._actives)} active tasks>"

    def active(self, task: Task) -> str | None:
        """The member with which a task is active."""
        return self._actives.get(task)

    def move(self, member: Member, gained: Tasks, released: Tasks) -> None:
        """Some tasks become a member's own, after others have ceased to be."""
        for task in released.active:
            del self._actives[task]
        count = len(self._actives)
        self._actives |= dict.fromkeys(gained.active, member.member_id)
        assert len(self._actives) == count + len(gained.active), f"a task of {member} is active with two members"
        for task in released.standby:
            holders = self._standbys[task]
            holders.discard(member.member_id)
            if not holders:
                del self._standbys[task]
        for task in gained.standby:
            self._standbys.setdefault(task, set()).add(member.member_id)

    def taken(
        self, members: Mapping[str, Member], member: Member, role: Role, tasks: frozenset[Task]
    ) -> frozenset[Task]:
        """Those of some tasks that another member keeps this one from having in a role."""
        actives, standbys = self._actives, self._standbys
        active, standby = _among(tasks, actives), _among(tasks, standbys)

        def beside(others: set[str]) -> set[str]:
            """Those that are of the member's process."""
            others.discard(member.member_id)
            return {other for other in others if members[other].process_id == member.process_id}

        if role is Role.ACTIVE:
            found = {task for task in active if actives[task] != member.member_id}
        elif same := beside({actives[task] for task in active}):
            found = {task for task in active if actives[task] in same}
        else:
            found = set()
        if same := beside(set().union(*(standbys[task] for task in standby))):
            found |= {task for task in standby if not same.isdisjoint(standbys[task])}
        return frozenset(found)


def _among(tasks: frozenset[Task], owned: Mapping[Task, object]) -> frozenset[Task]:
    """Those of some tasks that are owned."""
    rest = tasks.difference(owned) if owned else tasks
    return frozenset() if len(rest) == len(tasks) else tasks - rest
