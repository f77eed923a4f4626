"""A container: the owner of slots. It has one durable log, one applied state, one cache. All changes go through here.

**Invariants**

- Nothing is visible (`durable_end`, tables, streams) before the log has reported it durable, and then in log order.
- `_pending` holds one element for each frame that is queued and not yet reported, in LSN order.
- Everything runs on the event loop, without an await between look and change; the log's thread only reports.
- After a storage failure every waiter hears of it and nothing is acknowledged any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from crc32c import crc32c

from core.applied.metadata import Metadata
from core.clock import Clock
from core.config import StoreConfig
from core.container.kept import KeptFile
from core.container.log_files import LogFiles
from core.container.ports import AppendWaiter, TransactionEnd
from core.container.residents import Residents
from core.container.throttle import Throttle
from core.container.waiting import AllDurable, Append, Update, tell
from core.errors import NotHosted, SequenceGap, StorageFailure, StorageFull, StoreError
from core.log.durable_log import DurableLog
from core.log.format import (
    ABORT_MARKER,
    APPEND_OVERHEAD,
    APPEND_REST,
    COMMIT_MARKER,
    FRAME_HEADER_SIZE,
    FRAME_PREFIX,
    HOLDING_GIL,
    KIND_APPEND,
    STEP_GOES_ON,
    Buffer,
)
from core.log.interface import NewWriter
from core.log.log_file import LogFile
from core.log.records import Operation, Put, encode_update
from core.streams.damage import DAMAGED_TABLE, Damage
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.markers import Marker
from core.streams.state import STREAMS_TABLE, StreamState, stream_key
from core.streams.writers import Duplicate
from core.trusted_clock import TrustedClock

CONTAINER_TABLE: Final = "container"
EPOCH_KEY: Final = b"epoch"

COPY_MAX: Final = 16 * 1024
"""Entries up to this size are copied behind their frame header. That makes one buffer to write, and the cache does not
keep the request's buffer alive. Larger entries are written from the buffer that received them."""

STEP_OPERATIONS_MAX: Final = 1_000
"""The most operations of one record, in a step of several records."""

UNINDEXED_FILES_MAX: Final = 8
"""The most complete log files whose rows stay in memory because no sidecar could be written; a bound on memory."""


NameWriters = Callable[[Collection[int]], Mapping[int, str]]
"""The names of writers for people."""


