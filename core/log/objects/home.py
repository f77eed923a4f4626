"""The objects of one container: taken over at a start, cut and checkpointed while it serves.

Each start is a start on another machine: whatever lies in the container's directory is thrown away, and made again from
the newest checkpoint and the log behind it. So there is one path, and it is gone every time.

**Invariants**

- The directory is made from what is stored, after the fence: nothing of it can be outdated.
- A checkpoint is stored before the log is cut behind it, and the manifest after its files.
- A manifest whose put had no answer is put again, the same bytes, before anything else is stored or removed. So a late
  put never brings one back whose files are gone in place of another of its name.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, Self

from core.config import StoreConfig, SyncMode
from core.errors import Deposed, StorageFailure
from core.log.files import LOG_SUFFIX, make_directory, write_durably
from core.log.interface import LogReports, LogWriter, NewWriter, SyncStats
from core.log.objects.format import HEADER_SIZE, TOKEN_BYTES, BadLogObject, Stretch, encode_fence, log_key, log_prefix
from core.log.objects.manifest import Manifest, files_prefix, manifest_key, manifests_prefix, newest_manifest
from core.log.objects.packs import Packing, ends_of, packs_prefix
from core.log.objects.prefetch import SMALL_BYTES_MAX, Prefetched
from core.log.objects.protocol import Fence, Link, Owned, Place, Takeover
from core.log.objects.reading import read_header, take_over
from core.log.objects.rebuild import rebuild
from core.log.objects.state_files import Uploads, download
from core.log.objects.writer import PAUSE_MAX_S, PAUSE_S, IsOurs, ObjectLog, ObjectWriter
from core.log.writer import FileWriter
from core.stations import Stations
from tier2.storage import DELETES_MAX, AlreadyExists, ObjectNotFound, Storage, StorageError

logger = logging.getLogger(__name__)

TRIES_MAX: Final = 10
"""Attempts of a start: the former owner may remove what one is reading."""
CHECKPOINT_BYTES: Final = 64 << 20
CHECKPOINT_OBJECTS: Final = 32
"""So much is put into the log before another checkpoint is stored that only saves a taker some
replay. A quiet container stores none."""
LOG_OBJECTS_MAX: Final = 2_048
"""Of so many on the log is cut as soon as it can be: who takes over reads each, and how often the container has changed
hands must not matter."""
FILE_OBJECTS: Final = LOG_OBJECTS_MAX // 4
"""So many of a log file are worth to be cut behind it."""
SNAPSHOT: Final = "snapshot"
METADATA: Final = "metadata"
MARK: Final = "log-in-objects"
"""The file in a container's directory that says so: its log files are a copy, and may be outdated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStorage:
    """The object store as a log sees it, through two doors.

    `puts` takes the groups, for which producers wait, and answers soon or fails. Everything else goes through
    `storage`, which is also that of the chunks: the walk of a start, checkpoints, removals.
    """

    storage: Storage
    puts: Storage


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a coordinator has given a taker: the epoch, above all before, and the ends of earlier ones.

    `is_ours` asks it, from the call on, whether the epoch is still the container's. None: it need not be asked.
    `prefetched`: what was read before the claim, for the taker to use.
    """

    epoch: int
    links: Sequence[Link]
    is_ours: IsOurs | None
    prefetched: Prefetched | None = None
    stations: Stations = field(default_factory=Stations)  # where the taker's time goes


class _Reached(NamedTuple):
    """How far a checkpoint has come: the state's LSN, and what we had put by then."""

    lsn: int
    objects: int
    bytes: int


class _Pending(NamedTuple):
    """A checkpoint whose files are stored, and whose manifest is on its way or had no answer."""

    manifest: Manifest
    first_lsn: int
    reached: _Reached


