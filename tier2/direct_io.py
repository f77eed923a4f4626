"""Files past the page cache: whole blocks out of aligned memory, and back into it.

Data that is written once and seldom read again (log files, chunks) only costs in the page cache: a copy into memory
that the kernel must find first, and write-back at a moment of its choosing, in front of another file's sync. If a file
system refuses direct I/O, the same calls go through its cache.

A write with RWF_DSYNC is a write and a sync of what it wrote, in one call: a thread of Python waits for the interpreter
once instead of twice, and a disk that can write a block past its own cache is not asked to flush all of that.

Invariants:
- The file has exactly the bytes that `BlockWriter` was given, then zeros up to the end of the last block.
- A block that was written in part is written again as a whole, with the same bytes first: every sector has its content
  from before or from after that write, and both agree on all bytes that were given before.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tier2.memory import aligned
from tier2.shortage import patiently
from tier2.storage import Buffer

BLOCK_BYTES: Final = 4096
"""Unit of file positions, lengths and memory addresses, bytes: a multiple of every usual device's block."""
STAGING_BYTES: Final = 1 << 20
"""Bytes of one write at most: the next request in the disk's queue waits no longer than for these."""

_ZEROS: Final = bytes(BLOCK_BYTES)

SYNCING_WRITES: Final = frozenset({"ext4", "xfs", "tmpfs"})
"""File systems that take RWF_DSYNC at its word, also past the page cache. Others (FUSE, 9p, overlay) may pass such a
write on to a server or to a layer below, and take only fdatasync for a promise."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


def can_sync_with_writes(directory: Path) -> bool:
    """Whether a write with RWF_DSYNC to a file of this directory lasts when it returns. Asks the disk once."""
    try:
        if _file_system_of(directory) not in SYNCING_WRITES:
            return False
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.pwritev(fd, [bytes(1)], 0, os.RWF_DSYNC) == 1
        finally:
            os.close(fd)
    except OSError:  # an older kernel, or one that is told to forbid the call
        return False


def _file_system_of(path: Path) -> str:
    """Its name, as in `mount`; empty if it is not known."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text().splitlines():
        mounted, _, kind = line.partition(" - ")
        if mounted.split(" ", 3)[2] == wanted:
            return kind.split(" ", 1)[0]
    return ""


def open_direct(path: str | os.PathLike[str], flags: int, mode: int = 0o644) -> int:
    """A descriptor past the page cache, or a plain one if the file system has none. Raises OSError."""
    try:
        return os.open(path, flags | os.O_DIRECT, mode)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags & ~os.O_EXCL, mode)  # the first attempt may have made the file


def read_direct(fd: int, length: int, position: int) -> memoryview:
    """Bytes [position, position + length) of a file, fewer where it ends. Raises OSError."""
    start = position - position % BLOCK_BYTES
    size = up_to_block(position + length) - start
    whole = aligned(size)
    got = 0
    while got < size:
        count = os.preadv(fd, [whole[got:]], start + got)
        got += count
        if not count or got % BLOCK_BYTES:
            break  # the file ends
    skipped = position - start
    return whole[skipped : max(skipped, min(skipped + length, got))]


def up_to_block(position: int) -> int:
    """The first position, from this one on, at which a block begins."""
    return -(-position // BLOCK_BYTES) * BLOCK_BYTES


class BlockWriter:
    """Appends to a file, one whole write after the other. Not for several threads."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, STAGING_BYTES)
        self._staging = memoryview(self._memory)
        self._fd = -1
        self._start = 0  # position in the file of the staged bytes
        self._filled = 0  # bytes that are staged, written or not

    def begin(self, fd: int, position: int) -> None:
        """Go on in this file, at the beginning of a block."""
        if position % BLOCK_BYTES:
            raise ValueError(f"no block begins at {position}")
        self._fd, self._start, self._filled = fd, position, 0

    def stage(self, data: Buffer) -> None:
        """Take bytes; may write whole blocks of them. Raises OSError."""
        size = len(data)
        if self._filled + size <= STAGING_BYTES:
            self._staging[self._filled : self._filled + size] = data
            self._filled += size
            return
        view, taken = memoryview(data).cast("B"), 0
        while taken < size:
            if self._filled == STAGING_BYTES:
                self._write(STAGING_BYTES)
            count = min(size - taken, STAGING_BYTES - self._filled)
            self._staging[self._filled : self._filled + count] = view[taken : taken + count]
            self._filled += count
            taken += count

    def flush(self) -> None:
        """Write all staged bytes. Raises OSError."""
        end = up_to_block(self._filled)
        self._staging[self._filled : end] = _ZEROS[: end - self._filled]
        if end:
            self._write(end)

    def write(self, parts: Iterable[Buffer]) -> None:
        """Stage and flush. Raises OSError."""
        for part in parts:
            self.stage(part)
        self.flush()

    def _write(self, size: int) -> None:
        written = patiently(lambda: os.pwrite(self._fd, self._staging[:size], self._start))
        if written != size:
            raise OSError(0, f"short write: {written} of {size} bytes")
        whole = self._filled - self._filled % BLOCK_BYTES
        rest = self._filled - whole
        if whole and rest:
            self._staging[:rest] = self._staging[whole : self._filled]
        self._start += whole
        self._filled = rest
