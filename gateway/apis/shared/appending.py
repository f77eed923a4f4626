"""Each batch of a Produce request: checked, brought into its topic's form, appended or refused.

Keeps: a batch's bytes stay the client's own, except base offset and leader epoch, which its CRC does not cover, and the
changes that `gateway.records.adaptation` lists. Topic, container, writer and transaction may change while a batch is
opened off the loop: they are looked up again before it is appended.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from core.errors import NotHosted, SequenceGap, StoreError, TooManyWriters
from core.log.format import IN_TRANSACTION
from core.streams.writers import Duplicate
from gateway.apis.shared.producing import ProduceRequest, UnopenedBatch
from gateway.kafka_configs.topic_config import TopicConfig, config_of
from gateway.records.adaptation import adapt_batch, is_plain, stamp
from gateway.records.openers import LeavesLoop
from gateway.records.record_batch import (
    HEADER_BYTES,
    LENGTH_PREFIX_BYTES,
    PLACE,
    TRANSACTIONAL,
    ZSTD,
    read_header,
    validate_batch,
)
from gateway.refusals import Asked, code_of
from gateway.transactions.places import Place
from gateway.wire.error_codes import (
    INVALID_RECORD,
    INVALID_TOPIC_EXCEPTION,
    INVALID_TXN_STATE,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    UNKNOWN_SERVER_ERROR,
    UNKNOWN_TOPIC_ID,
    UNKNOWN_TOPIC_OR_PARTITION,
    UNSUPPORTED_COMPRESSION_TYPE,
)
from gateway.wire.errors import InvalidBatch
from gateway.wire.responses import ProducedPartition, TopicKey

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot, Stream
    from gateway.records.openers import Pace
    from gateway.records.record_batch import BatchHeader
    from gateway.services import Services

logger = logging.getLogger(__name__)

ZSTD_SINCE: Final = 7

NO_TRANSACTION: Final = "a transactional batch without a transactional id that its client may use"


def stream_of(services: Services, topic: TopicKey) -> Stream | None:
    if isinstance(topic, str):
        return services.topics.get(topic)
    return None if topic is None else services.topics.by_uuid(topic)


def unknown_topic(services: Services, topic: TopicKey, index: int) -> ProducedPartition:
    if services.internal_topics.find(topic) is not None:
        return index, INVALID_TOPIC_EXCEPTION, -1, -1, -1
    return index, UNKNOWN_TOPIC_OR_PARTITION if isinstance(topic, str) else UNKNOWN_TOPIC_ID, -1, -1, -1


def _hold_up(request: ProduceRequest, container: Container, size: int) -> None:
    """The log is nearly full: read nothing more from this connection for a while."""
    metrics = request.connection.services.metrics
    metrics.throttled_requests += not request.throttle_ms
    hold_s = container.throttle.hold_s(container.clock.monotonic_s(), size)
    request.throttle_ms = max(request.throttle_ms, math.ceil(1000 * hold_s))


def append_batch(
    request: ProduceRequest,
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
        return _not_here(request, slot, records, elsewhere)
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
                request.unopened.append(UnopenedBatch(batch, records, config, topic, slot, results, len(results)))
                return index, 0, -1, -1, -1
    except InvalidBatch as error:
        return request.refused(slot, error)
    return _store(request, container, slot, index, batch, records, config)


def _store(
    request: ProduceRequest,
    container: Container,
    slot: Slot,
    index: int,
    batch: BatchHeader,
    records: memoryview,
    config: TopicConfig,
) -> ProducedPartition:
    """Append a batch that is in its topic's form, or refuse it."""
    services = request.connection.services
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
            writer = None if slot.writers is None else slot.writers.get(batch.producer_id)
            if writer is None or writer.has_gap:
                services.refused_batches.check_first(Place(slot.stream.id, slot.number), batch)
            if writer is None:
                services.new_producers.admit(request.connection.peer_host)
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
        request.note_refused(slot, batch, error.error_code)
        return request.refused(slot, error)
    except StoreError as error:
        return _not_taken(request, slot, batch, error)
    request.outstanding += 1
    if batch.producer_id >= 0:
        request.sequenced.append((slot, batch))
    metrics = services.metrics
    metrics.produced_batches += 1
    metrics.produced_records += batch.record_count
    metrics.produced_bytes += len(records)
    return index, 0, base, append_time, slot.start


def _flags(request: ProduceRequest, slot: Slot, batch: BatchHeader) -> int:
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
    request: ProduceRequest, container: Container, slot: Slot, index: int, duplicate: Duplicate, config: TopicConfig
) -> ProducedPartition:
    """Answer as for the original, once that is durable."""
    if duplicate.end > slot.durable_end:
        request.outstanding += 1
        container.when_durable(request)
    append_time = duplicate.timestamp if config.timestamp_type_append else -1
    return index, 0, duplicate.base, append_time, slot.start


async def open_batches(request: ProduceRequest, unopened: deque[UnopenedBatch]) -> None:
    """Open the batches that were left for later, one after another, and append each."""
    services = request.connection.services
    now_ms = time.time_ns() // 1_000_000
    while unopened:
        one = unopened.popleft()
        result = one.results[one.place] = await _opened(request, services, one, now_ms)
        if result[1]:
            request.refusals += 1


async def _opened(request: ProduceRequest, services: Services, one: UnopenedBatch, now_ms: int) -> ProducedPartition:
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
    stream = stream_of(services, one.topic)
    if stream is None or stream is not slot.stream:
        return unknown_topic(services, one.topic, index)
    slot = stream.slot(index)  # what the container has that it is in now: the one before knows no outcomes any more
    try:
        container = services.store.hosted(slot).container
    except NotHosted as elsewhere:
        return _not_here(request, slot, one.records, elsewhere)
    return _store(request, container, slot, index, batch, records, one.config)


def _not_taken(request: ProduceRequest, slot: Slot, batch: BatchHeader, error: StoreError) -> ProducedPartition:
    """The answer for a batch that the store refuses."""
    code: int | None = None
    why = str(error)
    if isinstance(error, SequenceGap):
        refused = request.connection.services.refused_batches
        code = refused.code_behind(Place(slot.stream.id, slot.number), batch, error.expected)
        why += ", which was refused" if code is not None else ""
    elif isinstance(error, TooManyWriters):
        why += " (producer.states.max)"
    if code is None:
        code = code_of(error, Asked.APPEND)
        request.note_refused(slot, batch, code)
    return slot.number, code, -1, -1, slot.start, [], why


def _not_here(
    request: ProduceRequest, slot: Slot, records: memoryview | None, elsewhere: NotHosted
) -> ProducedPartition:
    """The answer for a batch of a partition that is not here. It was not checked."""
    code = code_of(elsewhere, Asked.APPEND)
    if records is not None and len(records) >= HEADER_BYTES:
        request.note_refused(slot, read_header(records), code)
    return slot.number, code, -1, -1, -1, [], str(elsewhere)
