"""A slot: the dense sequence numbers of one Kafka partition, what is durable of it, and who waits for it.

**Invariants**

- ``start <= stable_end <= durable_end <= end``. `end` is what the next append gets, `durable_end` what readers see.
- ``tiered_end <= stable_end``: what lies from `start` to there is in chunks.
- Everything here changes on the event loop only, without an await between look and change.
- What is saved at a checkpoint is what was durable: in-flight appends are left out of it.

A slot's value in the applied state, little-endian (preceded by the LSN that it reflects):

    u8 version (2), i64 start, i64 end, u64 bytes ever appended, u64 bytes before start,
    i64 tiered end, u64 bytes before it, u16 count of epochs, then (i32 leader epoch, i64 first sequence number) each,
    u32 count of writers, then each: i64 writer id, i16 epoch, i64 last use ms, u8 count of batches, then
    (i16 epoch, i32 first sequence, i32 last sequence, i64 base, u32 count, i64 timestamp) each, the newest of them with
    sequences of -2 where a recovery has lost what followed (`core.streams.writers`);
    u32 count of segments' stretches, then (i64 first sequence number, u64 segment, u64 bytes before it) each;
    from version 2 on: u32 count of transactions that are not over, then
    (i64 first sequence number, i64 writer id, u64 bytes of the slot before it) each; u32 count of aborted ones, then
    (i64 its marker's sequence number, i64 first, i64 writer id, i64 stable end when it had ended) each
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from core.errors import CorruptState, StorageFailure
from core.index.rows import SlotColumns
from core.streams.removed import NOTHING_REMOVED, Removed
from core.streams.transactions import NO_TRANSACTIONS, Aborted, SlotTransactions, overlapping
from core.streams.writers import BATCHES_KEPT, WriterBatch, WriterState

if TYPE_CHECKING:
    from core.container.container import Container
    from core.scaling.rates import SlotRate
    from core.streams.entries import StoredEntry
    from core.streams.state import Stream

STATE_VERSION: Final = 2
TRANSACTIONS_SINCE: Final = 2
_HEAD: Final = struct.Struct("<BqqQQqQH")
_EPOCH: Final = struct.Struct("<iq")
_COUNT: Final = struct.Struct("<I")
_WRITER: Final = struct.Struct("<qhqB")
_BATCH: Final = struct.Struct("<hiiqIq")
_WRITERS: Final = [
    struct.Struct(_WRITER.format + _BATCH.format.lstrip("<") * count) for count in range(BATCHES_KEPT + 2)
]
"""A writer with so many batches, a gap among them."""
_SEGMENT: Final = struct.Struct("<qQQ")

WRITERS_PER_STEP: Final = 200
"""Writers that one step goes through: half a millisecond where they are encoded."""

SEGMENTS_MAX: Final = 1_000
"""Stretches that a slot remembers; beyond it the oldest goes, and what is tiered late is taken to be the next one's."""


class SegmentStretch(NamedTuple):
    """What a slot appended to one segment: begins here, ends where the next one begins."""

    first: int
    id: int
    bytes_before: int


class SlotWatcher(Protocol):
    """Who wants to hear of a slot, on the event loop: a waiting fetch or a fetch session."""

    def slot_appended(self, slot: Slot, size: int) -> None:
        """`size` more bytes are durable."""

    def slot_settled(self, slot: Slot, size: int) -> None:
        """A transaction ended, and `size` more bytes lie before `stable_end`."""

    def slot_changed(self, slot: Slot) -> None:
        """The slot was deleted, trimmed, or lost its storage."""


class Marker:
    """The waiter of a marker: what changes when that is durable."""

    __slots__ = ("committed", "epoch", "first", "offset", "slot", "writer")

    def __init__(
        self, slot: Slot, writer: WriterState, epoch: int, first: int | None, offset: int, committed: bool
    ) -> None:
        self.slot = slot
        self.writer = writer
        self.epoch = epoch
        self.first = first
        self.offset = offset
        self.committed = committed

    def appended(self) -> None:
        slot = self.slot
        self.writer.marked(self.epoch)
        if self.first is not None and slot.transactions is not None:
            before = slot.stable_bytes
            slot.transactions.ended(self.first, self.offset, committed=self.committed)
            slot.settled(slot.stable_bytes - before)

    def append_failed(self, error: StorageFailure) -> None:
        """The process ends; whether the marker is there is seen at the next start."""