class Container(Residents):
    """One container. Made by the store, filled by recovery, then started."""

    def __init__(
        self,
        container_id: int,
        directory: Path,
        config: StoreConfig,
        clock: Clock,
        trusted: TrustedClock,
        metadata: Metadata,
        known_writers: KnownWriters,
        stream_changed: Callable[[Container, int, StreamState | None], Stream | None],
        new_writer: NewWriter,
    ) -> None:
        super().__init__(container_id, clock, known_writers, partial(stream_changed, self))
        self.directory = directory
        self.config = config
        self.trusted = trusted  # by which things expire
        self.metadata = metadata
        self.epoch = 0
        self.log = DurableLog(directory, container_id, config, clock, self, new_writer)
        self.files = LogFiles(self.log.slabs)
        self.damage = Damage(directory)
        self.kept: list[KeptFile] = []  # entries that pinned the log, oldest first
        self.moved = 0  # log files that went after some of their entries were kept: rows looked up before may be stale
        self.unreadable_indices: set[Path] = set()  # sidecars that are to be made again
        self.name_writers: NameWriters = _by_number  # for the operator
        self.throttle = Throttle(config.log_max_bytes)  # of appends, when the log fills faster than it is tiered
        self.appended_bytes = 0  # since the start, for the operator
        self.failed: asyncio.Future[StorageFailure] = asyncio.get_running_loop().create_future()
        self.is_left = False
        self.is_sealed = False  # for another owner: nothing follows in the log
        self.on_applied(DAMAGED_TABLE, self.damage.apply)
        self._applied_lsn = 0
        self._pending: deque[Append | Update] = deque()
        self._late: deque[tuple[int, AppendWaiter]] = deque()

    def __repr__(self) -> str:
        return f"<Container {self.id} epoch {self.epoch} {len(self.streams)} streams, {len(self._pending)} pending>"

    @property
    def applied_lsn(self) -> int:
        """The last LSN that streams, slots and tables reflect."""
        return self._applied_lsn

    async def start(self, next_lsn: int, epoch: int) -> asyncio.Task[None]:
        """Begin to take appends. The epoch is in the log's file; what is returned is done when it is in its table, too.
        Raises StorageFailure, and so does that."""
        self.epoch = epoch
        self._applied_lsn = next_lsn - 1
        await self.log.start(next_lsn, epoch)
        return asyncio.create_task(self.update(Put(CONTAINER_TABLE, EPOCH_KEY, epoch.to_bytes(4, "big"))))

    async def rise(self, epoch: int, *operations: Operation) -> None:
        """Go on in a higher epoch and make these changes with it, before the first append. Raises StorageFailure."""
        await self.update(Put(CONTAINER_TABLE, EPOCH_KEY, epoch.to_bytes(4, "big")), *operations)
        self.epoch = self.log.epoch = epoch

    def risen(self, epoch: int) -> None:
        """A coordinator has raised the leader epoch, and others know it by now. The log's objects keep the epoch of the
        claim. That our own table has it counts for nothing here, only for whoever makes a coordinator's keys anew."""
        self.epoch = self.log.epoch = epoch
        with contextlib.suppress(StoreError):
            self._queue([Put(CONTAINER_TABLE, EPOCH_KEY, epoch.to_bytes(4, "big"))], None)

    # Appends

    def check_writer(self, slot: Slot, writer_id: int, epoch: int, sequence: int, count: int) -> Duplicate | None:
        """None if an idempotent writer's batch is its next one, Duplicate if it is there already.

        Raises StaleWriterEpoch, SequenceGap; TooManyWriters for one that the slot does not know. Instead of a gap it
        raises what an append would, where the slot takes none just now: the batches before may have been refused so.
        """
        state = slot.writers.get(writer_id) if slot.writers is not None else None
        if state is None:
            self.known_writers.admit()
            return None
        try:
            return state.check(writer_id, epoch, sequence, count)
        except SequenceGap:
            self._check_takes(slot)
            raise

    def _check_takes(self, slot: Slot) -> None:
        """Raises what an append to the slot would, however small it is."""
        if slot.stream.is_sealed or slot.has_moved or slot in self._barred:
            raise self._refusal(slot)
        self._check_here()
        self._check_failed()

    def append(
        self,
        slot: Slot,
        payload: Buffer,
        count: int,
        timestamp: int,
        waiter: AppendWaiter | None = None,
        writer_id: int = -1,
        writer_epoch: int = -1,
        sequence: int = -1,
        flags: int = 0,
    ) -> int:
        """Queue an entry of `count` sequence numbers; returns the first, which is `slot.end` as it was.

        The payload must not change any more. `timestamp` is the largest in it, ms. The waiter is told once the entry
        is durable. `flags` may be IN_TRANSACTION: it belongs to the transaction of its writer, which begins with it if
        there is none. Raises StreamSealed, StorageFull, StorageFailure, NotHosted, SlotMoves: then nothing has changed.
        """
        if slot.stream.is_sealed or slot.has_moved or (self._barred and slot in self._barred):
            raise self._refusal(slot)
        log = self.log
        size = APPEND_OVERHEAD + len(payload)
        if log.position + size > log.append_limit or log.entries >= self.config.log_file_entries_max:
            self._make_room(size)
        return self._append(slot, payload, count, timestamp, waiter, writer_id, writer_epoch, sequence, flags, 0)

    def _append(
        self,
        slot: Slot,
        payload: Buffer,
        count: int,
        timestamp: int,
        waiter: AppendWaiter | None,
        writer_id: int,
        writer_epoch: int,
        sequence: int,
        flags: int,
        follows: int,
    ) -> int:
        """Queue an entry for which there is room."""
        log = self.log
        size = APPEND_OVERHEAD + len(payload)
        base, lsn, position = slot.end, log.next_lsn, log.position
        segment_id, epoch = slot.segment_id, self.epoch
        rest = APPEND_REST.pack(
            lsn,
            log.synced_lsn,
            log.file_id,
            KIND_APPEND,
            follows,
            0,
            segment_id,
            slot.stream.state.id,
            slot.number,
            base,
            count,
            epoch,
            timestamp,
            writer_id,
            sequence,
            writer_epoch,
            flags,
        )
        prefix = FRAME_PREFIX.pack(size - FRAME_HEADER_SIZE, crc32c(payload, crc32c(rest), HOLDING_GIL))
        if size <= COPY_MAX:
            log.open.append(b"".join((prefix, rest, payload)))
        else:
            log.open += (prefix + rest, payload)
        log.position = position + size
        log.next_lsn = lsn + 1
        log.entries += 1
        if not log.kick_scheduled:
            log.kick()

        length = len(payload)
        known = slot.columns
        columns = known[-1] if known else None
        if columns is None or columns.file is not log.file:
            columns = self.files.begin_columns(slot, log.file, slot.total_bytes)
        columns.base.append(base)
        columns.position.append(position)
        columns.length.append(length)
        columns.timestamp.append(timestamp)
        columns.total += length
        columns.end = end = base + count
        slot.appended(
            base,
            count,
            length,
            segment_id,
            epoch,
            timestamp,
            writer_id,
            writer_epoch,
            sequence,
            flags,
            self.trusted.stamp_ms() if writer_id >= 0 else 0,
        )
        self._pending.append((slot, end, length, waiter))
        return base

    def when_durable(self, waiter: AppendWaiter) -> None:
        """Tell the waiter once everything queued now is durable (for a duplicate whose original is on its way)."""
        if self.log.failure is not None:
            waiter.append_failed(self.log.failure)
        elif not self._pending:
            waiter.appended()
        else:
            self._late.append((self.log.next_lsn - 1, waiter))

    def markers_on_way(self, slot: Slot) -> list[Marker]:
        """The markers of a slot that are queued and not durable yet, in their order."""
        waiters = (one[3] for one in self._pending if isinstance(one, tuple) and one[0] is slot)
        return [waiter for waiter in waiters if isinstance(waiter, Marker)]

    @property
    def is_all_durable(self) -> bool:
        """Whether no call waits for the log just now."""
        return self.log.durable_lsn >= self.log.next_lsn - 1

    def all_durable(self) -> asyncio.Future[None]:
        """A future: done once everything queued now is durable and applied; StorageFailure if it never will be."""
        waiter = AllDurable(asyncio.get_running_loop().create_future())
        self.when_durable(waiter)
        return waiter.future

    async def synced(self) -> None:
        """Wait until the state of streams, slots and tables is synced, in every mode. Raises StorageFailure.

        Call it before an effect that outlives a power cut, although the power cut may take its record: an identity is
        given out, an object is put, a file is deleted.
        """
        await self.log.synced(self._applied_lsn)

    async def synced_up_to(self, lsn: int) -> None:
        """Wait until this frame of the log, which was queued, is synced, in every mode. Raises StorageFailure."""
        if lsn > self.log.durable_lsn:
            await self.all_durable()
        await self.log.synced(lsn)

    def fail(self, error: StorageFailure) -> None:
        """Refuse all changes: storage of the log or of the applied state failed. Durable entries stay readable."""
        self.log.end_appends()  # every append asks for room now, and hears of the failure
        if not self.failed.done():
            self.failed.set_result(error)

    def join(self, known_writers: KnownWriters) -> None:
        """Count writers among those of all containers from now on: it was recovered on its own."""
        known_writers.added(self.known_writers.count)
        self.known_writers = known_writers
        self.outcomes.known_writers = known_writers

    def leave(self) -> None:
        """Take no appends and no ends of transactions any more: they get NotHosted.

        What is on its way comes to its end, and what serves the container goes on until it is stopped.
        """
        self.is_left = True
        self.log.end_appends()

    def seal(self) -> asyncio.Future[None]:
        """Take nothing more at all, updates included: they get NotHosted. Done once all before is durable, with
        StorageFailure if it never will be."""
        self.leave()
        self.is_sealed = True
        return self.all_durable()

    def _check_here(self) -> None:
        if self.is_left:
            raise NotHosted(self.id)

    def _check_failed(self) -> None:
        if self.failed.done():
            raise self.failed.result()

    def _make_room(self, size: int) -> None:
        self._check_here()
        self._check_failed()
        if len(self.files.unindexed) >= UNINDEXED_FILES_MAX:
            raise StorageFull("the index of complete log files could not be written; see the log for the reason")
        if self.tier is not None and self.log_bytes + self.config.log_file_bytes > self.config.log_max_bytes:
            raise StorageFull(
                f"the log holds {self.log_bytes} bytes that are not in long-term storage yet, log.max.bytes is "
                f"{self.config.log_max_bytes}: writes go on when long-term storage has caught up"
                + (f". {pin}" if (pin := self.tier.worst_pin()) else "")
            )
        self.log.make_room(size)

    # Transactions

    def end_transactions(self, ends: Sequence[TransactionEnd], operations: Sequence[Operation]) -> asyncio.Future[None]:
        """Append markers and apply some operations, in one step: all of it or nothing, whatever happens.

        A slot may occur once. No marker is appended if its writer has no transaction open. Returns a future that is
        done when the step is durable and applied. Raises StorageFull, StorageFailure, NotHosted also for a slot that
        is about to leave: then nothing has changed.
        """
        self._check_here()
        self._check_failed()
        ends = [end for end in ends if end.slot.has_open_transaction(end.writer_id)]
        for end in ends:
            self.check_not_frozen(end.slot)
        entries = [end.entry(end.slot.end, self.epoch) for end in ends]
        parts = [operations[at : at + STEP_OPERATIONS_MAX] for at in range(0, len(operations), STEP_OPERATIONS_MAX)]
        bodies = [encode_update(part) for part in parts]
        sizes = [APPEND_OVERHEAD + len(entry) for entry in entries] + [FRAME_HEADER_SIZE + len(body) for body in bodies]
        self.log.begin_step(sum(sizes))
        left = len(sizes)
        for end, entry in zip(ends, entries, strict=True):
            left -= 1
            self._append_marker(end, entry, STEP_GOES_ON if left else 0)
        for part, body in zip(parts, bodies, strict=True):
            left -= 1
            self.log.queue_update(body, STEP_GOES_ON if left else 0)
            self._pending.append(Update(part))
        return self.all_durable()

    def _append_marker(self, end: TransactionEnd, entry: Buffer, follows: int) -> None:
        slot = end.slot
        marker = slot.mark_transaction(
            end.writer_id, end.writer_epoch, slot.end, self.trusted.stamp_ms(), committed=end.committed
        )
        flags = COMMIT_MARKER if end.committed else ABORT_MARKER
        self._append(slot, entry, 1, end.timestamp, marker, end.writer_id, end.writer_epoch, -1, flags, follows)

    # Updates

    async def update(self, *operations: Operation) -> None:
        """Log some operations as one record; returns when they are durable and applied.

        Raises StorageFull, StorageFailure.
        """
        await self.submit(operations)

    async def change_stream(self, stream: Stream, state: StreamState) -> None:
        """Log a stream's next state as one record. All entries appended from this call on lie behind it.

        Returns when it is durable and applied. Raises StorageFull, StorageFailure.
        """
        logged = self.submit([Put(STREAMS_TABLE, stream_key(stream.id), state.encode())])
        stream.go_by(state, self.id)
        self.outcomes.come(stream)
        await logged

    def submit(self, operations: Sequence[Operation]) -> asyncio.Future[None]:
        """Log some operations as one record, at once: all frames queued after this call lie behind it.

        Returns a future that is done when they are durable and applied. Raises StorageFull, StorageFailure; NotHosted
        once the log is sealed.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(operations, future)
        return future

    def _queue(self, operations: Sequence[Operation], future: asyncio.Future[None] | None) -> None:
        self._check_failed()
        if self.is_sealed:
            raise NotHosted(self.id)
        self.log.append_update(encode_update(operations))
        self._pending.append(Update(operations, future))

    @property
    def log_bytes(self) -> int:
        """The bytes in use of the log's files, and the bytes of the kept files."""
        return self.files.bytes + self.kept_bytes + self.log.position

    @property
    def kept_bytes(self) -> int:
        """The bytes of entries that pinned the log and were moved out of its way."""
        return sum(kept.size for kept in self.kept)

    def log_changed(self) -> None:
        """Set the pace of appends by the log's new size."""
        log_bytes = self.log_bytes
        self.throttle.observe(self.clock.monotonic_s(), log_bytes, self.appended_bytes - log_bytes)

    @property
    def durable_file_lsn(self) -> int:
        """The first LSN of the file that holds the durable end: files before it are complete."""
        return self.log.durable_position.file_lsn

    # Reports of the log

    def log_durable(self, lsn: int) -> None:
        pending = self._pending
        for _ in range(lsn - self._applied_lsn):
            oldest = pending.popleft()
            self._applied_lsn += 1
            if not isinstance(oldest, tuple):  # this test is quick for a tuple
                oldest.settle(self.outcomes.apply)
                continue
            slot, end, size, waiter = oldest
            self.appended_bytes += size
            if not slot.dirty:
                self.unsaved.mark(slot)
            if not slot.untiered:
                self.mark_untiered(slot)
            slot.durable(end, size)
            if waiter is not None:
                tell(waiter)
        while self._late and self._late[0][0] <= lsn:
            tell(self._late.popleft()[1])

    def log_rolled(self, old: LogFile) -> None:
        self.files.completed(old)
        if self.tier is not None:
            self.tier.log_grew()

    def log_failed(self, error: StorageFailure) -> None:
        pending, self._pending = self._pending, deque()
        late, self._late = self._late, deque()
        for one in pending:
            if isinstance(one, Update):
                one.fail(error)
                continue
            slot, _, _, waiter = one
            if waiter is not None:
                waiter.append_failed(error)
            slot.changed()
        for _, late_waiter in late:
            late_waiter.append_failed(error)
        self.fail(error)


def _by_number(writers: Collection[int]) -> Mapping[int, str]:
    return {writer_id: f"writer {writer_id}" for writer_id in writers}
