"""Bounds of time for what processes do: what they waited for a processor meanwhile does not count.

What the product promises within some seconds it promises on a machine of its own. On one that does other work, threads
that could go on wait until they may: the kernel counts that for each (`/proc/PID/task/TID/schedstat`, the second
number, in nanoseconds).

**Invariant**: where nobody waits, a bound is the one that was named; wherever it is, it is at most `STRETCH_MAX` times
that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

STRETCH_MAX: Final = 6.0

Delays = dict[tuple[int, str], int]
"""By process and thread, ns."""


class Patience:
    """How long something is waited for. `pids`: the processes that have to do with it, as they are at each moment."""

    def __init__(self, within_s: float, pids: Callable[[], Collection[int]]) -> None:
        self._within_s = within_s
        self._pids = pids
        self._began_s = time.monotonic()
        self._before = delays_of(pids())

    def __str__(self) -> str:
        return f"{self._within_s:g} s, and {self.lengthened_s():.1f} s without a processor"

    def is_over(self) -> bool:
        """Whether the time is up."""
        passed_s = time.monotonic() - self._began_s
        return passed_s > self._within_s and passed_s > self._within_s + self.lengthened_s()

    def lengthened_s(self) -> float:
        """By how much, so far."""
        now = delays_of(self._pids())
        waited = sum(ns - self._before.get(thread, 0) for thread, ns in now.items())
        return min(waited / 1e9, (STRETCH_MAX - 1) * self._within_s)


def delays_of(pids: Collection[int]) -> Delays:
    """What each thread has waited for a processor since it began; nothing of processes that have ended."""
    found: Delays = {}
    for pid in pids:
        for told in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                _, waited_ns, _ = told.read_text().split()
            except OSError:  # it has ended since
                continue
            found[pid, told.parent.name] = int(waited_ns)
    return found
