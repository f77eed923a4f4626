"""ShareFetch (key 78), versions 1-2 (KIP-932, KIP-1206, KIP-1222): records for a member of a share group.

A session (epoch 0 begins one, -1 ends it) names its partitions once. Acknowledgements come along. v2 brings renewals
and the choice of how records are counted: the batch in which a fetch has enough of them is given whole, or not.

Keeps: a record is in an answer only when its member holds it, and only as long as the client may read it. As in Kafka,
a partition that a session has newly is in the answer though it has no records, and a member that asks for no records
gets none. Records are read while acknowledgements are being stored, and sent from the memory in which they were found:
the log may have that back at any time, for a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from core.streams.live import Slot
from gateway.apis.shared.new_groups import NOT_SERVED, refused
from gateway.apis.shared.sharing import Settled, by_topic, check_member, place, serves_share_groups, settle, shared_slot
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.delivery import NOTHING, Delivery, Wanted, deliver
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.live_partition import ROWS_TOGETHER_MAX, LivePartition
from gateway.groups.share.sessions import FINAL_EPOCH, INITIAL_EPOCH, ShareSession
from gateway.quotas.quotas import FETCHED
from gateway.refusals import Asked, Refusal, code_of, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.wire.errors import InvalidBatch
from gateway.wire.message import Message
from gateway.wire.primitives import Parts

MAX_WAIT_MS: Final = 60_000
"""Longest wait for records, whatever a client asks for."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of records in one answer, whatever a client asks for."""

LIMITED_SINCE: Final = 2
RECORD_LIMIT: Final = 1
"""The acquire mode in which no answer has more records than were asked for."""
REASON_CHARS_MAX: Final = 300
UNWATCHED_AT_ONCE: Final = 500
"""Partitions of which a fetch hears nothing more from one moment on, in a millisecond."""


async def share_fetch(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return {"error_code": NOT_SERVED}
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id or "")
    try:
        group_id, member_id = check_member(request)
        session, added = await _session(ctx, request, group_id, member_id)
    except Refusal as refusal:
        return refused(refusal)
    settled = await settle(ctx, group_id, member_id, request.topics)
    clock, settings = ctx.services.clock, ctx.services.share.settings(group_id)
    answers = await _fetched(ctx, request, session, is_urgent=bool(settled.outcome))
    found_s = clock.monotonic_s()
    outcome = await _stored(ctx, settled, answers)
    has_expired = clock.monotonic_s() - found_s >= settings.limits.lock_s
    if session.gave_back or has_expired:  # while that was waited for, or by this request
        answers = {}
    async for key, why in ctx.paced(outcome.items()):
        answer = answers.setdefault(key, {"records": b""})
        if why is not None:
            answer |= {"acknowledge_error_code": why.code, "acknowledge_error_message": why.message}
    if added:
        async for key in ctx.paced(added):
            answers.setdefault(key, {"records": b""})
    return {
        "throttle_time": _counted(ctx, _Records(answers).size),
        "responses": await by_topic(ctx, answers),
        "acquisition_lock_timeout": settings.lock_ms,
    }


async def _stored(
    ctx: RequestContext, settled: Settled, answers: dict[PlaceKey, dict[str, Any]]
) -> dict[PlaceKey, Refusal | None]:
    """What acknowledgements came to, once that will survive; records that were found meanwhile are kept."""
    if not settled.outcome:
        return {}
    records = _Records(answers)
    with ctx.connection.keeping(records, records.size):
        return await settled.stored()


async def _fetched(
    ctx: RequestContext, request: Message, session: ShareSession, *, is_urgent: bool
) -> dict[PlaceKey, dict[str, Any]]:
    """Records for the member; a last request or a renewal asks for none. `is_urgent`: see `_Fetch.run`."""
    if request.share_session_epoch == FINAL_EPOCH:
        ctx.services.share.sessions.end(session)
        return {}
    if request.is_renew_ack:
        return {}
    return await _Fetch(ctx, request, session).run(is_urgent=is_urgent or request.max_records <= 0)


