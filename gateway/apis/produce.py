"""Produce (key 0), versions 3-13. The hot path: no task, no await; the answer leaves when the log has synced.

Keeps: a partition is answered without error only after its entry is durable, or because it is a duplicate of one
that is; entries of one slot are appended in the order in which requests arrived. One batch a partition, magic 2
(KIP-98); the batch's bytes stay the client's own, save base offset and leader epoch, which its CRC does not cover, and
save what `gateway.records.adaptation` lists.

A batch whose records have to be gone through is opened here while that is little work, else by
`gateway.records.openers`; until then nothing further of its connection is begun, as Kafka handles a connection's
requests one after another. What is waited for is the batch alone: everything that may have changed meanwhile (topic,
writer, transaction) is looked at after it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import NotHosted, SequenceGap, StaleWriterEpoch, StorageFailure, StorageFull, StreamSealed
from core.log.format import IN_TRANSACTION
from core.streams.writers import Duplicate
from gateway.apis import Api
from gateway.kafka_configs.topic_config import TopicConfig, config_of
from gateway.records.adaptation import adapt_batch, is_plain, stamp
from gateway.records.openers import LeavesLoop
from gateway.records.record_batch import INVALID_RECORD, LENGTH_PREFIX_BYTES, PLACE, TRANSACTIONAL, ZSTD, validate_batch
from gateway.transactions.writes import ADDED_BY_WRITING_SINCE, TransactionalWrites
from gateway.wire.errors import InvalidBatch
from gateway.wire.produce_request import ProducedData, decode_produce, without_repetitions
from gateway.wire.responses import ProducedPartition, TopicKey, encode_produce_response

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot, Stream
    from gateway.broker import Broker
    from gateway.metrics.counters import Metrics
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.records.openers import Pace
    from gateway.records.record_batch import BatchHeader
    from gateway.wire.headers import RequestHeader

logger = logging.getLogger(__name__)

# Kafka's error codes, as numbers: kio's enum is loaded with the first schema, not on the hot path.
UNKNOWN_SERVER_ERROR: Final = -1
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
NOT_LEADER_OR_FOLLOWER: Final = 6
NOT_ENOUGH_REPLICAS: Final = 19
INVALID_REQUIRED_ACKS: Final = 21
POLICY_VIOLATION: Final = 44
OUT_OF_ORDER_SEQUENCE_NUMBER: Final = 45
INVALID_PRODUCER_EPOCH: Final = 47
INVALID_TXN_STATE: Final = 48
TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Final = 53
KAFKA_STORAGE_ERROR: Final = 56
UNSUPPORTED_COMPRESSION_TYPE: Final = 76
UNKNOWN_TOPIC_ID: Final = 100

ZSTD_SINCE: Final = 7

RECORD_ERRORS_MAX: Final = 10_000
"""Single records that one answer names as reasons, over all its partitions: more take long to encode."""


class _Unopened(NamedTuple):
    """A batch that is opened off the loop, and where its result belongs."""

    batch: BatchHeader
    records: memoryview
    config: TopicConfig
    topic: TopicKey
    slot: Slot
    results: list[ProducedPartition]
    place: int


class _Request:
    """One Produce request on its way: what each partition will be answered, and how many appends are not durable."""

    __slots__ = (
        "acks",
        "connection",
        "failed",
        "outstanding",
        "record_errors_left",
        "reply",
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
        self.outstanding = 1  # this request's own hold, until all of it was looked at
        self.failed = False
        self.throttle_ms = 0
        self.record_errors_left = RECORD_ERRORS_MAX
        self.topics: list[tuple[TopicKey, list[ProducedPartition]]] = []
        self.writes: TransactionalWrites | None = None  # of a request that names a transactional id
        self.unopened: deque[_Unopened] | None = None  # batches that are opened off the loop, in order

    def appended(self) -> None:
        self.outstanding -= 1
        if not self.outstanding:
            self._answer()

    def refused(self, slot: Slot, error: InvalidBatch) -> ProducedPartition:
        """What a partition is answered whose batch is not stored."""
        told = error.record_errors[: self.record_errors_left]
        self.record_errors_left -= len(told)
        return slot.number, error.error_code, -1, -1, slot.start, told, error.reason

    def append_failed(self, error: StorageFailure) -> None:
        self.failed = True
        self.appended()

    def _answer(self) -> None:
        if self.failed:
            self.topics = [(topic, [_storage_failed(p) for p in partitions]) for topic, partitions in self.topics]
        if self.throttle_ms:
            self.connection.mute(self.throttle_ms)
        if self.acks:
            self.reply.send([encode_produce_response(self.version, self.topics, self.throttle_ms)])
        elif any(partition[1] for _, partitions in self.topics for partition in partitions):
            code = next(p[1] for _, partitions in self.topics for p in partitions if p[1])
            self.reply.close(f"a Produce with acks=0 was refused with error {code}")
        else:
            self.reply.none()


def _storage_failed(partition: ProducedPartition) -> ProducedPartition:
    return partition if partition[1] else (partition[0], KAFKA_STORAGE_ERROR, -1, -1, -1)


def produce(connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
    """Append every batch of a request; answer once all are durable. Raises MalformedRequest."""
    data = decode_produce(body, header.api_version)
    if connection.held is None:
        _produce(connection, reply, header.api_version, data)
    else:
        connection.held.append(partial(_produce_held, connection, reply, header.api_version, data))


def _produce_held(connection: Connection, reply: ResponseSlot, version: int, data: ProducedData) -> None:
    """Its turn has come."""
    try:
        _produce(connection, reply, version, data)
    except Exception:
        logger.exception("Produce v%d failed", version)
        if not reply.answered:
            reply.close("the handler failed")


def _produce(connection: Connection, reply: ResponseSlot, version: int, data: ProducedData) -> None:
    transactional_id, acks, _, topics = data
    broker: Broker = connection.broker
    request = _Request(connection, reply, version, acks)
    if len(topics) > 1 or (topics and len(topics[0][1]) > 1):
        topics = without_repetitions(topics)
    refused = 0
    if acks not in (-1, 0, 1):
        refused = INVALID_REQUIRED_ACKS
    elif transactional_id is not None:
        request.writes = TransactionalWrites(broker.transactions, transactional_id, version)
        if version >= ADDED_BY_WRITING_SINCE:
            request.writes.add_partitions(topics, lambda topic: _stream(broker, topic))
    now_ms = time.time_ns() // 1_000_000
    refusals = 0
    for topic, partitions in topics:
        results: list[ProducedPartition] = []
        request.topics.append((topic, results))
        stream = _stream(broker, topic)
        for index, records in partitions:
            if refused:
                results.append((index, refused, -1, -1, -1))
            elif stream is None:
                results.append(_unknown_topic(topic, index))
            else:
                results.append(_append(request, stream, topic, index, records, now_ms, results))
            if results[-1][1]:
                refusals += 1
    if request.unopened is not None:
        _hold(request)
        return
    if refusals:
        _report(request, refusals)
    request.appended()


def _unknown_topic(topic: TopicKey, index: int) -> ProducedPartition:
    return index, UNKNOWN_TOPIC_OR_PARTITION if isinstance(topic, str) else UNKNOWN_TOPIC_ID, -1, -1, -1


def _hold(request: _Request) -> None:
    """Begin nothing more of the connection until the request's batches are open."""
    request.connection.hold()
    task = asyncio.get_running_loop().create_task(_open(request), name="produce-opening")
    broker: Broker = request.connection.broker
    broker.openers.keep(task)


