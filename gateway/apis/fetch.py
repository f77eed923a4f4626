"""Fetch (key 1), versions 4-18. Answers at once from memory where it can, waits without a task.

Keeps: the first partition that has anything returns at least one whole batch, whatever the limits (KIP-74); nothing
at or beyond the high watermark is returned, nor beyond the last stable offset to read_committed; what a client gets
for a partition is what was produced, byte for byte. Sessions: KIP-227. Topic ids: KIP-516, from version 13. Topics
whose `compression.type` is zstd: KIP-110, from version 10.

Partitions whose entries are not in memory are read side by side. For long-term storage a fetch waits as long as its
client would wait for new records, half a second at most, and not at all once others have enough: then the partition is
answered empty, what is on its way is loaded all the same, and a later fetch finds it in memory. Storage that is away is
no error, only nothing new; an object that is damaged or gone is CORRUPT_MESSAGE, which clients report with partition
and offset (KAFKA_STORAGE_ERROR they take for a broker that is about to recover: they try again for ever, silently).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from core.errors import (
    CorruptChunk,
    MissingChunk,
    NotHosted,
    OutOfRange,
    StorageFailure,
    StoreClosed,
    StoreError,
    TierUnavailable,
)
from core.streams.entries import StillLoading
from gateway.apis import Api
from gateway.fetching.cold_reads import ColdRead, report
from gateway.fetching.sessions import FINAL_EPOCH, INITIAL_EPOCH, FetchSession, FetchSet, SessionError, Target, TopicKey
from gateway.kafka_configs.topic_config import config_of
from gateway.records.record_batch import ZSTD
from gateway.wire.codec import request_codec
from gateway.wire.responses import FetchedPartition, encode_fetch_response

if TYPE_CHECKING:
    from core.container.container import Container
    from core.log.format import Buffer
    from core.streams.entries import ReadResult
    from core.streams.live import Slot, Stream
    from core.streams.transactions import Aborted
    from gateway.broker import Broker
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.wire.headers import RequestHeader
    from gateway.wire.message import Message

logger = logging.getLogger(__name__)

# Kafka's error codes, as numbers: kio's enum is loaded with the first schema, not on the hot path.
OFFSET_OUT_OF_RANGE: Final = 1
CORRUPT_MESSAGE: Final = 2
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
NOT_LEADER_OR_FOLLOWER: Final = 6
KAFKA_STORAGE_ERROR: Final = 56
UNSUPPORTED_COMPRESSION_TYPE: Final = 76
FENCED_LEADER_EPOCH: Final = 74
UNKNOWN_LEADER_EPOCH: Final = 75
UNKNOWN_TOPIC_ID: Final = 100

KEY: Final = 1
JOIN_BELOW: Final = 4096
"""Entries that are smaller than this on average are copied together: cheaper than a buffer for each."""
SESSIONS_SINCE: Final = 7
ZSTD_TOPICS_SINCE: Final = 10
TOPIC_IDS_SINCE: Final = 13
REPLICA_STATE_SINCE: Final = 15
READ_COMMITTED: Final = 1

TIER_WAIT_MAX_S: Final = 0.5
"""Longest wait for long-term storage: Kafka's `remote.fetch.max.wait.ms`."""
TIER_WAIT_MIN_S: Final = 0.05
"""Shortest wait, also for clients that wait for nothing: they would ask again and again while a page is loaded."""
GIVE_WAY_S: Final = 0.02
"""Longest that who reads history waits for appends: a disk that stands still does not concern it."""
COLD_READS_MAX: Final = 64
"""Partitions of one fetch that are read at the same time."""
SHARE_MIN_BYTES: Final = 65_536
"""Room that a partition gets, while there is any, however little it is said to hold."""


_first = attrgetter("first")


