"""Locks of directories, so that one process at most has what lies in each.

The system frees a lock when its process ends, however that comes: nothing is left behind to clear away.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Final

from core.clock import Clock
from core.errors import AlreadyLocked
from core.log.files import make_directory

LOCK_S_MAX: Final = 10.0
"""Longest wait for the process that had a directory before, and is ending."""
LOCK_PAUSE_S: Final = 0.02


class Locks:
    """The directories that this process has locked."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def __repr__(self) -> str:
        return f"<Locks of {len(self._descriptors)} directories>"

    def take(self, directory: Path) -> None:
        """Make a directory if it is not there, and lock it. Raises AlreadyLocked."""
        make_directory(directory)
        self._descriptors.append(_locked(directory))

    async def take_when_free(self, directory: Path, clock: Clock) -> None:
        """The same, after a wait for whoever has it. Raises AlreadyLocked when that takes too long."""
        deadline = clock.monotonic_s() + LOCK_S_MAX
        while True:
            try:
                return self.take(directory)
            except AlreadyLocked:
                if clock.monotonic_s() > deadline:
                    raise
            await asyncio.sleep(LOCK_PAUSE_S)

    def free(self) -> None:
        """Free all."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _locked(directory: Path) -> int:
    """Lock a directory for this process; returns the descriptor that holds the lock. Raises AlreadyLocked."""
    fd = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyLocked(directory, f"process {owner or 'unknown'}") from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
