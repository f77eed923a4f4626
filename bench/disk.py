"""The disk's own figures, in the same run as the servers': a synced log cannot be faster than it."""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
BIG_WRITES: Final = 128
SMALL_WRITES: Final = 200
SMALL_BYTES: Final = 4096
PACE_S: Final = 0.001
BLOCK_BYTES: Final = 4096
PACED_BYTES: Final = 64 * MIB
READ_BYTES_PER_CALL: Final = 4 * MIB


class NotADisk(Exception):
    """The directory is in memory: a sync there costs nothing and measures nothing."""


def require_disk(directory: Path) -> None:
    """Refuse tmpfs and its like."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(directory)], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind in {"tmpfs", "ramfs"}:
        raise NotADisk(f"{directory} is {kind}: set BENCH_DIR to a directory on a disk")


def synced_writes(directory: Path) -> tuple[float, float]:
    """MB/s of 1 MiB writes and µs of a 4 KiB write, each followed by fdatasync, preallocated."""
    path = directory / "disk.probe"
    block = os.urandom(MIB)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    try:
        os.posix_fallocate(descriptor, 0, BIG_WRITES * MIB)
        os.fsync(descriptor)
        big_s = _timed_writes(descriptor, block, BIG_WRITES)
        small_s = _timed_writes(descriptor, block[:SMALL_BYTES], SMALL_WRITES)
    finally:
        os.close(descriptor)
        path.unlink()
    return BIG_WRITES * MIB / big_s / 1e6, small_s / SMALL_WRITES * 1e6


def _timed_writes(descriptor: int, block: bytes, count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        os.pwrite(descriptor, block, number * len(block))
        os.fdatasync(descriptor)
    return time.perf_counter() - started


def paced_writes(directory: Path, mb_s: int, seconds: float) -> list[float]:
    """Seconds from the moment when a write was due until it was synced, sorted: one in each millisecond. A log that is
    written at this rate cannot be faster."""
    size = max(1, round(mb_s * 1e6 * PACE_S / BLOCK_BYTES)) * BLOCK_BYTES
    return sorted(
        due_s for due_s, _ in due_writes(directory, [(n * PACE_S, size) for n in range(int(seconds / PACE_S))])
    )


def due_writes(directory: Path, writes: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Carry out writes of (seconds after the beginning, bytes), each synced, one after the other: past the page cache,
    to blocks that were written before. For each the seconds from the moment when it was due, and those of the call."""
    path, block = directory / "disk.probe", mmap.mmap(-1, _whole_blocks(max(size for _, size in writes)))
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_DIRECT)
    took, position = [], 0
    try:
        for at in range(0, PACED_BYTES, MIB):
            os.pwrite(descriptor, mmap.mmap(-1, MIB), at)
        os.fsync(descriptor)
        began = time.perf_counter()
        for due_s, size in writes:
            due, whole = began + due_s, _whole_blocks(size)
            if position + whole > PACED_BYTES:
                position = 0
            time.sleep(max(0.0, due - time.perf_counter()))
            called = time.perf_counter()
            os.pwritev(descriptor, [memoryview(block)[:whole]], position, os.RWF_DSYNC)
            ended = time.perf_counter()
            took.append((ended - due, ended - called))
            position += whole
    finally:
        os.close(descriptor)
        path.unlink()
    return took


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def fill_page_cache(directory: Path) -> None:
    """Read a file of holes as large as memory, so that later writes replace cached pages, as on a machine that has been
    up for a while. Into free memory a virtual machine writes up to half as slowly, or as fast, as its host has taken
    that memory back or not. The file stays, as its cached pages go with it."""
    path = directory / "holes"
    with path.open("ab") as holes:
        holes.truncate(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    block = bytearray(READ_BYTES_PER_CALL)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def forget_cached(directory: Path) -> None:
    """Drop the directory's clean pages from the page cache, so that a read meets the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_rate(paths: list[Path]) -> float:
    """MB/s of a plain sequential read of these files, uncached."""
    total = 0
    started = time.perf_counter()
    buffer = bytearray(READ_BYTES_PER_CALL)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - started) / 1e6
