"""One Produce request on its way: what came of each of its batches, and its answer when the last one is durable.

Keeps: it answers once, or its connection ends. No partition is answered without error while an append of the request is
not durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import StorageFailure
from gateway.apis.shared.leaders import hints_of
from gateway.dispatch.time_quota import time_pause_ms
from gateway.kafka_configs.topic_config import TopicConfig
from gateway.quotas.quotas import PRODUCED
from gateway.transactions.places import Place
from gateway.transactions.writes import TransactionalWrites
from gateway.wire.error_codes import KAFKA_STORAGE_ERROR, NOT_LEADER_OR_FOLLOWER
from gateway.wire.errors import InvalidBatch
from gateway.wire.leader_hints import PRODUCE_SINCE, encode_produce_with_hints
from gateway.wire.responses import ProducedPartition, TopicKey, encode_produce_response

if TYPE_CHECKING:
    from core.streams.live import Slot
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.records.openers import Openers
    from gateway.records.record_batch import BatchHeader
    from gateway.services import Services

logger = logging.getLogger(__name__)

RECORD_ERRORS_MAX: Final = 10_000
"""Faulty records that one answer names, over all its partitions: more would take long to encode."""


class UnopenedBatch(NamedTuple):
    """A batch that is opened off the loop, and the place of its result."""

    batch: BatchHeader
    records: memoryview
    config: TopicConfig
    topic: TopicKey
    slot: Slot
    results: list[ProducedPartition]
    place: int


class ProduceRequest:
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
        "sequenced",
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
        self.unopened: deque[UnopenedBatch] | None = None  # batches that are opened off the loop, in order
        self.sequenced: list[tuple[Slot, BatchHeader]] = []  # appended batches of idempotent producers

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
            try:
                self._answer()
            except Exception:  # who tells of durable appends knows of no connection that could end
                handler_failed(self.reply)

    def refused(self, slot: Slot, error: InvalidBatch) -> ProducedPartition:
        """The answer for a partition whose batch is not stored."""
        told = error.record_errors[: self.record_errors_left]
        self.record_errors_left -= len(told)
        return slot.number, error.error_code, -1, -1, slot.start, told, error.reason

    def note_refused(self, slot: Slot, batch: BatchHeader, code: int) -> None:
        """A batch is answered with this code."""
        place = Place(slot.stream.id, slot.number)
        self.connection.services.refused_batches.note(place, batch, code)

    def append_failed(self, error: StorageFailure) -> None:
        self.failed = True
        self.appended()

    def _answer(self) -> None:
        if self.failed:
            self._tell_failure()
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

    def _tell_failure(self) -> None:
        """Answer each partition that was appended to with an error: its batch may be stored, or not."""
        self.topics = [(topic, [_storage_failed(p) for p in partitions]) for topic, partitions in self.topics]
        for slot, batch in self.sequenced:
            self.note_refused(slot, batch, KAFKA_STORAGE_ERROR)

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
            handler_failed(self.reply)
        else:
            self.reply.send([answer])


def _storage_failed(partition: ProducedPartition) -> ProducedPartition:
    return partition if partition[1] else (partition[0], KAFKA_STORAGE_ERROR, -1, -1, -1)


def handler_failed(reply: ResponseSlot) -> None:
    """A request cannot be answered, and its handler has returned: close the connection, as nothing else does."""
    logger.exception("Produce v%d failed", reply.route.version)
    if not reply.answered:
        reply.close("the handler failed")
