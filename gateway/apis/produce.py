"""Produce (key 0), versions 3-13. The hot path: no task, no await; the answer leaves when the log has synced.

A long request is handled in steps, as a task; other requests have the loop in between. A very long one is also
decoded, and its answer encoded, in the thread of `gateway.records.openers`.

A batch whose records must be read is opened here while that is little work, else by `gateway.records.openers`. Like
Kafka, which handles a connection's requests one after another, we begin no further request of a connection until every
batch of this one was handled.

Keeps: a partition is answered without error only after its entry is durable, or because it is a duplicate of a durable
one; entries of one slot are appended in the order in which requests arrived. A partition gets one batch (KIP-98).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.apis.shared.appending import append_batch, open_batches, stream_of, unknown_topic
from gateway.apis.shared.producing import ProduceRequest, handler_failed
from gateway.dispatch.registry import Api
from gateway.dispatch.request_tasks import charge_elements, timed
from gateway.dispatch.route import took
from gateway.network.turns import Stint
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.writes import TransactionalWrites
from gateway.wire.error_codes import INVALID_REQUIRED_ACKS, TOPIC_AUTHORIZATION_FAILED
from gateway.wire.errors import MalformedRequest
from gateway.wire.produce_request import (
    Batches,
    LongRequest,
    ProducedData,
    decode_produce,
    partition_count,
    without_repetitions,
)
from gateway.wire.responses import ProducedPartition, TopicKey

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.security.rights import Rights
    from gateway.services import Services
    from gateway.wire.headers import RequestHeader

ELEMENTS_AT_ONCE_MAX: Final = 4_000
"""Topics and partitions of a request that is decoded on the loop, in some 4 ms."""

PARTITIONS_PER_LOOK: Final = 8
"""Partitions of one topic that are handled between two looks at the clock."""

WRITE, TOPIC, TRANSACTIONAL_ID = Operation.WRITE, ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID


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
    connection.party.began_s = began_s = time.perf_counter()
    try:
        _produce(connection, reply, data)
    except Exception:
        handler_failed(reply)
    took(connection, reply.route, time.perf_counter() - began_s, reply.charge)


def _produce(connection: Connection, reply: ResponseSlot, data: ProducedData) -> None:
    """Handle a request, in this turn if that is short and no batch is opened off the loop."""
    transactional_id, acks, _, topics = data
    request = ProduceRequest(connection, reply, reply.route.version, acks)
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
    request: ProduceRequest, transactional_id: str | None, topics: Batches, stint: Stint | None
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
    if services.vacancies.coming and (coming := _coming(services, topics)):
        yield services.vacancies.filled(coming)
    now_ms = time.time_ns() // 1_000_000
    for topic, partitions in topics:
        results: list[ProducedPartition] = []
        request.topics.append((topic, results))
        stream = stream_of(services, topic)
        is_denied = rights is not None and not _may_write(rights, topic, stream)
        for index, records in partitions:
            if stint is not None and not len(results) % PARTITIONS_PER_LOOK and stint.is_over:
                yield None
                now_ms = time.time_ns() // 1_000_000
                stream = stream_of(services, topic)
            if refused:
                results.append((index, refused, -1, -1, -1))
            elif is_denied:
                results.append((index, TOPIC_AUTHORIZATION_FAILED, -1, -1, -1))
            elif stream is None:
                results.append(unknown_topic(services, topic, index))
            else:
                results.append(append_batch(request, stream, topic, index, records, now_ms, results))
            if results[-1][1]:
                request.refusals += 1


def _coming(services: Services, topics: Batches) -> set[int]:
    """The containers of these partitions that are being opened here: the client was told of it a moment early."""
    streams = ((stream_of(services, topic), partitions) for topic, partitions in topics)
    return services.vacancies.coming & {
        stream.state.container_of_slot(index)
        for stream, partitions in streams
        if stream is not None
        for index, _ in partitions
        if 0 <= index < stream.slot_count
    }


def _writable(services: Services, rights: Rights | None, topic: TopicKey) -> Stream | None:
    """The topic, if it exists and the client may write to it."""
    stream = stream_of(services, topic)
    return None if stream is None or (rights is not None and not rights.has(WRITE, TOPIC, stream.name)) else stream


def _may_write(rights: Rights, topic: TopicKey, stream: Stream | None) -> bool:
    """Asked before a name is told to be unknown; an id that is unknown tells nothing."""
    if isinstance(topic, str):
        return rights.may(WRITE, TOPIC, topic, API.name)
    return stream is None or rights.may(WRITE, TOPIC, stream.name, API.name)


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
        handler_failed(reply)
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
    request = ProduceRequest(connection, reply, reply.route.version, acks)
    request.is_long = True
    stint = Stint(connection.turns, connection.party)
    await _go_on(request, _steps(request, transactional_id, topics, stint), stint)


def _read_long(body: memoryview, version: int) -> tuple[ProducedData, int]:
    """The request, and its number of topics and partitions. Raises MalformedRequest."""
    transactional_id, acks, timeout_ms, topics = decode_produce(body, version)
    elements = len(topics) + partition_count(topics)
    return (transactional_id, acks, timeout_ms, without_repetitions(topics)), elements


async def _go_on(
    request: ProduceRequest,
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
        await open_batches(request, request.unopened)
    request.went_through()


async def _pause(stint: Stint | None, question: Awaitable[None] | None) -> None:
    if question is not None:
        await question
    elif stint is not None:
        await stint.give_way()


API: Final = Api(key=0, name="Produce", versions=range(3, 14), handle_raw=produce, advertise_from=0)
