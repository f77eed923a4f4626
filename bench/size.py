"""Start-up, memory, ten thousand partitions, recovery: figures of Penstock alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock
from bench.workloads import KILOBYTE, produce_singles

PARTITIONS: Final = 10_000
RECOVERY_RECORDS: Final = 600_000
PAIRS: Final = 3
NAME: Final = "penstock"


def ten_thousand_partitions(results: Results, directory: Path) -> None:
    """Create them, write to one of them and to a lone one in turn, restart with them.

    librdkafka itself slows down with so large a topic (it walks all partitions each time it wakes up). So the server's
    CPU time is the cost of one of them; the rates compare the lone one before and afterwards.
    """
    server = Penstock(directory)
    try:
        server.create_topic("lone", 1)
        for _ in range(PAIRS):
            _singles(results, server, "lone", "alone")
        started = time.perf_counter()
        server.create_topic("many", PARTITIONS)
        results.add(NAME, "10,000 partitions created", "s", time.perf_counter() - started)
        for _ in range(PAIRS):
            _singles(results, server, "lone", "beside 10,000")
            _singles(results, server, "many", "one of 10,000")
        results.add(NAME, "memory with 10,000 partitions", "MB", server.rss_mb())
    finally:
        server.stop()
    again = Penstock(directory)
    results.add(NAME, "10,000 partitions restarted", "s", again.ready_seconds)
    again.stop()


def _singles(results: Results, server: Penstock, topic: str, which: str) -> None:
    before = server.cpu_seconds()
    load = produce_singles(server, topic)
    cpu_us = (server.cpu_seconds() - before) / load.records * 1e6
    results.add(NAME, f"produce, {which}", "requests/s", load.per_second)
    results.add(NAME, f"produce, {which}: server CPU", "µs/request", cpu_us)


def recovery(results: Results, directory: Path) -> None:
    """Kill it after 600 MB, drop the page cache, compare the replay with a plain read."""
    server = Penstock(directory)
    try:
        server.create_topic("replayed", 16)
        loadgen.run(
            "produce",
            server.bootstrap,
            "replayed",
            size=KILOBYTE,
            count=RECOVERY_RECORDS,
            partitions=16,
        )
    finally:
        server.kill()
    data = directory / "data"
    disk.forget_cached(data)
    files = sorted(path for path in data.rglob("*") if path.is_file())
    results.add("disk", "sequential read of the log, uncached", "MB/s", disk.read_rate(files))
    disk.forget_cached(data)
    again = Penstock(directory)
    replayed_mb = again.ready["replayed_bytes"] / 1e6
    again.stop()
    results.add(NAME, "recovery after a kill", "s", again.ready_seconds)
    results.add(NAME, "recovery: bytes replayed", "MB", replayed_mb)
    if replayed_mb:
        rate = replayed_mb / again.ready_seconds
        results.add(NAME, "recovery: replayed, start included", "MB/s", rate)


MEASURES: Final[tuple[Callable[[Results, Path], None], ...]] = (ten_thousand_partitions, recovery)
