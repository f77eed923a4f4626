"""The writer of a log whose truth lies in an object store, and whose files are a cache with the same bytes.

`ObjectWriter` hands each group to a `FileWriter`, which writes it and does not sync, and gathers it for an object. A
put begins when something waits, fewer than `puts_max` are on their way, and the last one began a linger ago.

**Invariants**

- A group is reported once it is in the file, and the objects of all groups up to it are stored: then it is durable, and
  synced as well, because nothing that happens to this machine can take it.
- An object is cut between two groups. A step of several frames lies in one group, and so in one object.
- An object holds bytes of one file.
- With a coordinator, a stored group is acknowledged only if our claim still stood after the put was answered: so not
  even a store that ignores conditions lets an owner that was deposed acknowledge anything.
- A store that does not answer poisons nothing: the same put is sent again until it is settled (`protocol.outcome`).
  Meanwhile nothing is acknowledged, and at `GATHERED_BYTES_MAX` appends are refused. A place that is somebody else's
  ends the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from core.errors import Deposed, StorageFailure
from core.log.format import Buffer, FileHeader, encode_file_header
from core.log.interface import LogReports, LogWriter, NewWriter, SyncStats
from core.log.log_file import LogFile, LogPosition
from core.log.objects.format import HEADER_SIZE, TOKEN_BYTES, BadLogObject, encode_group, log_key
from core.log.objects.packs import Packing
from core.log.objects.protocol import Group, Linger, Outcome, Place, Window, outcome
from core.log.objects.reading import read_header
from core.log.slabs import FileImage
from tier2.storage import AlreadyExists, Storage, StorageError

logger = logging.getLogger(__name__)

OBJECT_BYTES_MAX: Final = 4 << 20
"""An object takes groups up to this size; one larger group makes a larger object."""
GATHERED_BYTES_MAX: Final = 64 << 20
"""What waits for the store, bytes, before no file begins or grows: then the log refuses appends."""
PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0
HINDRANCE_CHARS_MAX: Final = 300


IsOurs = Callable[[], Awaitable[bool]]
"""The guard: asked once a put is answered, and answered by what is so after that. It waits while nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectLog:
    """Where the objects of one container's log go, and the bounds on their puts."""

    storage: Storage
    container: int
    place: Place  # of the first group
    puts_max: int = 4
    linger_s: float | None = None  # None: by the store's answers
    is_ours: IsOurs | None = None
    packing: Packing | None = None  # of groups that are acknowledged
    objects: Counter[int] = field(default_factory=Counter)  # of each log file, by its first LSN
    close_timeout_s: float = 30.0


@dataclass(slots=True)
class _Waiting:
    """A group that no put has taken yet."""

    buffers: list[Buffer]
    size: int
    end: LogPosition
    begins: FileHeader | None  # its file's, if it is the file's first group


