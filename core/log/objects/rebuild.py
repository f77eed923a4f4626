"""Makes the local files of a log from its objects.

**Invariant**: afterwards the directory has exactly the files of the log that was taken over, each byte for byte as its
owner wrote it up to the last stored group, and nothing else: what a crash left here behind that was never acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from core.errors import StorageFailure
from core.log.files import LOG_SUFFIX, log_path, sync_directory
from core.log.format import Buffer
from core.log.objects.format import HEADER_SIZE, BadLogObject, Stretch, check_data, log_key
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import Group, Owned, Place
from core.log.objects.reading import READS_AT_ONCE, read_bytes
from tier2.storage import Storage

GROUPS_AT_ONCE: Final = 512
BYTES_AT_ONCE: Final = 8 << 20
"""Of groups that were read ahead. Of others `READS_AT_ONCE` are asked for at a time."""


async def rebuild(
    storage: Storage, container: int, owned: Owned, stretches: dict[Place, Stretch], directory: Path
) -> None:
    """Replace the log files in the directory. Raises StorageFailure, StorageError, OSError."""
    await asyncio.to_thread(_clear, directory)
    kept = storage if isinstance(storage, Prefetched) else None
    for groups in _portions(owned.groups, stretches):
        of_them = [stretches[group.place] for group in groups]
        here: list[Buffer | None] = [None] * len(groups)
        if kept is not None:
            here = await asyncio.to_thread(_kept, kept, container, groups, of_them)
        missing = [at for at, data in enumerate(here) if data is None]
        for begin in range(0, len(missing), READS_AT_ONCE):
            some = missing[begin : begin + READS_AT_ONCE]
            read = await asyncio.gather(*(_read(storage, container, groups[at], of_them[at]) for at in some))
            for at, data in zip(some, read, strict=True):
                here[at] = data
        await asyncio.to_thread(_append, directory, of_them, [data for data in here if data is not None])
    await asyncio.to_thread(sync_directory, directory)


def _portions(groups: Sequence[Group], stretches: Mapping[Place, Stretch]) -> Iterator[Sequence[Group]]:
    """The groups in their order, as many at a time as may be in memory, and may be asked of the store."""
    portion: list[Group] = []
    size = 0
    for group in groups:
        portion.append(group)
        size += stretches[group.place].size
        if len(portion) >= GROUPS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def _kept(
    kept: Prefetched, container: int, groups: Sequence[Group], stretches: Sequence[Stretch]
) -> list[Buffer | None]:
    """The bytes of those groups that were read before; one that is damaged there is read anew."""
    wanted = [(log_key(container, group.place), stretch.size) for group, stretch in zip(groups, stretches, strict=True)]
    found = kept.read_many(wanted, HEADER_SIZE)
    for number, data in enumerate(found):
        if data is not None:
            try:
                check_data(stretches[number], data)
            except BadLogObject:
                kept.drop(wanted[number][0])
                found[number] = None
    return found


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
    for file_lsn, of_file in itertools.groupby(zip(stretches, read, strict=True), key=lambda one: one[0].file_lsn):
        _append_to(log_path(directory, file_lsn), list(of_file))


def _append_to(path: Path, its: list[tuple[Stretch, Buffer]]) -> None:
    is_new = its[0][0].position == 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if is_new else 0), 0o644)
    try:
        size = os.fstat(fd).st_size
        for stretch, data in its:
            if size != stretch.position:
                raise StorageFailure(
                    f"{path.name} has {size} bytes, its next object begins at {stretch.position}: "
                    "an object between them is missing. Restore it from a copy of the bucket, then start again"
                )
            size += len(data)
        view = memoryview(its[0][1] if len(its) == 1 else b"".join(data for _, data in its))
        while view:
            view = view[os.pwrite(fd, view, size - len(view)) :]
    finally:
        os.close(fd)
