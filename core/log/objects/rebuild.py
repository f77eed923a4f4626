"""Makes the local files of a log from its objects.

**Invariant**: afterwards the directory has exactly the files of the log that was taken over, each byte for byte as its
owner wrote it up to the last stored group, and nothing else: what a crash left here behind that was never acknowledged.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from core.errors import StorageFailure
from core.log.files import LOG_SUFFIX, log_path, sync_directory
from core.log.format import Buffer
from core.log.objects.format import BadLogObject, Stretch, log_key
from core.log.objects.protocol import Group, Owned, Place
from core.log.objects.reading import READS_AT_ONCE, read_bytes
from tier2.storage import Storage


async def rebuild(
    storage: Storage, container: int, owned: Owned, stretches: dict[Place, Stretch], directory: Path
) -> None:
    """Replace the log files in the directory. Raises StorageFailure, StorageError, OSError."""
    await asyncio.to_thread(_clear, directory)
    for begin in range(0, len(owned.groups), READS_AT_ONCE):
        groups = owned.groups[begin : begin + READS_AT_ONCE]
        read = await asyncio.gather(*(_read(storage, container, group, stretches[group.place]) for group in groups))
        await asyncio.to_thread(_append, directory, [stretches[group.place] for group in groups], read)
    await asyncio.to_thread(sync_directory, directory)


async def _read(storage: Storage, container: int, group: Group, stretch: Stretch) -> Buffer:
    try:
        return await read_bytes(storage, container, group, stretch)
    except BadLogObject as error:
        raise StorageFailure(
            f"the log object {log_key(container, group.place)} is damaged: {error}. "
            "Restore the object from a copy of the bucket, then start again"
        ) from error


def _clear(directory: Path) -> None:
    for path in list(directory.iterdir()):
        if path.name.endswith(LOG_SUFFIX):
            path.unlink()


def _append(directory: Path, stretches: list[Stretch], read: list[Buffer]) -> None:
    """Put bytes to their places. They come in order, and each file's begin with its header."""
    for stretch, data in zip(stretches, read, strict=True):
        path = log_path(directory, stretch.file_lsn)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if stretch.position == 0 else 0), 0o644)
        try:
            if os.fstat(fd).st_size != stretch.position:
                raise StorageFailure(
                    f"{path.name} has {os.fstat(fd).st_size} bytes, its next object begins at {stretch.position}: "
                    "an object between them is missing. Restore it from a copy of the bucket, then start again"
                )
            position, view = stretch.position, memoryview(data)
            while view:
                count = os.pwrite(fd, view, position)
                position, view = position + count, view[count:]
        finally:
            os.close(fd)
