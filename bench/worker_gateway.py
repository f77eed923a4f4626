"""The gateway of several workers that is measured, with the CPU time of all of its processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import loadgen
from bench.servers import CPUCLOCK_SCHED, Penstock

CONTAINERS: Final = 8
SETTLE_LOOK_S: Final = 0.5
SETTLED: Final = 0.05
"""Of a core for each process: above what it uses at rest, on a machine whose host is busy too."""
SETTLE_TRIES_MAX: Final = 40
SETTLE_S: Final = 15.0
"""What follows a start or the creation of very many partitions happens once, some seconds later."""


class Gateway(Penstock):
    """A gateway of several workers, with the CPU time of all of its processes."""

    def __init__(self, directory: Path, workers: int, containers: int = CONTAINERS) -> None:
        super().__init__(directory, {"containers": containers, "workers": workers, "tier2": "off"})
        self.pids: Sequence[int] = [self.process.pid, *self.ready.get("workers", [])]
        self.workers: Sequence[int] = self.ready.get("workers", [self.process.pid])
        self.bootstrap = ",".join(self.ready["kafka"])

    def cpu_seconds(self) -> float:
        return sum(time.clock_gettime_ns(~pid << 3 | CPUCLOCK_SCHED) for pid in self.pids) / 1e9


def settle(gateway: Gateway) -> None:
    """Wait until what processes do after their start is done."""
    for _ in range(SETTLE_TRIES_MAX):
        before = gateway.cpu_seconds()
        time.sleep(SETTLE_LOOK_S)
        if gateway.cpu_seconds() - before < SETTLED * len(gateway.pids) * SETTLE_LOOK_S:
            return
    raise loadgen.LoadFailed("the gateway does not come to rest")
