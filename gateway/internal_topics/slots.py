"""A partition of an internal topic, as Fetch and ListOffsets see it: a view of rows that is made when it is read.

A view begins with all rows that are there, in no order, and follows their changes. Its life: no view (nobody has read
the partition lately), then building, then live, until nobody has read it for `IDLE_S`.

Keeps: offsets only rise, over views and over restarts: each view begins behind all offsets that were ever told. So a
reader that goes on from its last offset misses no key that has changed: of a new view it gets every key once more. A
row is told as it was when it was read, or later, never earlier; what is not durable is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, Protocol

from core.applied.tables import Table
from core.errors import NotHosted, StoreClosed
from core.streams.entries import ReadResult
from core.streams.live import Owner, Slot, Stream
from core.turns import Turn
from gateway.fetching.readers import ViewedSlot
from gateway.internal_topics.compacted import CompactedLog
from gateway.internal_topics.messages import InternalRecord
from gateway.records.records import Record, build_batch

IDLE_S: Final = 600.0
"""A view that nobody has read for so long is dropped with the next change."""
BATCH_BYTES_MAX: Final = 256 * 1024
BATCH_RECORDS_MAX: Final = 500
"""Of one read; the next read goes on behind it."""
TOLD_BYTES: Final = 100
"""What a change counts for fetches that wait for a number of bytes: about a committed offset."""


class Row(NamedTuple):
    """A row of one table of one container."""

    table: Table
    key: bytes


class Source(Protocol):
    """Where a topic's rows come from."""

    async def fill(self, partition: int, take: Callable[[Row], None]) -> None:
        """Give `take` all rows that lie in a partition; who calls it hears of changes from now on."""

    async def record(self, row: Row, value: bytes | None) -> InternalRecord:
        """What a row says, now."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int: ...


class InternalSlot(ViewedSlot):
    """One partition. `told_end`: no offset at or behind it was ever told. `first_offset` gives one behind all that were
    told before the container was opened, durably."""

    __slots__ = ("_building", "_first_offset", "_log", "_read_s", "_source")

    def __init__(
        self,
        owner: Owner,
        stream: Stream,
        number: int,
        source: Source,
        first_offset: Callable[[], Awaitable[int]],
        told_end: int,
    ) -> None:
        super().__init__(owner, stream, number)
        self._source = source
        self._first_offset = first_offset
        self._log: CompactedLog[Row] | None = None
        self._building: asyncio.Task[None] | None = None
        self._read_s = 0.0
        self.reader = self
        # Behind each offset that any reader may have, so that it never believes to have read everything.
        self.end = self.durable_end = told_end + 1

    @property
    def is_viewed(self) -> bool:
        return self._log is not None

    def end_of_epoch(self, epoch: int) -> tuple[int, int]:
        """Nothing is ever lost, whatever the epoch (KIP-320)."""
        return (epoch, self.durable_end) if 0 <= epoch <= self.leader_epoch else (-1, -1)

    # --- The view -----------------------------------------------------------------------------

    def noted(self, row: Row, *, gone: bool) -> None:
        """A row of this partition has changed."""
        log = self._log
        if log is None:
            return
        if not self.watchers and self._source.monotonic_s() - self._read_s > IDLE_S and self._building is None:
            self._log = None
            self.end = self.durable_end = log.end + 1
            return
        log.note(row, gone=gone)
        if self._building is None:
            self.end = log.end
            self.durable(log.end, TOLD_BYTES)

    async def viewed(self) -> CompactedLog[Row]:
        """The view, made now if there is none. Raises NotHosted when the container has moved, StoreError."""
        if self.has_moved:  # another object has the partition, if it is here at all
            raise NotHosted(self.container_id)
        self._read_s = self._source.monotonic_s()
        if self._log is None or self._building is not None:
            if self._building is None:
                self._building = asyncio.create_task(self._build(), name="internal-topic")
            await asyncio.shield(self._building)
        if self._log is None:
            raise StoreClosed("the view was dropped")
        return self._log

    async def _build(self) -> None:
        try:
            first = max(self.end, await self._first_offset())
            log = self._log = CompactedLog(first)  # from now on it hears of changes, which lie among the first rows
            await self._source.fill(self.number, partial(_take, log))
            self.end = log.end
        except BaseException:
            self._log = None
            raise
        finally:
            self._building = None
        self.durable(self.end, TOLD_BYTES)

    # --- Reading ------------------------------------------------------------------------------

    def cached(
        self, slot: Slot, offset: int, end: int, max_bytes: int, at_least_one: bool, entries_max: int
    ) -> ReadResult | None:
        """None: records are made by a task."""
        return None

    async def read(
        self,
        slot: Slot,
        offset: int,
        end: int,
        max_bytes: int,
        at_least_one: bool,
        patience: asyncio.Future[None] | None,
    ) -> ReadResult:
        """One batch of the next records. Raises StoreError."""
        log = await self.viewed()
        room = min(max_bytes, BATCH_BYTES_MAX)
        records: list[Record] = []
        size = 0
        for at, row in list(islice(log.behind(offset), BATCH_RECORDS_MAX)):
            record = await self._record(at, row)
            size += _size_of(record)
            if size > room and (records or not at_least_one):
                break
            records.append(record)
        if not records:
            return ReadResult([], 0, offset)
        batch = build_batch(records)
        batch[12:16] = self.leader_epoch.to_bytes(4, "big", signed=True)  # the CRC does not cover it
        return ReadResult([batch], len(batch), records[-1].offset + 1)

    async def _record(self, offset: int, row: Row) -> Record:
        made = await self._source.record(row, row.table.get(row.key))
        timestamp = self._source.wall_ms() if made.timestamp is None else made.timestamp
        return Record(offset, timestamp, made.key, made.value)

    async def first(self) -> int:
        """The offset of the first record; the end when there is none. Raises StoreError."""
        return (await self.viewed()).start()

    async def found(self, fits: Callable[[int], bool]) -> tuple[int, int] | None:
        """Offset and timestamp of the first record whose timestamp fits. Raises StoreError."""
        async for record in self._records():
            if fits(record.timestamp):
                return record.offset, record.timestamp
        return None

    async def newest(self) -> tuple[int, int] | None:
        """Offset and timestamp of the record with the largest timestamp. Raises StoreError."""
        newest: Record | None = None
        async for record in self._records():
            if newest is None or record.timestamp > newest.timestamp:
                newest = record
        return None if newest is None else (newest.offset, newest.timestamp)

    async def _records(self) -> AsyncIterator[Record]:
        position = 0
        turn = Turn()
        while True:
            log = await self.viewed()
            some = list(islice(log.behind(position), BATCH_RECORDS_MAX))
            if not some:
                return
            for offset, row in some:
                yield await self._record(offset, row)
            position = some[-1][0] + 1
            await turn.breathe()


def _take(log: CompactedLog[Row], row: Row) -> None:
    """A row that is there; it may have changed since the log began to hear of changes."""
    if row not in log and row.table.get(row.key) is not None:
        log.note(row)


def _size_of(record: Record) -> int:
    """About as many bytes as it takes in a batch."""
    return 20 + len(record.key or b"") + len(record.value or b"")