class ObjectWriter:
    """A `LogWriter` to an object store, with a writer of files for the cache."""

    def __init__(self, settings: ObjectLog, size: int, reports: LogReports, new_cache: NewWriter) -> None:
        self._settings = settings
        self._reports = reports
        self._cache: LogWriter = new_cache(size, _CacheReports(self))
        self._window = Window(settings.place, settings.puts_max)
        self._linger = Linger(settings.puts_max, settings.linger_s)
        self._loop = asyncio.get_running_loop()
        self.stats = SyncStats()
        self._waiting: deque[_Waiting] = deque()
        self._gathered_bytes = 0  # waiting or on their way
        self._ends: deque[LogPosition] = deque()  # of groups that are not reported
        self._rolled: deque[LogFile] = deque()  # complete in the cache, not reported
        self._cached_lsn = settings.place.lsn - 1
        self._file_id = 0
        self._begins: FileHeader | None = None  # the open file's header until its first group has come
        self._position = 0  # in the file, of the next object's bytes
        self._may_begin_at = 0.0  # the loop's time
        self._timer: asyncio.TimerHandle | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._has_failed = False
        self._settled = asyncio.Event()  # nothing waits or is on its way, or never will be stored
        self._settled.set()

    def __repr__(self) -> str:
        return f"<ObjectWriter {self._window}, {self._gathered_bytes} bytes gathered>"

    @property
    def next_room(self) -> int | None:
        return None if self._gathered_bytes > GATHERED_BYTES_MAX else self._cache.next_room

    @property
    def is_full(self) -> bool:
        return self._cache.is_full

    @property
    def hindrance(self) -> str:
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            return f"{self._gathered_bytes} bytes wait for the object store {self._trouble}"
        return f"the object store does not take it {self._trouble}" if self._trouble else self._cache.hindrance

    async def start(self) -> None:
        await self._cache.start()

    def can_grow(self, size: int) -> bool:
        return self._gathered_bytes <= GATHERED_BYTES_MAX and self._cache.can_grow(size)

    def roll(self, header: FileHeader, image: FileImage, old: LogFile | None) -> int:
        self._begins = header
        return self._cache.roll(header, image, old)

    def write(self, buffers: list[Buffer], end: LogPosition) -> None:
        if self._has_failed:
            return
        size = sum(map(len, buffers))
        self._waiting.append(_Waiting(list(buffers), size, end, self._begins))
        self._begins = None
        self._gathered_bytes += size
        self._ends.append(end)
        self._settled.clear()
        self._cache.write(buffers, end)
        self._begin_puts()

    def sync(self) -> None:
        """All bytes are on their way already."""

    async def close(self) -> None:
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self._settled.wait()
        except TimeoutError:
            self._failed(
                StorageFailure(
                    f"the object store has not taken the end of the log of container {self._settings.container} within "
                    f"{self._settings.close_timeout_s:g} s {self._trouble}. Nothing of it was acknowledged"
                )
            )
        for put in self._puts:
            put.cancel()
        await asyncio.gather(*self._puts, return_exceptions=True)
        if self._settings.packing is not None:
            await self._settings.packing.close()
        await self._cache.close()
        await asyncio.sleep(0)  # the cache's last report is on its way
        self._report()

    def disown(self, error: Deposed) -> None:
        """The log is somebody else's: no put is settled any more, and nothing that waits is acknowledged."""
        self._failed(error)

    # Putting

    def _begin_puts(self) -> None:
        """Begin the puts that may begin now; the rest waits for an answer or the linger."""
        while self._waiting and self._window.is_open and not self._has_failed:
            late_s = self._may_begin_at - self._loop.time()
            if late_s > 0:
                if self._timer is None:
                    self._timer = self._loop.call_later(late_s, self._lingered)
                return
            self._may_begin_at = self._loop.time() + self._linger.seconds
            taken = self._take()
            group = self._window.begin(taken[-1].end.lsn, secrets.token_hex(TOKEN_BYTES))
            size = sum(one.size for one in taken)
            put = self._loop.create_task(self._put(group, self._encode(group, taken), size))
            self._puts.add(put)
            put.add_done_callback(self._puts.discard)

    def _lingered(self) -> None:
        self._timer = None
        self._begin_puts()

    def _take(self) -> list[_Waiting]:
        """The groups of the next object."""
        waiting = self._waiting
        taken = [waiting.popleft()]
        size = taken[0].size
        while waiting and waiting[0].begins is None and size + waiting[0].size <= OBJECT_BYTES_MAX:
            taken.append(waiting.popleft())
            size += taken[-1].size
        return taken

    async def _put(self, group: Group, data: bytes, size: int) -> None:
        try:
            await self._settle(group, data)
        except BaseException as error:  # any end without an outcome leaves waiters behind
            self._failed(StorageFailure(f"the log's objects of container {self._settings.container}: {error!r}"))
            if not isinstance(error, Exception):
                raise
        self._gathered_bytes -= size
        self._begin_puts()
        if not self._waiting and self._window.is_idle:
            self._settled.set()

    def _encode(self, group: Group, taken: list[_Waiting]) -> bytes:
        header, end = taken[0].begins, taken[-1].end
        parts: list[Buffer] = []
        if header is not None:
            self._file_id, self._position = header.file_id, 0
            parts.append(encode_file_header(header))
        for one in taken:
            parts += one.buffers
        position, self._position = self._position, self._position + sum(map(len, parts))
        assert self._position == end.position, "the object's bytes do not end where the file's do"
        self._settings.objects[end.file_lsn] += 1
        return encode_group(self._settings.container, group, end.file_lsn, self._file_id, position, parts)

    async def _settle(self, group: Group, data: bytes) -> None:
        """Send the put until its outcome is known."""
        settings, pause_s = self._settings, PAUSE_S
        key = log_key(settings.container, group.place)
        found = Outcome.UNKNOWN
        while found is Outcome.UNKNOWN and not self._has_failed:
            began = self._loop.time()
            try:
                found = await self._try(group, key, data)
            except StorageError as error:
                self._trouble = f"({str(error)[:HINDRANCE_CHARS_MAX]})"
                logger.warning("the log waits for the object store", extra={"error": self._trouble})
            if found is Outcome.UNKNOWN:
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)
        if found is Outcome.STORED and settings.is_ours is not None and not await settings.is_ours():
            found = Outcome.DEPOSED
        if found is Outcome.DEPOSED:
            self._window.ended(group, found)
            self._failed(Deposed(settings.container, f"{key} is not ours. Nothing further is acknowledged"))
        elif found is Outcome.STORED:
            seconds = self._loop.time() - began
            self._linger.answered(seconds)
            self.stats.observe(seconds)
            self.stats.bytes_written += len(data) - HEADER_SIZE
            self._trouble = ""
            stored_lsn, packing = self._window.ended(group, found), settings.packing
            if packing is not None:
                packing.stored(group.place.lsn, group.last_lsn, data)
            if stored_lsn is not None:
                self._report()
                if packing is not None:
                    packing.acknowledged(stored_lsn)

    async def _try(self, group: Group, key: str, data: bytes) -> Outcome:
        settings = self._settings
        try:
            await settings.storage.put_new(key, data, token=group.token)
        except AlreadyExists:  # or the driver's word for a conflict that may have left nothing
            try:
                header = await read_header(settings.storage, settings.container, group.place)
            except BadLogObject:
                return Outcome.DEPOSED
            return outcome(None if header is None else header[0], group.token)
        return Outcome.STORED

    # Reporting

    def cached(self, lsn: int) -> None:
        """The cache has written all up to here."""
        self._cached_lsn = lsn
        if not self._has_failed:
            self._reports.on_filled(lsn)
        self._report()

    def cache_rolled(self, old: LogFile) -> None:
        """This file of the cache is complete."""
        self._rolled.append(old)
        self._report()

    def cache_failed(self, error: StorageFailure) -> None:
        """The cache cannot be written: readers would miss what is acknowledged."""
        self._failed(error)

    def _report(self) -> None:
        if self._has_failed:
            return
        lsn = min(self._cached_lsn, self._window.stored_lsn)
        end: LogPosition | None = None
        while self._ends and self._ends[0].lsn <= lsn:
            end = self._ends.popleft()
        if end is not None:
            self._reports.on_written_and_synced(end)
        while self._rolled and self._rolled[0].end_lsn <= lsn + 1:
            self._reports.on_rolled(self._rolled.popleft())

    def _failed(self, error: StorageFailure) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._settled.set()
            self._reports.on_failed(error)


class _CacheReports:
    """The ear for the writer of the cache, whose syncs tell nothing."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer

    def on_filled(self, lsn: int) -> None:
        """The cache has it in its file at `on_written`."""

    def on_written(self, end: LogPosition) -> None:
        self._writer.cached(end.lsn)

    def on_synced(self, lsn: int) -> None:
        """The cache counts for nothing when this machine is gone."""

    def on_written_and_synced(self, end: LogPosition) -> None:
        self._writer.cached(end.lsn)

    def on_rolled(self, old: LogFile) -> None:
        self._writer.cache_rolled(old)

    def on_failed(self, error: StorageFailure) -> None:
        self._writer.cache_failed(error)