class _Fetch:
    """One Fetch request on its way."""

    __slots__ = (
        "broker",
        "committed",
        "connection",
        "deadline_s",
        "done",
        "full",
        "gave_way",
        "late",
        "max_bytes",
        "min_bytes",
        "patience",
        "reply",
        "reserved",
        "results",
        "session",
        "size",
        "timer",
        "urgent",
        "version",
        "waited",
        "wanted",
    )

    def __init__(self, connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
        broker: Broker = connection.broker
        self.broker = broker
        self.connection = connection
        self.version = version
        self.reply = reply
        self.done = False
        self.max_bytes: int = min(request.max_bytes, broker.config.fetch_max_bytes)
        self.min_bytes: int = min(request.min_bytes, self.max_bytes)
        self.committed = request.isolation_level == READ_COMMITTED
        self.wanted = FetchSet()
        self.session: FetchSession | None = None
        self.full = True  # every partition is answered, not only those with news
        self.waited = request.max_wait <= 0
        self.deadline_s = request.max_wait / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.results: dict[Target, FetchedPartition] = {}
        self.size = 0  # bytes of records
        self.late: list[Target] = []  # were read from afar, or ought to have been
        self.reserved = 0  # bytes that reads under way may bring
        self.patience: asyncio.Future[None] | None = None  # done when nobody waits for long-term storage any more
        self.urgent = False  # a partition has an error: answer now
        self.gave_way = False  # to appends: once is enough

    # What is asked for

    def read_request(self, request: Message) -> None:
        """Find the partitions, in a session or not. Raises SessionError."""
        with_ids = self.version >= TOPIC_IDS_SINCE
        sessions = self.broker.fetch_sessions
        session_id, epoch = request.session_id, request.session_epoch
        if self.version < SESSIONS_SINCE or epoch == FINAL_EPOCH:
            sessions.remove(session_id)
        elif epoch == INITIAL_EPOCH:
            sessions.remove(session_id)
            self.session = sessions.create(with_ids) if request.topics else None
        else:
            self.session = sessions.take(session_id, epoch, with_ids)
            self.full = False
        if self.session is not None:
            self.wanted = self.session
        self.wanted.committed = self.committed
        self._read_partitions(request, with_ids)
        if self.session is not None and not sessions.keep(self.session):
            self.session = None  # the answer says so: the client names all partitions in its next fetch
        if self.session is not None:
            self.session.watch()

    def _read_partitions(self, request: Message, with_ids: bool) -> None:
        wanted = self.wanted
        for topic in request.forgotten_topics_data:
            key = topic.topic_id if with_ids else topic.topic
            for index in topic.partitions:
                wanted.remove(key, index)
        for topic in request.topics:
            key = topic.topic_id if with_ids else topic.topic
            for partition in topic.partitions:
                target = wanted.targets.get((key, partition.partition))
                if target is None:
                    target = Target(key, partition.partition)
                    target.find_slot(self.stream)
                target.offset = partition.fetch_offset
                target.max_bytes = partition.partition_max_bytes
                target.leader_epoch = partition.current_leader_epoch
                wanted.put(target)

    def stream(self, topic: TopicKey) -> Stream | None:
        if isinstance(topic, str):
            return self.broker.topics.get(topic)
        return None if topic is None else self.broker.topics.by_uuid(topic)

    # Evaluation

    def run(self) -> None:
        """Look at the partitions that may have news, then answer or wait."""
        if self.done:
            return
        if self.patience is not None:
            self._lose_patience()  # it goes on, and ends, when the reads under way have
            return
        if self.connection.output_room() <= 0:
            self.connection.when_output_room(self.run)
            return
        todo = list(self.wanted.dirty)
        self.wanted.find_slots(self.stream, todo)
        if self._gives_way(todo):
            return
        cold, left = self._choose(todo)
        if not cold:
            self._decide()
            return
        task = asyncio.ensure_future(self._run_cold(cold, left))
        task.add_done_callback(self._cold_done)

    def _gives_way(self, todo: Sequence[Target]) -> bool:
        """Who only reads history waits, once, for the appends under way: a megabyte for it keeps a processor from
        them for a millisecond, and they have two threads to go through."""
        if self.gave_way:
            return False
        container: Container | None = None
        for target in todo:
            slot = target.slot
            if slot is None or target.offset >= slot.tiered_end:
                return False
            try:
                container = self.broker.store.hosted(slot).container
            except NotHosted:
                return False
            if container.is_all_durable:
                return False
        if container is None:
            return False
        self.gave_way = True
        waiting = asyncio.ensure_future(_settled(container))
        waiting.add_done_callback(lambda _: self.run())
        return True

    def _choose(self, todo: Sequence[Target]) -> tuple[list[ColdRead], list[Target]]:
        """Take what is in memory; what to read of the rest, and whose turn comes when that has left room."""
        cold: list[ColdRead] = []
        left: list[Target] = []
        for target in todo:
            read = self._look(target)
            if read is not None and len(cold) < COLD_READS_MAX:
                stored = read.slot.durable_bytes - read.slot.start_bytes
                read.room = min(read.room, max(stored, SHARE_MIN_BYTES))
                self.reserved += read.room
                cold.append(read)
                continue
            if read is not None:
                self._add(target, read.slot, None)
            if target in self.wanted.dirty and not self.results[target][7]:
                left.append(target)
        return cold, left

    def _look(self, target: Target) -> ColdRead | None:
        """Evaluate one partition from memory; what to read when that is not enough."""
        self._forget(target)
        slot = target.slot
        code = _refusal(target)
        if self.version < ZSTD_TOPICS_SINCE and not code and slot is not None and config_of(slot.stream).codec == ZSTD:
            # As Kafka: by the topic's setting. Old consumers that know zstd read what producers chose to send in it.
            code = UNSUPPORTED_COMPRESSION_TYPE
        if code or slot is None:
            self._fail(target, code)
            return None
        end = slot.stable_end if self.committed else slot.durable_end
        room = min(target.max_bytes, self.max_bytes - self.size - self.reserved)
        at_least_one = not self.size and not self.reserved
        if target.offset >= end:
            self.wanted.dirty.pop(target, None)
            self._add(target, slot, None)
        elif room <= 0 and not at_least_one:
            self._add(target, slot, None)
        else:
            try:
                reader = self.broker.store.hosted(slot).reader
            except NotHosted:
                self._fail(target, NOT_LEADER_OR_FOLLOWER)
                return None
            found = reader.cached(slot, target.offset, end, room, at_least_one)
            if found is None:
                return ColdRead(target, slot, end, max(room, 0), at_least_one)
            self._add(target, slot, found)
        return None

    # Reading what is not in memory

    async def _run_cold(self, cold: list[ColdRead], left: list[Target]) -> None:
        """Many at once; each has its share of the bytes. Then those that are left, while there is room and time."""
        loop = asyncio.get_running_loop()
        patience = self.patience = loop.create_future()
        wait_s = max(TIER_WAIT_MIN_S, min(TIER_WAIT_MAX_S, self.deadline_s))
        ends_at = loop.time() + wait_s
        timer = loop.call_at(ends_at, self._lose_patience)
        has_enough = self.size >= self.min_bytes or self.urgent
        if has_enough:
            patience.set_result(None)
        else:
            self.wanted.wait(self.min_bytes - self.size, self._woken)
        read = list(cold)
        try:
            await asyncio.gather(*(self._read_cold(one, patience) for one in cold))
            self.reserved = 0
            if not self.size and not self.urgent:
                await self._read_one(cold, patience)
            while left and cold and 0 < self.size < self.max_bytes and not self.urgent and loop.time() < ends_at:
                cold, left = self._choose(left)
                read += cold
                await asyncio.gather(*(self._read_cold(one, patience) for one in cold))
                self.reserved = 0
        finally:
            timer.cancel()
            self.reserved, self.patience = 0, None
            self.wanted.stop_waiting()
        self.late = [one.target for one in read if one.target in self.wanted.dirty]
        if patience.done() and not has_enough:
            self._look_again()
        self._decide()

    async def _read_cold(self, read: ColdRead, patience: asyncio.Future[None]) -> None:
        target, slot = read.target, read.slot
        self._forget(target)
        try:
            reader = self.broker.store.hosted(slot).reader
            found = await reader.read(slot, target.offset, read.end, read.room, read.at_least_one, patience)
        except OutOfRange:
            self._fail(target, OFFSET_OUT_OF_RANGE)
        except NotHosted:
            self._fail(target, NOT_LEADER_OR_FOLLOWER)
        except StillLoading:
            self._add(target, slot, None)
        except (TierUnavailable, StoreClosed):
            await asyncio.wait((patience,))  # as if nothing were there: answered at once, clients would spin
            self._add(target, slot, None)
        except (StoreError, OSError) as error:
            report(slot, error)
            is_tiered = isinstance(error, CorruptChunk | MissingChunk)
            self._fail(target, CORRUPT_MESSAGE if is_tiered else KAFKA_STORAGE_ERROR)
        else:
            read.fits_nothing = not found.size
            self._add(target, slot, found)

    async def _read_one(self, cold: list[ColdRead], patience: asyncio.Future[None]) -> None:
        """No partition's first entry fitted into its share: one of them gets it whole."""
        for read in cold:
            if read.fits_nothing and not self.size:
                read.at_least_one = True
                await self._read_cold(read, patience)

    def _lose_patience(self) -> None:
        """Nobody waits for long-term storage any more."""
        if self.patience is not None and not self.patience.done():
            self.patience.set_result(None)

    def _woken(self) -> None:
        """There are enough new entries while others are read."""
        if self.patience is not None:
            self._lose_patience()
        else:
            self.run()

    def _look_again(self) -> None:
        """It is time to answer: who did not come in time is left out, others may have got something meanwhile."""
        self.waited = True
        left_out = set(self.late)
        for target in [target for target in self.wanted.dirty if target not in left_out]:
            cold = self._look(target)
            if cold is not None:
                self._add(target, cold.slot, None)

    def _cold_done(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("fetch failed", exc_info=task.exception())
            self._finish()
            self.reply.close("a fetch failed; the gateway's log says why")

    def _forget(self, target: Target) -> None:
        """What an earlier look found is looked up anew."""
        old = self.results.pop(target, None)
        if old is not None:
            self.size -= old[7]

    def _fail(self, target: Target, code: int) -> None:
        self.results[target] = (target.index, code, -1, -1, -1, None, (), 0)
        self.urgent = True

    def _add(self, target: Target, slot: Slot, found: ReadResult | None) -> None:
        parts: Sequence[Buffer] = ()
        size = 0
        if found is not None:
            parts, size = found.parts, found.size
            if len(parts) > 1 and size < len(parts) * JOIN_BELOW:
                parts = (b"".join(parts),)
        self.size += size
        aborted: list[tuple[int, int]] | None = None
        if self.committed:
            aborted = [] if found is None else _aborted(found.aborted)
        end, stable = slot.durable_end, slot.stable_end
        self.results[target] = (target.index, 0, end, stable, slot.start, aborted, parts, size)

    # Waiting and answering

    def _decide(self) -> None:
        if self.waited or self.urgent or self.size >= self.min_bytes or not self.wanted.targets:
            self._answer()
            return
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.deadline_s, self._time_is_up)
            self.connection.on_close(self._finish)
            self.broker.fetch_sessions.waiting[self._time_is_up] = None
        self.wanted.wait(self.min_bytes - self.size, self.run)

    def _time_is_up(self) -> None:
        self.waited = True
        self.wanted.stop_waiting()
        self.run()

    def _finish(self) -> None:
        """Nothing more will happen to this request."""
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
            self.connection.forget_on_close(self._finish)
            self.broker.fetch_sessions.waiting.pop(self._time_is_up, None)
        if self.session is None or self.session.ended:
            self.wanted.close()
        else:
            self.wanted.stop_waiting()

    def _answer(self) -> None:
        if self.done:
            return
        self._finish()
        topics: dict[TopicKey, list[FetchedPartition]] = {}
        dirty, late = self.wanted.dirty, set(self.late)
        for target, result in self.results.items():
            _, code, end, _, start, _, _, size = result
            if self.full or size or code or end != target.sent_end or start != target.sent_start:
                topics.setdefault(target.topic, []).append(result)
                target.sent_end, target.sent_start = end, start
            if (size or target in late) and target in dirty:
                # It may have more: its turn comes again, after all others.
                del dirty[target]
                dirty[target] = None
        self.broker.metrics.fetched_bytes += self.size
        session_id = 0 if self.session is None else self.session.id
        self.reply.send(encode_fetch_response(self.version, list(topics.items()), session_id=session_id))


async def _settled(container: Container) -> None:
    """Wait until what is being appended now is durable, or never will be; not longer than `GIVE_WAY_S`."""
    with contextlib.suppress(TimeoutError, StorageFailure):
        async with asyncio.timeout(GIVE_WAY_S):
            await container.all_durable()


def _aborted(overlapping: Sequence[Aborted]) -> list[tuple[int, int]]:
    """What read_committed clients skip: producer ids, and from which offset on."""
    return [(transaction.writer_id, transaction.first) for transaction in sorted(overlapping, key=_first)]


def _refusal(target: Target) -> int:
    """Kafka's error code for a partition that cannot be read from, else 0."""
    slot = target.slot
    if slot is None or slot.stream.deleted:
        return UNKNOWN_TOPIC_OR_PARTITION if isinstance(target.topic, str) else UNKNOWN_TOPIC_ID
    if target.leader_epoch >= 0 and target.leader_epoch != slot.leader_epoch:
        return FENCED_LEADER_EPOCH if target.leader_epoch < slot.leader_epoch else UNKNOWN_LEADER_EPOCH
    if not slot.start <= target.offset <= slot.end:
        return OFFSET_OUT_OF_RANGE
    return 0


def fetch(connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
    """Answer a Fetch, now or when there is enough. Raises MalformedRequest."""
    version = header.api_version
    request = request_codec(KEY, version).decode(body)
    if (request.replica_state.replica_id if version >= REPLICA_STATE_SINCE else request.replica_id) >= 0:
        reply.send(_refuse_replica(version, request))
        return
    running = _Fetch(connection, version, request, reply)
    try:
        running.read_request(request)
    except SessionError as error:
        reply.send(encode_fetch_response(version, [], error_code=error.error_code))
        return
    running.run()


def _refuse_replica(version: int, request: Message) -> list[Any]:
    """Nobody replicates from here: a fetch that says it is a replica's must not move anything."""
    topics: list[tuple[TopicKey, list[FetchedPartition]]] = [
        (
            topic.topic_id if version >= TOPIC_IDS_SINCE else topic.topic,
            [(p.partition, NOT_LEADER_OR_FOLLOWER, -1, -1, -1, None, (), 0) for p in topic.partitions],
        )
        for topic in request.topics
    ]
    return list(encode_fetch_response(version, topics))


API: Final = Api(key=KEY, name="Fetch", versions=range(4, 19), handle_raw=fetch)
