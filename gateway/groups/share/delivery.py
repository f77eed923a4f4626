"""Records of a share-partition for a member: read, judged by their batches' headers, and given to it.

Keeps: a member gets no control batch, and of an aborted transaction nothing if its group reads what is committed: such
batches are settled when they are met. The first batch is given whole, whatever the limit of bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.clock import Clock
from core.store import Store
from core.streams.entries import ENTRIES_AT_ONCE, ReadResult, StillLoading
from core.streams.live import Slot
from gateway.fetching.readers import reader_of
from gateway.groups.share.partition import Acquired, Span
from gateway.groups.share.partitions import LivePartition
from gateway.records.record_batch import read_header

PART_BYTES_MAX: Final = 1024 * 1024
"""Bytes of one partition in one answer: what does not become the member's was read for nothing."""
READS_MAX: Final = 8
"""Reads of one partition for one answer, if nothing that was read is for the member."""
TIER_WAIT_S: Final = 0.5
"""Longest wait for long-term storage; a later fetch finds what comes later."""


class Delivery(NamedTuple):
    """Batches, and which of their records are the member's now."""

    records: bytes
    acquired: Sequence[Acquired]


NOTHING: Final = Delivery(b"", ())


class _Batch(NamedTuple):
    span: Span
    begin: int
    end: int


async def deliver(
    store: Store, clock: Clock, live: LivePartition, slot: Slot, member_id: str, bytes_max: int, records_max: int
) -> Delivery:
    """Give a member what is available now. Raises StoreError."""
    for _ in range(READS_MAX):
        settings, state = live.settings(), live.state
        state.move_start(slot.start)
        at = state.next_offset(settings.limits)
        end = slot.stable_end if settings.is_committed else slot.durable_end
        if at is None or at >= end or live.is_gone:
            break
        found = await _read(store, slot, at, end, min(bytes_max, PART_BYTES_MAX))
        if live.state is not state or live.is_gone:
            continue  # its start was set anew
        if found is None or not found.size:
            break
        data = b"".join(found.parts)
        batches = _batches(data, found, settings.is_committed)
        spans = [batch.span for batch in batches]
        acquired = state.acquire(member_id, at, spans, records_max, settings.limits, clock.monotonic_s())
        live.touched()
        if acquired:
            first, last = acquired[0].first, acquired[-1].last
            needed = [one for one in batches if one.span.last >= first and one.span.first <= last]
            return Delivery(data[needed[0].begin : needed[-1].end], acquired)
    live.touched()
    return NOTHING


async def _read(store: Store, slot: Slot, at: int, end: int, bytes_max: int) -> ReadResult | None:
    reader = reader_of(store, slot)
    found = reader.cached(slot, at, end, bytes_max, True, ENTRIES_AT_ONCE)
    if found is not None:
        return found
    patience: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = asyncio.get_running_loop().call_later(TIER_WAIT_S, _end, patience)
    try:
        return await reader.read(slot, at, end, bytes_max, True, patience)
    except StillLoading:
        return None
    finally:
        timer.cancel()
        _end(patience)


def _end(patience: asyncio.Future[None]) -> None:
    if not patience.done():
        patience.set_result(None)


def _batches(data: bytes, found: ReadResult, is_committed: bool) -> list[_Batch]:
    """The batches of a read, each with its offsets and whether a member may get it."""
    batches: list[_Batch] = []
    position = 0
    while position < len(data):
        header = read_header(data, position)
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
        position += header.size
    return batches
