"""The writer of a log on disk: one thread, one write and one sync for all waiting groups.

`FileWriter` is the event loop's side: it hands on commands and has the next file made ready. `WriterThread` is the
other: it takes all groups that have gathered, writes them past the page cache in whole blocks, syncs once (with the
write itself, where the file system can), and reports the last LSN. Each attribute belongs to the side whose class holds
it; between them are the queue of commands, what `call_soon_threadsafe` carries, and `stats`, which any thread may read.

**Invariants**

- A failed write or sync, of the open file or of the next one, is final: the thread ends with it, and no sync is ever
  tried again. Linux answers a second fsync with success although the pages are gone. (A write that meets a shortage of
  this process is repeated, with its sync: all of its bytes are then written again.)
- The thread opens nothing, so a process that lacks descriptors can still write and roll.
- A file is complete and synced before the next one gets its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

from core.config import StoreConfig, SyncMode
from core.errors import StorageFailure
from core.log.files import SpareFile, begin, free_bytes, log_failure
from core.log.format import FILE_HEADER_SIZE, Buffer, FileHeader
from core.log.image_writer import ImageWriter
from core.log.interface import LogReports, SyncStats
from core.log.log_file import LogFile, LogPosition
from core.log.slabs import FileImage
from core.log.spares import Spares
from tier2.direct_io import can_sync_with_writes
from tier2.shortage import is_forbidden, is_shortage, patiently

JOIN_BYTES_MAX: Final = 32 * 1024
"""Up to this size a group's buffers are joined before they are copied: that costs less for each of them."""

GROWTH_MAX: Final = 8
"""A file may grow to this many times its size while the next one is prepared, if the disk has as much room for each."""


@dataclass(slots=True)
class _Write:
    buffers: list[Buffer]
    end: LogPosition


@dataclass(slots=True)
class _Roll:
    spare: SpareFile
    header: FileHeader
    image: FileImage
    old: LogFile | None


class _Sync:
    """Somebody waits for a sync: do not leave it to the interval."""


class _Stop:
    pass


_Command: TypeAlias = _Write | _Roll | _Sync | _Stop


class FileWriter:
    """A `LogWriter` of files in a directory. The event loop's side.

    The first files have `size` bytes, those of a hurried log as many more as the configuration allows.
    """

    def __init__(self, directory: Path, name: str, size: int, config: StoreConfig, reports: LogReports) -> None:
        self._directory = directory
        self._directory_fd = -1
        self._size_max = size + config.log_file_bytes - config.first_file_bytes
        self._reports = reports
        self._has_failed = False
        self._syncs = config.sync_mode is not SyncMode.NEVER
        self._spares = Spares(directory, size, self._size_max, f"{name}-spare", self._failed, fills=self._syncs)
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._thread = WriterThread(directory, f"{name}-writer", config, self._commands, reports, self._failed)

    @property
    def stats(self) -> SyncStats:
        return self._thread.stats

    @property
    def next_room(self) -> int | None:
        return self._spares.room

    @property
    def is_full(self) -> bool:
        return self._spares.is_full

    @property
    def hindrance(self) -> str:
        return self._spares.hindrance

    async def start(self) -> None:
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._directory_fd = await asyncio.to_thread(os.open, self._directory, flags)
            await self._spares.start()
            syncs_with_writes = self._syncs and await asyncio.to_thread(can_sync_with_writes, self._directory)
        except OSError as error:
            if is_shortage(error) or is_forbidden(error):
                raise
            raise StorageFailure(
                f"no room for a log file in {self._directory}: {error.strerror}. "
                "Free some disk space or choose another data directory"
            ) from error
        self._thread.start(self._directory_fd, syncs_with_writes=syncs_with_writes)

    def can_grow(self, size: int) -> bool:
        return size <= GROWTH_MAX * self._size_max and free_bytes(self._directory) >= GROWTH_MAX * size

    def roll(self, header: FileHeader, image: FileImage, old: LogFile | None) -> int:
        spare = self._spares.take()
        self._commands.put(_Roll(spare, header, image, old))
        return spare.allocated

    def write(self, buffers: list[Buffer], end: LogPosition) -> None:
        self._commands.put(_Write(buffers, end))

    def sync(self) -> None:
        self._commands.put(_Sync())

    async def close(self) -> None:
        self._spares.end()
        if self._thread.is_alive:
            self._commands.put(_Stop())
            await asyncio.to_thread(self._thread.join)
        await self._spares.close()
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    def _failed(self, error: StorageFailure) -> None:
        self._spares.end()
        if not self._has_failed:
            self._has_failed = True
            self._reports.on_failed(error)