async def _open(request: _Request) -> None:
    """Open the batches that were left, one after another, append each; then go on with the connection."""
    broker: Broker = request.connection.broker
    unopened = request.unopened
    assert unopened is not None
    now_ms = time.time_ns() // 1_000_000
    try:
        while unopened:
            one = unopened.popleft()
            one.results[one.place] = await _opened(request, broker, one, now_ms)
        refusals = sum(1 for _, partitions in request.topics for partition in partitions if partition[1])
        if refusals:
            _report(request, refusals)
        request.appended()
    finally:
        request.connection.go_on()


async def _opened(request: _Request, broker: Broker, one: _Unopened, now_ms: int) -> ProducedPartition:
    """Open one batch off the loop and append it, if its topic is still there."""
    slot, index = one.slot, one.slot.number

    def adapt(pace: Pace) -> tuple[BatchHeader, memoryview]:
        return adapt_batch(one.batch, one.records, one.config, now_ms, pace)

    try:
        batch, records = await broker.openers.run(adapt)
    except InvalidBatch as error:
        return request.refused(slot, error)
    except Exception:
        logger.exception("a batch could not be opened", extra={"topic": one.topic, "partition": index})
        return index, UNKNOWN_SERVER_ERROR, -1, -1, -1
    if _stream(broker, one.topic) is not slot.stream:
        return _unknown_topic(one.topic, index)
    try:
        container = broker.store.hosted(slot).container
    except NotHosted as elsewhere:
        return index, NOT_LEADER_OR_FOLLOWER, -1, -1, -1, [], str(elsewhere)
    return _store(request, container, slot, index, batch, records, one.config)


