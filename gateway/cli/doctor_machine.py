"""Measures the machine and this process: clock, memory, descriptors.

Keeps: changes nothing.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from gateway.cli.doctor_disk import files_below, nearest, scratch
from gateway.cli.doctor_facts import ClockFacts, LimitFacts, MemoryFacts
from gateway.config.machine import usable_memory
from gateway.config.model import Config
from gateway.network.descriptors import LIMIT_MAX, share

READINGS: Final = 1000


def limits(config: Config) -> LimitFacts:
    """The limit is the hard one, up to which a gateway raises its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    return LimitFacts(limit, share(config, limit).kafka, config.max_connections)


def memory(config: Config) -> MemoryFacts:
    store = config.store_config()
    caches = (
        store.cache_bytes,
        store.index_cache_bytes,
        store.log_read_cache_bytes,
        store.tier2_cache_bytes,
        store.rocksdb_cache_bytes,
        store.rocksdb_write_buffer_bytes,
    )
    return MemoryFacts(usable_memory(), sum(caches))


class ClockWatch:
    """Compares the clock with the monotonic one between its making and `facts`."""

    def __init__(self) -> None:
        self._began = time.time(), time.monotonic()

    def facts(self, directories: Sequence[Path]) -> ClockFacts:
        readings = [time.monotonic() for _ in range(READINGS)]
        now, monotonic = time.time(), time.monotonic()
        newest = max((changed for path in directories for *_, changed in files_below(path)), default=0.0)
        return ClockFacts(
            now_s=now,
            newest_file_s=newest,
            ahead_of_files_s=_ahead_of_files(nearest(directories[0].absolute())),
            stepped_s=(now - self._began[0]) - (monotonic - self._began[1]),
            is_monotonic=all(earlier <= later for earlier, later in pairwise((self._began[1], *readings, monotonic))),
        )


def _ahead_of_files(directory: Path) -> float:
    """Our clock against that of the file system; 0 where no file can be made."""
    try:
        with scratch(directory) as fd:
            os.write(fd, b"x")
            now = time.time()
            return now - os.fstat(fd).st_mtime
    except OSError:
        return 0.0
