"""Records of a share-partition for a member: read, judged by their batches' headers, and given to it.

Keeps: a member gets no control batch, and of an aborted transaction nothing if its group reads what is committed: such
batches are settled when they are met. The first batch is given whole, whatever the limit of bytes. Batches that lie in
memory are not copied, unless they are small; nobody keeps a view of them while a disk is waited for. Where a disk had
to be waited for, what comes next is read ahead. For a group in the order of keys the batches are opened, in a thread:
nothing is given whose key is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from core.clock import Clock
from core.errors import StoreError
from core.store import Store
from core.streams.entries import ENTRIES_AT_ONCE, ReadResult, StillLoading
from core.streams.live import Slot
from gateway.fetching.looking import JOIN_BELOW
from gateway.fetching.readers import reader_of
from gateway.groups.share.key_order import Keys
from gateway.groups.share.live_partition import LivePartition
from gateway.groups.share.partition import Acquired, Span
from gateway.records.openers import Openers, Pace, content_of
from gateway.records.record_batch import HEADER_BYTES, BatchHeader, read_header
from gateway.records.records import RECORDS_MAX, iter_raw_records
from gateway.wire.primitives import Parts
from tier2.storage import Buffer

PART_BYTES_MAX: Final = 1024 * 1024
"""Bytes of one partition in one answer: what does not become the member's was read for nothing."""
READS_MAX: Final = 8
"""Reads of one partition for one answer, if nothing that was read is for the member."""
TIER_WAIT_S: Final = 0.5
"""Longest wait for long-term storage; a later fetch finds what comes later."""


class Delivery(NamedTuple):
    """Batches, and which of their records are the member's now."""

    records: Parts
    acquired: Sequence[Acquired]


NOTHING: Final = Delivery(Parts(()), ())


class Wanted(NamedTuple):
    """What a member asks for. `whole`: the batch in which the limit of records is reached is given whole; `waits` is
    called before a disk is waited for."""

    member_id: str
    bytes_max: int
    records_max: int
    whole: bool
    waits: Callable[[], object]


class _Batch(NamedTuple):
    span: Span
    begin: int
    end: int