class WriterThread:
    """The thread's side. `start`, `is_alive` and `join` are for the event loop, the rest runs in the thread."""

    def __init__(
        self,
        directory: Path,
        name: str,
        config: StoreConfig,
        commands: SimpleQueue[_Command],
        reports: LogReports,
        failed: Callable[[StorageFailure], None],
    ) -> None:
        # Both sides read these, nobody changes them.
        self._directory = directory
        self._commands = commands
        self._reports = reports
        self._failed = failed
        self._report = asyncio.get_running_loop().call_soon_threadsafe
        self._mode = config.sync_mode
        self._interval_s = config.sync_interval_ms / 1000
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        # The thread's alone, once it runs.
        self._directory_fd = -1
        self._fd = -1
        self._images = ImageWriter(syncs_with_writes=False)
        self.stats = SyncStats()  # others only read it

    def start(self, directory_fd: int, *, syncs_with_writes: bool) -> None:
        """Begin; the descriptor of the log's directory stays open until the thread has ended."""
        self._directory_fd = directory_fd
        self._images = ImageWriter(syncs_with_writes=syncs_with_writes)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()

    # In the thread

    def _run(self) -> None:
        try:
            match self._mode:
                case SyncMode.GROUP:
                    self._write_groups()
                case SyncMode.INTERVAL:
                    self._write_intervals(self._interval_s)
                case SyncMode.NEVER:
                    self._write_a_copy()
        except Exception as error:  # any end of this thread leaves waiters behind
            self._report(self._failed, log_failure(self._directory, error))

    def _write_groups(self) -> None:
        report, done = self._report, self._reports.on_written_and_synced
        while True:
            writes, other = self._take(None)
            if writes:
                self._stage(writes)
                self._observed(self._images.flush_synced)
                report(done, writes[-1].end)
            if isinstance(other, _Roll):
                self._begin_file(other)
            elif isinstance(other, _Stop):
                os.close(self._fd)
                return

    def _write_intervals(self, interval_s: float) -> None:
        report, reports = self._report, self._reports
        unsynced: LogPosition | None = None
        sync_at = 0.0
        while True:
            wait = None if unsynced is None else max(0.0, sync_at - time.monotonic())
            writes, other = self._take(wait)
            if writes:
                self._stage(writes)
                self._images.flush()
                report(reports.on_written, writes[-1].end)
                if unsynced is None:
                    sync_at = time.monotonic() + interval_s
                unsynced = writes[-1].end
            if unsynced is not None and (other is not None or time.monotonic() >= sync_at):
                self._observed(lambda: os.fdatasync(self._fd))
                report(reports.on_synced, unsynced.lsn)
                unsynced = None
            if isinstance(other, _Roll):
                self._begin_file(other)
            elif isinstance(other, _Stop):
                os.close(self._fd)
                return

    def _write_a_copy(self) -> None:
        report, reports = self._report, self._reports
        while True:
            writes, other = self._take(None)
            if writes:
                self._stage(writes)
                self._images.flush()
                report(reports.on_written, writes[-1].end)
            if isinstance(other, _Roll):
                self._begin_file(other)
            elif isinstance(other, _Stop):
                os.close(self._fd)
                return

    def _take(self, timeout_s: float | None) -> tuple[list[_Write], _Roll | _Sync | _Stop | None]:
        """All writes that wait, up to the first other command, which comes second."""
        commands = self._commands
        writes: list[_Write] = []
        try:
            command = commands.get(timeout=timeout_s)
            while isinstance(command, _Write):
                writes.append(command)
                if commands.empty():
                    return writes, None
                command = commands.get_nowait()
        except Empty:  # it is time to sync
            return writes, None
        return writes, command

    def _stage(self, writes: list[_Write]) -> None:
        """Copy all bytes into the image."""
        buffers = writes[0].buffers
        for write in writes[1:]:
            buffers += write.buffers
        size = sum(map(len, buffers))
        for part in [patiently(lambda: b"".join(buffers))] if size <= JOIN_BYTES_MAX else buffers:
            self._images.stage(part)
        self.stats.bytes_written += size

    def _observed(self, sync: Callable[[], None]) -> None:
        started = time.perf_counter()
        sync()
        self.stats.observe(time.perf_counter() - started)

    def _begin_file(self, roll: _Roll) -> None:
        begin(*(roll.spare, self._directory, self._directory_fd, roll.header), syncs=self._mode is not SyncMode.NEVER)
        old, self._fd = self._fd, roll.spare.fd
        self._images.begin(self._fd, roll.image, FILE_HEADER_SIZE)
        if roll.old is not None:
            # The rest of its room is of no use to a finished file.
            with contextlib.suppress(OSError):
                os.ftruncate(old, roll.old.size)
            os.close(old)
            self._report(self._reports.on_rolled, roll.old)
