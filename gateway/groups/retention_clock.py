"""Wall-clock time for the expiry of offsets, safe against a clock that jumps.

Keeps: within one life of the process, what is stamped now and looked at later never seems older than
the time that really passed. So a jump of the wall clock, either way, can only make an offset stay.
"""

from __future__ import annotations

from core.clock import Clock


class RetentionClock:
    """The wall clock, and beside it the time at the start plus what has passed since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_wall_ms = clock.wall_ms()
        self._start_s = clock.monotonic_s()

    def stamp_ms(self) -> int:
        """When something happens, to be stored with it: the later of both."""
        return max(self._clock.wall_ms(), self._steady_ms())

    def now_ms(self) -> int:
        """Against which stored stamps are judged: the earlier of both."""
        return min(self._clock.wall_ms(), self._steady_ms())

    def _steady_ms(self) -> int:
        return self._start_wall_ms + int((self._clock.monotonic_s() - self._start_s) * 1_000)
