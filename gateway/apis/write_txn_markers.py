"""WriteTxnMarkers (key 27), versions 1-2: end a producer's transaction in single partitions.

Kafka's brokers send this to one another; administrators use it to abort a transaction that hangs. v2 (KIP-1228) names
the marker's version of transactions: with version 2 its epoch is above that of the transaction.

Keeps: a marker whose epoch is behind the partition's changes nothing, nor does one of a coordinator that was replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StoreError
from core.store import Store
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
from gateway.wire.message import Message

VERSIONED_SINCE: Final = 2
EPOCH_BUMPED_SINCE: Final = 2
"""The version of transactions, not of this API."""


async def write_txn_markers(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not ctx.has(Operation.ALTER, ResourceType.CLUSTER):
        ctx.require(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    write = _ended if ctx.connection.listener.inner else _written
    return {"markers": [await write(ctx, marker) async for marker in ctx.paced(request.markers)]}


async def _ended(ctx: RequestContext, marker: Message) -> dict[str, Any]:
    """The word of a transaction's coordinator on another node: its containers here take part, each by itself."""
    codes: dict[tuple[str, int], int] = {}
    places: dict[int, dict[tuple[str, int], Place | None]] = {}  # by container; None: its groups
    async for topic in ctx.paced(marker.topics):
        stream = ctx.services.topics.get(topic.name)
        async for index in ctx.paced(topic.partition_indexes):
            slot = slot_of(stream, index)
            if topic.name == GROUPS_TOPIC:
                places.setdefault(index, {})[topic.name, index] = None
            elif slot is None:
                codes[topic.name, index] = ErrorCode.none  # it was deleted, and nothing of it is left to end
            else:
                places.setdefault(slot.container_id, {})[topic.name, index] = Place(slot.stream.id, index)
    outcome = Outcome(
        producer_id=marker.producer_id,
        epoch=marker.producer_epoch - (marker.transaction_version >= EPOCH_BUMPED_SINCE),
        marker_epoch=marker.producer_epoch,
        committed=marker.transaction_result,
        coordinator_epoch=marker.coordinator_epoch,
    )
    for container_id, named in places.items():
        code = await _end_in(ctx, container_id, outcome, [place for place in named.values() if place is not None])
        codes |= dict.fromkeys(named, code)
    return await _told(ctx, marker, codes)


async def _end_in(ctx: RequestContext, container_id: int, outcome: Outcome, places: list[Place]) -> int:
    try:
        await ctx.services.transactions.participant_in(container_id).end(outcome, sorted(places))
    except Refusal as refused:
        return refused.code
    except StoreError as error:
        return code_of(error, Asked.PARTITION)
    return ErrorCode.none


async def _written(ctx: RequestContext, marker: Message) -> dict[str, Any]:
    codes: dict[tuple[str, int], int] = {}
    ends: dict[tuple[str, int], TransactionEnd] = {}
    async for topic in ctx.paced(marker.topics):
        stream = ctx.services.topics.get(topic.name)
        async for index in ctx.paced(topic.partition_indexes):
            slot = slot_of(stream, index)
            if slot is None:
                codes[topic.name, index] = ErrorCode.unknown_topic_or_partition
            elif (code := _refused(ctx, slot, marker)) is not ErrorCode.none:
                codes[topic.name, index] = code
            else:
                ends[topic.name, index] = transaction_end(
                    slot,
                    marker.producer_id,
                    marker.producer_epoch,
                    committed=marker.transaction_result,
                    coordinator_epoch=max(marker.coordinator_epoch, slot.leader_epoch),
                    now_ms=ctx.services.clock.wall_ms(),
                )
    outcome = await _appended(ctx.services.store, list(ends.values()))
    if ends and outcome == ErrorCode.none:
        kind = "committed" if marker.transaction_result else "aborted"
        ctx.tell(f"transaction {kind}", producer_id=marker.producer_id, topics=sorted({name for name, _ in ends}))
    codes |= dict.fromkeys(ends, outcome)
    return await _told(ctx, marker, codes)


async def _told(ctx: RequestContext, marker: Message, codes: Mapping[tuple[str, int], int]) -> dict[str, Any]:
    topics = [
        {
            "name": topic.name,
            "partitions": [
                {"partition_index": index, "error_code": codes[topic.name, index]}
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
    if coordinator is not None:
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


async def _appended(store: Store, ends: list[TransactionEnd]) -> int:
    """End the transactions, in one step for each container."""
    try:
        by_container: dict[Container, list[TransactionEnd]] = {}
        for end in ends:
            by_container.setdefault(store.hosted(end.slot).container, []).append(end)
        logged = [container.end_transactions(some, ()) for container, some in by_container.items()]
        for done in logged:
            await done
    except StoreError as error:
        return code_of(error, Asked.PARTITION)
    return ErrorCode.none


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
