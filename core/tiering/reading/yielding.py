"""How read-ahead yields to appends where processors are scarce.

A consumer that catches up takes bytes as fast as they come: receiving, checking and sending them keeps every processor
of a small machine. An append goes from thread to thread, and waits for a processor at each. Linux counts the time in
which a thread was ready and had no processor. So a thread that brings bytes nobody waits for yet rests, once it had to
wait, for a multiple of that time.

**Invariants**

- Nobody rests while nothing is appended, nor where a processor is free.
- No rest is longer than `REST_S_MAX`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Final

ACTIVE_S: Final = 0.1
"""Appends count as under way for so long."""
REST: Final = 4
"""A rest, in waits for a processor since the last one."""
REST_S_MAX: Final = 0.01
WAIT_S_MIN: Final = 0.0002
"""Shorter waits are those of threads that hand over to one another."""

_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


class Yielding:
    """Tells the threads of one reader when to rest. `appended`: the last LSN of the log, from any thread."""

    def __init__(self, appended: Callable[[], int]) -> None:
        self._appended = appended
        self._seen = appended()
        self._active_until_s = 0.0

    def stretch(self) -> Stretch:
        """For a thread that begins to read ahead."""
        return Stretch(self._is_active)

    def _is_active(self) -> bool:
        newest, now = self._appended(), monotonic()
        if newest != self._seen:
            self._seen, self._active_until_s = newest, now + ACTIVE_S
        return now < self._active_until_s


class Stretch:
    """The reading of one thread."""

    def __init__(self, is_active: Callable[[], bool]) -> None:
        self._is_active = is_active
        self._waited_s: float | None = None

    def yield_now(self) -> None:
        """Rest, if this thread had to wait for a processor since the last call. For that thread."""
        before, self._waited_s = self._waited_s, waited_s()
        waited = 0.0 if before is None else self._waited_s - before
        if self._is_active() and waited >= WAIT_S_MIN:
            sleep(min(REST_S_MAX, REST * waited))
            self._waited_s = waited_s()


def waited_s() -> float:
    """Seconds for which this thread was ready and had no processor; 0 where the system does not tell."""
    try:
        return int(_SCHEDSTAT.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
