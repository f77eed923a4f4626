"""Measures a data directory: its rights, room, file system and syncs.

Keeps: nothing stays in the directory; the scratch file has no name where the file system allows that. Reading is
bounded, and a gateway that owns the directory is not disturbed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.cli.doctor_facts import DirectoryFacts
from gateway.config.places import STORE_DIRECTORY
from gateway.data_directory import LOCK_FILE

SYNCS: Final = 100
SYNC_BYTES: Final = 4096
SYNCS_S_MAX: Final = 5.0
"""Longest time of all syncs of one directory."""
FILES_MAX: Final = 20_000
"""Files of a directory that are looked at."""


def measured(path: Path, wanted_bytes: int) -> DirectoryFacts:
    """The facts of one directory, which need not be there."""
    path = path.absolute()
    place = nearest(path)
    exists = path.is_dir()
    usable = place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)
    error = "" if usable else f"{place} is no directory that this user may write to"
    sync_ms: list[float] = []
    if usable:
        try:
            sync_ms = sync_latencies(place)
        except OSError as refused:
            error = f"a scratch file cannot be synced: {refused.strerror}"
    with contextlib.suppress(OSError):
        room = os.statvfs(place)
        return DirectoryFacts(
            path=str(path),
            exists=exists,
            usable=usable,
            mode=stat.S_IMODE(path.stat().st_mode) if exists else 0o700,
            file_system=file_system_of(place),
            free_bytes=room.f_bavail * room.f_frsize,
            log_bytes=sum(blocks for _, _, blocks, _ in files_below(path / STORE_DIRECTORY)),
            wanted_bytes=wanted_bytes,
            sync_ms=sync_ms,
            locked_by=locked_by(path),
            error=error,
        )
    return DirectoryFacts(str(path), exists, False, 0o700, "", 0, 0, wanted_bytes, (), error=error or "cannot be read")


def nearest(path: Path) -> Path:
    """The path, or the nearest one above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def sync_latencies(directory: Path) -> list[float]:
    """The milliseconds of each small write with its fdatasync, into room that was allocated before, as the log's."""
    took = []
    end = time.monotonic() + SYNCS_S_MAX
    with scratch(directory) as fd:
        os.posix_fallocate(fd, 0, SYNCS * SYNC_BYTES)
        os.fsync(fd)
        for number in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(fd, b"\xa5" * SYNC_BYTES, number * SYNC_BYTES)
            os.fdatasync(fd)
            took.append((time.perf_counter() - began) * 1000)
            if time.monotonic() > end:
                break
    return took


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[int]:
    """A file that is gone afterwards, even after a crash where it never had a name."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # the file system has no files without a name
        fd, name = tempfile.mkstemp(prefix=".penstock-doctor-", dir=directory)
        os.unlink(name)
    try:
        yield fd
    finally:
        os.close(fd)


def file_system_of(path: Path) -> str:
    """The type of the file system, such as ext4; empty if it cannot be found out."""
    real = path.resolve()
    found = (-1, "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            point = Path(before.split()[4].encode().decode("unicode_escape"))
            if real.is_relative_to(point) and len(point.parts) >= found[0]:
                found = (len(point.parts), after.split()[0])
    return found[1]


def locked_by(path: Path) -> str:
    """The process that owns a data directory, `process 12`; empty if none does. Changes nothing.

    A shared lock is held for an instant, so that a start in that instant would be refused.
    """
    try:
        fd = os.open(path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).strip().decode(errors="replace")
        return f"process {owner}" if owner.isdecimal() else "another process"
    except OSError:
        return ""
    finally:
        os.close(fd)
    return ""


def files_below(directory: Path) -> Iterator[tuple[str, int, int, float]]:
    """Path, size, bytes on disk and time of change of each file, at most FILES_MAX; links are not followed."""
    count = 0
    for parent, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            if count >= FILES_MAX:
                return
            with contextlib.suppress(OSError):  # removed meanwhile
                found = os.lstat(os.path.join(parent, name))
                count += 1
                yield os.path.join(parent, name), found.st_size, found.st_blocks * 512, found.st_mtime
