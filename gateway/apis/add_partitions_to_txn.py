"""AddPartitionsToTxn (key 24), versions 0-5: announces partitions that a transaction will write to.

v2 answers a fenced producer with PRODUCER_FENCED. v4 (KIP-890) is for brokers: it names several
transactions, and may only ask whether partitions are part of them; v5 has TRANSACTION_ABORTABLE for those that are not.
A partition of `__consumer_offsets` stands for the groups of the container with its number.

Keeps: all partitions are added or none; if one of them does not exist, nothing is done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.administration import slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.transactions.errors import transaction_code
from gateway.transactions.places import Place
from gateway.transactions.remote import GROUPS_TOPIC
from gateway.transactions.transaction import Identity
from gateway.wire.message import Message

BATCHED_SINCE: Final = 4
ABORTABLE_SINCE: Final = 5


async def add_partitions_to_txn(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.version < BATCHED_SINCE:
        identity = Identity(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch)
        transactional_id, topics = request.v3_and_below_transactional_id, request.v3_and_below_topics
        return {"results_by_topic_v3_and_below": await _added_by_client(ctx, transactional_id, identity, topics)}
    ctx.require(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    results = []
    async for asked in ctx.paced(request.transactions):
        identity = Identity(asked.producer_id, asked.producer_epoch)
        found = (
            await _verified(ctx, asked.transactional_id, identity, asked.topics)
            if asked.verify_only
            else await _added(ctx, asked.transactional_id, identity, asked.topics)
        )
        results.append({"transactional_id": asked.transactional_id, "topic_results": found})
    return {"error_code": ErrorCode.none, "results_by_transaction": results}


async def _added_by_client(
    ctx: RequestContext, transactional_id: str, identity: Identity, topics: Sequence[Message]
) -> list[dict[str, Any]]:
    """Later versions come from brokers, whose rights are looked at once; these are for the rights of a client."""
    ctx.require(Operation.WRITE, ResourceType.TRANSACTIONAL_ID, transactional_id)
    writable = await ctx.allowed(Operation.WRITE, ResourceType.TOPIC, [topic.name for topic in topics])
    if all([topic.name in writable async for topic in ctx.paced(topics)]):
        return await _added(ctx, transactional_id, identity, topics)
    _, unknown = await _places(ctx, topics)

    def code(name: str, index: int) -> ErrorCode:
        if name not in writable:
            return ErrorCode.topic_authorization_failed
        is_unknown = (name, index) in unknown
        return ErrorCode.unknown_topic_or_partition if is_unknown else ErrorCode.operation_not_attempted

    return await _results(ctx, topics, code)


async def _added(
    ctx: RequestContext, transactional_id: str, identity: Identity, topics: Sequence[Message]
) -> list[dict[str, Any]]:
    places, unknown = await _places(ctx, topics)
    if unknown:
        return await _not_attempted(ctx, topics, unknown)
    code = ErrorCode.none
    try:
        transactions = ctx.services.transactions.of(transactional_id)
        add = transactions.add if ctx.version < BATCHED_SINCE else transactions.add_elsewhere
        await add(transactional_id, identity, places.values())
    except (Refusal, StoreError) as error:
        code = transaction_code(error, ctx.version)
    return await _results(ctx, topics, lambda name, index: code)


async def _verified(
    ctx: RequestContext, transactional_id: str, identity: Identity, topics: Sequence[Message]
) -> list[dict[str, Any]]:
    partitions = [topic async for topic in ctx.paced(topics) if topic.name != GROUPS_TOPIC]
    places, unknown = await _places(ctx, partitions)
    if unknown:
        return await _not_attempted(ctx, topics, unknown)
    outside = ErrorCode.transaction_abortable if ctx.version >= ABORTABLE_SINCE else ErrorCode.invalid_txn_state
    homes = ctx.services.transactions.homes
    try:
        transactions = ctx.services.transactions.of(transactional_id)
        await transactions.verify_elsewhere(transactional_id, identity, places.values())
        of_groups = {homes.of(group_id) for group_id in transactions.groups_of(transactional_id, identity)}
    except (Refusal, StoreError) as error:
        refused = transaction_code(error, ctx.version)
        return await _results(ctx, topics, lambda name, index: refused)

    def code(name: str, index: int) -> ErrorCode:
        if name == GROUPS_TOPIC:
            return ErrorCode.none if index in of_groups else outside
        try:
            is_part = transactions.admit_write(transactional_id, identity, places[name, index])
        except Refusal as error:
            return transaction_code(error, ctx.version)
        return ErrorCode.none if is_part else outside

    return await _results(ctx, topics, code)


async def _places(
    ctx: RequestContext, topics: Sequence[Message]
) -> tuple[dict[tuple[str, int], Place], set[tuple[str, int]]]:
    """The partitions that exist, and those that do not. A node that says the id of a topic means no other of its name:
    one that this node has not heard of yet does not exist for now. What a client says there counts for nothing, as its
    rights are those to names."""
    places: dict[tuple[str, int], Place] = {}
    unknown: set[tuple[str, int]] = set()
    async for topic in ctx.paced(topics):
        known = ctx.services.topics
        topic_id = topic.topic_id if ctx.connection.listener.inner else None
        stream = known.get(topic.name) if topic_id is None else known.by_uuid(topic_id)
        async for index in ctx.paced(topic.partitions):
            slot = slot_of(stream, index)
            if slot is None:
                unknown.add((topic.name, index))
            else:
                places[topic.name, index] = Place(slot.stream.id, index)
    return places, unknown


async def _not_attempted(
    ctx: RequestContext, topics: Sequence[Message], unknown: Collection[tuple[str, int]]
) -> list[dict[str, Any]]:
    return await _results(
        ctx,
        topics,
        lambda name, index: (
            ErrorCode.unknown_topic_or_partition if (name, index) in unknown else ErrorCode.operation_not_attempted
        ),
    )


async def _results(ctx: RequestContext, topics: Sequence[Message], code: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": topic.name,
            "results_by_partition": [
                {"partition_index": index, "partition_error_code": code(topic.name, index)}
                async for index in ctx.paced(topic.partitions)
            ],
        }
        async for topic in ctx.paced(topics)
    ]


def error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    if version < BATCHED_SINCE:
        return {
            "results_by_topic_v3_and_below": [
                {
                    "name": topic.name,
                    "results_by_partition": [
                        {"partition_index": index, "partition_error_code": code} for index in topic.partitions
                    ],
                }
                for topic in request.v3_and_below_topics
            ]
        }
    return {"error_code": code, "results_by_transaction": []}


API: Final = Api(
    key=24,
    name="AddPartitionsToTxn",
    versions=range(6),
    handle=add_partitions_to_txn,
    error_response=error_response,
)
