"""Blocks of deleted files, given back in steps: a disk that hears of 64 MiB of free blocks at once does nothing else
for 14 ms, and other files' syncs wait for it.

Invariant: only a file that has no name left is shortened. One that a link outside of ours still names keeps its bytes.
"""

from __future__ import annotations

import os
import time
from typing import Final

STEP_BYTES: Final = 4 << 20
PAUSE_S: Final = 0.002
"""The pause after each step, for others' syncs."""


def give_back(fd: int) -> None:
    """Free the blocks of an unlinked file that is open for writing. Raises OSError.

    What is left of it goes with the descriptor, whatever happens here. A reader that has the file open finds it short.
    """
    status = os.fstat(fd)
    if status.st_nlink or status.st_size <= STEP_BYTES:
        return
    for size in range((status.st_size - 1) // STEP_BYTES * STEP_BYTES, -1, -STEP_BYTES):
        os.ftruncate(fd, size)
        os.fsync(fd)
        time.sleep(PAUSE_S)
