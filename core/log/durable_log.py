"""Tier 1: the container's write-ahead log on the event loop: the place of each frame, and which frames are durable.

The loop decides the place of every frame and queues its bytes. At the end of each turn it hands the queue to a
`LogWriter` (`core.log.interface`). The writer writes and syncs beside the loop and reports its progress.

**Invariants**

- LSNs are consecutive, positions are decided in LSN order, bytes are handed on in that order.
- In mode `group` a group is durable once a sync that began after its last byte was written has returned.
- In mode `interval` a group is durable once it is written. `synced_lsn` follows later, or at once if somebody waits.
- A failure of the writer is final: the log is poisoned, nothing further is queued or reported.
- A lack in this process (descriptors, memory, rights) is no failed write. It delays the next file; appends are refused
  only once the open file has no more room.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from pathlib import Path
from typing import Final, Protocol

from core.clock import Clock
from core.config import StoreConfig
from core.errors import StorageFailure, StorageFull
from core.log.files import log_failure, log_path
from core.log.format import FILE_HEADER_SIZE, FRAME_HEADER_SIZE, KIND_UPDATE, Buffer, FileHeader, encode_frame
from core.log.interface import LogWriter, NewWriter, SyncStats
from core.log.log_file import LogFile, LogPosition
from core.log.slabs import INDEX_ROW_BYTES, FileImage, Slabs
from tier2.shortage import PATIENCE_S, PAUSE_S

POSITION_MAX: Final = 2**32 - 1
"""The index keeps positions in 32 bits."""

CONTROL_RESERVE: Final = 64 * 1024
CONTROL_RESERVE_MAX: Final = 1024 * 1024
"""Bytes at the end of a file's room that only updates may use, so that a full disk still takes trims and commits of
chunks. A sixteenth of a file, within these bounds."""


class LogListener(Protocol):
    """The owner of a log, which hears on the event loop about its fate."""

    def log_durable(self, lsn: int) -> None:
        """All frames up to `lsn` count as durable in the configured mode."""

    def log_rolled(self, old: LogFile) -> None:
        """`old` is complete: its size and end are final, and it is synced."""

    def log_failed(self, error: StorageFailure) -> None:
        """The log is poisoned."""


class DurableLog:
    """The log of one container. All methods are for the event loop's thread."""

    def __init__(
        self,
        directory: Path,
        container: int,
        config: StoreConfig,
        clock: Clock,
        listener: LogListener,
        new_writer: NewWriter,
    ) -> None:
        self._directory = directory
        self._container = container
        self._clock = clock
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        # Room beyond the size at which a file is rolled, for use while the next one is not ready.
        self._reserve = max(CONTROL_RESERVE, min(CONTROL_RESERVE_MAX, config.first_file_bytes // 16))
        self._margin = max(config.first_file_bytes // 8, 2 * self._reserve)
        size = config.first_file_bytes + self._margin
        self.slabs = Slabs(config.cache_bytes, f"log-{container}")
        self._image = self.slabs.begin_image()  # of the open file
        self._images: deque[tuple[int, FileImage]] = deque()  # by the file's first LSN; not written to their ends
        self._writer: LogWriter = new_writer(size, self)
        self._closing = False
        self._takes_appends = True
        self._starved_at: float | None = None  # since when there is no memory for what is open, the loop's time
        self._memory_came = asyncio.Event()  # it is not starved, or never will be served
        self._memory_came.set()
        self._sync_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._fill_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._sync_asked = False  # the writer has been asked for a sync and has not reported it yet
        self.failure: StorageFailure | None = None
        self.epoch = 0
        self.file = LogFile(1, directory, 0, 0, 0)
        self.room = 0  # bytes of the open file that are allocated
        self.append_limit = 0  # appends roll the file beyond this
        self.durable_lsn = 0
        self.synced_lsn = 0
        self.filled_lsn = 0
        self.durable_position = LogPosition(0, 1, FILE_HEADER_SIZE)
        # `Container._append` changes these itself: a method for it costs an append 0.15 of its 3.4 µs.
        self.open: list[Buffer] = []  # frames of this turn of the loop
        self.position = 0  # of the next frame
        self.next_lsn = 1
        self.file_id = 0
        self.entries = 0  # appends in the open file
        self.kick_scheduled = False

    def __repr__(self) -> str:
        state = "poisoned" if self.failure else "full" if self.disk_full else "open"
        return f"<DurableLog {self._container} {state} durable {self.durable_lsn} next {self.next_lsn}>"

    @property
    def disk_full(self) -> bool:
        """Whether the disk had no room for the next file when last asked."""
        return self._writer.is_full

    @property
    def can_roll(self) -> bool:
        """Whether the next file is ready."""
        return self._writer.next_room is not None

    @property
    def hindrance(self) -> str:
        """What holds up the log just now; empty if nothing does."""
        return self._writer.hindrance

    @property
    def stats(self) -> SyncStats:
        """Counters of writes, and of the time that syncs took; the same object as long as the log lives."""
        return self._writer.stats

    async def start(self, next_lsn: int, epoch: int) -> None:
        """Begin a new file at `next_lsn`. Raises StorageFailure if the disk refuses, OSError for what we lack."""
        self.epoch = epoch
        self.next_lsn = next_lsn
        self.durable_lsn = self.synced_lsn = self.filled_lsn = next_lsn - 1
        await self._writer.start()
        self._roll()

    # Queueing

    def make_room(self, size: int, *, control: bool = False) -> None:
        """Make `size` bytes fit; may roll the file. Raises StorageFull or StorageFailure."""
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise StorageFull("the log is closing")
        if control and self.position + size <= self.room - self._reserve:
            return  # appends may have been refused: the updates that free the log must not each begin a file
        if self.can_roll and self.position > FILE_HEADER_SIZE:
            self._flush_open()
            if self.open:
                raise StorageFull("there is no memory for what the log writes next")
            self._roll()
        reserve = 0 if control else self._reserve
        if self.position + size <= self.room - reserve:
            return
        if self._writer.is_full:
            raise StorageFull(f"no room for the next log file in {self._directory}; free some disk space")
        # The next file is being prepared, or the entry alone is larger than one. The open file may grow if the
        # disk has plenty of room.
        grown = self.position + size + self._margin
        if grown > POSITION_MAX or not self._writer.can_grow(grown):
            hindrance = self._writer.hindrance
            raise StorageFull(f"the next log file is not ready yet{hindrance and f': {hindrance}'}")
        self.room = grown

    def roll(self) -> None:
        """Go on in another file, unless the open one is empty. Raises StorageFull if none is ready, StorageFailure."""
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise StorageFull("the log is closing")
        if self.position <= FILE_HEADER_SIZE:
            return
        if not self.can_roll:
            raise StorageFull(f"the next log file is not ready yet{self.hindrance and f': {self.hindrance}'}")
        self._flush_open()
        if self.open:
            raise StorageFull("there is no memory for what the log writes next")
        self._roll()

    def begin_step(self, size: int) -> None:
        """Make frames of `size` bytes in all fit into one file, and so into one write. They may use the reserve.

        Raises StorageFull or StorageFailure.
        """
        if self.failure is not None or self.position + size > self.append_limit:
            self.make_room(size, control=True)

    def append_update(self, body: bytes) -> int:
        """Queue an update record; returns its LSN. Raises StorageFull or StorageFailure."""
        self.begin_step(len(body) + FRAME_HEADER_SIZE)
        return self.queue_update(body)

    def queue_update(self, body: bytes, follows: int = 0) -> int:
        """Queue an update record within a step, which has made room."""
        lsn = self.next_lsn
        frame = encode_frame(lsn, self.synced_lsn, self.file_id, KIND_UPDATE, body, follows)
        self.open.append(frame)
        self.position += len(frame)
        self.next_lsn = lsn + 1
        self.kick()
        return lsn

    def kick(self) -> None:
        """Hand the open group to the writer at the end of this turn of the loop."""
        if not self.kick_scheduled:
            self.kick_scheduled = True
            self._loop.call_soon(self._flush_open)

    def _flush_open(self) -> None:
        self.kick_scheduled = False
        if self.open and (self.position <= self._image.room or self._has_memory()):
            self._writer.write(self.open, LogPosition(self.next_lsn - 1, self.file.first_lsn, self.position))
            self.open = []

    def _has_memory(self) -> bool:
        """Have memory for what is open. A process without any waits for what is on its way to the disk."""
        if self.failure is not None:
            return False
        now = self._loop.time()
        try:
            self.slabs.reach(self._image, self.position)
        except (OSError, MemoryError) as error:
            if self._starved_at is None:
                self._starved_at = now
                self._memory_came.clear()
            if now - self._starved_at < PATIENCE_S:
                self.kick_scheduled = True
                self._loop.call_later(PAUSE_S, self._flush_open)
            else:
                self.on_failed(log_failure(self._directory, error))
            return False
        if self._starved_at is not None:
            self._starved_at = None
            self._memory_came.set()
        return True

    def _roll(self) -> None:
        """Begin the next file. Nothing is open."""
        header = FileHeader(
            container=self._container,
            first_lsn=self.next_lsn,
            file_id=secrets.randbits(32) or 1,
            epoch=self.epoch,
            created_ms=self._clock.wall_ms(),
        )
        new = LogFile(
            self.next_lsn,
            log_path(self._directory, self.next_lsn),
            header.file_id,
            header.created_ms,
            header.epoch,
        )
        old = self.file if self.file_id else None
        if old is not None:
            old.end_lsn = self.next_lsn
            old.size = self.position
            self.slabs.completed(self._image, self.entries * INDEX_ROW_BYTES)
        self._image = new.image = self.slabs.begin_image()
        self._images.append((new.first_lsn, new.image))
        self.room = self._writer.roll(header, new.image, old)
        self.file = new
        self.file_id = header.file_id
        self.entries = 0
        self.position = FILE_HEADER_SIZE
        self.append_limit = self.room - self._margin if self._takes_appends else 0

    async def synced(self, lsn: int) -> None:
        """Have the log synced up to `lsn` at once, and wait for it. Raises StorageFailure when it never will be."""
        if self.failure is not None:
            raise self.failure
        if lsn <= self.synced_lsn:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._sync_waiters.append((lsn, future))
        self._ask_for_sync()
        await future

    async def filled(self) -> None:
        """Wait until all frames that are queued now can be read, durable or not. Raises StorageFailure when they never
        will be."""
        if self.failure is not None:
            raise self.failure
        if self.filled_lsn < self.next_lsn - 1:
            future: asyncio.Future[None] = self._loop.create_future()
            self._fill_waiters.append((self.next_lsn - 1, future))
            await future

    def _ask_for_sync(self) -> None:
        """Ask the writer for a sync, one at a time. A waiter that comes after a sync began causes another one."""
        if not self._sync_asked and not self._closing:
            self._sync_asked = True
            self._flush_open()
            self._writer.sync()

    def end_appends(self) -> None:
        """Have every append ask for room from now on, so that its owner can refuse it. Updates go on."""
        self._takes_appends = False
        self.append_limit = 0

    async def close(self) -> None:
        """Write and sync the queue, then stop. Further appends are refused."""
        if self._closing:
            return
        self._closing = True
        self.append_limit = 0
        self._flush_open()
        await self._memory_came.wait()
        await self._writer.close()
        self.slabs.close()

    # Reports of the writer

    def on_filled(self, lsn: int) -> None:
        if self.failure is None:
            self.filled_lsn = lsn
            self._fill_waiters = _told(self._fill_waiters, lsn)

    def on_written(self, end: LogPosition) -> None:
        if self.failure is not None:
            return  # the disk failed the next file meanwhile: all waiters have been told
        if end.lsn > self.filled_lsn:
            self.on_filled(end.lsn)
        images = self._images
        while images[0][0] != end.file_lsn:
            images.popleft()[1].written = POSITION_MAX
        images[0][1].written = end.position
        self.durable_lsn = end.lsn
        self.durable_position = end
        self._listener.log_durable(end.lsn)

    def on_synced(self, lsn: int) -> None:
        if self.failure is not None:
            return
        self.synced_lsn = lsn
        self._sync_asked = False
        if self._sync_waiters:
            self._sync_waiters = _told(self._sync_waiters, lsn)
            if self._sync_waiters:
                self._ask_for_sync()

    def on_written_and_synced(self, end: LogPosition) -> None:
        self.on_synced(end.lsn)
        self.on_written(end)

    def on_rolled(self, old: LogFile) -> None:
        self._listener.log_rolled(old)

    def on_failed(self, error: StorageFailure) -> None:
        self.failure = error
        self._memory_came.set()
        self.append_limit = 0  # every append asks for room now, and hears of the failure
        for _, future in (*self._sync_waiters, *self._fill_waiters):
            if not future.done():
                future.set_exception(error)
        self._sync_waiters.clear()
        self._fill_waiters.clear()
        self._listener.log_failed(error)


def _told(waiting: list[tuple[int, asyncio.Future[None]]], lsn: int) -> list[tuple[int, asyncio.Future[None]]]:
    """Tell those who wait for no more than this; returns the others."""
    for wanted, future in waiting:
        if wanted <= lsn and not future.done():
            future.set_result(None)
    return [one for one in waiting if one[0] > lsn]
