"""Records by HTTP, for scripts: a partition's next ones, and new ones at its end.

Invariants:

- What is read is what a Kafka consumer gets: nothing at or beyond the high watermark; for a committed reader nothing
  beyond the last stable offset, and no record of an aborted transaction. Markers are never shown.
- Records that are added are one batch, checked as a producer's; the answer comes after they are durable.
- One call reads, opens or waits no longer than `READ_S_MAX`; at most `CALLS_AT_ONCE` hold records in memory, each at
  most `READ_BYTES` of stored ones (or one batch) and one batch of `BATCH_BYTES_MAX` opened.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from core.errors import NotHosted, OutOfRange, StoreError, StreamSealed
from gateway.http.models import Added, Base64, NewRecord, RecordHeader, RecordPage, RecordView
from gateway.http.problems import Problem
from gateway.kafka_configs.topic_config import config_of
from gateway.records.adaptation import adapt_batch, stamp
from gateway.records.record_batch import LENGTH_PREFIX_BYTES, PLACE, BatchHeader, read_header, validate_batch
from gateway.records.records import KEEP_BYTES, Record, build_batch, iter_records
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch

if TYPE_CHECKING:
    from core.container.container import Container
    from core.errors import StorageFailure
    from core.hosted import HostedContainer
    from core.streams.live import Slot
    from core.streams.transactions import Aborted
    from gateway.kafka_configs.topic_config import TopicConfig
    from gateway.records.openers import Pace
    from gateway.services import Services

RECORDS_MAX: Final = 1_000
"""Most records of one answer."""
RECORDS_DEFAULT: Final = 100
WAIT_MS_MAX: Final = 5_000
READ_S_MAX: Final = 8.0
"""Longest look for records: less than the front of several workers waits for one of them."""
READ_BYTES: Final = 1 << 20
ANSWER_BYTES: Final = 1 << 20
"""Keys, values and headers of one answer; the record that reaches it is the last."""
BATCH_BYTES_MAX: Final = 8 << 20
CALLS_AT_ONCE: Final = 4
SEARCH_READS: Final = 8
"""Reads of one search by key, each of `READ_BYTES` at least; the next request goes on from there."""
LOOK_EVERY_S: Final = 0.05
PLACE_S_MAX: Final = 2.0
HOLD_S_MAX: Final = 1.0
"""Longest pause of one call while the log is nearly full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A question for records. Without an offset: from a time; without both: from the end. `most` is 1 or more."""

    offset: int | None
    since_ms: int | None
    most: int
    wait_ms: int
    committed: bool
    until: int | None = None
    """Only records before this offset."""
    key: bytes | None = None
    """Only records with this key; those of `SEARCH_READS` reads are looked at."""


@dataclass(slots=True)
class _Page:
    """Records so far, and where the next read begins. `since_ms`: older ones are skipped until one is found."""

    offset: int
    since_ms: int | None
    records: list[RecordView] = field(default_factory=list)
    size: int = 0
    """Bytes of their keys, values and headers."""


class TopicRecords:
    """Reads and appends, with the services of a broker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)

    # Reading

    async def read(
        self,
        slot: Slot,
        wanted: Wanted,
        require: Callable[[], None] = lambda: None,
        moved: Callable[[int], None] = lambda size: None,
    ) -> RecordPage:
        """The next records, waiting for some if there are none. `require` raises the Problem of a reader whose right
        was taken away meanwhile; `moved` hears how many bytes the records have. Raises Problem."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wanted.wait_ms / 1000
        try:
            async with asyncio.timeout(READ_S_MAX):
                page = await self._begin(slot, wanted)
                await self._look(slot, wanted, page)
                while not page.records and loop.time() < until_s:
                    await asyncio.sleep(min(LOOK_EVERY_S, max(0.0, until_s - loop.time())))
                    require()
                    await self._look(slot, wanted, page)
        except TimeoutError as late:
            raise Problem(503, "Not read", f"no records within {READ_S_MAX:g} s; try again") from late
        except OutOfRange as error:
            if slot.has_moved:  # what it has left is let go of there
                raise _elsewhere(slot, NotHosted(slot.container_id)) from error
            raise Problem(416, "Out of range", _range_of(slot)) from error
        except NotHosted as elsewhere:
            raise _elsewhere(slot, elsewhere) from elsewhere
        except StoreError as error:
            raise Problem(503, "Not read", f"the store could not read the partition: {error}") from error
        moved(page.size)
        end = slot.stable_end if wanted.committed else slot.durable_end
        return RecordPage(
            topic=slot.stream.name,
            partition=slot.number,
            start_offset=slot.start,
            end_offset=end,
            next_offset=page.offset,
            records=page.records,
        )

    async def _begin(self, slot: Slot, wanted: Wanted) -> _Page:
        """Where the reading begins. Raises Problem, StoreError."""
        hosted = self._hosted(slot)
        end = slot.stable_end if wanted.committed else slot.durable_end
        if wanted.offset is not None:
            if not slot.start <= wanted.offset <= slot.durable_end:
                raise Problem(416, "Out of range", _range_of(slot))
            return _Page(wanted.offset, None)
        if wanted.since_ms is None:
            return _Page(end, None)
        entry = await hosted.reader.entry_at_time(slot, wanted.since_ms, slot.start)
        return _Page(end if entry is None else max(entry.first, slot.start), wanted.since_ms)

    async def _look(self, slot: Slot, wanted: Wanted, page: _Page) -> None:
        """Read on until there is a record, or nothing more is to be read. Raises Problem, StoreError."""
        reads = 0
        while not page.records and (wanted.key is None or reads < SEARCH_READS):
            reads += 1
            hosted = self._hosted(slot)
            if slot.stream.deleted:
                raise Problem(404, "No such stream", "the stream was deleted meanwhile")
            end = slot.stable_end if wanted.committed else slot.durable_end
            if wanted.until is not None:
                end = min(end, wanted.until)
            if page.offset >= end:
                return
            await self._read_on(hosted, slot, end, wanted, page)

    def _hosted(self, slot: Slot) -> HostedContainer:
        """Raises NotHosted, also once the slot has moved: to another container of this process, too."""
        if slot.has_moved:
            raise NotHosted(slot.container_id)
        return self._services.store.hosted(slot)

    async def _read_on(self, hosted: HostedContainer, slot: Slot, end: int, wanted: Wanted, page: _Page) -> None:
        async with self._places:
            found = await hosted.reader.read(slot, page.offset, end, READ_BYTES, True, None)
            aborted = found.aborted if wanted.committed else ()

            def opened(pace: Pace) -> None:
                _open(b"".join(found.parts), aborted, page, wanted, end, pace)

            before = page.offset
            try:
                await self._services.openers.run(opened)
            except InvalidBatch as error:
                if not page.records:  # else the next request gets there, and is told
                    raise _unreadable(page.offset, error) from error
            if page.offset == before and not page.records:
                page.offset = found.end

    # Adding

    async def add(
        self, slot: Slot, records: Sequence[NewRecord], moved: Callable[[int], None] = lambda size: None
    ) -> Added:
        """Append records as one batch; returns once they are durable. `moved` hears how many bytes the batch has.
        Raises Problem."""
        services, config = self._services, config_of(slot.stream)
        now_ms = services.clock.wall_ms()

        def made(pace: Pace) -> tuple[BatchHeader, memoryview]:
            data = memoryview(build_batch(_records(records, now_ms)))
            batch = validate_batch(data, config.max_message_bytes)
            return adapt_batch(batch, data, config, now_ms, services.validates_fully, pace)

        try:
            container = services.store.hosted(slot).container
            async with self._place():
                if container.throttle.is_on:
                    size = sum(len(str(record.value)) for record in records)
                    await asyncio.sleep(min(HOLD_S_MAX, container.throttle.hold_s(container.clock.monotonic_s(), size)))
                batch, data = await services.openers.run(made)
                moved(len(data))
                return await self._append(slot, batch, data, config)
        except InvalidBatch as error:
            status = 413 if error.error_code == MESSAGE_TOO_LARGE else 400
            raise Problem(status, "Not taken", error.reason[:300]) from error
        except NotHosted as elsewhere:
            raise _elsewhere(slot, elsewhere) from elsewhere
        except StreamSealed as error:
            raise Problem(409, "Sealed", str(error)) from error
        except StoreError as error:
            raise Problem(503, "Not stored", f"the store could not add the records: {error}") from error

    def _place(self) -> _Place:
        return _Place(self._places)

    async def _append(self, slot: Slot, batch: BatchHeader, data: memoryview, config: TopicConfig) -> Added:
        """Raises Problem, StoreError."""
        services = self._services
        if slot.stream.deleted:
            raise Problem(404, "No such stream", "the stream was deleted meanwhile")
        container: Container = services.store.hosted(slot).container
        if config.timestamp_type_append:
            batch = stamp(batch, data, services.clock.wall_ms())
        PLACE.pack_into(data, 0, slot.end, len(data) - LENGTH_PREFIX_BYTES, container.epoch)
        durable = _Durable()
        first = container.append(slot, data, batch.record_count, batch.max_timestamp, durable)
        metrics = services.metrics
        metrics.produced_batches += 1
        metrics.produced_records += batch.record_count
        metrics.produced_bytes += len(data)
        await durable.future
        return Added(
            topic=slot.stream.name, partition=slot.number, first_offset=first, next_offset=first + batch.record_count
        )


class _Place:
    """A place among those that hold records in memory."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(PLACE_S_MAX):
                await self._places.acquire()
        except TimeoutError as late:
            raise Problem(503, "Busy", "too many requests at once; try again", {"Retry-After": "1"}) from late

    async def __aexit__(self, *_: object) -> None:
        self._places.release()