async def deliver(
    store: Store, clock: Clock, openers: Openers, live: LivePartition, slot: Slot, wanted: Wanted
) -> Delivery:
    """Give a member what is available now. Raises StoreError, InvalidBatch."""
    member_id = wanted.member_id
    for _ in range(READS_MAX):
        settings, state = live.settings(), live.state
        state.move_start(slot.start)
        at = live.next_offset(member_id)
        end = slot.stable_end if settings.is_committed else slot.durable_end
        if at is None or at >= end or live.is_gone:
            break
        found, was_on_disk = await _found(store, live, slot, at, end, wanted)
        if live.state is not state or live.is_gone:
            continue  # its start was set anew
        if found is None or not found.size:
            break
        parts: Sequence[Buffer] = found.parts
        if settings.by_key or found.size < len(parts) * JOIN_BELOW:
            parts = (b"".join(parts),)
        batches = _batches(parts, found, settings.is_committed)
        live.record_bytes = -(-found.size // (batches[-1].span.last + 1 - batches[0].span.first))
        spans: Sequence[Span] = [batch.span for batch in batches]
        if settings.by_key:
            del found  # its views: the keys are read in a thread
            keys, spans = await _keys(openers, parts[0], batches, at + settings.limits.in_flight)
            if live.state is not state or live.is_gone:
                continue
            spans = live.order.sift(state, member_id, at, spans, keys)
        acquired = state.acquire(
            member_id,
            at,
            spans,
            wanted.records_max,
            settings.limits,
            clock.monotonic_s(),
            whole=wanted.whole and not settings.by_key,
        )
        if settings.by_key:
            live.order.forget_settled(state)
        live.touched()
        if was_on_disk:
            _read_ahead(store, live, slot, end, wanted)
        if acquired:
            first, last = acquired[0].first, acquired[-1].last
            needed = [one for one in batches if one.span.last >= first and one.span.first <= last]
            return Delivery(Parts(list(_cut(parts, needed[0].begin, needed[-1].end))), acquired)
    live.touched()
    return NOTHING


async def _keys(openers: Openers, data: Buffer, batches: Sequence[_Batch], stop: int) -> tuple[Keys, list[Span]]:
    """The keys of the records before an offset, and the spans of these. Raises InvalidBatch."""
    return await openers.run(lambda pace: _keys_of(data, batches, stop, pace))


def _keys_of(data: Buffer, batches: Sequence[_Batch], stop: int, pace: Pace) -> tuple[Keys, list[Span]]:
    keys: dict[int, int | None] = {}
    spans: list[Span] = []
    view = memoryview(data)
    for whole, begin, end in batches:
        if whole.first >= stop:
            break
        span = whole._replace(last=min(whole.last, stop - 1)) if whole.is_data else whole
        spans.append(span)
        if not span.is_data:
            continue
        keys.update(dict.fromkeys(range(span.first, span.last + 1)))
        header = read_header(view, begin)
        content = bytes(content_of(header, view[begin:end], pace))
        for record in iter_raw_records(content, header.record_count, header.last_offset_delta, RECORDS_MAX):
            pace.spend(1)
            offset = header.base_offset + record.offset_delta
            if offset > span.last:
                break
            keys[offset] = None if record.key is None else hash(record.key)
    return keys, spans


async def _found(
    store: Store, live: LivePartition, slot: Slot, at: int, end: int, wanted: Wanted
) -> tuple[ReadResult | None, bool]:
    """What lies there from an offset on, and whether a disk had it."""
    bytes_max = _bytes_to_read(live, wanted)
    found = reader_of(store, slot).cached(slot, at, end, bytes_max, True, ENTRIES_AT_ONCE)
    if found is not None:
        return found, False
    wanted.waits()
    reading = live.ahead.take(live.key, at, live.settings().is_committed)
    if reading is not None:
        with contextlib.suppress(StoreError):  # told by the read below, if it still is so
            found = await reading
    if found is None or not 0 < found.size <= wanted.bytes_max:
        found = await _read(store, slot, at, end, bytes_max, at_least_one=True)
    return found, True


def _read_ahead(store: Store, live: LivePartition, slot: Slot, end: int, wanted: Wanted) -> None:
    """Read what comes next, unless memory has it, or there is none."""
    settings, at, bytes_max = live.settings(), live.state.end, _bytes_to_read(live, wanted)
    if settings.by_key or at >= end or live.is_gone:
        return
    if reader_of(store, slot).cached(slot, at, end, bytes_max, True, 1) is None:
        reading = _read(store, slot, at, end, bytes_max, at_least_one=False)
        live.ahead.begin(live.key, at, settings.is_committed, reading)


def _bytes_to_read(live: LivePartition, wanted: Wanted) -> int:
    """As many as so many records may have, by the size of those that were read last; what is read beyond is copied for
    nothing. In the order of keys many records may be passed over."""
    most = min(wanted.bytes_max, PART_BYTES_MAX)
    if live.settings().by_key or not live.record_bytes:
        return most
    return min(most, wanted.records_max * live.record_bytes * 5 // 4)


async def _read(
    store: Store, slot: Slot, at: int, end: int, bytes_max: int, *, at_least_one: bool
) -> ReadResult | None:
    """What a disk or long-term storage has; None if that takes too long. Raises StoreError."""
    reader = reader_of(store, slot)
    patience: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(TIER_WAIT_S, _end, patience)
    try:
        return await reader.read(slot, at, end, bytes_max, at_least_one, patience)
    except StillLoading:
        return None
    finally:
        timer.cancel()
        _end(patience)


def _end(patience: asyncio.Future[None]) -> None:
    if not patience.done():
        patience.set_result(None)


def _batches(parts: Sequence[Buffer], found: ReadResult, is_committed: bool) -> list[_Batch]:
    """The batches of a read, each with its offsets and whether a member may get it."""
    batches: list[_Batch] = []
    for position, header in _headers(parts):
        first, last = header.base_offset, header.last_offset
        is_aborted = (
            is_committed
            and header.is_transactional
            and any(
                one.writer_id == header.producer_id and one.first <= last and first <= one.last for one in found.aborted
            )
        )
        batches.append(
            _Batch(Span(first, last, not (header.is_control or is_aborted)), position, position + header.size)
        )
    return batches


def _headers(parts: Sequence[Buffer]) -> Iterator[tuple[int, BatchHeader]]:
    """The headers of batches that lie one behind the other, in parts that may end anywhere; each with its position."""
    position = index = at = 0  # of the whole, the part, and in the part
    while index < len(parts):
        if len(parts[index]) - at >= HEADER_BYTES:
            header = read_header(parts[index], at)
        else:
            header = read_header(b"".join(_cut(parts[index:], at, at + HEADER_BYTES)))
        yield position, header
        position += header.size
        at += header.size
        while index < len(parts) and at >= len(parts[index]):
            at -= len(parts[index])
            index += 1


def _cut(parts: Sequence[Buffer], begin: int, end: int) -> Iterator[Buffer]:
    """The bytes from one position to another, in parts."""
    position = 0
    for part in parts:
        size = len(part)
        if position >= end:
            return
        if begin <= position and position + size <= end:
            yield part
        elif position + size > begin:
            yield memoryview(part)[max(begin - position, 0) : end - position]
        position += size
