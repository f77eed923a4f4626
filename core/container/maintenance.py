"""What a container does in the background: sidecars, checkpoints, truncation. One task, one thread for what blocks.

**Invariants**

- The applied state is written from values that were durable, and only after the log is synced up to them.
- P is committed after every value that was dirty at P was written, and then flushed; a failure makes all of it dirty
  again and RocksDB is opened anew, so nothing that was not flushed is ever taken for flushed.
- A log file goes only when it lies wholly behind P, its rows are indexed, and every slot in it starts behind it or is
  there in chunks that have been verified. The records that say so are synced before it goes, whatever the sync mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from core.applied.metadata import BATCH_OPERATIONS, slot_item, table_item, table_key
from core.applied.tables import StoredTable
from core.background import Background
from core.config import MIB
from core.container.keeper import Keeper, slot_of
from core.container.ports import Chunks
from core.container.reindex import reindex
from core.container.unsaved import Taken
from core.errors import Corrupt, StorageFailure
from core.index.rows import BlockRef, read_directory, sidecar_path, write_sidecar
from core.log.files import drop_ballast, free_bytes, give_up
from core.log.log_file import LogFile, LogPosition
from core.streams.live import Slot
from core.streams.state import STREAMS_TABLE
from core.turns import Turn
from tier2.shortage import is_forbidden, is_shortage

if TYPE_CHECKING:
    from core.container.container import Container

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

LOOK_EVERY_S: Final = 1.0
"""How often it is looked whether the log has grown enough for a checkpoint before its interval is over."""

RETRY_S: Final = 1.0

BATCH_BYTES: Final = MIB
"""Of values in one write to RocksDB, but for one that is larger by itself."""

CAPTURE_ROWS: Final = 2000
"""Rows of tables that are captured in one turn."""

REOPEN_ROOM_BYTES: Final = 4 * MIB
"""Room that RocksDB is given before it is opened anew: once closed, it must open, or nothing old can be read."""


@dataclass(slots=True)
class _Values:
    """What one checkpoint writes: values, keys without a value, and the keys of streams that are gone.

    The last leave together with P: replay from an older P may come to records of a stream that only make sense while
    the slots of that stream are known. What RocksDB takes over of `stored` leaves memory afterwards.
    """

    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    deletes: list[bytes] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    stored: dict[StoredTable, list[tuple[bytes, bytes | None]]] = field(default_factory=dict)


class Maintenance:
    """The background side of one container."""

    def __init__(self, container: Container, chunks: Chunks) -> None:
        self._container = container
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"metadata-{container.id}")
        self._position = container.metadata.position() or LogPosition(0, 1, 0)
        self._refs_unflushed: list[BlockRef] = []
        self._blocker: BlockRef | None = None  # what keeps the oldest file
        self._keeper = Keeper(container, chunks, self.in_thread)
        self._interval_s = container.config.checkpoint_interval_ms / 1000
        self._checkpoint_at = 0.0  # on the event loop's clock, s
        self._background = Background(
            "maintenance",
            container.id,
            self._step,
            retry_s=RETRY_S,
            first_s=min(self._interval_s, LOOK_EVERY_S),
            wait=self._until_rolled,
        )
        self._bytes_at_checkpoint = 0
        self._stale = False  # a write of RocksDB failed: it must be opened anew
        self._lock = asyncio.Lock()

    @property
    def position(self) -> LogPosition:
        """P: what the applied state on disk reflects."""
        return self._position

    def start(self) -> None:
        self._checkpoint_at = asyncio.get_running_loop().time() + self._interval_s
        self._background.start()

    async def in_thread(self, function: Callable[..., _T], *args: object) -> _T:
        """Run something that blocks, in the metadata thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def stop(self) -> None:
        """End the task. The log may still be written to."""
        await self._background.stop()

    async def close(self, *, clean: bool) -> None:
        """After the log was closed: index its last file and commit everything, so that nothing is left to replay."""
        container = self._container
        if clean:
            last = container.log.file
            if last.file_id:
                last.end_lsn, last.size = container.log.next_lsn, container.log.position
                container.log_rolled(last)
                await self.in_thread(_truncate, last)
            await self.index_files()
            await self.checkpoint(clean=not container.files.unindexed)
        await asyncio.to_thread(self._thread.shutdown)

    async def _until_rolled(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._container.files.rolled.wait()

    async def _step(self) -> float:
        container, loop = self._container, asyncio.get_running_loop()
        try:
            await self.index_files()
            grown = container.log.stats.bytes_written - self._bytes_at_checkpoint
            pressed = container.tier is not None and container.tier.is_pressed
            if loop.time() >= self._checkpoint_at or grown >= container.config.checkpoint_log_bytes or pressed:
                self._checkpoint_at = loop.time() + self._interval_s
                await self.checkpoint()
                await self.truncate()
        except StorageFailure as failure:  # the container ends, and the process with the last one
            container.fail(failure)
            raise
        return max(0.0, min(self._checkpoint_at - loop.time(), LOOK_EVERY_S))

    # Sidecars

    async def index_files(self) -> None:
        """Write the sidecars that are due; rows of older files leave memory."""
        container = self._container
        container.files.rolled.clear()
        if not await self._is_writable():
            return
        for file in list(container.files.unindexed):
            columns = [
                (slot.stream.id, slot.number, rows)
                for slot, rows in container.files.columns_of(file)
                if not slot.stream.deleted
            ]
            try:
                refs = await self.in_thread(write_sidecar, file, columns)
            except OSError as error:
                logger.error("index sidecar not written, will be tried again", extra={"error": str(error)})
                await asyncio.sleep(1.0)
                return
            try:
                await self.in_thread(container.metadata.register, refs)
            except Exception as error:
                logger.error("index rows not written, will be tried again", extra={"error": str(error)})
                self._stale = True
                return
            self._refs_unflushed += refs
            container.files.indexed(file)
        container.files.forget()

    # Checkpoints

    async def checkpoint(self, *, clean: bool = False) -> None:
        """Bring the applied state on disk up to what is durable now. A failure is logged and tried again later.

        Raises StorageFailure when the log is poisoned.
        """
        async with self._lock:
            await self._checkpoint(clean)

    async def _checkpoint(self, clean: bool) -> None:
        container = self._container
        position = container.log.durable_position
        self._bytes_at_checkpoint = container.log.stats.bytes_written
        if (position.lsn <= self._position.lsn and not clean) or not await self._is_writable():
            return
        taken = container.unsaved.take(container.streams)
        refs, self._refs_unflushed = self._refs_unflushed, []
        try:
            values = await self._capture(taken.slots, taken.rows)
            if not clean:
                await container.log.synced(container.applied_lsn)
            await self.in_thread(self._write_checkpoint, position, values, taken.dead_streams, clean)
            self._position = position
            for table, saved in values.stored.items():
                table.saved(saved)
        except StorageFailure:
            raise
        except asyncio.CancelledError:  # the store is closing: its last checkpoint takes all of this on
            self._undo(taken, refs)
            raise
        except Exception as error:
            logger.error("checkpoint failed and will be tried again", extra={"error": str(error)})
            self._undo(taken, refs)
            self._stale = True

    async def _capture(self, slots: list[Slot], tables: set[tuple[str, bytes]]) -> _Values:
        container, values = self._container, _Values()
        turn = Turn()
        for slot in slots:
            slot.dirty = False
            if not slot.stream.deleted:
                encoded = await turn.through(slot.encoding())
                # Only now: a writer may be newer than when this began, but not than what is applied.
                values.puts.append(slot_item(slot.stream.id, slot.number, container.applied_lsn, encoded))
        for number, (name, key) in enumerate(tables, 1):
            if number % CAPTURE_ROWS == 0:
                await asyncio.sleep(0)
            table = container.tables[name]
            value = table.get(key)
            if isinstance(table, StoredTable):
                values.stored.setdefault(table, []).append((key, value))
            if value is not None:
                values.puts.append(table_item(name, key, container.applied_lsn, value))
            elif name == STREAMS_TABLE:
                values.gone.append(table_key(name, key))
            else:
                values.deletes.append(table_key(name, key))
        return values

    def _write_checkpoint(self, position: LogPosition, values: _Values, dead: list[int], clean: bool) -> None:
        metadata = self._container.metadata
        for puts in _batches(values.puts):
            metadata.write(puts)
        for start in range(0, len(values.deletes), BATCH_OPERATIONS):
            metadata.write((), values.deletes[start : start + BATCH_OPERATIONS])
        metadata.commit(position, values.gone, clean=clean)
        # After P: what a crash brings back of these is forgotten again by the next start.
        for stream_id in dead:
            metadata.forget_stream(stream_id)

    def _undo(self, taken: Taken, refs: list[BlockRef]) -> None:
        self._container.unsaved.put_back(taken)
        self._refs_unflushed += refs

    async def _is_writable(self) -> bool:
        """Whether RocksDB takes writes. A failed write reopens it, once the disk has room.

        Raises StorageFailure when it cannot be opened.
        """
        if self._stale and await self.in_thread(self._reopen):
            self._stale = False
        return not self._stale

    def _reopen(self) -> bool:
        directory, metadata = self._container.directory, self._container.metadata
        if free_bytes(directory) < REOPEN_ROOM_BYTES:
            drop_ballast(directory)
            if free_bytes(directory) < REOPEN_ROOM_BYTES:
                logger.error("no room for the applied state: free some disk space", extra={"directory": str(directory)})
                return False
        try:
            metadata.reopen()
            metadata.forget_blocks_before(self._oldest_lsn)
            metadata.register(self._refs_unflushed)
            metadata.replace_blocks([ref for kept in self._container.kept for ref in kept.refs])
        except Exception as error:
            if is_shortage(error) or is_forbidden(error):
                logger.error("the applied state cannot be opened, will be tried again", extra={"error": str(error)})
                return False
            raise StorageFailure(f"the applied state cannot be written any more: {error}") from error
        return True

    # Truncation

    async def truncate(self) -> int:
        """Give up log files that nobody needs; returns how many."""
        given_up = 0
        container, keeper = self._container, self._keeper
        await keeper.release()
        await self._mend_indices()
        while container.files.complete:
            file = container.files.complete[0]
            tiered: list[BlockRef] | None = await self.in_thread(self._tiered_refs, file)
            if tiered is None or not self._is_released(file, tiered):
                if not self._is_settled(file) or not await keeper.keep(file, self._blocker):
                    break
                continue
            await container.synced()  # a power cut must not take why it went, and leave that it is gone
            await keeper.release()  # of these slots nothing may be kept that lies before what goes now
            self._refs_unflushed = [ref for ref in self._refs_unflushed if ref.file_lsn != file.first_lsn]
            container.files.gave_up(file)
            keeper.moves(file)
            await self.in_thread(self._give_up, file)
            for ref in tiered:
                if (tiered_slot := self._alive(ref)) is not None:
                    tiered_slot.forget_transactions_before(ref.end)
            logger.info("log file truncated", extra={"file": file.path.name, "bytes": file.size})
            given_up += 1
        if container.tier is not None:
            container.log_changed()
        return given_up

    def _tiered_refs(self, file: LogFile) -> list[BlockRef] | None:
        """What of a file only chunks hold besides, if nothing of it is needed but for them; else None."""
        if not self._is_settled(file):
            return None
        if self._blocker is not None and self._blocker.file_lsn == file.first_lsn and self._is_needed(self._blocker):
            return None
        self._blocker = None
        try:
            refs = read_directory(file)
        except (Corrupt, OSError) as error:
            logger.error("log file kept, its index cannot be read", extra={"error": str(error)})
            self._container.unreadable_indices.add(sidecar_path(file.path))
            return None
        self._blocker = next(filter(self._is_needed, refs), None)
        if self._blocker is not None:
            return None
        return [ref for ref in refs if self._alive(ref) is not None and not self._keeper.holds(ref)]

    async def _mend_indices(self) -> None:
        """Make damaged sidecars again."""
        container = self._container
        paths, container.unreadable_indices = container.unreadable_indices, set()
        for file in [file for file in container.files.complete if sidecar_path(file.path) in paths]:
            try:
                await self.in_thread(reindex, container, file)
            except (Corrupt, OSError) as error:
                logger.error("the index of a log file could not be made again", extra={"error": str(error)})
            else:
                logger.warning("the index of a log file was damaged and made again", extra={"file": file.path.name})

    def _is_settled(self, file: LogFile) -> bool:
        """Whether no start would read it."""
        return file.indexed and file.end_lsn <= self._position.lsn + 1

    def _is_needed(self, ref: BlockRef) -> bool:
        """Whether the file is all that holds these rows' entries."""
        slot = self._alive(ref)
        return slot is not None and ref.end > slot.tiered_end and not self._keeper.holds(ref)

    @property
    def _oldest_lsn(self) -> int:
        """First LSN of the oldest log file."""
        return (self._container.files.complete or [self._container.log.file])[0].first_lsn

    def _alive(self, ref: BlockRef) -> Slot | None:
        """The slot, if it still has any of these rows' entries."""
        return slot_of(self._container, ref)

    def _is_released(self, file: LogFile, tiered: list[BlockRef]) -> bool:
        tier = self._container.tier
        return tier.releases(file, tiered) if tier is not None else not tiered

    def _give_up(self, file: LogFile) -> None:
        gone = [ref for ref in read_directory(file) if not self._keeper.holds(ref)]
        self._container.metadata.forget_blocks(gone, file.end_lsn)
        # The sidecar goes last: one without its file is swept at the next start, a file without it would be read anew.
        give_up(file.path, self._container.directory)
        sidecar_path(file.path).unlink(missing_ok=True)


def _batches(puts: Sequence[tuple[bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    """Some at a time: the interpreter stands still while RocksDB takes them over."""
    begin = size = 0
    for number, (_, value) in enumerate(puts):
        if number - begin >= BATCH_OPERATIONS or (number > begin and size + len(value) > BATCH_BYTES):
            yield puts[begin:number]
            begin, size = number, 0
        size += len(value)
    if begin < len(puts):
        yield puts[begin:]


def _truncate(file: LogFile) -> None:
    """Give back the room that a finished file did not use."""
    os.truncate(file.path, file.size)
