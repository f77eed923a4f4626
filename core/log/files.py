"""The log's files on disk: their names, their room, and the syncs that make each change last.

**Invariant**: a file with a log file's name has a synced header, room allocated on disk, and a synced directory entry.
So after a crash a write into it never misses its name, and it meets a full file system only on a broken disk. A file
becomes the next log file only by `begin`.

Room is filled with zeros ahead of use, if there is time. On ext4 an fdatasync over blocks that were written before
costs half of one that must also convert unwritten extents in the journal. Truncated files are used again for the same
reason. All of it goes past the page cache, in steps short enough for a sync of the log to wait for.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Final

from core.errors import StorageFailure
from core.log.format import FILE_HEADER_SIZE, FileHeader, encode_file_header
from tier2.direct_io import BLOCK_BYTES, open_direct, up_to_block
from tier2.giving_back import give_back
from tier2.memory import aligned
from tier2.shortage import patiently

LOG_SUFFIX: Final = ".log"
SPARE_SUFFIX: Final = ".spare"
PREPARED_SUFFIX: Final = ".prepared"
BALLAST_NAME: Final = "ballast"
BALLAST_BYTES: Final = 8 * 1024 * 1024
"""Kept aside, and freed when the disk is full, so that checkpoints, sidecars and truncation still find room."""

_FILL_STEP: Final = 256 * 1024
_FILL_SYNC: Final = 64 * _FILL_STEP
FILL_BYTES_S: Final = 96 << 20
"""A load that fills files faster than this needs the disk itself; its syncs then take a little longer."""
_ZEROS: Final = memoryview(mmap.mmap(-1, _FILL_STEP))
"""A piece of aligned memory, which nobody writes to."""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
UNREADABLE: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EREMOTEIO, errno.EUCLEAN})
"""The errors of a read where the disk cannot read. Past the page cache, a device's own error comes through."""


KEPT: Final = 1 << 62
"""The bit in a file's number that marks a kept file instead of a log file. See `core.container.kept`."""
KEPT_DIRECTORY: Final = "kept"


