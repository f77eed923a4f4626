"""DescribeProducers (key 61), version 0: the producers of partitions, and their open transactions (KIP-664).

Keeps: a partition is described once, however often it is named, and no answer describes more than `PRODUCERS_MAX`
producers: in memory they are larger than the request that asks for them. Only a transactional id's producer has a
coordinator epoch, also after a restart, when a partition does not know any more which epochs came with a marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Slot
from core.streams.writers import WriterState
from gateway.apis.shared.administration import slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

NOT_HERE: Final = "This server does not host this topic-partition."
TOO_MANY: Final = "One answer describes no more than 100,000 producers: ask for fewer partitions."
NONE: Final = -1
PRODUCERS_MAX: Final = 100_000


async def describe_producers(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    asked: dict[str, dict[int, None]] = {}
    async for topic in ctx.paced(request.topics):
        asked.setdefault(topic.name, {}).update(dict.fromkeys(topic.partition_indexes))
    transactional = {known.producer_id async for known in ctx.paced(list(ctx.services.transactions))}
    topics = []
    left = PRODUCERS_MAX
    async for name, indexes in ctx.paced(asked.items()):
        if not ctx.may(Operation.READ, ResourceType.TOPIC, name):
            denied = [_failed(index, ErrorCode.topic_authorization_failed) async for index in ctx.paced(indexes)]
            topics.append({"name": name, "partitions": denied})
            continue
        stream = ctx.services.readable(name)
        why = NOT_HERE if stream is None else None
        partitions = []
        async for index in ctx.paced(indexes):
            described = await _partition(ctx, index, slot_of(stream, index), why, left, transactional)
            left -= len(described["active_producers"])
            partitions.append(described)
        topics.append({"name": name, "partitions": partitions})
    return {"topics": topics}


async def _partition(
    ctx: RequestContext, index: int, slot: Slot | None, why: str | None, left: int, transactional: Set[int]
) -> dict[str, Any]:
    if slot is None:
        return _failed(index, ErrorCode.unknown_topic_or_partition, why)
    if not ctx.services.store.serves(slot.container_id):
        return _failed(index, ErrorCode.not_leader_or_follower, NOT_HERE)
    if len(slot.writers or ()) > left:
        return _failed(index, ErrorCode.policy_violation, TOO_MANY)
    producers = []
    async for states in ctx.paced(slot.writers_stepwise()):
        producers += [_producer(ctx, slot, writer, state, writer in transactional) for writer, state in states]
    return {"partition_index": index, "error_code": ErrorCode.none, "active_producers": producers}


def _producer(
    ctx: RequestContext, slot: Slot, producer_id: int, state: WriterState, is_transactional: bool
) -> dict[str, Any]:
    newest = state.batches[-1] if state.batches and state.batches[-1].epoch == state.epoch else None
    transactions = slot.transactions
    return {
        "producer_id": producer_id,
        "producer_epoch": state.epoch,
        "last_sequence": NONE if newest is None else max(NONE, newest.last_sequence),  # none behind a gap
        "last_timestamp": state.last_use_ms if newest is None else newest.timestamp,
        "coordinator_epoch": _coordinator_epoch(ctx, slot, producer_id)
        if is_transactional and state.marked_epoch >= 0
        else NONE,
        "current_txn_start_offset": NONE if transactions is None else transactions.open.get(producer_id, NONE),
    }


def _coordinator_epoch(ctx: RequestContext, slot: Slot, producer_id: int) -> int:
    """The epoch that a marker must have at least: an administrator's tool asks for it before it sends one."""
    participant = ctx.services.transactions.in_container(slot.container_id)
    known = None if participant is None else participant.participant.coordinator_epoch(producer_id)
    return slot.leader_epoch if known is None else known


def _failed(index: int, code: int, why: str | None = None) -> dict[str, Any]:
    return {"partition_index": index, "error_code": code, "error_message": why, "active_producers": []}


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {"name": topic.name, "partitions": [_failed(index, code) for index in topic.partition_indexes]}
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=61,
    name="DescribeProducers",
    versions=range(1),
    handle=describe_producers,
    error_response=error_response,
    large_answer=True,
)
