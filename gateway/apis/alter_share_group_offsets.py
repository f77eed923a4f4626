"""AlterShareGroupOffsets (key 91), version 0 (KIP-932): sets the start offsets of a share group without members.

A group that does not exist is made, as in Kafka: an operator can say where it begins before its first member comes.

Keeps: an answer without an error is durable; what was settled or delivered before counts no longer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import NotHosted, StoreError
from core.streams.live import Stream
from gateway.apis.shared.administration import slot_of
from gateway.apis.shared.new_groups import NOT_SERVED, NOT_SERVED_TEXT, refused
from gateway.apis.shared.sharing import empty_group, is_worker, serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.elsewhere import Place
from gateway.groups.share.format import PlaceKey
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

TOGETHER: Final = 100
"""Partitions of a request that wait for their records together; else each would wait for a sync of its own."""


async def alter_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return {"error_code": NOT_SERVED, "error_message": NOT_SERVED_TEXT}
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    try:
        if not is_worker(ctx):
            await ctx.services.share.coordinators.of(request.group_id).ensure(request.group_id)
        empty_group(ctx, request.group_id)
    except Refusal as refusal:
        return refused(refusal)
    if is_worker(ctx):
        return {"responses": await _altered(ctx, request)}
    with ctx.services.share.coordinators.of(request.group_id).closing(request.group_id) as error:
        if error is not ErrorCode.none:  # it is being deleted
            return {"error_code": error}
        return {"responses": await _altered(ctx, request)}


async def _altered(ctx: RequestContext, request: Message) -> list[dict[str, Any]]:
    """The answer for each topic. No member comes meanwhile: it would lose what it holds, and be given it again."""
    elsewhere: dict[Place, int] = {}
    topics = [await _topic(ctx, request.group_id, topic, elsewhere) async for topic in ctx.paced(request.topics)]
    if elsewhere and not is_worker(ctx):
        await _fill_in(ctx, request, topics, elsewhere)
    return topics


async def _fill_in(
    ctx: RequestContext, request: Message, topics: list[dict[str, Any]], elsewhere: dict[Place, int]
) -> None:
    """Have other workers alter their partitions, and put in what they say."""
    starts = {
        Place(topic.topic_name, asked.partition_index): asked.start_offset
        async for topic in ctx.paced(request.topics)
        async for asked in ctx.paced(topic.partitions)
    }
    found = await ctx.services.share.elsewhere.begin_at(request.group_id, starts, elsewhere)
    async for topic in ctx.paced(topics):
        async for partition in ctx.paced(topic["partitions"]):
            place = Place(topic["topic_name"], partition["partition_index"])
            partition["error_code"] = found.get(place, partition["error_code"])


async def _topic(ctx: RequestContext, group_id: str, topic: Message, elsewhere: dict[Place, int]) -> dict[str, Any]:
    name = topic.topic_name
    is_allowed = ctx.may(Operation.READ, ResourceType.TOPIC, name)
    stream = ctx.services.topics.get(name) if is_allowed else None
    unknown = ErrorCode.unknown_topic_or_partition if is_allowed else ErrorCode.topic_authorization_failed
    partitions: list[dict[str, Any]] = []
    async for first in ctx.paced(range(0, len(topic.partitions), TOGETHER)):
        some = topic.partitions[first : first + TOGETHER]
        if stream is None:
            errors = [unknown] * len(some)
        else:
            errors = await asyncio.gather(*(_begun(ctx, group_id, stream, asked, elsewhere) for asked in some))
        partitions += (
            {"partition_index": asked.partition_index, "error_code": error}
            for asked, error in zip(some, errors, strict=True)
        )
    return {"topic_name": name, "topic_id": None if stream is None else stream.uuid, "partitions": partitions}


async def _begun(
    ctx: RequestContext, group_id: str, stream: Stream, asked: Message, elsewhere: dict[Place, int]
) -> ErrorCode:
    """Have a partition begin where it is asked for; durable, if there is no error."""
    number = asked.partition_index
    slot = slot_of(stream, number)
    if slot is None:
        return ErrorCode.unknown_topic_or_partition
    try:
        # Kafka's tools ask for offsets between the log's start and its end; others are brought there.
        start = min(max(asked.start_offset, slot.start), slot.durable_end)
        error = await ctx.services.share.partitions.begin_at(PlaceKey(group_id, stream.uuid, number), slot, start)
    except StoreError as failed:
        if isinstance(failed, NotHosted):
            elsewhere[Place(stream.name, number)] = stream.state.container_of_slot(number)
        return code_of(failed, Asked.PARTITION)
    if error is ErrorCode.none:
        ctx.tell("share offsets changed", name=group_id, topic=stream.name, partition=number)
    return error


API: Final = Api(
    key=91,
    name="AlterShareGroupOffsets",
    versions=range(1),
    handle=alter_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