class _Durable:
    """Waits for an append."""

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()

    def appended(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def append_failed(self, error: StorageFailure) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _open(data: bytes, aborted: Sequence[Aborted], page: _Page, wanted: Wanted, end: int, pace: Pace) -> None:
    """Add the records of stored batches to a page, up to its bounds. Raises InvalidBatch."""
    for header, batch in _batches(memoryview(data)):
        if header.is_control or _is_aborted(header, aborted):
            page.offset = max(page.offset, header.last_offset + 1)
            continue
        for record in iter_records(batch, BATCH_BYTES_MAX):
            pace.spend(1)
            if record.offset < page.offset or (page.since_ms is not None and record.timestamp < page.since_ms):
                continue
            if record.offset >= end:
                page.offset = end
                return
            if wanted.key is not None and record.key != wanted.key:
                continue
            page.since_ms = None
            page.records.append(_view(record))
            page.offset = record.offset + 1
            page.size += _size(record)
            if len(page.records) >= wanted.most or page.size >= ANSWER_BYTES:
                return
        page.offset = max(page.offset, header.last_offset + 1)


def _batches(data: memoryview) -> Iterator[tuple[BatchHeader, memoryview]]:
    position = 0
    while position < len(data):
        header = read_header(data, position)
        yield header, data[position : position + header.size]
        position += header.size


def _is_aborted(header: BatchHeader, aborted: Sequence[Aborted]) -> bool:
    return header.is_transactional and any(
        one.writer_id == header.producer_id and one.first <= header.base_offset <= one.last for one in aborted
    )


def _view(record: Record) -> RecordView:
    return RecordView(
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=_shown(record.key),
        value=_shown(record.value),
        headers=[
            RecordHeader(name=name.encode(errors=KEEP_BYTES).decode(errors="replace"), value=_shown(value))
            for name, value in record.headers
        ],
    )


def _size(record: Record) -> int:
    return (
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in record.headers)
    )


