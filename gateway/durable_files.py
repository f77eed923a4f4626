"""Files and directories that are there after a crash, or are as they were.

Keeps: a function returns when its effect would outlive a power cut.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace a file so that a crash leaves the old content or the new, and the new one lasts.

    `mode`: the file's permissions, if not those of the process's umask.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Sync a directory, so that the names in it last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Like `mkdir -p`, with every new name synced in its parent."""
    missing = [path, *path.parents]
    missing = missing[: next(i for i, part in enumerate(missing) if part.exists())]
    for part in reversed(missing):
        part.mkdir(exist_ok=True)
        sync_directory(part.parent)
