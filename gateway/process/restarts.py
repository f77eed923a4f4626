"""When a worker that ended is started again. Pure: times are given, in seconds of one clock that never goes back.

Invariant: a worker that serves is back at once; one that fails again and again is tried less and less often, and never
less than every PAUSE_S_MAX. Workers are judged one by one: a broken disk of one slows none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

PAUSE_S_MIN: Final = 0.5
"""Pause before the second start in a row; the first comes at once."""
PAUSE_S_MAX: Final = 10.0
_DOUBLINGS_MAX: Final = 10  # far beyond PAUSE_S_MAX
HEALTHY_S: Final = 30.0
"""A worker that lived so long has recovered from whatever ended the one before it."""


@dataclass(slots=True)
class Restarts:
    """The starts of one worker."""

    count: int = 0
    """Starts after the first one."""
    _started: float = field(default=0.0, repr=False)
    _failures: int = field(default=0, repr=False)  # in a row

    def started(self, now: float) -> None:
        """A process of this worker has begun."""
        self._started = now

    def pause(self, now: float) -> float:
        """The worker has ended: seconds until it is started again."""
        self.count += 1
        if now - self._started >= HEALTHY_S:
            self._failures = 0
        failures, self._failures = self._failures, self._failures + 1
        return 0.0 if failures == 0 else min(PAUSE_S_MIN * 2.0 ** min(failures - 1, _DOUBLINGS_MAX), PAUSE_S_MAX)