def _report(request: _Request, refusals: int) -> None:
    """One line for a request of which something was refused: with the first reason, because its client may hide it."""
    topic, refused = next((topic, p) for topic, partitions in request.topics for p in partitions if p[1])
    peer = request.connection
    facts = {
        "topic": topic,
        "partition": refused[0],
        "error": refused[1],
        "reason": refused[6] if len(refused) > 6 else "",
        "partitions_refused": refusals,
        "peer": f"{peer.peer_host}:{peer.peer_port}",
        "client": peer.client_id,
    }
    logger.warning("produce refused", extra=facts)


def _stream(broker: Broker, topic: TopicKey) -> Stream | None:
    if isinstance(topic, str):
        return broker.topics.get(topic)
    return None if topic is None else broker.topics.by_uuid(topic)


def _hold_up(request: _Request, container: Container, size: int) -> None:
    """The log is nearly full: nothing more is taken from this connection for a while."""
    metrics: Metrics = request.connection.broker.metrics
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
    """Append one partition's batch, or say why not, or leave it for later; the result is the next of `results`."""
    broker: Broker = request.connection.broker
    try:
        slot = stream.slot(index)
        container = broker.store.hosted(slot).container
    except IndexError:
        return index, UNKNOWN_TOPIC_OR_PARTITION, -1, -1, -1
    except NotHosted as elsewhere:
        return index, NOT_LEADER_OR_FOLLOWER, -1, -1, -1, [], str(elsewhere)
    if container.throttle.is_on:
        _hold_up(request, container, len(records or b""))
    config = config_of(stream)
    try:
        batch = validate_batch(records, config.max_message_bytes)
        assert records is not None
        if batch.attributes & 7 == ZSTD and request.version < ZSTD_SINCE:
            raise InvalidBatch(UNSUPPORTED_COMPRESSION_TYPE, "zstd needs Produce version 7")
        if not is_plain(batch, records, config, now_ms):
            try:
                batch, records = adapt_batch(batch, records, config, now_ms, broker.openers.on_loop())
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
    """Append a batch that is as its topic wants it, or say why not."""
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
    except SequenceGap as gap:
        return index, OUT_OF_ORDER_SEQUENCE_NUMBER, -1, -1, slot.start, [], str(gap)
    except StaleWriterEpoch as stale:
        return index, INVALID_PRODUCER_EPOCH, -1, -1, slot.start, [], str(stale)
    except StreamSealed as sealed:
        return index, POLICY_VIOLATION, -1, -1, slot.start, [], str(sealed)
    except StorageFull as full:
        # Retriable in every client, and says that nothing was stored: KAFKA_STORAGE_ERROR leaves that open.
        return index, NOT_ENOUGH_REPLICAS, -1, -1, slot.start, [], str(full)
    except StorageFailure as failure:
        return index, KAFKA_STORAGE_ERROR, -1, -1, slot.start, [], str(failure)
    request.outstanding += 1
    metrics: Metrics = request.connection.broker.metrics
    metrics.produced_batches += 1
    metrics.produced_records += batch.record_count
    metrics.produced_bytes += len(records)
    return index, 0, base, append_time, slot.start


def _flags(request: _Request, slot: Slot, batch: BatchHeader) -> int:
    """Whether a batch belongs to a transaction, for the store. Raises InvalidBatch, StoreError."""
    if not batch.attributes & TRANSACTIONAL:
        if slot.has_open_transaction(batch.producer_id):
            raise InvalidBatch(INVALID_TXN_STATE, "the producer has a transaction open here, and this is no part of it")
        return 0
    if request.writes is None:
        raise InvalidBatch(TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "a transactional batch, and no transactional id")
    if batch.producer_id < 0:
        raise InvalidBatch(INVALID_RECORD, "a transactional batch without a producer id")
    request.writes.check(slot, batch)
    return IN_TRANSACTION


def _duplicate(
    request: _Request, container: Container, slot: Slot, index: int, duplicate: Duplicate, config: TopicConfig
) -> ProducedPartition:
    """Answer as the original was, once that is durable."""
    if duplicate.end > slot.durable_end:
        request.outstanding += 1
        container.when_durable(request)
    append_time = duplicate.timestamp if config.timestamp_type_append else -1
    return index, 0, duplicate.base, append_time, slot.start


API: Final = Api(key=0, name="Produce", versions=range(3, 14), handle_raw=produce, advertise_from=0)