def _counted(ctx: RequestContext, size: int) -> int:
    """Count the bytes of an answer; returns how long the client pauses, if they are more than its quota allows."""
    services, connection = ctx.services, ctx.connection
    services.metrics.fetched_bytes += size
    if not size or not services.quotas.is_on:
        return 0
    pause_ms: int = services.quotas.count(FETCHED, connection.principal.name, connection.client_id, size)
    if pause_ms:
        connection.mute(pause_ms)
    return pause_ms


async def _session(
    ctx: RequestContext, request: Message, group_id: str, member_id: str
) -> tuple[ShareSession, Sequence[PlaceKey]]:
    """The session of a request, with its partitions as the request has them, and those that it adds. Raises Refusal."""
    epoch = request.share_session_epoch
    if epoch == INITIAL_EPOCH:
        async for topic in ctx.paced(request.topics):
            async for partition in ctx.paced(topic.partitions):
                if partition.acknowledgement_batches:
                    raise invalid_request("A request that begins a share session has no acknowledgements.")
    if ctx.connection.closed:
        raise Refusal(ErrorCode.network_exception)  # nobody hears it; a session would never end
    session = ctx.services.share.sessions.take(group_id, member_id, epoch, ctx.connection)
    added: list[PlaceKey] = []
    if epoch != FINAL_EPOCH:
        async for topic in ctx.paced(request.topics):
            async for partition in ctx.paced(topic.partitions):
                if session.add(key := PlaceKey(group_id, topic.topic_id, partition.partition_index)):
                    added.append(key)
    async for topic in ctx.paced(request.forgotten_topics_data):
        async for number in ctx.paced(topic.partitions):
            session.forget(PlaceKey(group_id, topic.topic_id, number))
    return session, added


