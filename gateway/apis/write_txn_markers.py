"""WriteTxnMarkers (key 27), versions 1-2: end a producer's transaction in single partitions.

Kafka's brokers send this to one another; administrators use it to abort a transaction that hangs. v2 (KIP-1228) names
the marker's version of transactions: with version 2 its epoch is above that of the transaction.

Keeps: a marker whose epoch is behind the partition's changes nothing, nor does one of a coordinator that was replaced.
A coordinator hears that a transaction has ended in a partition only if it has, or if the partition is gone for good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StoreError
from core.streams.live import Slot
from gateway.apis.shared.administration import slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.outcome import Outcome
from gateway.transactions.partitions import transaction_end
from gateway.transactions.places import Place
from gateway.transactions.remote import GROUPS_TOPIC
from gateway.transactions.whereabouts import Part, parts_named
from gateway.wire.message import Message

VERSIONED_SINCE: Final = 2
EPOCH_BUMPED_SINCE: Final = 2
"""The version of transactions, not of this API."""
ENDS_AT_ONCE: Final = 1_000
"""Partitions that get their markers in one step, which is one turn of the loop."""

_Key = tuple[str, UUID | None, int]
"""A partition as a marker names it: topic, the topic's id where a node says it, number."""


async def write_txn_markers(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not ctx.has(Operation.ALTER, ResourceType.CLUSTER):
        ctx.require(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    write = _ended if ctx.connection.listener.inner else _written
    return {"markers": [await write(ctx, marker) async for marker in ctx.paced(request.markers)]}


async def _ended(ctx: RequestContext, marker: Message) -> dict[str, Any]:
    """The word of a transaction's coordinator on another node: its containers here take part, each by itself.

    What is not known here may be new. So all that is decided by now is looked at before it counts as deleted: then
    nothing of it is left to end.
    """
    codes: dict[_Key, int] = {}
    named = await _named(ctx, marker)
    if not all(named.values()):
        try:
            await ctx.services.store.catch_up()
        except StoreError as error:
            codes = {key: code_of(error, Asked.PARTITION) for key, parts in named.items() if not parts}
        named = await _named(ctx, marker)
    outcome = Outcome(
        producer_id=marker.producer_id,
        epoch=marker.producer_epoch - (marker.transaction_version >= EPOCH_BUMPED_SINCE),
        marker_epoch=marker.producer_epoch,
        committed=marker.transaction_result,
        coordinator_epoch=marker.coordinator_epoch,
    )
    shares: dict[int, tuple[set[_Key], set[Place]]] = {}
    async for key, parts in ctx.paced(named.items()):
        codes.setdefault(key, ErrorCode.none)
        for container_id, place in parts:
            keys, places = shares.setdefault(container_id, (set(), set()))
            keys.add(key)
            if place is not None:
                places.add(place)
    for container_id, (keys, places) in shares.items():
        if code := await _end_in(ctx, container_id, outcome, places):
            codes |= dict.fromkeys(keys, code)
    return await _told(ctx, marker, codes)


async def _named(ctx: RequestContext, marker: Message) -> dict[_Key, Sequence[tuple[int, Place | None]]]:
    """What a marker names, with the containers that take part: a container's groups have no place. Nothing for a
    partition that is not known here."""
    named: dict[_Key, Sequence[tuple[int, Place | None]]] = {}
    async for topic in ctx.paced(marker.topics):
        async for index in ctx.paced(topic.partition_indexes):
            key = _key(ctx, topic, index)
            named[key] = [(index, None)] if topic.name == GROUPS_TOPIC else _parts(ctx, *key)
    return named


def _parts(ctx: RequestContext, topic: str, topic_id: UUID | None, index: int) -> Sequence[Part]:
    """Where a partition lies: here, if one of that name is here. A topic that is deleted may not be known as such."""
    parts = parts_named(ctx.services.store, topic, topic_id, index)
    here = [part for part in parts if ctx.services.transactions.in_container(part[0]) is not None]
    return here or parts


async def _end_in(ctx: RequestContext, container_id: int, outcome: Outcome, places: Collection[Place]) -> int:
    try:
        await ctx.services.transactions.participant_in(container_id).end(outcome, sorted(places))
    except Refusal as refused:
        return refused.code
    except StoreError as error:
        return code_of(error, Asked.PARTITION)
    return ErrorCode.none


def _key(ctx: RequestContext, topic: Message, index: int) -> _Key:
    return topic.name, topic.topic_id if ctx.connection.listener.inner else None, index


async def _written(ctx: RequestContext, marker: Message) -> dict[str, Any]:
    codes: dict[_Key, int] = {}
    slots: list[tuple[_Key, Slot]] = []
    async for topic in ctx.paced(marker.topics):
        stream = ctx.services.topics.get(topic.name)
        async for index in ctx.paced(topic.partition_indexes):
            slot, key = slot_of(stream, index), _key(ctx, topic, index)
            if slot is None:
                codes[key] = ErrorCode.unknown_topic_or_partition
            elif key not in codes:
                codes[key] = ErrorCode.none
                slots.append((key, slot))
    ended: dict[str, None] = {}
    async for first in ctx.paced(range(0, len(slots), ENDS_AT_ONCE)):
        some = await _ended_together(ctx, marker, slots[first : first + ENDS_AT_ONCE])
        codes |= some
        ended |= dict.fromkeys(name for (name, _, _), code in some.items() if code == ErrorCode.none)
    if ended:
        kind = "committed" if marker.transaction_result else "aborted"
        ctx.tell(f"transaction {kind}", producer_id=marker.producer_id, topics=sorted(ended))
    return await _told(ctx, marker, codes)


async def _ended_together(ctx: RequestContext, marker: Message, slots: Sequence[tuple[_Key, Slot]]) -> dict[_Key, int]:
    """End the transaction in some partitions, in one step for each container; the error code of each partition.

    Whether the marker is refused is asked in the turn in which it is appended: between two steps the producer may begin
    another transaction. What a failure leaves is ended by the next try.
    """
    codes: dict[_Key, int] = {}
    by_container: dict[Container, list[TransactionEnd]] = {}
    try:
        for place, slot in slots:
            codes[place] = _refused(ctx, slot, marker)
            if codes[place] == ErrorCode.none:
                by_container.setdefault(ctx.services.store.hosted(slot).container, []).append(_end(ctx, slot, marker))
        logged = [container.end_transactions(some, ()) for container, some in by_container.items()]
        for done in logged:
            await done
    except StoreError as error:
        failed = code_of(error, Asked.PARTITION)
        return {place: codes.get(place) or failed for place, _ in slots}
    return codes


def _end(ctx: RequestContext, slot: Slot, marker: Message) -> TransactionEnd:
    return transaction_end(
        slot,
        marker.producer_id,
        marker.producer_epoch,
        committed=marker.transaction_result,
        coordinator_epoch=max(marker.coordinator_epoch, slot.leader_epoch),
        now_ms=ctx.services.clock.wall_ms(),
    )


async def _told(ctx: RequestContext, marker: Message, codes: Mapping[_Key, int]) -> dict[str, Any]:
    topics = [
        {
            "name": topic.name,
            "partitions": [
                {"partition_index": index, "error_code": codes[_key(ctx, topic, index)]}
                async for index in ctx.paced(topic.partition_indexes)
            ],
        }
        async for topic in ctx.paced(marker.topics)
    ]
    return {"producer_id": marker.producer_id, "topics": topics}


def _refused(ctx: RequestContext, slot: Slot, marker: Message) -> ErrorCode:
    """Why a marker is not written, if so. What was asked for its transaction before does not count any more."""
    if _is_stale(slot, marker, ctx.version):
        return ErrorCode.invalid_producer_epoch
    coordinator = ctx.services.transactions.in_container(slot.container_id)
    if coordinator is None:  # it loads, and nobody knows yet which coordinators were replaced
        return ErrorCode.not_leader_or_follower
    try:
        coordinator.participant.check_coordinator(marker.producer_id, marker.coordinator_epoch)
    except Refusal as refused:
        return refused.code
    coordinator.participant.break_guards(marker.producer_id, marker.producer_epoch)
    return ErrorCode.none


def _is_stale(slot: Slot, marker: Message, version: int) -> bool:
    state = None if slot.writers is None else slot.writers.get(marker.producer_id)
    if state is None:
        return False
    is_bumped = version >= VERSIONED_SINCE and marker.transaction_version >= EPOCH_BUMPED_SINCE
    lowest = state.epoch + (is_bumped and slot.has_open_transaction(marker.producer_id))
    return bool(marker.producer_epoch < lowest)


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "markers": [
            {
                "producer_id": marker.producer_id,
                "topics": [
                    {
                        "name": topic.name,
                        "partitions": [
                            {"partition_index": index, "error_code": code} for index in topic.partition_indexes
                        ],
                    }
                    for topic in marker.topics
                ],
            }
            for marker in request.markers
        ]
    }


API: Final = Api(
    key=27,
    name="WriteTxnMarkers",
    versions=range(1, 3),
    handle=write_txn_markers,
    error_response=error_response,
)