class Slot:
    """One slot of one stream."""

    __slots__ = (
        "columns",
        "compacted_end",
        "container",
        "dirty",
        "durable_end",
        "end",
        "epochs",
        "number",
        "rate",
        "removed",
        "sampled_bytes",
        "sampled_end",
        "segment_id",
        "segments",
        "start",
        "start_bytes",
        "stream",
        "tiered_bytes",
        "tiered_end",
        "total_bytes",
        "transactions",
        "untiered",
        "watchers",
        "writers",
    )

    def __init__(self, container: Container, stream: Stream, number: int) -> None:
        self.container = container
        self.stream = stream
        self.number = number
        self.segment_id = stream.segment_id_of(number)  # what the next append goes to
        self.segments: list[SegmentStretch] = []  # of what is in no chunk yet, oldest first
        self.start = 0
        self.end = 0
        self.durable_end = 0
        self.total_bytes = 0  # ever appended
        self.start_bytes = 0  # of those, before `start`
        self.tiered_end = 0
        self.compacted_end = 0  # up to here chunks hold less than the log did, and are read in its place
        self.tiered_bytes = 0  # of all ever appended, before `tiered_end`
        self.removed: Removed = NOTHING_REMOVED  # what chunks hold less than was appended
        self.untiered = False  # the container knows that it has something to tier
        self.columns: list[SlotColumns] = []  # newest last
        self.epochs: list[tuple[int, int]] = []  # (leader epoch, its first sequence number), oldest first
        self.writers: dict[int, WriterState] | None = None
        self.transactions: SlotTransactions | None = None  # None: there never were any
        self.watchers: dict[SlotWatcher, None] | None = None
        self.dirty = False
        self.rate: SlotRate | None = None  # None: nothing came lately
        self.sampled_bytes = 0  # `total_bytes` and `end` when the rates were taken last
        self.sampled_end = 0

    def __repr__(self) -> str:
        return f"<Slot {self.stream.name}-{self.number} [{self.start}, {self.durable_end}/{self.end})>"

    @property
    def stable_end(self) -> int:
        """Kafka's last stable offset: nothing before it belongs to an open transaction."""
        transactions = self.transactions
        if transactions is None or not transactions.unstable:
            return self.durable_end
        return max(self.start, min(self.durable_end, next(iter(transactions.unstable))))

    @property
    def stable_bytes(self) -> int:
        """Bytes of all entries that ever lay before `stable_end`."""
        transactions = self.transactions
        if transactions is not None:
            for first, unstable in transactions.unstable.items():
                if first < self.durable_end:
                    return max(self.start_bytes, unstable.bytes_before)
                break
        return self.durable_bytes

    @property
    def leader_epoch(self) -> int:
        """What Metadata advertises and new entries carry."""
        return self.container.epoch

    @property
    def size_bytes(self) -> int:
        """Bytes that are stored of the entries from `start` on: less than were appended once chunks are compacted."""
        return self.untiered_bytes + self.tier_bytes

    @property
    def untiered_bytes(self) -> int:
        """Bytes of entries that are in no chunk and not gone."""
        return self.total_bytes - max(self.start_bytes, self.tiered_bytes)

    @property
    def tier_bytes(self) -> int:
        """Bytes that chunks hold of the entries from `start` on."""
        return max(0, self.tiered_bytes - self.start_bytes - self.removed.behind(self.start))

    def bytes_behind(self, end: int, bytes_up_to_end: int) -> int:
        """Bytes that are stored of the entries from `end` on, before which so many were appended. For any thread."""
        return self.total_bytes - bytes_up_to_end - self.removed.behind(end)

    @property
    def durable_bytes(self) -> int:
        """Bytes of all entries that were ever durable."""
        return self.total_bytes - sum(self._lengths_from(self.durable_end))

    @property
    def untiered_from(self) -> tuple[int, int]:
        """The first sequence number that is in no chunk and not gone, and the bytes before it."""
        if self.start >= self.tiered_end:
            return self.start, self.start_bytes
        return self.tiered_end, self.tiered_bytes

    def begin_segment(self, first: int, segment_id: int) -> None:
        """Entries from `first` on are appended to another segment. What is in chunks is forgotten."""
        kept = self._untiered_segments()
        kept.append(SegmentStretch(first, segment_id, self.total_bytes))
        self.segments = kept[-SEGMENTS_MAX:]

    def appended_to(self, segment_id: int) -> int:
        """Bytes that went to a segment since it was opened, if it is the one that was appended to last."""
        newest = self.segments[-1] if self.segments else None
        return self.total_bytes - newest.bytes_before if newest is not None and newest.id == segment_id else 0

    def _untiered_segments(self) -> list[SegmentStretch]:
        done = self.untiered_from[0]
        known = self.segments
        oldest = next((n for n in range(1, len(known)) if known[n].first > done), len(known))
        return known[max(0, oldest - 1) :]

    def segment_at(self, offset: int) -> tuple[int, SegmentStretch | None]:
        """The segment that holds an entry which is in no chunk yet, and what was appended to the next one."""
        known = self.segments
        for n in range(len(known) - 1, -1, -1):
            if known[n].first <= offset or n == 0:
                return known[n].id, known[n + 1] if n + 1 < len(known) else None
        return self.segment_id, None

    def watch(self, watcher: SlotWatcher) -> None:
        if self.watchers is None:
            self.watchers = {}
        self.watchers[watcher] = None

    def unwatch(self, watcher: SlotWatcher) -> None:
        """Stop hearing; does nothing for one who did not watch."""
        if self.watchers is not None:
            self.watchers.pop(watcher, None)
            if not self.watchers:
                self.watchers = None

    def changed(self) -> None:
        """Tell all watchers to look again."""
        for watcher in list(self.watchers or ()):
            watcher.slot_changed(self)

    def settled(self, size: int) -> None:
        """Tell all watchers that a transaction ended."""
        for watcher in list(self.watchers or ()):
            watcher.slot_settled(self, size)

    def record_writer(self, writer_id: int, batch: WriterBatch, now_ms: int) -> None:
        """Remember a writer's batch, so that it is known when it comes again."""
        self._writer(writer_id, batch.epoch, now_ms).record(batch, now_ms, self.durable_end)

    def _writer(self, writer_id: int, epoch: int, now_ms: int) -> WriterState:
        if self.writers is None:
            self.writers = {}
        state = self.writers.get(writer_id)
        if state is None:
            state = self.writers[writer_id] = WriterState(epoch, now_ms)
            if not self.stream.deleted:
                self.container.known_writers.added()
        return state

    def writers_stepwise(self) -> Iterator[list[tuple[int, WriterState]]]:
        """All writers, some at a time, as they are when it is their turn; those that begin meanwhile are left out."""
        known = self.writers or {}
        ids = list(known)
        for start in range(0, max(1, len(ids)), WRITERS_PER_STEP):
            some = ids[start : start + WRITERS_PER_STEP]
            yield [(writer_id, state) for writer_id in some if (state := known.get(writer_id)) is not None]

    def forget_writers(self, writer_ids: Iterable[int]) -> None:
        """These are known no longer."""
        assert self.writers is not None
        before = len(self.writers)
        for writer_id in writer_ids:
            self.writers.pop(writer_id, None)
        self.container.known_writers.removed(before - len(self.writers))

    # Transactions

    def has_open_transaction(self, writer_id: int) -> bool:
        """Whether the writer has begun a transaction here that no marker has ended, be it durable or not."""
        return self.transactions is not None and writer_id in self.transactions.open

    def begin_transaction(self, writer_id: int, base: int) -> None:
        """An entry of the writer's transaction is appended at `base`, with which the transaction may begin."""
        if self.transactions is None:
            self.transactions = SlotTransactions()
        self.transactions.began(writer_id, base, self.total_bytes)

    def mark_transaction(self, writer_id: int, writer_epoch: int, marker: int, *, committed: bool) -> Marker:
        """The writer's transaction ends with the entry at `marker`; to be told when that is durable.

        Earlier epochs are stale at once: what they still send would begin a transaction that nobody ends.
        """
        first = None if self.transactions is None else self.transactions.ending(writer_id)
        now_ms = self.container.trusted.stamp_ms()
        writer = self._writer(writer_id, writer_epoch, now_ms)
        writer.fence(writer_epoch, now_ms)
        return Marker(self, writer, writer_epoch, first, marker, committed)

    def forget_transactions_before(self, offset: int) -> None:
        """Nothing before `offset` is read any more, or only from chunks, which know of transactions themselves."""
        if self.transactions is not None:
            self.transactions.forget_before(offset)

    @property
    def aborted_rows(self) -> Sequence[int]:
        """Flat rows of `Aborted`; whoever holds them goes on seeing all that they had."""
        return () if self.transactions is None else self.transactions.aborted

    def aborted_in(self, first: int, end: int) -> list[Aborted]:
        """Aborted transactions that overlap [first, end), as far as the log holds it."""
        return list(overlapping(self.aborted_rows, first, end))

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """The largest known epoch not above `epoch`, and where it ends; (-1, -1) when unknown (KIP-320)."""
        if epoch < 0 or epoch > self.leader_epoch:
            return -1, -1
        if epoch == self.leader_epoch or not self.epochs:  # never written: nothing was lost either
            return epoch, self.durable_end
        if epoch < self.epochs[0][0]:
            return epoch, self.epochs[0][1]
        known = max(index for index, (own, _) in enumerate(self.epochs) if own <= epoch)
        end = self.epochs[known + 1][1] if known + 1 < len(self.epochs) else self.durable_end
        return self.epochs[known][0], end

    def epoch_at(self, offset: int) -> int:
        """The leader epoch in which the entry at `offset` was appended, or would be."""
        if offset >= self.durable_end:
            return self.leader_epoch
        return max((own for own, first in self.epochs if first <= offset), default=self.leader_epoch)

    async def truncate_before(self, offset: int) -> int:
        """Move the start up to `offset`, durably; returns the start. Raises OutOfRange beyond `durable_end`."""
        return await self.container.truncate_slot(self, offset)

    async def entry_at_time(self, timestamp_ms: int, offset: int = 0) -> StoredEntry | None:
        """The first entry, from the one that holds `offset` on, whose largest timestamp is at or after a time."""
        return await self.container.reader.entry_at_time(self, timestamp_ms, offset)

    async def entry_with_max_timestamp(self) -> StoredEntry | None:
        """The first entry with the largest timestamp of all."""
        return await self.container.reader.entry_with_max_timestamp(self)

    # Saving and loading

    def encode(self) -> bytes:
        """What is durable of this slot."""
        steps = self.encoding()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    def encoding(self) -> Generator[None, None, bytes]:
        """The same in steps, between which anything may happen to the slot; what it returns is encoded.

        All but the writers is of the first step. Of each writer only what was durable then is taken, if it is still
        remembered: what it has done since lies behind the slot's end in the log, and replay adds it. A writer that has
        begun since is left out, for the same reason.
        """
        durable = self.durable_end
        head = encode_head(
            start=self.start,
            end=durable,
            total_bytes=self.durable_bytes,
            start_bytes=self.start_bytes,
            tiered_end=self.tiered_end,
            tiered_bytes=self.tiered_bytes,
            epochs=[e for e in self.epochs if e[1] < durable],
        )
        stretches = [stretch for stretch in self._untiered_segments() if stretch.first < durable]
        rest = [_COUNT.pack(len(stretches)), *(_SEGMENT.pack(*stretch) for stretch in stretches)]
        rest.append(NO_TRANSACTIONS if self.transactions is None else self.transactions.encode(durable))
        encoded, count = bytearray(head + _COUNT.pack(0)), 0
        for states in self.writers_stepwise():
            for writer_id, state in states:
                batches = state.durable_batches(durable)
                if batches or state.marked_epoch >= 0:
                    epoch = max(state.marked_epoch, batches[-1].epoch) if batches else state.marked_epoch
                    encoded += encode_writer(writer_id, epoch, state.last_use_ms, batches)
                    count += 1
            yield
        _COUNT.pack_into(encoded, len(head), count)
        encoded += b"".join(rest)
        return bytes(encoded)

    def _lengths_from(self, offset: int) -> Iterator[int]:
        for columns in reversed(self.columns):
            for row in range(len(columns) - 1, -1, -1):
                if columns.base[row] < offset:
                    return
                yield columns.length[row]

    def decode(self, value: bytes) -> None:
        """Take over a saved state. Raises CorruptState."""
        try:
            version, start, end, total, before, tiered_end, tiered_bytes, epochs = _HEAD.unpack_from(value)
            if version > STATE_VERSION:
                raise CorruptState(f"slot state version {version} is newer than this release")
            position = _HEAD.size
            self.start, self.end, self.durable_end = start, end, end
            self.total_bytes, self.start_bytes = total, before
            self.tiered_end, self.tiered_bytes = tiered_end, tiered_bytes
            self.epochs = [_EPOCH.unpack_from(value, position + i * _EPOCH.size) for i in range(epochs)]
            position += epochs * _EPOCH.size
            (writers,) = _COUNT.unpack_from(value, position)
            position += _COUNT.size
            if writers:
                self.writers = {}
            for _ in range(writers):
                writer_id, epoch, last_use, count = _WRITER.unpack_from(value, position)
                position += _WRITER.size
                state = WriterState(epoch, last_use)
                state.marked_epoch = epoch
                for _ in range(count):
                    state.batches.append(WriterBatch(*_BATCH.unpack_from(value, position)))
                    position += _BATCH.size
                assert self.writers is not None
                self.writers[writer_id] = state
            (stretches,) = _COUNT.unpack_from(value, position)
            position += _COUNT.size
            self.segments = [
                SegmentStretch(*_SEGMENT.unpack_from(value, position + n * _SEGMENT.size)) for n in range(stretches)
            ]
            position += stretches * _SEGMENT.size
            if version >= TRANSACTIONS_SINCE:
                self.transactions, position = SlotTransactions.decode(value, position)
        except struct.error as error:
            raise CorruptState(f"the state of {self!r} cannot be read: {error}") from error


def encode_head(
    *,
    start: int,
    end: int,
    total_bytes: int,
    start_bytes: int,
    tiered_end: int,
    tiered_bytes: int,
    epochs: Sequence[tuple[int, int]],
) -> bytes:
    """The part of a slot's value before its writers and its segments' stretches."""
    return b"".join(
        (
            _HEAD.pack(STATE_VERSION, start, end, total_bytes, start_bytes, tiered_end, tiered_bytes, len(epochs)),
            *(_EPOCH.pack(*epoch) for epoch in epochs),
        )
    )


def encode_writer(writer_id: int, epoch: int, last_use_ms: int, batches: Sequence[WriterBatch]) -> bytes:
    """One writer, as a slot's value has it."""
    count = len(batches)
    return _WRITERS[count].pack(writer_id, epoch, last_use_ms, count, *chain.from_iterable(batches))


def encode_tiered_rest(writers: Sequence[bytes]) -> bytes:
    """What follows the head of a slot whose entries are all in chunks; `writers` as `encode_writer` makes them."""
    return b"".join((_COUNT.pack(len(writers)), *writers, _COUNT.pack(0), NO_TRANSACTIONS))
