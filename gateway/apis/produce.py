"""Produce (key 0), versions 3-13. The hot path: no task, no await; the answer leaves when the log has synced.

A long request is handled in steps, as a task; other requests have the loop in between. A very long one is also
decoded, and its answer encoded, in the thread of `gateway.records.openers`.

A batch whose records must be read is opened here while that is little work, else by `gateway.records.openers`. Like
Kafka, which handles a connection's requests one after another, we begin no further request of a connection until every
batch of this one was handled. Topic, writer and transaction may change meanwhile: they are looked up at each use.

Keeps: a partition is answered without error only after its entry is durable, or because it is a duplicate of a durable
one; entries of one slot are appended in the order in which requests arrived. A partition gets one batch, of magic 2
(KIP-98); its bytes stay the client's own, except base offset and leader epoch, which its CRC does not cover, and the
changes that `gateway.records.adaptation` lists.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.errors import (
    NotHosted,
    StorageFailure,
    StoreError,
    TooManyWriters,
)
from core.log.format import IN_TRANSACTION
from core.streams.writers import Duplicate
from gateway.apis.shared.leaders import hints_of
from gateway.dispatch.registry import Api
from gateway.dispatch.request_tasks import charge_elements, timed
from gateway.dispatch.route import took
from gateway.dispatch.time_quota import time_pause_ms
from gateway.kafka_configs.topic_config import TopicConfig, config_of
from gateway.network.turns import Stint
from gateway.quotas.quotas import PRODUCED
from gateway.records.adaptation import adapt_batch, is_plain, stamp
from gateway.records.openers import LeavesLoop
from gateway.records.record_batch import LENGTH_PREFIX_BYTES, PLACE, TRANSACTIONAL, ZSTD, validate_batch
from gateway.refusals import Asked, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.writes import TransactionalWrites
from gateway.wire.error_codes import (
    INVALID_RECORD,
    INVALID_REQUIRED_ACKS,
    INVALID_TOPIC_EXCEPTION,
    INVALID_TXN_STATE,
    KAFKA_STORAGE_ERROR,
    NOT_LEADER_OR_FOLLOWER,
    TOPIC_AUTHORIZATION_FAILED,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    UNKNOWN_SERVER_ERROR,
    UNKNOWN_TOPIC_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSUPPORTED_COMPRESSION_TYPE,
)
from gateway.wire.errors import InvalidBatch, MalformedRequest
from gateway.wire.leader_hints import PRODUCE_SINCE, encode_produce_with_hints
from gateway.wire.produce_request import (
    Batches,
    LongRequest,
    ProducedData,
    decode_produce,
    partition_count,
    without_repetitions,
)
from gateway.wire.responses import ProducedPartition, TopicKey, encode_produce_response

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot, Stream
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.records.openers import Openers, Pace
    from gateway.records.record_batch import BatchHeader
    from gateway.security.rights import Rights
    from gateway.services import Services
    from gateway.wire.headers import RequestHeader

logger = logging.getLogger(__name__)


ZSTD_SINCE: Final = 7

ELEMENTS_AT_ONCE_MAX: Final = 4_000
"""Topics and partitions of a request that is decoded on the loop, in some 4 ms."""

PARTITIONS_PER_LOOK: Final = 8
"""Partitions of one topic that are handled between two looks at the clock."""

RECORD_ERRORS_MAX: Final = 10_000
"""Faulty records that one answer names, over all its partitions: more would take long to encode."""

NO_TRANSACTION: Final = "a transactional batch without a transactional id that its client may use"

WRITE, TOPIC, TRANSACTIONAL_ID = Operation.WRITE, ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID


class _Unopened(NamedTuple):
    """A batch that is opened off the loop, and the place of its result."""

    batch: BatchHeader
    records: memoryview
    config: TopicConfig
    topic: TopicKey
    slot: Slot
    results: list[ProducedPartition]
    place: int


class _Request:
    """One Produce request on its way: the answer for each partition, and the number of appends not yet durable."""

    __slots__ = (
        "acks",
        "connection",
        "failed",
        "is_long",
        "outstanding",
        "record_errors_left",
        "refusals",
        "reply",
        "size",
        "throttle_ms",
        "topics",
        "unopened",
        "version",
        "writes",
    )

    def __init__(self, connection: Connection, reply: ResponseSlot, version: int, acks: int) -> None:
        self.connection = connection
        self.reply = reply
        self.version = version
        self.acks = acks
        self.outstanding = 1  # this request's own hold, until every batch was handled
        self.failed = False
        self.refusals = 0
        self.is_long = False  # its answer is encoded in the thread
        self.size = reply.charge  # bytes, as they count for a quota
        self.throttle_ms = 0
        self.record_errors_left = RECORD_ERRORS_MAX
        self.topics: list[tuple[TopicKey, list[ProducedPartition]]] = []
        self.writes: TransactionalWrites | None = None  # of a request that names a transactional id
        self.unopened: deque[_Unopened] | None = None  # batches that are opened off the loop, in order

    def went_through(self) -> None:
        """All batches were handled."""
        if self.refusals:
            self._report()
        self.appended()

    def _report(self) -> None:
        """One log line for a request with refused batches; it gives the first reason, which the client may hide."""
        topic, refused = next((topic, p) for topic, partitions in self.topics for p in partitions if p[1])
        peer = self.connection
        facts = {
            "topic": topic,
            "partition": refused[0],
            "error": refused[1],
            "reason": refused[6] if len(refused) > 6 else "",
            "partitions_refused": self.refusals,
            "peer": f"{peer.peer_host}:{peer.peer_port}",
            "client": peer.client_id,
        }
        logger.warning("produce refused", extra=facts)

    def appended(self) -> None:
        self.outstanding -= 1
        if not self.outstanding:
            self._answer()

    def refused(self, slot: Slot, error: InvalidBatch) -> ProducedPartition:
        """The answer for a partition whose batch is not stored."""
        told = error.record_errors[: self.record_errors_left]
        self.record_errors_left -= len(told)
        return slot.number, error.error_code, -1, -1, slot.start, told, error.reason

    def append_failed(self, error: StorageFailure) -> None:
        self.failed = True
        self.appended()

    def _answer(self) -> None:
        if self.failed:
            self.topics = [(topic, [_storage_failed(p) for p in partitions]) for topic, partitions in self.topics]
        quotas = self.connection.services.quotas
        if quotas.is_on:
            user, client_id = self.connection.principal.name, self.connection.client_id
            paused_ms = quotas.count(PRODUCED, user, client_id, self.size), time_pause_ms(self.connection)
            self.throttle_ms = max(self.throttle_ms, *paused_ms)
        if self.throttle_ms:
            self.connection.mute(self.throttle_ms)
        if self.acks and self.is_long:
            services: Services = self.connection.services
            services.openers.keep(asyncio.get_running_loop().create_task(self._answer_aside(services.openers)))
        elif self.acks:
            self.reply.send([self._encoded()])
        elif any(partition[1] for _, partitions in self.topics for partition in partitions):
            code = next(p[1] for _, partitions in self.topics for p in partitions if p[1])
            self.reply.close(f"a Produce with acks=0 was refused with error {code}")
        else:
            self.reply.none()

    def _encoded(self) -> bytes:
        services = self.connection.services
        if self.version >= PRODUCE_SINCE and not services.nodes.is_alone:
            refused = [
                (topic, told[0])
                for topic, partitions in self.topics
                for told in partitions
                if told[1] == NOT_LEADER_OR_FOLLOWER
            ]
            hints = hints_of(services, self.connection.listener, refused)
            if hints is not None:
                return encode_produce_with_hints(self.version, self.topics, hints, self.throttle_ms)
        return encode_produce_response(self.version, self.topics, self.throttle_ms)

    async def _answer_aside(self, openers: Openers) -> None:
        """Encode the answer in the thread, and free its parts there: freeing many objects takes time."""
        held, self.topics = [self.topics], []
        try:
            answer = await openers.run(lambda pace: encode_produce_response(self.version, held.pop(), self.throttle_ms))
        except Exception:
            _failed(self.reply)
        else:
            self.reply.send([answer])


def _storage_failed(partition: ProducedPartition) -> ProducedPartition:
    return partition if partition[1] else (partition[0], KAFKA_STORAGE_ERROR, -1, -1, -1)


def produce(connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
    """Append every batch of a request; answer once all are durable. Raises MalformedRequest."""
    version = header.api_version
    try:
        data = decode_produce(body, version, ELEMENTS_AT_ONCE_MAX)
    except LongRequest:
        if connection.held is None:
            _produce_long(connection, reply, body)
        else:
            connection.held.append(partial(_produce_long, connection, reply, body))
        return
    if connection.held is None:
        _produce(connection, reply, data)
    else:
        connection.held.append(partial(_produce_held, connection, reply, data))


def _produce_long(connection: Connection, reply: ResponseSlot, body: memoryview) -> None:
    _hold(connection, reply, _read_aside(connection, reply, body))


def _produce_held(connection: Connection, reply: ResponseSlot, data: ProducedData) -> None:
    """Handle a request that waited: its turn has come."""
    began_s = time.perf_counter()
    try:
        _produce(connection, reply, data)
    except Exception:
        _failed(reply)
    took(connection, reply.route, time.perf_counter() - began_s, reply.charge)


def _failed(reply: ResponseSlot) -> None:
    """The handler of a request that had to wait has failed: close the connection, as nothing else answers it."""
    logger.exception("Produce v%d failed", reply.route.version)
    if not reply.answered:
        reply.close("the handler failed")


def _produce(connection: Connection, reply: ResponseSlot, data: ProducedData) -> None:
    """Handle a request, in this turn if that is short and no batch is opened off the loop."""
    transactional_id, acks, _, topics = data
    request = _Request(connection, reply, reply.route.version, acks)
    stint = None
    if len(topics) > 1 or (topics and len(topics[0][1]) > 1):
        topics = without_repetitions(topics)
        stint = Stint(connection.turns, connection.party)
    steps = _steps(request, transactional_id, topics, stint)
    for first in steps:
        _hold(connection, reply, _go_on(request, steps, stint, first))
        return
    if request.unopened is not None:
        _hold(connection, reply, _go_on(request, steps, None))
        return
    request.went_through()


def _steps(
    request: _Request, transactional_id: str | None, topics: Batches, stint: Stint | None
) -> Generator[Awaitable[None] | None, None, None]:
    """Append or refuse each batch. Yields None when the stint is over, and what must be waited for before it goes on:
    anything may have changed then."""
    services = request.connection.services
    refused = 0
    if request.acks not in (-1, 0, 1):
        refused = INVALID_REQUIRED_ACKS
    rights = None if services.authorizer is None else services.authorizer.rights_of(request.connection)
    if refused or transactional_id is None:
        pass
    elif rights is None or rights.may(WRITE, TRANSACTIONAL_ID, transactional_id, API.name):
        request.writes = TransactionalWrites(services.transactions, transactional_id, request.version)
        for question in request.writes.preparing(topics, lambda topic: _writable(services, rights, topic)):
            if question is not None:
                yield question
            elif stint is not None and stint.is_over:
                yield None
    now_ms = time.time_ns() // 1_000_000
    for topic, partitions in topics:
        results: list[ProducedPartition] = []
        request.topics.append((topic, results))
        stream = _stream(services, topic)
        is_denied = rights is not None and not _may_write(rights, topic, stream)
        for index, records in partitions:
            if stint is not None and not len(results) % PARTITIONS_PER_LOOK and stint.is_over:
                yield None
                now_ms = time.time_ns() // 1_000_000
                stream = _stream(services, topic)
            if refused:
                results.append((index, refused, -1, -1, -1))
            elif is_denied:
                results.append((index, TOPIC_AUTHORIZATION_FAILED, -1, -1, -1))
            elif stream is None:
                results.append(_unknown_topic(services, topic, index))
            else:
                results.append(_append(request, stream, topic, index, records, now_ms, results))
            if results[-1][1]:
                request.refusals += 1


def _may_write(rights: Rights, topic: TopicKey, stream: Stream | None) -> bool:
    """Asked before a name is told to be unknown; an id that is unknown tells nothing."""
    if isinstance(topic, str):
        return rights.may(WRITE, TOPIC, topic, API.name)
    return stream is None or rights.may(WRITE, TOPIC, stream.name, API.name)


def _unknown_topic(services: Services, topic: TopicKey, index: int) -> ProducedPartition:
    if services.internal_topics.find(topic) is not None:
        return index, INVALID_TOPIC_EXCEPTION, -1, -1, -1
    return index, UNKNOWN_TOPIC_OR_PARTITION if isinstance(topic, str) else UNKNOWN_TOPIC_ID, -1, -1, -1


def _hold(connection: Connection, reply: ResponseSlot, rest: Coroutine[Any, Any, None]) -> None:
    """Handle the rest of the request as a task; begin nothing further of the connection until that is done."""
    connection.hold()
    running = _until_gone_through(connection, reply, rest)
    task = asyncio.get_running_loop().create_task(timed(running, connection, reply.route, reply.charge))
    services = connection.services
    services.openers.keep(task)


async def _until_gone_through(connection: Connection, reply: ResponseSlot, rest: Coroutine[Any, Any, None]) -> None:
    try:
        await rest
    except Exception:
        _failed(reply)
    finally:
        connection.go_on()


async def _read_aside(connection: Connection, reply: ResponseSlot, body: memoryview) -> None:
    """Decode a long request in the thread, then handle it in steps."""
    services = connection.services
    try:
        (transactional_id, acks, _, topics), elements = await services.openers.run(
            lambda pace: _read_long(body, reply.route.version)
        )
    except MalformedRequest as error:
        reply.close(f"malformed: {error}")
        return
    charge_elements(reply, elements)
    request = _Request(connection, reply, reply.route.version, acks)
    request.is_long = True
    stint = Stint(connection.turns, connection.party)
    await _go_on(request, _steps(request, transactional_id, topics, stint), stint)


def _read_long(body: memoryview, version: int) -> tuple[ProducedData, int]:
    """The request, and its number of topics and partitions. Raises MalformedRequest."""
    transactional_id, acks, timeout_ms, topics = decode_produce(body, version)
    elements = len(topics) + partition_count(topics)
    return (transactional_id, acks, timeout_ms, without_repetitions(topics)), elements


async def _go_on(
    request: _Request,
    steps: Iterator[Awaitable[None] | None],
    stint: Stint | None,
    first: Awaitable[None] | None = None,
) -> None:
    """Handle the rest of a request, giving way or waiting between its steps, before all at `first`; then the batches
    that are opened off the loop."""
    await _pause(stint, first)
    for question in steps:
        await _pause(stint, question)
    if request.unopened is not None:
        await _open(request, request.unopened)
    request.went_through()


async def _pause(stint: Stint | None, question: Awaitable[None] | None) -> None:
    if question is not None:
        await question
    elif stint is not None:
        await stint.give_way()


async def _open(request: _Request, unopened: deque[_Unopened]) -> None:
    """Open the batches that were left for later, one after another, and append each."""
    services = request.connection.services
    now_ms = time.time_ns() // 1_000_000
    while unopened:
        one = unopened.popleft()
        result = one.results[one.place] = await _opened(request, services, one, now_ms)
        if result[1]:
            request.refusals += 1


async def _opened(request: _Request, services: Services, one: _Unopened, now_ms: int) -> ProducedPartition:
    """Open one batch off the loop and append it, if its topic is still there."""
    slot, index = one.slot, one.slot.number

    def adapt(pace: Pace) -> tuple[BatchHeader, memoryview]:
        return adapt_batch(one.batch, one.records, one.config, now_ms, services.validates_fully, pace)

    try:
        batch, records = await services.openers.run(adapt)
    except InvalidBatch as error:
        return request.refused(slot, error)
    except Exception:
        logger.exception("a batch could not be opened", extra={"topic": one.topic, "partition": index})
        return index, UNKNOWN_SERVER_ERROR, -1, -1, -1
    if _stream(services, one.topic) is not slot.stream:
        return _unknown_topic(services, one.topic, index)
    try:
        container = services.store.hosted(slot).container
    except NotHosted as elsewhere:
        return _not_here(index, elsewhere)
    return _store(request, container, slot, index, batch, records, one.config)


def _not_here(index: int, elsewhere: NotHosted) -> ProducedPartition:
    return index, code_of(elsewhere, Asked.APPEND), -1, -1, -1, [], str(elsewhere)


def _stream(services: Services, topic: TopicKey) -> Stream | None:
    if isinstance(topic, str):
        return services.topics.get(topic)
    return None if topic is None else services.topics.by_uuid(topic)


def _writable(services: Services, rights: Rights | None, topic: TopicKey) -> Stream | None:
    """The topic, if it exists and the client may write to it."""
    stream = _stream(services, topic)
    return None if stream is None or (rights is not None and not rights.has(WRITE, TOPIC, stream.name)) else stream


def _hold_up(request: _Request, container: Container, size: int) -> None:
    """The log is nearly full: read nothing more from this connection for a while."""
    metrics = request.connection.services.metrics
    metrics.throttled_requests += not request.throttle_ms
    hold_s = container.throttle.hold_s(container.clock.monotonic_s(), size)
    request.throttle_ms = max(request.throttle_ms, math.ceil(1000 * hold_s))


def _append(
    request: _Request,
    stream: Stream,
    topic: TopicKey,
    index: int,
    records: memoryview | None,
    now_ms: int,
    results: list[ProducedPartition],
) -> ProducedPartition:
    """Append one partition's batch, refuse it, or leave it for later; the result is the next of `results`."""
    services = request.connection.services
    try:
        slot = stream.slot(index)
        container = services.store.hosted(slot).container
    except IndexError:
        return index, UNKNOWN_TOPIC_OR_PARTITION, -1, -1, -1
    except NotHosted as elsewhere:
        return _not_here(index, elsewhere)
    if container.throttle.is_on:
        _hold_up(request, container, len(records or b""))
    config = config_of(stream)
    try:
        batch = validate_batch(records, config.max_message_bytes)
        assert records is not None
        if batch.attributes & 7 == ZSTD and request.version < ZSTD_SINCE:
            raise InvalidBatch(UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7")
        full = services.validates_fully
        if not is_plain(batch, records, config, now_ms, full):
            try:
                batch, records = adapt_batch(batch, records, config, now_ms, full, services.openers.on_loop())
            except LeavesLoop:
                if request.unopened is None:
                    request.unopened = deque()
                request.unopened.append(_Unopened(batch, records, config, topic, slot, results, len(results)))
                return index, 0, -1, -1, -1
    except InvalidBatch as error:
        return request.refused(slot, error)
    return _store(request, container, slot, index, batch, records, config)


def _store(
    request: _Request,
    container: Container,
    slot: Slot,
    index: int,
    batch: BatchHeader,
    records: memoryview,
    config: TopicConfig,
) -> ProducedPartition:
    """Append a batch that is in its topic's form, or refuse it."""
    append_time = -1
    try:
        if config.timestamp_type_append:
            append_time = time.time_ns() // 1_000_000
            batch = stamp(batch, records, append_time)
        if batch.producer_id >= 0:
            duplicate = container.check_writer(
                slot, batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.record_count
            )
            if duplicate is not None:
                return _duplicate(request, container, slot, index, duplicate, config)
            if slot.writers is None or batch.producer_id not in slot.writers:
                request.connection.services.new_producers.admit(request.connection.peer_host)
        flags = 0
        if batch.attributes & TRANSACTIONAL or slot.transactions is not None:
            flags = _flags(request, slot, batch)
        base = slot.end
        PLACE.pack_into(records, 0, base, len(records) - LENGTH_PREFIX_BYTES, container.epoch)
        container.append(
            slot,
            records,
            batch.record_count,
            batch.max_timestamp,
            request,
            batch.producer_id,
            batch.producer_epoch,
            batch.base_sequence,
            flags,
        )
    except InvalidBatch as error:
        return request.refused(slot, error)
    except StoreError as error:
        why = f"{error} (producer.states.max)" if isinstance(error, TooManyWriters) else str(error)
        return index, code_of(error, Asked.APPEND), -1, -1, slot.start, [], why
    request.outstanding += 1
    metrics = request.connection.services.metrics
    metrics.produced_batches += 1
    metrics.produced_records += batch.record_count
    metrics.produced_bytes += len(records)
    return index, 0, base, append_time, slot.start


def _flags(request: _Request, slot: Slot, batch: BatchHeader) -> int:
    """Whether a batch belongs to a transaction, for the store. Raises InvalidBatch, StoreError."""
    if not batch.attributes & TRANSACTIONAL:
        if slot.has_open_transaction(batch.producer_id):
            raise InvalidBatch(INVALID_TXN_STATE, "a batch outside the transaction that its producer has open here")
        return 0
    if request.writes is None:
        raise InvalidBatch(TRANSACTIONAL_ID_AUTHORIZATION_FAILED, NO_TRANSACTION)
    if batch.producer_id < 0:
        raise InvalidBatch(INVALID_RECORD, "a transactional batch without a producer id")
    request.writes.check(slot, batch)
    return IN_TRANSACTION


def _duplicate(
    request: _Request, container: Container, slot: Slot, index: int, duplicate: Duplicate, config: TopicConfig
) -> ProducedPartition:
    """Answer as for the original, once that is durable."""
    if duplicate.end > slot.durable_end:
        request.outstanding += 1
        container.when_durable(request)
    append_time = duplicate.timestamp if config.timestamp_type_append else -1
    return index, 0, duplicate.base, append_time, slot.start


API: Final = Api(key=0, name="Produce", versions=range(3, 14), handle_raw=produce, advertise_from=0)
