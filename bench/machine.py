"""This machine's own limits, measured in the same run: no server can be faster."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench import disk

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SYNCED_SIZES: Final = {"4 KiB": (4 * KIB, 500), "64 KiB": (64 * KIB, 300), "1 MiB": (MIB, 128), "8 MiB": (8 * MIB, 24)}
LOOPBACK_BYTES: Final = 1 << 30
COPY_BYTES: Final = 64 * MIB
COPIES: Final = 12
PACED_SECONDS: Final = 4.0
SYSTEM: Final = "machine"

Figure = tuple[str, str, float]


def described() -> dict[str, Any]:
    """A description of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def limits(directory: Path) -> Iterator[Figure]:
    """Disk, loopback, memory."""
    for name, (size, count) in SYNCED_SIZES.items():
        seconds = sorted(_synced(directory / "disk.probe", size, count))
        yield f"disk, {name} write + fdatasync", "MB/s", size * count / sum(seconds) / 1e6
        for percentile, place in (("p50", 0.5), ("p99", 0.99)):
            yield f"disk, {name} write + fdatasync, {percentile}", "ms", seconds[int(place * (count - 1))] * 1000
    yield "loopback, one stream", "MB/s", _loopback()
    yield "memory copy", "MB/s", _copy()


def paced(directory: Path, mb_s: int) -> Iterator[Figure]:
    """How long synced writes take at a fixed rate, from the moment when each was due."""
    seconds = disk.paced_writes(directory, mb_s, PACED_SECONDS)
    for percentile, place in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        yield f"disk, {mb_s} MB/s in synced writes, {percentile}", "ms", seconds[int(place * (len(seconds) - 1))] * 1000


def _synced(path: Path, size: int, count: int) -> list[float]:
    """Seconds of each write of a preallocated file, synced."""
    block = os.urandom(size)
    seconds = []
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    try:
        os.posix_fallocate(descriptor, 0, size * count)
        os.fsync(descriptor)
        for number in range(count):
            started = time.perf_counter()
            os.pwrite(descriptor, block, number * size)
            os.fdatasync(descriptor)
            seconds.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
        path.unlink()
    return seconds


def _loopback() -> float:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname()[1],))
        sender.start()
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(MIB)
            started, received = time.perf_counter(), 0
            while count := connection.recv_into(buffer):
                received += count
        sender.join()
    return received / (time.perf_counter() - started) / 1e6


def _send(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        block = bytes(MIB)
        for _ in range(LOOPBACK_BYTES // MIB):
            connection.sendall(block)


def _copy() -> float:
    source, target = bytearray(os.urandom(COPY_BYTES)), bytearray(COPY_BYTES)
    started = time.perf_counter()
    for _ in range(COPIES):
        target[:] = source
    return COPY_BYTES * COPIES / (time.perf_counter() - started) / 1e6
