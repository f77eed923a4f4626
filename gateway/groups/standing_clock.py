"""The time of a coordinator's groups, which stands still until they are served.

Keeps: members of a group that is loaded find as much of their session left as if its coordinator had never been away,
however long the load takes: nobody hears their heartbeats meanwhile.
"""

from __future__ import annotations

from core.clock import Clock


class StandingClock:
    """A `Clock` whose monotonic time begins to pass with `go_on`. The wall clock is as it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stands_at_s: float | None = clock.monotonic_s()
        self._behind_s = 0.0

    def __repr__(self) -> str:
        return f"<StandingClock {'stands' if self._stands_at_s is not None else 'runs'}, {self._behind_s:.1f} s behind>"

    def go_on(self) -> None:
        """Pass from now on; said again, it changes nothing."""
        if self._stands_at_s is not None:
            self._behind_s = self._clock.monotonic_s() - self._stands_at_s
            self._stands_at_s = None

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s() - self._behind_s if self._stands_at_s is None else self._stands_at_s

    def wall_ms(self) -> int:
        return self._clock.wall_ms()
