"""The bytes that compaction took out of a slot: its chunks hold fewer than were appended. Pure.

A slot's byte positions (`Slot.total_bytes`, `start_bytes`, a run's `bytes_before`) count all bytes ever appended, so
they never change. The *stored* bytes are those less the bytes in here. Runs that lost nothing are not in here.

**Invariant**: nothing here changes. Each change of a slot makes another `Removed`, so any thread may hold one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final


class Removed:
    """Disjoint stretches of sequence numbers in order, each with the bytes taken out of it."""

    __slots__ = ("_ends", "_firsts", "_sums")

    def __init__(self, stretches: Sequence[tuple[int, int, int]] = ()) -> None:
        """`stretches` are first, end and bytes of each, in order."""
        self._firsts = [first for first, _, _ in stretches]
        self._ends = [end for _, end, _ in stretches]
        self._sums = [0, *accumulate(size for _, _, size in stretches)]

    def __len__(self) -> int:
        return len(self._firsts)

    def __repr__(self) -> str:
        return f"<Removed {self._sums[-1]} bytes of {len(self)} stretches>"

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, int, int]]) -> Removed:
        """`runs` are all of a slot's: first, end, and the bytes taken out of each."""
        stretches = [run for run in runs if run[2] > 0]
        return cls(stretches) if stretches else NOTHING_REMOVED

    def with_run(self, first: int, end: int, size: int) -> Removed:
        """Let a run take the place of everything in its stretch."""
        low = bisect_right(self._ends, first)
        high = max(low, bisect_left(self._firsts, end))
        if low == high and size <= 0:
            return self
        stretches = self._stretches()
        stretches[low:high] = [(first, end, size)] if size > 0 else []
        return Removed(stretches) if stretches else NOTHING_REMOVED

    def without_before(self, offset: int) -> Removed:
        """Drop the stretches that lie wholly before `offset`."""
        low = bisect_right(self._ends, offset)
        if not low:
            return self
        return Removed(self._stretches()[low:]) if low < len(self) else NOTHING_REMOVED

    def behind(self, offset: int) -> int:
        """The bytes taken out from `offset` on. A stretch that `offset` divides counts in proportion."""
        number = bisect_right(self._ends, offset)
        if number == len(self):
            return 0
        size = self._sums[-1] - self._sums[number]
        first, end = self._firsts[number], self._ends[number]
        if first < offset:
            size -= (self._sums[number + 1] - self._sums[number]) * (offset - first) // (end - first)
        return size

    def _stretches(self) -> list[tuple[int, int, int]]:
        sizes = (after - before for before, after in zip(self._sums, self._sums[1:], strict=False))
        return list(zip(self._firsts, self._ends, sizes, strict=True))


NOTHING_REMOVED: Final = Removed()
