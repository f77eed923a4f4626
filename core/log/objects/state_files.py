"""The files of the applied state on their way to the object store and back.

**Invariants**

- A file arrives as it was: its size and CRC-32C are in the manifest, and are checked behind a download.
- Nothing of a download goes on behind its end, whatever that is: the next one writes files of the same names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from crc32c import crc32c

from core.errors import StorageFailure
from core.log.objects.manifest import StateFile
from core.log.objects.prefetch import Prefetched
from tier2.storage import Storage

PIECE_BYTES: Final = 8 << 20
IMMUTABLE_SUFFIXES: Final = (".sst", ".idx")
"""RocksDB never changes such a file, and never uses its number again; a complete log file has one index."""
AT_ONCE: Final = 4


class Uploads:
    """The files that one owner has put, below its own prefix."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage = storage
        self._prefix = prefix
        self._number = 0
        self._kept: dict[str, StateFile] = {}  # immutable files of the last checkpoint, by path

    async def upload(self, directory: Path) -> tuple[StateFile, ...]:
        """Put all files below a directory, except those that the last checkpoint has. Raises StorageError, OSError."""
        self._number += 1
        paths = await asyncio.to_thread(lambda: sorted(path for path in directory.rglob("*") if path.is_file()))
        files: list[StateFile] = []
        for begin in range(0, len(paths), AT_ONCE):
            files += await asyncio.gather(*(self._one(directory, path) for path in paths[begin : begin + AT_ONCE]))
        self._kept = {file.path: file for file in files if file.path.endswith(IMMUTABLE_SUFFIXES)}
        return tuple(files)

    async def _one(self, directory: Path, path: Path) -> StateFile:
        name = str(path.relative_to(directory))
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        data = await asyncio.to_thread(path.read_bytes)
        key = f"{self._prefix}{self._number:010d}/{name}"
        await self._storage.put(key, data)
        return StateFile(name, key, len(data), await asyncio.to_thread(crc32c, data))


async def download(storage: Storage, files: Sequence[StateFile], directory: Path) -> None:
    """Make these files below a directory. Raises StorageFailure, StorageError (ObjectNotFound: removed), OSError."""
    if isinstance(storage, Prefetched):
        files = await asyncio.to_thread(_copy_kept, storage, files, directory)
    for begin in range(0, len(files), AT_ONCE):
        fetches = (_fetch(storage, file, directory) for file in files[begin : begin + AT_ONCE])
        for ended in await asyncio.gather(*fetches, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended


def _copy_kept(kept: Prefetched, files: Sequence[StateFile], directory: Path) -> Sequence[StateFile]:
    """Make those files that were read ahead; returns the others, and those that are damaged there."""
    missing: list[StateFile] = []
    for file in files:
        path = _path_of(file, directory)
        data = kept.read_kept(file.key, 0, file.size) if file.size <= PIECE_BYTES else None
        if data is None or crc32c(data) != file.crc:
            if data is not None:
                kept.drop(file.key)
            missing.append(file)
            continue
        _begin(path)
        _append(path, data)
    return missing


def _path_of(file: StateFile, directory: Path) -> Path:
    path = directory / file.path
    if ".." in path.parts or not path.is_relative_to(directory):
        raise StorageFailure(f"the checkpoint names the file {file.path[:200]!r}, which is no place for it")
    return path


async def _fetch(storage: Storage, file: StateFile, directory: Path) -> None:
    path = _path_of(file, directory)
    await asyncio.to_thread(_begin, path)
    crc = 0
    for start in range(0, file.size, PIECE_BYTES):
        data = await storage.get_range(file.key, start, min(PIECE_BYTES, file.size - start))
        crc = await asyncio.to_thread(crc32c, data, crc)
        await asyncio.to_thread(_append, path, data)
    if crc != file.crc:
        if isinstance(storage, Prefetched) and storage.drop(file.key):
            await _fetch(storage, file, directory)
            return
        raise StorageFailure(
            f"the object {file.key} fails its CRC. Restore it from a copy of the bucket, then start again"
        )


def _begin(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _append(path: Path, data: bytes) -> None:
    """The file is open in this thread alone: who is cancelled meanwhile closes no number that it writes to."""
    with path.open("ab", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
