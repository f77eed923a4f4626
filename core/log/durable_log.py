"""Tier 1: the container's write-ahead log, one writer thread, one sync for all that waits.

The event loop decides where every frame lies and queues its bytes; the writer thread takes all groups that
have gathered, writes them past the page cache in whole blocks, syncs once, and reports the last LSN.

**Invariants**

- LSNs are consecutive, positions are decided in LSN order, bytes reach the file in that order.
- A group is reported durable only when a sync that began after its last byte was written has returned
  (mode `group`), or after it was written (mode `interval`, where `synced_lsn` follows later, and at once where
  somebody waits for it).
- A failed write or sync, of the open file or of the next one, is final: the log is poisoned, nothing further is
  written, synced or reported. Linux answers a second fsync with success although the pages are gone.
- What this process lacks (descriptors, memory, rights) is no failed write: the next file is prepared again until that
  works, and the writer thread opens nothing.
- A file is complete and synced before the next one gets its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Protocol, TypeAlias

from core.clock import Clock
from core.config import StoreConfig, SyncMode
from core.errors import StorageFailure, StorageFull
from core.log.files import (
    DISK_FULL,
    FILL_BYTES_S,
    SpareFile,
    allocate_spare,
    begin,
    drop_ballast,
    free_bytes,
    make_ballast,
    sweep_spares,
)
from core.log.format import FILE_HEADER_SIZE, FRAME_HEADER_SIZE, KIND_UPDATE, Buffer, FileHeader, encode_frame
from tier2.direct_io import BlockWriter
from tier2.shortage import is_forbidden, is_shortage, patiently

logger = logging.getLogger(__name__)

JOIN_BYTES_MAX: Final = 32 * 1024
"""Up to this size a group's buffers are joined before they are staged: that costs less for each of them."""

GROWTH_MAX: Final = 8
"""A file may grow to this many times its size while the next one is prepared, given as much free disk for each."""

POSITION_MAX: Final = 2**32 - 1
"""The index keeps positions in 32 bits."""

SPARE_RETRY_S: Final = 1.0
"""How often the next file is prepared again, where the disk is full or this process lacks something."""

CONTROL_RESERVE: Final = 64 * 1024
CONTROL_RESERVE_MAX: Final = 1024 * 1024
"""Bytes at the end of a file's room that only updates may use: a full disk still takes trims and commits of chunks. A
sixteenth of a file, within these bounds."""


class LogFile:
    """One file of the log, as far as memory knows it."""

    __slots__ = ("created_ms", "end_lsn", "epoch", "file_id", "first_lsn", "indexed", "path", "size")

    def __init__(self, first_lsn: int, path: Path, file_id: int, created_ms: int, epoch: int) -> None:
        self.first_lsn = first_lsn
        self.path = path
        self.file_id = file_id
        self.created_ms = created_ms
        self.epoch = epoch  # of the container, when the file was begun
        self.end_lsn = first_lsn  # LSN after its last frame; final once the file is rolled
        self.size = FILE_HEADER_SIZE  # bytes in use; final once the file is rolled
        self.indexed = False  # its sidecar lies on disk

    def __repr__(self) -> str:
        return f"<LogFile {self.path.name} lsn {self.first_lsn}-{self.end_lsn} {self.size} bytes>"


@dataclass(frozen=True, slots=True)
class LogPosition:
    """The log up to `lsn`; the next frame lies at `position` of `file_lsn`'s file."""

    lsn: int
    file_lsn: int
    position: int


class LogListener(Protocol):
    """Who hears, on the event loop, what became of the log."""

    def log_durable(self, lsn: int) -> None:
        """All frames up to `lsn` count as durable in the configured mode."""

    def log_rolled(self, old: LogFile) -> None:
        """`old` is complete: its size and end are final, and it is synced."""

    def log_failed(self, error: StorageFailure) -> None:
        """The log is poisoned."""


@dataclass(slots=True)
class _Write:
    buffers: list[Buffer]
    end: LogPosition


@dataclass(slots=True)
class _Roll:
    spare: SpareFile
    header: FileHeader
    old: LogFile | None
    new: LogFile


class _Sync:
    """Somebody waits for a sync: do not leave it to the interval."""


class _Stop:
    pass


_Command: TypeAlias = _Write | _Roll | _Sync | _Stop


