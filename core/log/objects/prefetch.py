"""Objects of one container that were read ahead of a takeover, and lie in a scratch file of this machine.

`Prefetched` is the object store for a takeover: what it has, it answers; for all else it asks the store. A takeover
reads thousands of small objects; `fetch` reads each whole, many at a time, before the walk comes to them one by one.

**Invariants**

- Only groups of the log and files of checkpoints are kept: their keys are never used for other bytes. Listings, fences
  and whatever is not there are always asked of the store. So a takeover decides by the store, whatever is kept here.
- At most `BYTES_MAX` are kept. The file has no name: it is gone with its process.
- The file is closed when no thread uses it any more: its number may be another file's from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from core.log.objects.format import HEADER_SIZE, log_prefix
from core.log.objects.manifest import newest_manifest
from core.log.objects.protocol import GENESIS, Place
from tier2.storage import Buffer, Came, Corrupt, Data, ObjectInfo, ObjectNotFound, ObjectStat, Storage

BYTES_MAX: Final = 512 << 20
"""Bytes that are kept for one container. What does not fit is read when it is needed."""
AT_ONCE: Final = 16
ROUNDS_MAX: Final = 5
"""How often `fetch` looks for what came meanwhile, while an owner goes on writing."""
FEW: Final = 16
"""Objects that are left to the takeover."""


class _Kept(NamedTuple):
    position: int
    size: int


class _Scratch:
    """A file without a name, for several threads. Its reads and writes block."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._fd, name = tempfile.mkstemp(prefix="prefetched-", dir=directory)
        os.unlink(name)
        self._lock = threading.Lock()  # guards the two below
        self._users = 0
        self._is_forgotten = False

    def forget(self) -> None:
        """Close it, at once or when the last one who uses it is done."""
        with self._lock:
            was_forgotten, self._is_forgotten = self._is_forgotten, True
            if not was_forgotten and not self._users:
                os.close(self._fd)

    def _begin(self) -> bool:
        with self._lock:
            if self._is_forgotten:
                return False
            self._users += 1
            return True

    def _end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._is_forgotten and not self._users:
                os.close(self._fd)

    def read(self, position: int, length: int) -> bytes | None:
        """None if it was forgotten."""
        if not self._begin():
            return None
        try:
            return os.pread(self._fd, length, position)
        finally:
            self._end()

    def write(self, data: bytes, position: int) -> None:
        """Nothing happens if it was forgotten."""
        if not self._begin():
            return
        try:
            view = memoryview(data)
            while view:
                count = os.pwrite(self._fd, view, position)
                position, view = position + count, view[count:]
        finally:
            self._end()


class Prefetched(Storage):
    """See the module. For the event loop; close it with `forget`."""

    def __init__(self, storage: Storage, container: int, directory: Path) -> None:
        self._storage = storage
        self._container = container
        self._scratch = _Scratch(directory)
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Prefetched {self._container} {len(self._kept)} objects, {self._bytes} bytes>"

    async def fetch(self, *, log_object_bytes_max: int = BYTES_MAX, files: bool = True) -> None:
        """Fetch the newest checkpoint's files and the log behind it, but for log objects above a size.

        Raises StorageError, StorageFailure.
        """
        for _ in range(ROUNDS_MAX):
            with contextlib.suppress(ObjectNotFound):  # the log was cut meanwhile
                if await self._round(log_object_bytes_max, files=files) <= FEW:
                    return

    async def _round(self, log_object_bytes_max: int, *, files: bool) -> int:
        manifest = await newest_manifest(self._storage, self._container)
        if files and manifest is not None:
            await self._keep([(file.key, file.size) for file in manifest.files])
        start = GENESIS if manifest is None else manifest.start
        wanted = [
            (info.key, info.size)
            async for info in self._storage.list(log_prefix(self._container))
            if _place_of(info.key).lsn >= start.lsn and HEADER_SIZE < info.size <= log_object_bytes_max
        ]
        return await self._keep(wanted)

    async def _keep(self, wanted: Iterable[tuple[str, int]]) -> int:
        new = [(key, size) for key, size in wanted if key not in self._kept and size]
        for begin in range(0, len(new), AT_ONCE):
            await asyncio.gather(*(self._fetch(key, size) for key, size in new[begin : begin + AT_ONCE]))
        return len(new)

    async def _fetch(self, key: str, size: int) -> None:
        if self._bytes + size > BYTES_MAX:
            return
        position, self._bytes = self._bytes, self._bytes + size  # of what fails, the room stays empty
        try:
            data = await self._storage.get_range(key, 0, size)
        except (Corrupt, ObjectNotFound):
            return  # the takeover decides what that means, if it comes there
        await asyncio.to_thread(self._scratch.write, data, position)
        self._kept[key] = _Kept(position, size)

    def forget(self) -> None:
        """Give up what is kept."""
        self._scratch.forget()
        self._kept.clear()

    # The store

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        kept = self._kept.get(key)
        data = None
        if kept is not None and start + length <= kept.size:
            data = await asyncio.to_thread(self._scratch.read, kept.position + start, length)
        return await self._storage.get_range(key, start, length) if data is None else data

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        await self._storage.get_pieces(key, start, length, piece_bytes, came)

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        return await self._storage.put(key, data, token=token)

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self._storage.put_new(key, data, token=token)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self._storage.list(prefix, after=after)

    async def delete(self, key: str) -> None:
        await self._storage.delete(key)

    async def stat(self, key: str) -> ObjectStat | None:
        return await self._storage.stat(key)

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self._storage.sweep_uploads(older_than_s)

    async def close(self) -> None:
        """The store is not ours to close."""
        self.forget()


def _place_of(key: str) -> Place:
    epoch, lsn = key.split("/")[-2:]
    return Place(int(epoch), int(lsn))
