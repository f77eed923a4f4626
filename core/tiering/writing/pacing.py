"""How fast chunks are made: no faster than there is need, so that long-term storage works evenly instead of in bursts.

A chunk that is put at full speed takes both cores of a small machine, and the disk, from whoever appends meanwhile.
Nothing waits for it, as long as the log has room: a burst is taken by the log, and moved on when it is over.

**Invariant**: over any stretch of time `rate` times its length goes out, and `BURST_BYTES` more; all of it at once when
there is no rate.
"""

from __future__ import annotations

import threading
import time
from typing import Final

BURST_BYTES: Final = 1 << 20
RATE_MIN: Final = 16 << 20
"""Bytes a second that are made even if less comes in: what is due by age should not take minutes."""
DRAIN_S: Final = 30.0
"""What waits would be gone after this time: so long, at the most, it is on one disk only."""
HEADROOM: Final = 1.5
"""Times what comes in, once the log is so full that there is pressure: a backlog becomes shorter before that."""
SMOOTHING: Final = 0.3
"""Weight of the newest second in what is taken for the rate of what comes in."""


def rate(incoming: float, waiting_bytes: int, pressure: float) -> float | None:
    """Bytes a second to be made, where `incoming` a second are appended. None: as fast as it goes.

    Squared, so that a log with plenty of room takes most of a burst, and one that fills up steadily settles well before
    there is pressure, where what goes out is what comes in.
    """
    if pressure >= 1:
        return None
    return max(RATE_MIN, waiting_bytes / DRAIN_S, HEADROOM * incoming * pressure**2)


class TokenBucket:
    """Of bytes, shared by all uploads of a container; `take` is for their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate: float | None = None  # bytes a second; None: no limit
        self._free_at = 0.0  # when what was taken so far has gone out
        self._incoming = 0.0
        self._seen: tuple[float, int] | None = None

    def observe(self, appended_bytes: int, waiting_bytes: int, pressure: float) -> None:
        """So much has been appended by now, in all, and so much waits. See `rate`."""
        now = time.monotonic()
        if self._seen is not None and now > self._seen[0]:
            newest = (appended_bytes - self._seen[1]) / (now - self._seen[0])
            self._incoming += SMOOTHING * (newest - self._incoming)
        self._seen = now, appended_bytes
        with self._lock:
            self._rate = rate(self._incoming, waiting_bytes, pressure)

    def take(self, size: int) -> None:
        """Wait until so many bytes may go out."""
        with self._lock:
            rate = self._rate
            if rate is None:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_BYTES / rate) + size / rate
            wait_s = self._free_at - now
        if wait_s > 0:
            time.sleep(wait_s)
