"""A full log slows producers down: how long an append is held up, so that bytes come in as fast as bytes leave.

Pure: times and bytes come from outside.

**Invariants**

- Below `THROTTLE_FROM` no append is held up. No append is ever held up longer than `HOLD_MAX_S`.
- Above it, appends are admitted at a rate that falls as the log fills: from above the rate at which bytes leave the log
  to below it. So the log settles in between, and appends slow down evenly instead of stopping and starting.
- If nothing leaves the log, its last part is filled in `LAST_PART_S`; then appends are refused.
"""

from __future__ import annotations

from typing import Final

THROTTLE_FROM: Final = 0.75
"""The share of the log in use at which producers are slowed down. They are refused when it is full."""
HOLD_MAX_S: Final = 1.0
LAST_PART_S: Final = 30.0
EASE: Final = 1.75
STRAIN: Final = 0.25
"""Bytes admitted for each byte that leaves the log: where holding up begins, and where the log is full."""
LEAVING_OVER_S: Final = 10.0
"""The time over which leaving bytes are averaged: log files leave several at a time, some seconds apart."""


class Throttle:
    """The throttle of one container's log of at most `log_max_bytes`."""

    def __init__(self, log_max_bytes: int) -> None:
        self._log_max_bytes = log_max_bytes
        self._rate: float | None = None  # bytes a second; None: no append is held up
        self._free_at = 0.0  # when all admitted bytes have had their time
        self._leaving = 0.0  # bytes a second
        self._seen: tuple[float, int] | None = None

    @property
    def is_on(self) -> bool:
        return self._rate is not None

    def observe(self, now_s: float, log_bytes: int, left_bytes: int) -> None:
        """Take in the log's bytes now, and the bytes that have left it in all, but for a constant."""
        if self._seen is None:
            self._seen = now_s, left_bytes
        gone_s = now_s - self._seen[0]
        if gone_s > 0:
            newest = max(0, left_bytes - self._seen[1]) / gone_s
            self._leaving += (newest - self._leaving) * gone_s / (gone_s + LEAVING_OVER_S)
            self._seen = now_s, left_bytes
        excess = (log_bytes / self._log_max_bytes - THROTTLE_FROM) / (1 - THROTTLE_FROM)
        if excess <= 0:
            self._rate = None
            return
        floor = (1 - THROTTLE_FROM) * self._log_max_bytes / LAST_PART_S
        self._rate = max(floor, self._leaving * (EASE + (STRAIN - EASE) * min(1.0, excess)))

    def hold_s(self, now_s: float, size: int) -> float:
        """Admit an append of this size; returns how long to take nothing more from its connection."""
        if self._rate is None:
            return 0.0
        self._free_at = min(max(self._free_at, now_s) + size / self._rate, now_s + HOLD_MAX_S)
        return self._free_at - now_s

    def held_s(self, now_s: float) -> float:
        """The least time for which an append is held up now."""
        return 0.0 if self._rate is None else max(0.0, self._free_at - now_s)