class _Fetch:
    """One fetch on its way: it looks at its partitions, and waits for news of them if there is nothing."""

    def __init__(self, ctx: RequestContext, request: Message, session: ShareSession) -> None:
        self._ctx = ctx
        self._session = session
        self._whole = ctx.version < LIMITED_SINCE or request.share_acquire_mode != RECORD_LIMIT
        self._max_bytes = min(max(request.max_bytes, 1), ANSWER_BYTES_MAX)
        self._max_records = max(request.max_records, 0)
        self._wait_s = min(max(request.max_wait, 0), MAX_WAIT_MS) / 1_000
        self._news = asyncio.Event()
        self._watched: list[tuple[LivePartition, Slot]] = []
        self._records = _Records({})

    async def run(self, *, is_urgent: bool) -> dict[PlaceKey, dict[str, Any]]:
        """Answers of the partitions that have records or errors. `is_urgent`: there is something to tell already."""
        self._session.waiting[self._news.set] = None
        try:
            answers = await self._found(is_urgent=is_urgent)
            await self._unwatch_all()
            return answers
        finally:
            self._session.waiting.pop(self._news.set, None)
            self._unwatch(len(self._watched))  # none but those of a fetch that was cut off

    async def _found(self, *, is_urgent: bool) -> dict[PlaceKey, dict[str, Any]]:
        ends_s = asyncio.get_running_loop().time() + self._wait_s
        while True:
            self._news.clear()
            answers = await self._look()
            left_s = ends_s - asyncio.get_running_loop().time()
            if answers or is_urgent or left_s <= 0 or self._session.is_ended:
                return answers
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                return answers
            if not self._ctx.may(Operation.READ, ResourceType.GROUP, self._session.group_id):
                return answers  # its right was taken away while it waited: the next request hears so

    async def _look(self) -> dict[PlaceKey, dict[str, Any]]:
        answers: dict[PlaceKey, dict[str, Any]] = {}
        self._records = records = _Records(answers)
        bytes_left, records_left = self._max_bytes, self._max_records
        await self._unwatch_all()
        places = list(self._session.places)
        begun = 0
        async for index, key in self._ctx.paced(enumerate(places)):
            if bytes_left <= 0 or (records_left <= 0 < self._max_records) or self._session.is_ended:
                break
            if not self._ctx.services.share.partitions.is_at_hand(key):  # the log, or the end of a move, is waited for
                records.copy_views()
                if index >= begun:
                    begun = index + ROWS_TOGETHER_MAX
                    await self._begin(places[index:begun])
            try:
                live, slot = await place(self._ctx, key)
                if not self._max_records:  # its group has begun it now, that is all
                    continue
                self._watch(live, slot)
                got = await self._deliver(live, slot, bytes_left, records_left)
            except Refusal as why:
                answers[key] = {"error_code": why.code, "error_message": why.message, "records": b""}
                continue
            if got.acquired:
                self._session.asked(key)
                bytes_left -= got.records.size
                records_left -= sum(one.last - one.first + 1 for one in got.acquired)
                answers[key] = _told(got)
            del got  # or its view would live on beside the copy
        return answers

    async def _begin(self, keys: Sequence[PlaceKey]) -> None:
        """Have the group begin those of its next partitions that it has never read: each alone would wait for the log.
        Whatever is wrong with one is told when it is asked for."""
        places: list[tuple[PlaceKey, Slot]] = []
        for key in keys:
            with contextlib.suppress(Refusal):
                places.append((key, shared_slot(self._ctx, key, is_asked_for=False)))
        await self._ctx.services.share.partitions.begin(places)

    async def _deliver(self, live: LivePartition, slot: Slot, bytes_left: int, records_left: int) -> Delivery:
        services = self._ctx.services
        member_id = self._session.member_id
        wanted = Wanted(member_id, bytes_left, records_left, self._whole, self._records.copy_views)
        try:
            got = await deliver(services.store, services.clock, services.openers, live, slot, wanted)
        except StoreError as error:
            raise Refusal(code_of(error, Asked.READ)) from error
        except InvalidBatch as error:
            raise Refusal(ErrorCode.corrupt_message, error.reason[:REASON_CHARS_MAX]) from error
        if self._session.is_ended:  # while records were read for it; its member may have a new session by now
            live.take_back(member_id, got.acquired)
            return NOTHING
        return got

    # News: of new records, of records that are available again

    def _watch(self, live: LivePartition, slot: Slot) -> None:
        live.waiters[self._news.set] = None
        slot.watch(self)
        self._watched.append((live, slot))

    async def _unwatch_all(self) -> None:
        """In turns, if there are many."""
        if len(self._watched) > UNWATCHED_AT_ONCE:
            async for _ in self._ctx.paced(range(0, len(self._watched), UNWATCHED_AT_ONCE)):
                self._unwatch(UNWATCHED_AT_ONCE)
        self._unwatch(len(self._watched))

    def _unwatch(self, most: int) -> None:
        for _ in range(min(most, len(self._watched))):
            live, slot = self._watched.pop()
            live.waiters.pop(self._news.set, None)
            slot.unwatch(self)

    def slot_appended(self, slot: Slot, size: int) -> None:
        self._news.set()

    def slot_settled(self, slot: Slot, size: int) -> None:
        self._news.set()

    def slot_changed(self, slot: Slot) -> None:
        self._news.set()


class _Records:
    """The records of answers that are not sent yet: views of the log's memory, which it cannot use again before they
    are copied."""

    def __init__(self, answers: dict[PlaceKey, dict[str, Any]]) -> None:
        self._answers = answers

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(answer["records"]) for answer in self._answers.values())

    def copy_views(self) -> int:
        """Keep copies instead; returns how many bytes were copied."""
        size = 0
        for answer in self._answers.values():
            records = answer["records"]
            if isinstance(records, Parts):
                answer["records"] = records.copied()
                size += records.size
        return size


def _told(got: Delivery) -> dict[str, Any]:
    acquired = [
        {"first_offset": one.first, "last_offset": one.last, "delivery_count": one.deliveries} for one in got.acquired
    ]
    return {"error_code": ErrorCode.none, "records": got.records, "acquired_records": acquired}


API: Final = Api(
    key=78,
    name="ShareFetch",
    versions=range(1, 3),
    handle=share_fetch,
    error_response=lambda request, version, code: {"error_code": code},
    large_answer=True,
)
