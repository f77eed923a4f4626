"""All deadlines of all groups in one heap; a heartbeat costs one assignment.

Keeps: a deadline that is set has exactly one live entry in the heap, never later than itself.
Postponing it (every heartbeat does) leaves the entry alone; the entry is corrected when its time comes.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Final, Generic, TypeAlias, TypeVar

OwnerT = TypeVar("OwnerT")

#: Dead entries tolerated before the heap is rebuilt without them.
DEAD_ENTRIES_MIN: Final = 1_024


class Deadline(Generic[OwnerT]):
    """The point in monotonic time at which to notify the owner, or None."""

    __slots__ = ("at_s", "entry", "owner")

    def __init__(self, owner: OwnerT) -> None:
        self.owner = owner
        self.at_s: float | None = None
        self.entry: Entry[OwnerT] | None = None

    def __repr__(self) -> str:
        return f"Deadline({self.owner!r} at {self.at_s})"


Entry: TypeAlias = tuple[float, int, Deadline[OwnerT]]


class Deadlines(Generic[OwnerT]):
    """A heap of deadlines, corrected lazily."""

    def __init__(self) -> None:
        self._heap: list[Entry[OwnerT]] = []
        self._order = itertools.count()
        self._dead_count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, deadline: Deadline[OwnerT], at_s: float) -> None:
        """Move the deadline to `at_s`, earlier or later."""
        deadline.at_s = at_s
        if deadline.entry is None:
            self._push(deadline, at_s)
        elif at_s < deadline.entry[0]:
            self._push(deadline, at_s)
            self._note_dead_entry()

    def cancel(self, deadline: Deadline[OwnerT]) -> None:
        """Forget the deadline until it is set again."""
        deadline.at_s = None
        if deadline.entry is not None:
            deadline.entry = None
            self._note_dead_entry()

    def next_s(self) -> float | None:
        """The time of the next look: never later than the earliest deadline, perhaps earlier."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float) -> Deadline[OwnerT] | None:
        """Take one deadline that has passed, and unset it."""
        while self._heap and self._heap[0][0] <= now_s:
            entry = heapq.heappop(self._heap)
            deadline = entry[2]
            if deadline.entry is not entry:
                self._dead_count -= 1
                continue
            deadline.entry = None
            assert deadline.at_s is not None, "a live entry belongs to a deadline that is set"
            if deadline.at_s <= now_s:
                deadline.at_s = None
                return deadline
            self._push(deadline, deadline.at_s)
        return None

    def _push(self, deadline: Deadline[OwnerT], at_s: float) -> None:
        deadline.entry = (at_s, next(self._order), deadline)
        heapq.heappush(self._heap, deadline.entry)

    def _note_dead_entry(self) -> None:
        """Count a dead entry; rebuild the heap when half of it is dead, which keeps the cost per call flat."""
        self._dead_count += 1
        if self._dead_count > max(DEAD_ENTRIES_MIN, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].entry is entry]
            heapq.heapify(self._heap)
            self._dead_count = 0
