"""ListOffsets (key 2), versions 1-11.

v2 adds isolation levels, v4 leader epochs (KIP-320), v7 the largest timestamp (KIP-734), v8 the
earliest local offset (KIP-405), v9 the last tiered one (KIP-1005), v10 a time-out, v11 the earliest
that waits for tiering (KIP-1023). A special timestamp of a later version gets UNSUPPORTED_VERSION.

Keeps: a look-up by time answers the first record at or after it, never an earlier one. Every
answer is visible: below the high watermark, for read_committed below the last stable offset.
A look-up that needs long-term storage waits no longer than its client does; after that its answer
asks for another try.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kio.schema.errors import ErrorCode

from core.errors import NotHosted, StoreError
from core.store import Store
from core.streams.entries import StoredEntry
from core.streams.live import Slot
from gateway.apis.shared.administration import epoch_error, repeated_among, slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.internal_topics.slots import InternalSlot
from gateway.records.openers import LeavesLoop, Openers, Pace, content_of
from gateway.records.record_batch import BatchHeader, read_header
from gateway.records.records import INT64_MIN
from gateway.records.walking import find_first, find_newest
from gateway.refusals import Asked, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.errors import InvalidBatch
from gateway.wire.message import Message

LATEST, EARLIEST, MAX_TIMESTAMP = -1, -2, -3
EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING = -4, -5, -6
SINCE: Final = {
    LATEST: 1,
    EARLIEST: 1,
    MAX_TIMESTAMP: 7,
    EARLIEST_LOCAL: 8,
    LATEST_TIERED: 9,
    EARLIEST_PENDING: 11,
}
READ_UNCOMMITTED, READ_COMMITTED = 0, 1

SEARCHES_AT_ONCE: Final = 32
"""Look-ups by time of one request that hold a batch in memory at the same time."""
WAITING_AT_ONCE: Final = 500
"""Partitions that are looked at together, and look-ups that are begun together: each is a task of the event loop."""
TOPICS_AT_ONCE: Final = 200
"""Topics that are looked up together; other requests are served in between."""
TIMEOUT_SINCE: Final = 10
PATIENCE_MAX_S: Final = 30.0
"""Longest wait for one request's look-ups, whatever its client says."""


class Found(NamedTuple):
    """The answer to a question about a partition."""

    offset: int = -1
    timestamp: int = -1
    leader_epoch: int = -1
    code: ErrorCode = ErrorCode.none


NOTHING: Final = Found()


async def list_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    searches = _Searches(_patience_s(ctx, request))
    topics: list[dict[str, Any]] = []
    async for some in ctx.paced(_together(request.topics)):
        topics += await asyncio.gather(*(_topic(ctx, request, topic, searches) for topic in some))
    return {"topics": topics}