def log_path(directory: Path, first_lsn: int) -> Path:
    """The path of the log file that begins with this LSN, or of the file kept of it."""
    if first_lsn & KEPT:
        directory, first_lsn = directory / KEPT_DIRECTORY, first_lsn ^ KEPT
    return directory / f"{first_lsn:020d}{LOG_SUFFIX}"


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in a directory last."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory whose name lasts, even if an earlier process made it and died before syncing it."""
    path.mkdir(parents=True, exist_ok=True)
    sync_directory(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Put a whole small file in place: temporary name, sync, rename, sync of the directory."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


class SpareFile:
    """Room for the next log file, open for writing."""

    def __init__(self, path: Path, fd: int, allocated: int, written: int) -> None:
        self.path = path
        self.fd = fd
        self.allocated = allocated  # bytes
        self._written = written  # of those, from the beginning: already written, in an earlier life as a log file
        self._lock = threading.Lock()
        self._filling = True  # guarded by the lock: zeros may be written
        self.is_filled = False  # all of it was written before, and synced

    def fill(self, bytes_s: float = math.inf) -> None:
        """Write zeros over the room that was never written, until the file is taken. Raises OSError.

        The zeros are synced here, or else the first sync of the log file would wait for all of them. The sync has a
        descriptor of its own: an error that it sees must not be hidden from the log's.
        """
        with self._lock:
            if not self._filling:
                return
            own = open_direct(self.path, os.O_WRONLY)
        try:
            position = synced = self._written - self._written % BLOCK_BYTES
            while position < self.allocated:
                size = min(_FILL_STEP, self.allocated - position)
                with self._lock:
                    if not self._filling:
                        return
                    position += os.pwrite(own, _ZEROS[:size], position)
                time.sleep(size / bytes_s)
                if position - synced >= _FILL_SYNC or position == self.allocated:
                    os.fdatasync(own)
                    synced = position
            self.is_filled = True
        finally:
            os.close(own)

    def take(self) -> None:
        """Take it as a log file: when this returns, no more zeros reach it."""
        with self._lock:
            self._filling = False


def allocate_spare(directory: Path, size: int) -> SpareFile:
    """Make a spare with `size` bytes of room, from a leftover one if possible. All but its contents is synced.

    Raises OSError (ENOSPC: the disk is full, down to the room kept for the ballast); then it may be called again. One
    call at a time for each directory.
    """
    reserved = 0 if (directory / BALLAST_NAME).exists() else BALLAST_BYTES
    left = next(iter(sorted(directory.glob(f"*{SPARE_SUFFIX}"))), None)
    missing = size - (left.stat().st_blocks * 512 if left is not None else 0)
    if missing > 0 and free_bytes(directory) < missing + reserved:
        # A request for it would take all the remaining room for a moment, from others that need little of it.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    path = directory / f"{secrets.token_hex(8)}{PREPARED_SUFFIX}"
    written = 0 if left is None else left.stat().st_size
    fd = open_direct(left or path, os.O_CREAT | os.O_RDWR)  # first, as there may be no descriptor just now
    try:
        if left is not None:
            left.rename(path)
        os.posix_fallocate(fd, 0, up_to_block(max(size, written)))
        os.fsync(fd)
        sync_directory(directory)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return SpareFile(path, fd, max(size, path.stat().st_size), written)


SPARES_KEPT: Final = 4
"""The most truncated files kept to be log files again: files come free in bursts, and new room is written twice."""


def sweep_spares(directory: Path) -> None:
    """Make files that were prepared for the last run spares again, at a start, and keep some of them."""
    for path in sorted(directory.glob(f"*{PREPARED_SUFFIX}")):
        path.rename(path.with_suffix(SPARE_SUFFIX))
    for path in sorted(directory.glob(f"*{SPARE_SUFFIX}"))[SPARES_KEPT:]:
        path.unlink()


def begin(spare: SpareFile, directory: Path, directory_fd: int, header: FileHeader, *, syncs: bool = True) -> Path:
    """Make the spare the log file that `header` describes; returns its path. All of it is synced, if it `syncs`.

    It opens no file, because writers wait for it even when this process has no descriptor left.
    """
    spare.take()
    block = patiently(lambda: aligned(FILE_HEADER_SIZE))
    block[:] = encode_file_header(header)
    patiently(lambda: os.pwrite(spare.fd, block, 0))
    if syncs:
        os.fdatasync(spare.fd)
    path = log_path(directory, header.first_lsn)
    patiently(lambda: spare.path.rename(path))
    if syncs:
        os.fsync(directory_fd)
    return path


def give_up(path: Path, directory: Path) -> None:
    """Remove a log file that is needed no longer, or keep its blocks as the next spare."""
    if len(list(directory.glob(f"*{SPARE_SUFFIX}"))) < SPARES_KEPT:
        path.rename(path.with_suffix(SPARE_SUFFIX))
        sync_directory(directory)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        path.unlink()
        sync_directory(directory)
        give_back(fd)
    finally:
        os.close(fd)


def drop_ballast(directory: Path) -> None:
    """The disk is full: free the room kept for that."""
    (directory / BALLAST_NAME).unlink(missing_ok=True)


def make_ballast(directory: Path) -> None:
    """Keep some room aside for the day the disk is full; does nothing if there is none."""
    path = directory / BALLAST_NAME
    if path.exists():
        return
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.posix_fallocate(fd, 0, BALLAST_BYTES)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
    finally:
        os.close(fd)


def log_failure(directory: Path, error: Exception) -> StorageFailure:
    """The error that all waiters get when a write or sync in the log's directory fails."""
    what = f"write or sync of the log in {directory} failed: {str(error) or repr(error)}"
    return StorageFailure(f"{what}. Nothing further is acknowledged; check the disk, then restart")


def free_bytes(directory: Path) -> int:
    """The room that the file system has for this process."""
    stats = os.statvfs(directory)
    return stats.f_bavail * stats.f_frsize