class LogObjects:
    """The log of one container in the object store, owned. Make it with `take`."""

    def __init__(
        self,
        log: LogStorage,
        container: int,
        directory: Path,
        owned: Owned,
        files: dict[int, Place],
        objects: Counter[int],
        is_ours: IsOurs | None,
    ) -> None:
        self._storage = storage = log.storage
        self._puts = log.puts
        self._container = container
        self._directory = directory
        self._owned = owned
        self._is_ours = is_ours
        self._writer: ObjectWriter | None = None
        self._places = files  # of each log file's first object, by the file's first LSN
        self._objects = objects  # of each log file, in the same way
        self._uploads = Uploads(storage, f"{files_prefix(container)}{owned.place.epoch:020d}/")
        self._stored_lsn = min(files, default=0)  # where the log of the newest checkpoint begins
        self._checkpointed = _Reached(0, 0, 0)  # by our last checkpoint
        self._pending: _Pending | None = None
        self._begins: Place | None = None  # the log, by the last checkpoint that was stored
        self._cut_before: Place | None = None  # nothing of the log is left before this place

    def __repr__(self) -> str:
        return f"<LogObjects {self._container} owned from {self._owned.place}>"

    @classmethod
    async def take(
        cls, log: LogStorage, container: int, directory: Path, logs: Path, claimed: Claimed | None = None
    ) -> Self:
        """Own the log, and make the container's directory from it. Raises StorageFailure, Deposed, OSError."""
        for _ in range(TRIES_MAX):
            try:
                return await cls._take(log, container, directory, logs, claimed)
            except ObjectNotFound as error:
                logger.info("the log was cut meanwhile, the start begins anew", extra={"missing": error.key})
            except StorageError as error:
                raise StorageFailure(
                    f"the log of container {container} cannot be read from long-term storage: {error}. "
                    "Nothing that was acknowledged is lost: start again once it answers"
                ) from error
        raise StorageFailure(
            f"the log of container {container} lost objects at each of {TRIES_MAX} tries to read it: "
            "another gateway cuts it, or they are missing. Stop that one, or restore them from a copy of the bucket"
        )

    @classmethod
    async def _take(cls, log: LogStorage, container: int, directory: Path, logs: Path, claimed: Claimed | None) -> Self:
        await asyncio.to_thread(_mark, directory, logs, container)
        prefetched = None if claimed is None else claimed.prefetched
        storage = prefetched or Prefetched(log.storage, container, directory)
        try:
            if prefetched is None:
                await storage.fetch(log_object_bytes_max=SMALL_BYTES_MAX, files=False, rounds_max=1)
            else:
                await storage.fetch()
            if claimed is not None:
                claimed.stations.reached("read ahead")
            return await cls._take_by(log, storage, container, directory, logs, claimed)
        finally:
            if storage is not prefetched:
                storage.forget()

    @classmethod
    async def _take_by(
        cls, log: LogStorage, storage: Storage, container: int, directory: Path, logs: Path, claimed: Claimed | None
    ) -> Self:
        stretches: dict[Place, Stretch] = {}
        token = secrets.token_hex(TOKEN_BYTES)
        takeover = Takeover(token) if claimed is None else Takeover(token, claimed.epoch, claimed.links)
        stations = Stations() if claimed is None else claimed.stations
        owned = await take_over(storage, container, takeover, stretches)
        stations.reached("walked and fenced")
        manifest = await newest_manifest(storage, container)
        await asyncio.to_thread(_empty, directory, logs)
        if manifest is not None:
            await download(storage, manifest.files, directory)
        stations.reached("checkpoint there")
        await rebuild(storage, container, owned, stretches, logs)
        stations.reached("log there")
        files = {s.file_lsn: place for place, s in stretches.items() if s.position == 0}
        logger.info(
            "log taken over",
            extra={
                "container": container,
                "epoch": owned.place.epoch,
                "next_lsn": owned.place.lsn,
                "objects": len(owned.groups),
                "checkpoint": 0 if manifest is None else manifest.lsn,
            },
        )
        objects = Counter(stretches[group.place].file_lsn for group in owned.groups)
        return cls(log, container, directory, owned, files, objects, None if claimed is None else claimed.is_ours)

    @property
    def links(self) -> Sequence[Link]:
        """The ends of epochs since the checkpoint, up to our own fence."""
        return self._owned.links

    def new_writer(self, logs: Path, name: str, config: StoreConfig) -> NewWriter:
        """A factory of the log's writer: objects are the truth, files the cache, which nothing waits for."""
        cache_config = replace(config, sync_mode=SyncMode.NEVER)

        def new_cache(size: int, reports: LogReports) -> LogWriter:
            return FileWriter(logs, name, size, cache_config, reports)

        def new_writer(size: int, reports: LogReports) -> LogWriter:
            settings = ObjectLog(
                storage=self._puts,
                container=self._container,
                place=self._owned.place,
                puts_max=config.log_object_inflight,
                linger_s=None if config.log_object_linger_ms < 0 else config.log_object_linger_ms / 1000,
                is_ours=self._is_ours,
                packing=Packing(self._storage, self._container, self._owned.place.epoch),
                objects=self._objects,
            )
            self._writer = ObjectWriter(settings, size, reports, new_cache)
            return self._writer

        return new_writer

    @property
    def objects(self) -> int:
        """How many objects of the log, of those that are put or on their way, whoever takes over has to read."""
        return self._objects.total()

    @property
    def is_long(self) -> bool:
        """Whether these are so many that the log is to be cut."""
        return self.objects >= LOG_OBJECTS_MAX

    def is_file_long(self, first_lsn: int) -> bool:
        """Whether the log file that begins there has so many of them that it is worth to be cut behind it."""
        return self._objects[first_lsn] >= FILE_OBJECTS

    def disown(self, error: Deposed) -> None:
        """The log is somebody else's: end all that waits for it."""
        if self._writer is not None:
            self._writer.disown(error)

    async def fence(self, lsn: int, next_epoch: int) -> Link:
        """End our epoch before this LSN, once all before it is stored and nothing further is written: the log goes on
        in `next_epoch`. Goes on trying while the store does not answer. Raises Deposed.
        """
        fence = Fence(Place(self._owned.place.epoch, lsn), next_epoch, secrets.token_hex(TOKEN_BYTES))
        pause_s, key = PAUSE_S, log_key(self._container, fence.place)
        while True:
            try:
                try:
                    await self._puts.put_new(key, encode_fence(self._container, fence), token=fence.token)
                except AlreadyExists:  # or the driver's word for a conflict that may have left nothing
                    header = await read_header(self._storage, self._container, fence.place)
                    if header is None:
                        raise
                    if header[0] != fence:
                        raise Deposed(self._container, f"{key} is not ours: another node has the log") from None
                return Link(fence.place.epoch, lsn, next_epoch)
            except StorageError as error:
                logger.warning("the end of a log waits for the object store", extra={"error": str(error)[:300]})
            except BadLogObject as error:
                raise Deposed(self._container, f"{key} cannot be read: {error}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)

    def _is_due(self, first_lsn: int, lsn: int) -> bool:
        """Whether another checkpoint lets the log be cut, or saves a taker enough of its replay."""
        if first_lsn > self._stored_lsn:
            return True
        done, stats = self._checkpointed, self._stats
        grown = stats.bytes_written - done.bytes >= CHECKPOINT_BYTES or stats.syncs - done.objects >= CHECKPOINT_OBJECTS
        return grown and lsn > done.lsn

    @property
    def _stats(self) -> SyncStats:
        return SyncStats() if self._writer is None else self._writer.stats

    async def checkpoint(
        self, first_lsn: int, lsn: int, snapshot: Callable[[Path], Awaitable[None]], *, is_due: bool = False
    ) -> None:
        """Store the applied state if the log begins later than at the last time, or has grown by enough since; then cut
        the log behind it.

        `first_lsn` is that of the oldest log file, taken before the snapshot; `lsn` is P. With `is_due` anything new is
        enough. Raises StorageError.
        """
        await self._store_pending()
        first_lsn = max(first_lsn, self._stored_lsn)
        if not self._is_due(first_lsn, lsn) and not (is_due and lsn > self._checkpointed.lsn):
            return
        reached = _Reached(lsn, self._stats.syncs, self._stats.bytes_written)
        own = Place(self._owned.place.epoch, first_lsn)
        start = self._places.get(first_lsn, own) if first_lsn else self._owned.place  # 0: the log began with us
        scratch = self._directory / SNAPSHOT
        await _ended_in_thread(_made_anew, scratch)
        try:
            await snapshot(scratch)
            files = await self._uploads.upload(scratch)
        finally:
            await _ended_in_thread(_removed, scratch)
        self._pending = _Pending(Manifest(start, self._owned.place.epoch, lsn, files), first_lsn, reached)
        await self._store_pending()

    async def _store_pending(self) -> None:
        """Put the manifest that is to be put, and remove what it makes needless. Raises StorageError."""
        if self._pending is None:
            return
        manifest, first_lsn, reached = self._pending
        await self._storage.put(manifest_key(self._container, manifest), manifest.encode())
        self._pending, self._stored_lsn, self._checkpointed = None, first_lsn, reached
        self._begins = manifest.start
        self._places = {lsn: place for lsn, place in self._places.items() if lsn >= manifest.start.lsn}
        for lsn in [lsn for lsn in self._objects if lsn < manifest.start.lsn]:
            del self._objects[lsn]
        await remove_states_before(self._storage, self._container, manifest)

    async def cut(self) -> None:
        """Remove the log's objects before the last stored checkpoint: there may be thousands. Checkpoints may be stored
        meanwhile, but one cut at a time. Raises StorageError.
        """
        begins = self._begins
        if begins is not None and begins != self._cut_before:  # most checkpoints leave the log as it is
            await remove_log_before(self._storage, self._container, begins.lsn)
            self._cut_before = begins


async def remove_before(storage: Storage, container: int, manifest: Manifest) -> None:
    """Remove what no start reads any more behind a stored manifest. Raises StorageError."""
    await remove_states_before(storage, container, manifest)
    await remove_log_before(storage, container, manifest.start.lsn)


async def remove_states_before(storage: Storage, container: int, manifest: Manifest) -> None:
    """Remove older manifests than a stored one, and their files: while none are being stored.

    Files of former owners that may still store a manifest newer than ours stay. Raises StorageError.
    """
    gone: list[str] = []
    key = manifest_key(container, manifest)
    async for info in storage.list(manifests_prefix(container)):
        if info.key < key:
            gone.append(info.key)
    named = {file.key for file in manifest.files}
    below = len(files_prefix(container))
    async for info in storage.list(files_prefix(container)):
        epoch = int(info.key[below:].partition("/")[0])
        if (epoch < manifest.start.epoch or epoch == manifest.epoch) and info.key not in named:
            gone.append(info.key)
    await _remove(storage, gone)


async def remove_log_before(storage: Storage, container: int, lsn: int) -> None:
    """Remove the groups and packs before this LSN, at which a group begins; fences stay. Raises StorageError."""
    await _remove(storage, await _log_before(storage, container, lsn))


async def _log_before(storage: Storage, container: int, lsn: int) -> list[str]:
    """The keys of all groups and packs that end before this LSN."""
    found: list[str] = []
    async for info in storage.list(log_prefix(container)):
        if int(info.key.rpartition("/")[2]) < lsn and info.size > HEADER_SIZE:
            found.append(info.key)
    async for info in storage.list(packs_prefix(container)):
        if ends_of(info.key)[1] < lsn:
            found.append(info.key)
    return found


async def _remove(storage: Storage, keys: Sequence[str]) -> None:
    for begin in range(0, len(keys), DELETES_MAX):
        await storage.delete_many(keys[begin : begin + DELETES_MAX])


async def _ended_in_thread(work: Callable[[Path], None], path: Path) -> None:
    """Do it in a thread, and return only when it has ended, also when cancelled: nothing goes on behind a stop."""
    doing = asyncio.ensure_future(asyncio.to_thread(work, path))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait({doing})
        raise


def _made_anew(directory: Path) -> None:
    _removed(directory)
    directory.mkdir()


def _removed(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def is_marked(directory: Path) -> bool:
    """Whether the container there has its log in the object store. Blocks."""
    return (directory / MARK).exists()


def _mark(directory: Path, logs: Path, container: int) -> None:
    """Mark the directory as a copy; refuse one that has a log of its own."""
    if is_marked(directory):
        return
    if logs.is_dir() and any(path.name.endswith(LOG_SUFFIX) for path in logs.iterdir()):
        raise StorageFailure(
            f"container {container} has its log on this disk, in {logs}: log.store = object begins with a new data "
            "directory. Go on with log.store = disk, or name an empty data directory and another prefix"
        )
    make_directory(directory)
    write_durably(directory / MARK, b"")


def _empty(directory: Path, logs: Path) -> None:
    for path in (directory / METADATA, directory / SNAPSHOT, logs):
        shutil.rmtree(path, ignore_errors=True)
    for path in (directory / METADATA, logs):
        path.mkdir(parents=True)