def _together(topics: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Topics to look up together: TOPICS_AT_ONCE at most, with WAITING_AT_ONCE partitions, or one that has more."""
    first = count = 0
    for place, topic in enumerate(topics):
        size = len(topic.partitions)
        if place > first and (place - first == TOPICS_AT_ONCE or count + size > WAITING_AT_ONCE):
            yield topics[first:place]
            first, count = place, 0
        count += size
    if topics:
        yield topics[first:]


def _patience_s(ctx: RequestContext, request: Message) -> float:
    if ctx.version >= TIMEOUT_SINCE and request.timeout > 0:
        return min(float(request.timeout / 1000), PATIENCE_MAX_S)
    return PATIENCE_MAX_S


class _Searches:
    """The look-ups of one request that may have to wait: few at a time, and together no longer than the client does."""

    def __init__(self, patience_s: float) -> None:
        self._until_s = asyncio.get_running_loop().time() + patience_s
        self._at_once = asyncio.Semaphore(SEARCHES_AT_ONCE)

    async def run(self, search: Callable[[], Awaitable[Found]]) -> Found:
        try:
            async with asyncio.timeout_at(self._until_s), self._at_once:
                return await search()
        except TimeoutError:
            return Found(code=ErrorCode.request_timed_out)
        except StoreError as failed:
            return Found(code=code_of(failed, Asked.PARTITION))


async def _topic(ctx: RequestContext, request: Message, topic: Message, searches: _Searches) -> dict[str, Any]:
    twice = await repeated_among(ctx, [partition.partition_index for partition in topic.partitions])
    is_allowed = ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, topic.name)
    stream = ctx.services.readable(topic.name) if is_allowed else None
    unknown = ErrorCode.unknown_topic_or_partition if is_allowed else ErrorCode.topic_authorization_failed
    answers: dict[int, Found] = {}
    awaited: dict[int, Callable[[], Awaitable[Found]]] = {}
    async for asked in ctx.paced(topic.partitions):
        index = asked.partition_index
        slot = slot_of(stream, index)
        if index in twice:
            answers[index] = Found(code=ErrorCode.invalid_request)
        elif slot is None:
            answers[index] = Found(code=unknown)
        else:
            answer = _answer(ctx, request, asked, slot)
            if isinstance(answer, Found):
                answers[index] = answer
            else:
                awaited[index] = answer
    waiting = list(awaited.items())
    async for first in ctx.paced(range(0, len(waiting), WAITING_AT_ONCE)):
        some = waiting[first : first + WAITING_AT_ONCE]
        found = await asyncio.gather(*(searches.run(search) for _, search in some))
        answers |= zip((index for index, _ in some), found, strict=True)
    return {
        "name": topic.name,
        "partitions": [_result(index, found) async for index, found in ctx.paced(answers.items())],
    }


def _answer(
    ctx: RequestContext, request: Message, asked: Message, slot: Slot
) -> Found | Callable[[], Awaitable[Found]]:
    """The answer if memory has it, else the look-up of it."""
    store: Store = ctx.services.store
    if code := epoch_error(store, slot, asked.current_leader_epoch):
        return Found(code=code)
    if request.isolation_level not in (READ_UNCOMMITTED, READ_COMMITTED):
        return Found(code=ErrorCode.invalid_request)
    if asked.timestamp < 0 and ctx.version < SINCE.get(asked.timestamp, ctx.version + 1):
        return Found(code=ErrorCode.unsupported_version)
    try:
        hosted = store.hosted(slot)
    except NotHosted as elsewhere:
        return Found(code=code_of(elsewhere, Asked.PARTITION))
    end = slot.stable_end if request.isolation_level == READ_COMMITTED else slot.durable_end
    if isinstance(slot, InternalSlot):
        return lambda: _of_internal(slot, asked.timestamp)
    match asked.timestamp:
        case -1:
            return Found(end, leader_epoch=slot.leader_epoch)
        case -2:
            return _at(slot, slot.start)
        case -5:
            return _latest_tiered(slot)
        case -6:
            return NOTHING if hosted.tier is None else _earliest_pending(slot)
    openers: Openers = ctx.services.openers
    match asked.timestamp:
        case -4:
            return lambda: _earliest_local(store, slot)
        case -3:
            return lambda: _with_max_timestamp(store, openers, slot, end)
        case timestamp:
            return lambda: _at_time(store, openers, slot, timestamp, end)


async def _of_internal(slot: InternalSlot, timestamp: int) -> Found:
    """The same of a partition whose records are made when they are read."""
    await slot.viewed()
    found: tuple[int, int] | None = None
    match timestamp:
        case -1:
            return _at(slot, slot.durable_end)
        case -2 | -4:
            return _at(slot, await slot.first())
        case -3:
            found = await slot.newest()
        case wanted if wanted >= 0:
            found = await slot.found(lambda at: at >= wanted)
    return NOTHING if found is None else Found(*found, slot.leader_epoch)


def _at(slot: Slot, offset: int) -> Found:
    return Found(offset, leader_epoch=slot.epoch_at(offset))


async def _earliest_local(store: Store, slot: Slot) -> Found:
    """The first offset that can be read without long-term storage; the end when there is none."""
    return _at(slot, await store.hosted(slot).reader.local_start(slot))


def _latest_tiered(slot: Slot) -> Found:
    """The last offset in long-term storage; -1 when nothing is there."""
    return _at(slot, slot.tiered_end - 1) if slot.tiered_end > slot.start else NOTHING


def _earliest_pending(slot: Slot) -> Found:
    """The first offset that is not in long-term storage yet."""
    return _at(slot, max(slot.start, slot.tiered_end))


async def _with_max_timestamp(store: Store, openers: Openers, slot: Slot, end: int) -> Found:
    entry = await store.hosted(slot).reader.entry_with_max_timestamp(slot)
    if entry is None:
        return NOTHING
    return _visible(slot, end, await _opened(openers, slot, entry, None))


async def _at_time(store: Store, openers: Openers, slot: Slot, timestamp: int, end: int) -> Found:
    """Batch by batch: a batch's largest timestamp may be made up, or be that of a record before the start."""
    offset, reader = slot.start, store.hosted(slot).reader
    while (entry := await reader.entry_at_time(slot, timestamp, offset)) is not None:
        found = await _opened(openers, slot, entry, timestamp)
        if found is not None:
            return _visible(slot, end, found)
        offset = entry.first + entry.count
    return NOTHING


Stamp = tuple[int, int]
"""A record's timestamp and offset."""


async def _opened(openers: Openers, slot: Slot, entry: StoredEntry, timestamp: int | None) -> Stamp | None:
    """Of a batch's records that are not deleted, the first at or after a time; without one, the newest."""
    start = slot.start
    try:
        return _chosen(entry, start, timestamp, openers.on_loop())
    except LeavesLoop:
        return await openers.run(lambda pace: _chosen(entry, start, timestamp, pace))


def _chosen(entry: StoredEntry, start: int, timestamp: int | None, pace: Pace) -> Stamp | None:
    """If the batch's content is invalid, its first record stands for all. Markers have no records."""
    header = read_header(entry.payload)
    if header.is_control:
        return None
    at_same_time = header.max_timestamp, max(entry.first, start)
    if header.is_log_append_time:
        if timestamp is not None and timestamp > header.max_timestamp:
            return None
        if header.record_count == header.last_offset_delta + 1:  # nothing was compacted away: no need to open
            return at_same_time
    try:
        return _found(entry, header, start, timestamp, pace)
    except InvalidBatch:
        return at_same_time if timestamp is None or timestamp <= header.max_timestamp else None


def _found(entry: StoredEntry, header: BatchHeader, start: int, timestamp: int | None, pace: Pace) -> Stamp | None:
    content, count = content_of(header, memoryview(entry.payload), pace), header.record_count
    base, offset_min = header.base_timestamp, start - header.base_offset
    if header.is_log_append_time:
        stamp = find_first(content, count, pace.spend, INT64_MIN, offset_min)
    elif timestamp is None:
        stamp = find_newest(content, count, pace.spend, offset_min)
    else:
        stamp = find_first(content, count, pace.spend, max(timestamp - base, INT64_MIN), offset_min)
    if stamp is None:
        return None
    return header.max_timestamp if header.is_log_append_time else base + stamp[0], header.base_offset + stamp[1]


def _visible(slot: Slot, end: int, stamp: Stamp | None) -> Found:
    if stamp is None or stamp[1] >= end:
        return NOTHING
    timestamp, offset = stamp
    return Found(offset, timestamp, slot.epoch_at(offset))


def _result(index: int, found: Found) -> dict[str, Any]:
    return {
        "partition_index": index,
        "error_code": found.code,
        "timestamp": found.timestamp,
        "offset": found.offset,
        "leader_epoch": found.leader_epoch,
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    _result(partition.partition_index, Found(code=ErrorCode(code))) for partition in topic.partitions
                ],
            }
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=2,
    name="ListOffsets",
    versions=range(1, 12),
    handle=list_offsets,
    error_response=_error_response,
)
