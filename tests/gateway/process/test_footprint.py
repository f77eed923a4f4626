"""The cost of an unused gateway: time to be ready, memory, processor."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.gateway.launching import serving

pytestmark = pytest.mark.slow

READY_S_MAX = 2.0
IDLE_RSS_MAX = 120_000_000
IDLE_CPU_MAX = 0.05
STARTS = 5


def test_ready_in_two_seconds(tmp_path: Path) -> None:
    """From the command to the first client. Where other work holds the processors, its own time counts."""
    seconds = []
    for number in range(STARTS):
        with serving(tmp_path / str(number), "--http", "127.0.0.1:0") as gateway:
            gateway.ready()
            elapsed_s = time.monotonic() - gateway.started_s
            used = psutil.Process(gateway.process.pid).cpu_times()
            seconds.append(min(elapsed_s, used.user + used.system))
        if seconds[-1] < READY_S_MAX:
            return
    raise AssertionError(f"ready after {seconds} s")


def test_nothing_is_left_in_the_working_directory(tmp_path: Path) -> None:
    """Only the requested files are written, and only at the named places."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as gateway:
        gateway.ready()

        assert {path.name for path in tmp_path.iterdir()} == {"data", "ready.json", "out", "err"}


def test_one_process_is_one(tmp_path: Path) -> None:
    """Without `workers` there is no supervisor and no SQLite: no child, no library of it, no file of a registry."""
    with serving(tmp_path, "--http", "127.0.0.1:0", "--set", "containers=4") as gateway:
        gateway.ready()
        process = psutil.Process(gateway.process.pid)

        assert process.children(recursive=True) == []
        assert [each.path for each in process.memory_maps() if "sqlite" in each.path] == []
        assert [path for path in (tmp_path / "data").rglob("*") if "registry" in path.name] == []


def test_idle_memory(tmp_path: Path) -> None:
    """An idle gateway, metrics scraped or not, stays small."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as gateway:
        gateway.ready()

        assert psutil.Process(gateway.process.pid).memory_info().rss < IDLE_RSS_MAX


def test_idle_processor(tmp_path: Path) -> None:
    """Nothing spins while nobody is there: the calmest of a few seconds, after the work of a start."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as gateway:
        gateway.ready()
        process = psutil.Process(gateway.process.pid)

        assert min(_used_in_a_second(process) for _ in range(3)) < IDLE_CPU_MAX


def _used_in_a_second(process: psutil.Process) -> float:
    before = process.cpu_times()
    psutil.wait_procs([process], timeout=1)
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system
