"""How fast chunks are made: no faster than needed, so that long-term storage works evenly instead of in bursts.

A chunk that is put at full speed takes both cores of a small machine, and the disk, from producers. Nothing waits for a
chunk as long as the log has room: the log takes a burst, and the burst moves on when it is over.

**Invariant**: over any stretch of time at most `rate` times its length goes out, and `BURST_BYTES` more. Without a rate
all goes out at once.
"""

from __future__ import annotations

import threading
import time
from typing import Final

BURST_BYTES: Final = 1 << 20
RATE_MIN: Final = 16 << 20
"""Bytes a second that are made even if less comes in: chunks due by age should not take minutes."""
DRAIN_S: Final = 30.0
"""The backlog is paced to be gone after this time, for which its entries are on one disk only."""
HEADROOM: Final = 1.5
"""The multiple of the incoming rate, once the log is under pressure: before that a backlog becomes shorter."""
SMOOTHING: Final = 0.3
"""The weight of the newest second in the average of the incoming rate."""


def rate(incoming: float, waiting_bytes: int, pressure: float) -> float | None:
    """Bytes a second to make, when `incoming` a second are appended. None: as fast as possible.

    Pressure is squared. So a log with plenty of room takes most of a burst, and a log that fills up steadily settles
    well before there is pressure, where as much goes out as comes in.
    """
    if pressure >= 1:
        return None
    return max(RATE_MIN, waiting_bytes / DRAIN_S, HEADROOM * incoming * pressure**2)


class TokenBucket:
    """A bucket of bytes, shared by all uploads of a container; `take` is for their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate: float | None = None  # bytes a second; None: no limit
        self._free_at = 0.0  # when the bytes taken so far have gone out
        self._incoming = 0.0
        self._seen: tuple[float, int] | None = None

    def observe(self, appended_bytes: int, waiting_bytes: int, pressure: float) -> None:
        """Take in the bytes appended by now, in all, and the bytes that wait. See `rate`."""
        now = time.monotonic()
        if self._seen is not None and now > self._seen[0]:
            newest = (appended_bytes - self._seen[1]) / (now - self._seen[0])
            self._incoming += SMOOTHING * (newest - self._incoming)
        self._seen = now, appended_bytes
        with self._lock:
            self._rate = rate(self._incoming, waiting_bytes, pressure)

    def take(self, size: int) -> None:
        """Wait until this many bytes may go out."""
        with self._lock:
            rate = self._rate
            if rate is None:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_BYTES / rate) + size / rate
            wait_s = self._free_at - now
        if wait_s > 0:
            time.sleep(wait_s)
