"""Makes a copy of a container from the object store without owning it: to be looked at, while nobody serves it.

**Invariant**: nothing is put or removed there. So an owner that still lives goes on, and what it puts later is not in
the copy.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from core.errors import StorageFailure
from core.log.objects.format import BadLogObject, Stretch, log_key, log_prefix
from core.log.objects.manifest import files_prefix, manifests_prefix, newest_manifest, newest_start
from core.log.objects.prefetch import SMALL_BYTES_MAX, Prefetched
from core.log.objects.protocol import GENESIS, FindCheckpoint, Overtaken, Owned, Place, PutFence, Read, Takeover
from core.log.objects.reading import is_missing, read_header
from core.log.objects.rebuild import rebuild
from core.log.objects.state_files import download
from tier2.storage import ObjectNotFound, Storage

logger = logging.getLogger(__name__)

ASKED_AT_ONCE: Final = 16
TRIES_MAX: Final = 10
"""Attempts to read a log that is cut meanwhile."""


async def copied(storage: Storage, container: int, directory: Path, logs: Path) -> Owned:
    """Make the container's files in two empty directories, as of the newest checkpoint and with the log behind it;
    returns what the log has. Raises StorageFailure, StorageError, OSError."""
    for _ in range(TRIES_MAX):
        stretches: dict[Place, Stretch] = {}
        ahead = Prefetched(storage, container, directory)
        try:
            await ahead.fetch(log_object_bytes_max=SMALL_BYTES_MAX, files=False, rounds_max=1)
            found = await _walked(ahead, container, stretches)
            manifest = await newest_manifest(ahead, container)
            if manifest is not None:
                await download(ahead, manifest.files, directory)
            await rebuild(ahead, container, found, stretches, logs)
        except ObjectNotFound as error:
            logger.info("the log was cut meanwhile, and is read anew", extra={"missing": error.key})
            await asyncio.to_thread(_empty, directory, logs)  # files of two checkpoints are none of either
            await asyncio.sleep(1)
        else:
            return found
        finally:
            ahead.forget()
    raise StorageFailure(
        f"the log of container {container} lost objects at each of {TRIES_MAX} tries to read it: stop all nodes, "
        "or restore the objects from a copy of the bucket"
    )


def _empty(directory: Path, logs: Path) -> None:
    for path in (directory, logs):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)


async def _walked(storage: Storage, container: int, stretches: dict[Place, Stretch]) -> Owned:
    """The log from the newest checkpoint up to the first free place."""
    walk = Takeover("")
    while True:
        match walk.wanted:
            case FindCheckpoint():
                walk.found_checkpoint(await newest_start(storage, container))
            case Read(place):
                try:
                    decoded = await read_header(storage, container, place)
                except BadLogObject as error:
                    raise StorageFailure(
                        f"the log object {log_key(container, place)} is damaged: {error}. Restore the object from a "
                        "copy of the bucket, then try again"
                    ) from error
                if decoded is None:
                    if not await is_missing(storage, container, place):
                        return walk.met
                else:
                    found, stretch = decoded
                    if stretch is not None:
                        stretches[place] = stretch
                    walk.has_read(found)
            case PutFence() | Owned() | Overtaken():
                raise AssertionError(f"{walk!r} has put nothing and claims nothing")


async def containers_in(storage: Storage, most: int) -> int:
    """How many containers ever had an owner: the first fence of a log is never removed. Raises StorageError."""
    count = 0
    for begin in range(0, most, ASKED_AT_ONCE):
        some = range(begin, min(begin + ASKED_AT_ONCE, most))
        found = await asyncio.gather(*(storage.stat(log_key(container, GENESIS)) for container in some))
        count = max([count, *(container + 1 for container, stat in zip(some, found, strict=True) if stat is not None)])
    return count


async def highest_epoch(storage: Storage, container: int) -> int:
    """The highest epoch that the names of a container's log and checkpoints have. Raises StorageError."""
    highest = 0
    async for info in storage.list(log_prefix(container)):
        highest = max(highest, int(info.key.split("/")[-2]))
    async for info in storage.list(manifests_prefix(container)):
        highest = max(highest, int(info.key.rpartition("/")[2].split("-")[2]))
    prefix = files_prefix(container)
    async for info in storage.list(prefix):
        highest = max(highest, int(info.key[len(prefix) :].partition("/")[0]))
    return highest
