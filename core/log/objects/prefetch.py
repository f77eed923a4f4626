"""Objects of one container that were read ahead of a takeover, and lie in a scratch file of this machine.

`Prefetched` is the object store for a takeover: what it has, it answers; for all else it asks the store. A takeover
reads thousands of small objects; `fetch` reads the packs that have them (`core.log.objects.packs`), and each of the
others whole, many at a time, before the walk comes to them one by one. Each owner that died has left some behind its
last pack.

**Invariants**

- Only groups of the log, and manifests and files of checkpoints are kept: their keys are never used for other bytes.
  Listings, fences and whatever is not there are always asked of the store. So a takeover decides by the store,
  whatever is kept here.
- What is found to be damaged here is dropped, and asked of the store: only that says what is damaged there.
- Of a group that comes from here the walk reads nothing: its header is decoded as it is fetched, while someone else
  still serves, so that what is left to do without an owner hardly grows with the log.
- At most `BYTES_MAX` are kept in the file, and `HEADERS_MAX` headers of groups in memory. The file has no name: it is
  gone with its process.
- The file is closed when no thread uses it any more: its number may be another file's from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from core.log.objects.format import HEADER_SIZE, BadLogObject, Decoded, decode_header, log_key, log_prefix
from core.log.objects.manifest import manifests_prefix, newest_manifest
from core.log.objects.packs import Packed, decode_pack, ends_of, packs_prefix
from core.log.objects.protocol import GENESIS, Place
from tier2.storage import Buffer, Came, Corrupt, Data, ObjectInfo, ObjectNotFound, ObjectStat, Storage

logger = logging.getLogger(__name__)

BYTES_MAX: Final = 512 << 20
"""Bytes that are kept for one container. What does not fit is read when it is needed."""
AT_ONCE: Final = 16
ROUNDS_MAX: Final = 5
"""How often `fetch` looks for what came meanwhile, while an owner goes on writing."""
SMALL_BYTES_MAX: Final = 256 << 10
"""Log objects up to this size are read whole ahead of a takeover that nobody has announced: two reads each else."""
NEAR_BYTES: Final = 4 << 10
"""Objects so near to one another in the file are read at once, with what lies between them."""
READ_BYTES: Final = 1 << 20
FEW: Final = 16
"""Objects that are left to the takeover."""
HEADERS_MAX: Final = 100_000
"""Headers of groups in memory, some 60 MB at most; the walk reads those of further groups from the file."""


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
        self._decoded: dict[Place, Decoded] = {}  # the headers of groups that are kept
        self._packs: set[str] = set()  # that were read, or cannot be
        self._start: Place | None = None  # where the log begins
        self._listed_to = ""  # the last key of the log that was listed; what comes before it late is left to the walk
        self._last_manifest = ("", 0, 0, b"")  # key, start, length, bytes
        self._bytes = 0  # of all that was asked for
        self._end = 0  # of what the file has

    def __repr__(self) -> str:
        return f"<Prefetched {self._container} {len(self._kept)} objects, {self._bytes} bytes>"

    async def fetch(
        self, *, log_object_bytes_max: int = BYTES_MAX, files: bool = True, rounds_max: int = ROUNDS_MAX
    ) -> None:
        """Fetch the newest checkpoint's files and the log behind it, but for log objects above a size. An owner that
        goes on writing is followed for some rounds.

        Raises StorageError, StorageFailure.
        """
        for _ in range(rounds_max):
            with contextlib.suppress(ObjectNotFound):  # the log was cut meanwhile
                if await self._round(log_object_bytes_max, files=files) <= FEW:
                    return

    async def _round(self, log_object_bytes_max: int, *, files: bool) -> int:
        """Returns how many log objects were new. Where the log began at the last round is good enough for what has come
        since: so all is asked for at once then."""
        if self._start is None:
            await self._checkpoint(files=files)
            await self._unpack()
            return await self._singles(log_object_bytes_max)
        _, _, new = await asyncio.gather(
            self._checkpoint(files=files), self._unpack(), self._singles(log_object_bytes_max)
        )
        return new

    async def _checkpoint(self, *, files: bool) -> None:
        manifest = await newest_manifest(self, self._container)
        self._start = GENESIS if manifest is None else manifest.start
        if files and manifest is not None:
            await self._keep([(file.key, file.size) for file in manifest.files])

    async def _singles(self, log_object_bytes_max: int) -> int:
        """Keep the log's objects that are no larger, behind those that were listed before."""
        start = self._start or GENESIS
        after = max(self._listed_to, log_key(self._container, Place(start.epoch, start.lsn - 1)))
        wanted: list[tuple[str, int]] = []
        async for info in self._storage.list(log_prefix(self._container), after=after):
            self._listed_to = info.key
            if _place_of(info.key).lsn >= start.lsn and HEADER_SIZE < info.size <= log_object_bytes_max:
                wanted.append((info.key, info.size))
        return await self._keep(wanted)

    async def _unpack(self) -> None:
        """Keep the groups of all packs that reach into the log."""
        start = self._start or GENESIS
        new = [
            (info.key, info.size)
            async for info in self._storage.list(packs_prefix(self._container))
            if info.key not in self._packs and ends_of(info.key)[1] >= start.lsn
        ]
        await _some(new, self._fetch_pack)

    async def _fetch_pack(self, key: str, size: int) -> None:
        self._packs.add(key)
        data = await self._fetched(key, size)
        if data is None:
            return
        try:
            groups = await asyncio.to_thread(_unpacked, self._container, key, data)
        except BadLogObject as error:
            logger.warning("a pack of the log is not used", extra={"pack": key, "reason": str(error)})
            return
        begins = await self._written(data)
        for group, decoded in groups:
            self._kept[log_key(self._container, group.place)] = _Kept(begins + group.position, group.size)
            self._remember(group.place, decoded)

    async def _keep(self, wanted: Iterable[tuple[str, int]]) -> int:
        new = [(key, size) for key, size in wanted if key not in self._kept and size]
        await _some(new, self._fetch)
        return len(new)

    async def _fetch(self, key: str, size: int) -> None:
        data = await self._fetched(key, size)
        if data is not None:
            self._kept[key] = _Kept(await self._written(data), size)
            if key.startswith(log_prefix(self._container)):
                place = _place_of(key)
                self._remember(place, _decoded(self._container, place, data[:HEADER_SIZE]))

    async def _fetched(self, key: str, size: int) -> bytes | None:
        if self._bytes + size > BYTES_MAX:
            return None
        self._bytes += size  # before another one asks
        if not size:
            return b""
        try:
            return await self._storage.get_range(key, 0, size)
        except (Corrupt, ObjectNotFound):
            return None  # the takeover decides what that means, if it comes there

    async def _written(self, data: bytes) -> int:
        """Put it into the file; returns where it lies."""
        position, self._end = self._end, self._end + len(data)
        await asyncio.to_thread(self._scratch.write, data, position)
        return position

    def _remember(self, place: Place, decoded: Decoded | None) -> None:
        if decoded is not None and len(self._decoded) < HEADERS_MAX:
            self._decoded[place] = decoded

    # What is kept

    def decoded(self, place: Place) -> Decoded | None:
        """The header of a group, if it is in memory."""
        return self._decoded.get(place)

    def read_kept(self, key: str, start: int, length: int) -> bytes | None:
        """Bytes of an object that is kept; None if it is not. Blocks."""
        kept = self._kept.get(key)
        if kept is None or start + length > kept.size:
            return None
        return self._scratch.read(kept.position + start, length)

    def read_many(self, wanted: Sequence[tuple[str, int]], start: int) -> list[Buffer | None]:
        """As many bytes of each object, from `start` on, in as few reads as their neighbourhood in the file allows.
        None for one that is not kept. Blocks."""
        found: list[Buffer | None] = [None] * len(wanted)
        run: list[tuple[int, int, int]] = []  # which, and where its bytes lie from where to where
        for number, (key, length) in enumerate(wanted):
            kept = self._kept.get(key)
            if kept is None or start + length > kept.size:
                continue
            begins = kept.position + start
            if run and not (0 <= begins - run[-1][2] <= NEAR_BYTES and begins + length - run[0][1] <= READ_BYTES):
                self._read_run(run, found)
                run = []
            run.append((number, begins, begins + length))
        self._read_run(run, found)
        return found

    def _read_run(self, run: Sequence[tuple[int, int, int]], found: list[Buffer | None]) -> None:
        if not run:
            return
        first = run[0][1]
        data = self._scratch.read(first, run[-1][2] - first)
        if data is not None:
            view = memoryview(data)
            for number, begins, ends in run:
                found[number] = view[begins - first : ends - first]

    def drop(self, key: str) -> bool:
        """What is kept under this key is damaged: it is asked of the store from now on. False if nothing is kept."""
        if self._kept.pop(key, None) is None:
            return False
        if key.startswith(log_prefix(self._container)):
            self._decoded.pop(_place_of(key), None)
        return True

    def forget(self) -> None:
        """Give up what is kept."""
        self._scratch.forget()
        self._kept.clear()
        self._decoded.clear()

    # The store

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        if key.startswith(manifests_prefix(self._container)):
            return await self._manifest(key, start, length)
        data = None
        if key in self._kept:
            data = await asyncio.to_thread(self.read_kept, key, start, length)
        return await self._storage.get_range(key, start, length) if data is None else data

    async def _manifest(self, key: str, start: int, length: int) -> bytes:
        """The last manifest that was read stays in memory: a takeover looks three times for the newest one."""
        if self._last_manifest[:3] != (key, start, length):
            self._last_manifest = key, start, length, await self._storage.get_range(key, start, length)
        return self._last_manifest[3]

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

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._storage.delete_many(keys)

    async def stat(self, key: str) -> ObjectStat | None:
        return await self._storage.stat(key)

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self._storage.sweep_uploads(older_than_s)

    async def close(self) -> None:
        """The store is not ours to close."""
        self.forget()


async def _some(wanted: Sequence[tuple[str, int]], fetch: Callable[[str, int], Awaitable[None]]) -> None:
    """Fetch all, `AT_ONCE` at a time. Raises the first error, and begins none after it."""
    left = iter(wanted)

    async def one_after_another() -> None:
        for key, size in left:
            try:
                await fetch(key, size)
            except BaseException:
                for _ in left:
                    pass  # nobody begins another one
                raise

    await asyncio.gather(*(one_after_another() for _ in range(min(AT_ONCE, len(wanted)))))


def _unpacked(container: int, key: str, data: bytes) -> Sequence[tuple[Packed, Decoded | None]]:
    """The groups of a pack with their headers. Blocks: there may be thousands. Raises BadLogObject."""
    return [
        (one, _decoded(container, one.place, data[one.position : one.position + HEADER_SIZE]))
        for one in decode_pack(container, key, data)
    ]


def _decoded(container: int, place: Place, header: bytes) -> Decoded | None:
    """The header of a group; None for one that is damaged, which whoever reads it meets again."""
    try:
        return decode_header(container, place, header)
    except BadLogObject:
        return None


def _place_of(key: str) -> Place:
    epoch, lsn = key.split("/")[-2:]
    return Place(int(epoch), int(lsn))