SYNC_BUCKETS_S: Final[tuple[float, ...]] = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the sync time histogram, seconds."""


@dataclass(slots=True)
class SyncStats:
    """Counters for the operator; written by the writer thread, read anywhere."""

    syncs: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SYNC_BUCKETS_S) + 1))

    def observe(self, seconds: float) -> None:
        self.syncs += 1
        self.seconds += seconds
        for index, bound in enumerate(SYNC_BUCKETS_S):
            if seconds <= bound:
                self.buckets[index] += 1
                return
        self.buckets[-1] += 1


class DurableLog:
    """The log of one container. All methods are for the event loop's thread."""

    def __init__(
        self,
        directory: Path,
        container: int,
        config: StoreConfig,
        clock: Clock,
        listener: LogListener,
    ) -> None:
        self._directory = directory
        self._container = container
        self._config = config
        self._clock = clock
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        # Room beyond the size at which a file is rolled, for as long as the next one is not ready.
        self._reserve = max(CONTROL_RESERVE, min(CONTROL_RESERVE_MAX, config.log_file_bytes // 16))
        self._margin = max(config.log_file_bytes // 8, 2 * self._reserve)
        self._allocate = config.log_file_bytes + self._margin
        self._spare: SpareFile | None = None
        self._disk_full = False
        self._hindered = ""  # why the next file cannot be prepared, other than a full disk
        self._background = ThreadPoolExecutor(1, thread_name_prefix=f"log-{container}-spare")
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name=f"log-{container}-writer", daemon=True)
        self._stopped = asyncio.Event()
        self._closing = False
        self.kick_scheduled = False
        self._sync_waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._sync_asked = False  # the writer was asked for a sync and has not reported one since
        self._fd = -1
        self._directory_fd = -1
        self._blocks = BlockWriter()
        self.failure: StorageFailure | None = None
        self.stats = SyncStats()
        self.epoch = 0
        self.file = LogFile(1, directory, 0, 0, 0)
        self.file_id = 0
        self.entries = 0  # appends in the open file
        self.position = 0  # where the next frame goes
        self.room = 0  # bytes of the open file that are allocated
        self.append_limit = 0  # appends roll the file beyond this
        self.next_lsn = 1
        self.durable_lsn = 0
        self.synced_lsn = 0
        self.durable_position = LogPosition(0, 1, FILE_HEADER_SIZE)
        self.open: list[Buffer] = []

    def __repr__(self) -> str:
        state = "poisoned" if self.failure else "full" if self._disk_full else "open"
        return f"<DurableLog {self._container} {state} durable {self.durable_lsn} next {self.next_lsn}>"

    @property
    def disk_full(self) -> bool:
        """No room for the next file was found when last asked."""
        return self._disk_full

    async def start(self, next_lsn: int, epoch: int) -> None:
        """Begin a new file at `next_lsn`. Raises StorageFailure when the disk refuses, OSError for what we lack."""
        self.epoch = epoch
        self.next_lsn = next_lsn
        self.durable_lsn = self.synced_lsn = next_lsn - 1
        try:
            spare = await self._loop.run_in_executor(self._background, self._first_spare)
        except OSError as error:
            if is_shortage(error) or is_forbidden(error):
                raise
            raise StorageFailure(
                f"no room for a log file in {self._directory}: {error.strerror}. "
                "Free some disk space or choose another data directory"
            ) from error
        self._spare = spare
        self._writer.start()
        self._roll()

    # Queueing: what the container's append path does by itself is `open`, `position`, `next_lsn` and `kick`

    def make_room(self, size: int, *, control: bool = False) -> None:
        """Make `size` bytes fit; may roll the file. Raises StorageFull or StorageFailure."""
        if self.failure is not None:
            raise self.failure
        if self._closing:
            raise StorageFull("the log is closing")
        if control and self.position + size <= self.room - self._reserve:
            return  # appends may have been refused: what frees the log is not to begin a file for each of them
        if self._spare is not None and self.position > FILE_HEADER_SIZE:
            self._roll()
        reserve = 0 if control else self._reserve
        if self.position + size <= self.room - reserve:
            return
        if self._disk_full:
            raise StorageFull(f"no room for the next log file in {self._directory}; free some disk space")
        # The next file is being prepared, or the entry alone is larger than one: the open file may grow, where the
        # disk has plenty of room.
        grown = self.position + size + self._margin
        limit = min(GROWTH_MAX * self._allocate, POSITION_MAX)
        if grown > limit or free_bytes(self._directory) < GROWTH_MAX * grown:
            raise StorageFull(f"the next log file is not ready yet{self._hindered and f': {self._hindered}'}")
        self.room = grown

    def begin_step(self, size: int) -> None:
        """Make frames of `size` bytes in all fit into one file, and with them into one write. They may use the reserve.

        Raises StorageFull or StorageFailure.
        """
        if self.failure is not None or self.position + size > self.append_limit:
            self.make_room(size, control=True)

    def append_update(self, body: bytes) -> int:
        """Queue an update record; returns its LSN. Raises StorageFull or StorageFailure."""
        self.begin_step(len(body) + FRAME_HEADER_SIZE)
        return self.queue_update(body)

    def queue_update(self, body: bytes, follows: int = 0) -> int:
        """The same within a step, which has made room."""
        lsn = self.next_lsn
        frame = encode_frame(lsn, self.synced_lsn, self.file_id, KIND_UPDATE, body, follows)
        self.open.append(frame)
        self.position += len(frame)
        self.next_lsn = lsn + 1
        self.kick()
        return lsn

    def kick(self) -> None:
        """Hand what is open to the writer at the end of this turn of the loop."""
        if not self.kick_scheduled:
            self.kick_scheduled = True
            self._loop.call_soon(self._flush_open)

    def _flush_open(self) -> None:
        self.kick_scheduled = False
        if self.open:
            end = LogPosition(self.next_lsn - 1, self.file.first_lsn, self.position)
            self._send(_Write(self.open, end))
            self.open = []

    def _send(self, command: _Command) -> None:
        self._commands.put(command)

    def _roll(self) -> None:
        spare = self._spare
        assert spare is not None
        self._spare = None
        self._flush_open()
        header = FileHeader(
            container=self._container,
            first_lsn=self.next_lsn,
            file_id=secrets.randbits(32) or 1,
            epoch=self.epoch,
            created_ms=self._clock.wall_ms(),
        )
        new = LogFile(
            self.next_lsn,
            self._directory / f"{self.next_lsn:020d}.log",
            header.file_id,
            header.created_ms,
            header.epoch,
        )
        old = self.file if self.file_id else None
        if old is not None:
            old.end_lsn = self.next_lsn
            old.size = self.position
        self._send(_Roll(spare, header, old, new))
        self.file = new
        self.file_id = header.file_id
        self.entries = 0
        self.position = FILE_HEADER_SIZE
        self.room = spare.allocated
        self.append_limit = spare.allocated - self._margin
        self._prepare_spare()

    async def synced(self, lsn: int) -> None:
        """Wait until the log is synced up to `lsn`, which is at once. Raises StorageFailure when it never will be."""
        if self.failure is not None:
            raise self.failure
        if lsn <= self.synced_lsn:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._sync_waiters.append((lsn, future))
        self._ask_for_sync()
        await future

    def _ask_for_sync(self) -> None:
        """One request at a time: who comes later than its sync began is asked for again when that is reported."""
        if not self._sync_asked and not self._closing:
            self._sync_asked = True
            self._flush_open()
            self._send(_Sync())

    async def close(self) -> None:
        """Write and sync what is queued, then stop. Further appends are refused."""
        if self._closing:
            return
        self._closing = True
        self.append_limit = 0
        self._flush_open()
        if self._writer.is_alive():
            self._send(_Stop())
            await self._stopped.wait()
            self._writer.join()
        if self._spare is not None:
            self._spare.take()
        await asyncio.to_thread(self._background.shutdown)
        if self._spare is not None:
            os.close(self._spare.fd)
            self._spare = None
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    # Spare files

    def _prepare_spare(self) -> None:
        if not self._closing and self.failure is None:
            self._background.submit(self._spare_job)

    def _first_spare(self) -> SpareFile:
        self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sweep_spares(self._directory)
        spare = allocate_spare(self._directory, self._allocate)
        spare.fill()
        make_ballast(self._directory)
        return spare

    def _spare_job(self) -> None:
        try:
            spare = allocate_spare(self._directory, self._allocate)
        except (OSError, MemoryError) as error:
            if is_shortage(error) or is_forbidden(error):
                self._loop.call_soon_threadsafe(self._spare_hindered, error)
            elif isinstance(error, OSError) and error.errno in DISK_FULL:
                drop_ballast(self._directory)
                self._loop.call_soon_threadsafe(self._spare_refused, error)
            else:
                self._loop.call_soon_threadsafe(self._on_failed, self._failure(error))
            return
        self._loop.call_soon_threadsafe(self._spare_ready, spare)
        try:
            make_ballast(self._directory)
            spare.fill(FILL_BYTES_S)
        except (OSError, MemoryError) as error:
            if is_shortage(error) or is_forbidden(error) or (isinstance(error, OSError) and error.errno in DISK_FULL):
                # Some file systems want room for every write. Zeros only make later syncs cheaper.
                logger.warning("spare log file not filled: %s", error)
                return
            self._loop.call_soon_threadsafe(self._on_failed, self._failure(error))

    def _spare_ready(self, spare: SpareFile) -> None:
        if self._closing:
            spare.take()  # zeros may still be on their way, and the number of a closed file is soon another file's
            os.close(spare.fd)
            return
        self._spare = spare
        if self._hindered:
            self._hindered = ""
            logger.warning("the next log file is ready again", extra={"directory": str(self._directory)})
        if self._disk_full:
            self._disk_full = False
            logger.warning("disk has room again: writes go on", extra={"directory": str(self._directory)})

    def _spare_refused(self, error: OSError) -> None:
        if self._closing:
            return
        if not self._disk_full:
            self._disk_full = True
            logger.error(
                "no room for the next log file: writes will be refused until disk space is free",
                extra={"directory": str(self._directory), "error": str(error)},
            )
        self._loop.call_later(SPARE_RETRY_S, self._prepare_spare)

    def _spare_hindered(self, error: Exception) -> None:
        if self._closing:
            return
        if not self._hindered:
            logger.error(
                "the next log file cannot be prepared, which is tried again: this process lacks descriptors, memory or "
                "rights, the disk is not at fault",
                extra={"directory": str(self._directory), "error": str(error) or repr(error)},
            )
        self._hindered = str(error) or repr(error)
        self._loop.call_later(SPARE_RETRY_S, self._prepare_spare)

    # Reports of the writer thread, on the loop

    def _on_written(self, end: LogPosition) -> None:
        if self.failure is not None:
            return  # the disk failed the next file meanwhile: what waited has been told
        self.durable_lsn = end.lsn
        self.durable_position = end
        self._listener.log_durable(end.lsn)

    def _on_synced(self, lsn: int) -> None:
        if self.failure is not None:
            return
        self.synced_lsn = lsn
        self._sync_asked = False
        if self._sync_waiters:
            due = [f for wanted, f in self._sync_waiters if wanted <= lsn]
            self._sync_waiters = [w for w in self._sync_waiters if w[0] > lsn]
            for future in due:
                if not future.done():
                    future.set_result(None)
            if self._sync_waiters:
                self._ask_for_sync()

    def _on_both(self, end: LogPosition) -> None:
        self._on_synced(end.lsn)
        self._on_written(end)

    def _on_rolled(self, roll: _Roll) -> None:
        if roll.old is not None:
            self._listener.log_rolled(roll.old)

    def _failure(self, error: Exception) -> StorageFailure:
        what = f"write or sync of the log in {self._directory} failed: {str(error) or repr(error)}"
        return StorageFailure(f"{what}. Nothing further is acknowledged; check the disk, then restart")

    def _on_failed(self, error: StorageFailure) -> None:
        if self.failure is not None:
            return
        self.failure = error
        self.append_limit = 0  # every append asks for room now, and hears of the failure
        for _, future in self._sync_waiters:
            if not future.done():
                future.set_exception(error)
        self._sync_waiters.clear()
        self._listener.log_failed(error)
        self._stopped.set()

    # The writer thread

    def _write_loop(self) -> None:
        try:
            if self._config.sync_mode is SyncMode.GROUP:
                self._write_groups()
            else:
                self._write_intervals()
        except Exception as error:  # whatever ends this thread leaves waiters behind
            failure = self._failure(error)
            self._loop.call_soon_threadsafe(self._on_failed, failure)
            return
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _write_groups(self) -> None:
        report = self._loop.call_soon_threadsafe
        while True:
            writes, other = self._take(None)
            if writes:
                self._write_all(writes)
                self._sync()
                report(self._on_both, writes[-1].end)
            if isinstance(other, _Roll):
                self._begin_file(other)
                report(self._on_rolled, other)
            elif isinstance(other, _Stop):
                os.close(self._fd)
                return

    def _write_intervals(self) -> None:
        report = self._loop.call_soon_threadsafe
        interval = self._config.sync_interval_ms / 1000
        unsynced: LogPosition | None = None
        sync_at = 0.0
        while True:
            wait = None if unsynced is None else max(0.0, sync_at - time.monotonic())
            writes, other = self._take(wait)
            if writes:
                self._write_all(writes)
                report(self._on_written, writes[-1].end)
                if unsynced is None:
                    sync_at = time.monotonic() + interval
                unsynced = writes[-1].end
            if unsynced is not None and (other is not None or time.monotonic() >= sync_at):
                self._sync()
                report(self._on_synced, unsynced.lsn)
                unsynced = None
            if isinstance(other, _Roll):
                self._begin_file(other)
                report(self._on_rolled, other)
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

    def _write_all(self, writes: list[_Write]) -> None:
        buffers = writes[0].buffers
        for write in writes[1:]:
            buffers += write.buffers
        size = sum(map(len, buffers))
        self._blocks.write([patiently(lambda: b"".join(buffers))] if size <= JOIN_BYTES_MAX else buffers)
        self.stats.bytes_written += size

    def _sync(self) -> None:
        started = time.perf_counter()
        os.fdatasync(self._fd)
        self.stats.observe(time.perf_counter() - started)

    def _begin_file(self, roll: _Roll) -> None:
        begin(roll.spare, self._directory, self._directory_fd, roll.header)
        old, self._fd = self._fd, roll.spare.fd
        self._blocks.begin(self._fd, FILE_HEADER_SIZE)
        if old >= 0:
            assert roll.old is not None
            # The rest of its room is of no use to a finished file.
            with contextlib.suppress(OSError):
                os.ftruncate(old, roll.old.size)
            os.close(old)
