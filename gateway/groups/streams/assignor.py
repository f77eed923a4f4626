"""Which member gets which task, in the manner of Kafka's sticky assignor (KIP-1071).

Keeps: every task is active with one member; a task's standbys are on processes of their own; of stateful tasks there
are as many standbys as wanted, or as there are other processes. Members differ by one active task at most, as long as
no process has more members than others; a member keeps what it has, as far as that allows, and a standby's member is
the next that gets a task. Equal inputs make equal assignments.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from gateway.groups.streams.messages import NO_TASKS, Task, Tasks

_Candidates: TypeAlias = Callable[[Task], Iterable[str]]
"""The members that should get a task, the best first."""


class MemberSpec(NamedTuple):
    """A member as the assignor sees it: the tasks are those of the last target."""

    member_id: str
    process_id: str
    tasks: Tasks


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What there is to assign: for each subtopology its number of tasks; `stateful` ones have standbys."""

    members: tuple[MemberSpec, ...]
    tasks: Mapping[str, int]
    stateful: frozenset[str]
    standbys: int

    @property
    def size(self) -> int:
        """Members and tasks that the assignor goes through."""
        return len(self.members) + sum(self.tasks.values()) * (1 + self.standbys)


class Computed(NamedTuple):
    """New targets for an epoch of the group, of those members whose target is another."""

    epoch: int
    changes: Mapping[str, Tasks]


class Wanted(NamedTuple):
    """A target to compute elsewhere."""

    epoch: int
    spec: GroupSpec

    def compute(self) -> Computed:
        targets = assign(self.spec)
        changed = [member for member in self.spec.members if targets[member.member_id] != member.tasks]
        return Computed(self.epoch, {member.member_id: targets[member.member_id] for member in changed})


def assign(spec: GroupSpec) -> Mapping[str, Tasks]:
    """The target of each member."""
    if not spec.members:
        return {}
    assignment = _Assignment(spec)
    assignment.assign_active()
    if spec.standbys:
        assignment.assign_standbys()
    return assignment.result()


@dataclass(slots=True)
class _Process:
    """The members of one process, and what they got so far."""

    process_id: str
    counts: dict[str, int] = field(default_factory=dict)
    tasks: set[Task] = field(default_factory=set)

    @property
    def load(self) -> float:
        return len(self.tasks) / len(self.counts)

    def idlest(self) -> str:
        return min(self.counts, key=lambda member_id: (self.counts[member_id], member_id))