def _shown(data: bytes | None) -> str | Base64 | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Base64(base64=base64.b64encode(data).decode("ascii"))


def _records(records: Sequence[NewRecord], now_ms: int) -> list[Record]:
    """Raises Problem."""
    return [
        Record(
            offset,
            now_ms if record.timestamp_ms is None else record.timestamp_ms,
            _taken(record.key),
            _taken(record.value),
            [(header.name, _taken(header.value)) for header in record.headers],
        )
        for offset, record in enumerate(records)
    ]


def _taken(data: str | Base64 | None) -> bytes | None:
    if isinstance(data, Base64):
        try:
            return base64.b64decode(data.base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Problem(400, "Not understood", f"{data.base64[:100]!r} is not base64") from error
    return None if data is None else data.encode()


def _range_of(slot: Slot) -> str:
    return f"partition {slot.number} of {slot.stream.name!r} has the offsets from {slot.start} up to {slot.durable_end}"


def _unreadable(offset: int, error: InvalidBatch) -> Problem:
    if error.error_code == MESSAGE_TOO_LARGE:
        most = f"{BATCH_BYTES_MAX} bytes of a batch"
        return Problem(413, "Too large", f"the batch at offset {offset} opens to more than {most}: use a Kafka client")
    return Problem(422, "Damaged", f"the batch at offset {offset} cannot be opened: {error.reason[:300]}")


def _elsewhere(slot: Slot, elsewhere: NotHosted) -> Problem:
    what = f"partition {slot.number} of {slot.stream.name!r}"
    return Problem(503, "Not here", f"{what} is served elsewhere: {elsewhere}"[:400], {"Retry-After": "1"})
