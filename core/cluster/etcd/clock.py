"""Time for leases: it also runs while the machine sleeps, as it does for etcd, which counts them."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # systems without it are no servers


def boot_s() -> float:
    """Seconds since the machine's start, those included in which it slept."""
    return time.clock_gettime(_CLOCK)
