"""How long threads waited for a processor: what a busy machine adds to every figure.

Keeps: a wait is read where Linux counts it, so it is neither the gateway's doing nor the disk's. A late answer beside a
wait as long is the machine's; one beside a short wait is the server's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

NS_PER_S: Final = 1e9


class Starved:
    """The threads of some processes; `look` as often as short waits shall be told from many."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self._waited_ns = dict(self._waits())
        self.longest_s = 0.0
        """The most that one thread waited between two looks."""

    def look(self) -> None:
        now = dict(self._waits())
        for thread, waited_ns in now.items():
            waited_s = (waited_ns - self._waited_ns.get(thread, waited_ns)) / NS_PER_S
            self.longest_s = max(self.longest_s, waited_s)
        self._waited_ns = now

    def _waits(self) -> Iterator[tuple[str, int]]:
        for process in self._processes:
            tasks = Path(f"/proc/{process}/task")
            with contextlib.suppress(FileNotFoundError):
                threads = list(tasks.iterdir())
                for thread in threads:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        yield thread.name, int((thread / "schedstat").read_text().split()[1])


class OtherWork:
    """What other processes of this machine use of its processors, meanwhile."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s = _busy_s(), self._ours()
        self._idle_s = _idle_s()

    def share(self) -> float:
        """0 to 1, of all processors."""
        busy_s = _busy_s() - self._busy_s
        total_s = busy_s + _idle_s() - self._idle_s
        return max(0.0, busy_s - (self._ours() - self._ours_s)) / total_s if total_s > 0 else 0.0

    def _ours(self) -> float:
        """Of this process and those that it started: the server, the honest clients."""
        own = psutil.Process(os.getpid())
        total_s = 0.0
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total_s += times.user + times.system
        return total_s


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times)) - _idle_s() - float(times.guest + times.guest_nice)


def _idle_s() -> float:
    times = psutil.cpu_times()
    return float(times.idle + times.iowait)