class _Quota:
    """How many tasks a member may have: what is left, shared out among the members that have not reached it."""

    def __init__(self, tasks: int, members: int) -> None:
        self._tasks = tasks
        self._members = members
        self.each = -(-tasks // members)

    def reached(self, count: int) -> None:
        """One more member has this many tasks, and gets no more."""
        self._tasks -= count
        self._members -= 1
        self.each = -(-self._tasks // self._members) if self._members > 0 else 0


class _Assignment:
    def __init__(self, spec: GroupSpec) -> None:
        self._spec = spec
        self._process_of = {member.member_id: member.process_id for member in spec.members}
        self._processes: dict[str, _Process] = {}
        self._active: dict[Task, str] = {}
        self._standby: dict[Task, list[str]] = {}
        self._was_active: dict[Task, str] = {}
        self._was_standby: dict[Task, list[str]] = {}
        for member in sorted(spec.members):
            process = self._processes.setdefault(member.process_id, _Process(member.process_id))
            process.counts[member.member_id] = 0
            self._was_active |= dict.fromkeys(member.tasks.active, member.member_id)
            for task in member.tasks.standby:
                self._was_standby.setdefault(task, []).append(member.member_id)
        # The same objects as in the last targets: sets of 100,000 of them are compared on the event loop, which takes
        # three times as long for equal ones that are not the same.
        known = {task: task for member in spec.members for tasks in member.tasks for task in tasks}
        tasks = (Task(name, number) for name in sorted(spec.tasks) for number in range(spec.tasks[name]))
        self._tasks = [known.get(task, task) for task in tasks]

    def result(self) -> Mapping[str, Tasks]:
        active: dict[str, set[Task]] = {}
        standby: dict[str, set[Task]] = {}
        for task, member_id in self._active.items():
            active.setdefault(member_id, set()).add(task)
        for task, member_ids in self._standby.items():
            for member_id in member_ids:
                standby.setdefault(member_id, set()).add(task)
        return {
            member_id: Tasks(frozenset(active.get(member_id, ())), frozenset(standby.get(member_id, ())))
            if member_id in active or member_id in standby
            else NO_TASKS
            for member_id in self._process_of
        }

    # Active tasks

    def assign_active(self) -> None:
        """Tasks with state are shared out first and evenly, since they cost more; the others make up the shares."""
        stateful = [task for task in self._tasks if task.subtopology in self._spec.stateful]
        stateless = [task for task in self._tasks if task.subtopology not in self._spec.stateful]
        members = len(self._process_of)
        self._assign(stateful, _Quota(len(stateful), members))
        quota = _Quota(len(self._tasks), members)
        for count in sorted(map(self._count, self._process_of), reverse=True):
            if count >= quota.each:
                quota.reached(count)
        self._assign(stateless, quota)

    def _assign(self, tasks: list[Task], quota: _Quota) -> None:
        """First to those that have a task, then to those that have a copy of its state, then to whoever has least."""
        rest = self._kept(tasks, quota, lambda task: filter(None, [self._was_active.get(task)]))
        rest = self._kept(rest, quota, lambda task: self._by_load(self._was_standby.get(task, ())))
        heap = [(process.load, process_id) for process_id, process in self._processes.items()]
        heapq.heapify(heap)
        for task in rest:
            _, process_id = heap[0]
            process = self._processes[process_id]
            self._give_active(task, process.idlest())
            heapq.heapreplace(heap, (process.load, process_id))

    def _kept(self, tasks: Iterable[Task], quota: _Quota, candidates: _Candidates) -> list[Task]:
        """Give tasks to candidates that have not reached the quota; return the others."""
        rest = []
        for task in tasks:
            for member_id in candidates(task):
                if self._count(member_id) < quota.each:
                    self._give_active(task, member_id)
                    if self._count(member_id) == quota.each:
                        quota.reached(quota.each)
                    break
            else:
                rest.append(task)
        return rest

    def _give_active(self, task: Task, member_id: str) -> None:
        self._active[task] = member_id
        self._give(task, member_id)

    # Standbys

    def assign_standbys(self) -> None:
        """First to those that had a task, then to those that have a copy, then to whoever has least."""
        spec = self._spec
        stateful = [task for task in self._tasks if task.subtopology in spec.stateful]
        wanted = min(spec.standbys, len(self._processes) - 1)
        if not wanted:
            return
        most = -(-(len(self._tasks) + len(stateful) * wanted) // len(self._process_of))
        missing: dict[Task, int] = {}
        for task in stateful:
            missing[task] = wanted
            former = [self._was_active[task]] if task in self._was_active else []
            for member_id in [*former, *self._by_load(self._was_standby.get(task, ()))]:
                if missing[task] and self._count(member_id) < most and not self._has(task, member_id):
                    self._give_standby(task, member_id)
                    missing[task] -= 1
        heap = [(process.load, process_id) for process_id, process in self._processes.items()]
        heapq.heapify(heap)
        for task, count in missing.items():
            for _ in range(count):
                self._give_standby_to_idlest(heap, task)

    def _give_standby_to_idlest(self, heap: list[tuple[float, str]], task: Task) -> None:
        passed = []
        while task in self._processes[heap[0][1]].tasks:
            passed.append(heapq.heappop(heap))
        _, process_id = heap[0]
        process = self._processes[process_id]
        self._give_standby(task, process.idlest())
        heapq.heapreplace(heap, (process.load, process_id))
        for entry in passed:
            heapq.heappush(heap, entry)

    def _give_standby(self, task: Task, member_id: str) -> None:
        self._standby.setdefault(task, []).append(member_id)
        self._give(task, member_id)

    # Members

    def _give(self, task: Task, member_id: str) -> None:
        process = self._processes[self._process_of[member_id]]
        process.tasks.add(task)
        process.counts[member_id] += 1

    def _count(self, member_id: str) -> int:
        return self._processes[self._process_of[member_id]].counts[member_id]

    def _has(self, task: Task, member_id: str) -> bool:
        """Has a member's process this task?"""
        return task in self._processes[self._process_of[member_id]].tasks

    def _by_load(self, member_ids: Collection[str]) -> list[str]:
        def load(member_id: str) -> tuple[float, int, str]:
            return self._processes[self._process_of[member_id]].load, self._count(member_id), member_id

        return sorted(member_ids, key=load)
