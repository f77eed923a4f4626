"""The threads' waits for a processor, which a busy machine adds to every figure.

Keeps: a wait is Linux's own count, so neither the gateway nor the disk causes it. If a late answer comes with as
long a wait, the machine is the cause; with a short wait, the server is.
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
    """The threads of some processes. The more often `look` is called, the better it tells one long wait from many short
    ones."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self._waited_ns = dict(self._waits())
        self.longest_s = 0.0
        """The longest wait of one thread between two looks."""

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
    """The other processes' use of this machine's processors meanwhile."""

    def __init__(self) -> None:
        self._busy_s, self._ours_s = _busy_s(), self._ours()
        self._idle_s = _idle_s()

    def share(self) -> float:
        """Their share of all processors, 0 to 1."""
        busy_s = _busy_s() - self._busy_s
        total_s = busy_s + _idle_s() - self._idle_s
        return max(0.0, busy_s - (self._ours() - self._ours_s)) / total_s if total_s > 0 else 0.0

    def _ours(self) -> float:
        """Seconds of this process and those that it started: the server, the honest clients."""
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
