"""Which members of a streams group have which tasks.

Keeps: no task is active with two members.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.groups.streams.member import Member
from gateway.groups.streams.messages import Holdings, Task
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

    def take(self, member: Member, holdings: Holdings) -> None:
        for task in holdings.active:
            assert task not in self._actives, f"{task} would be active with two members"
            self._actives[task] = member.member_id
        for task in holdings.standby:
            self._standbys.setdefault(task, set()).add(member.member_id)

    def let_go(self, member: Member, holdings: Holdings) -> None:
        for task in holdings.active:
            del self._actives[task]
        for task in holdings.standby:
            holders = self._standbys[task]
            holders.discard(member.member_id)
            if not holders:
                del self._standbys[task]

    def is_taken(self, members: Mapping[str, Member], member: Member, role: Role, task: Task) -> bool:
        """Does another member keep this one from having a task in a role?"""
        active = {self._actives[task]} if task in self._actives else set()
        if role is Role.ACTIVE and active - {member.member_id}:
            return True
        others = (active | self._standbys.get(task, set())) - {member.member_id}
        return any(members[other].process_id == member.process_id for other in others)
