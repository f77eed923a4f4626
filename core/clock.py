"""Time, passed in: monotonic for time-outs, wall clock only for timestamps and retention."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The source of time of every component, so that tests can turn it."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary point; never goes back."""

    def wall_ms(self) -> int:
        """Milliseconds since the epoch; may jump either way."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_s = 0.0
        self._wall_ms = wall_ms

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._monotonic_s += seconds
        self._wall_ms += int(seconds * 1000)

    def jump_wall(self, milliseconds: int) -> None:
        """Set the wall clock forward or back, as an operator or NTP would."""
        self._wall_ms += milliseconds
