"""AlterShareGroupOffsets (key 91), version 0 (KIP-932): sets the start offsets of a share group without members.

Keeps: an answer without an error is durable; what was settled or delivered before counts no longer.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.administration import slot_of
from gateway.apis.shared.new_groups import NOT_SERVED, NOT_SERVED_TEXT, refused
from gateway.apis.shared.sharing import empty_group, serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.format import PlaceKey
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def alter_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return {"error_code": NOT_SERVED, "error_message": NOT_SERVED_TEXT}
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    try:
        empty_group(ctx, request.group_id)
    except Refusal as refusal:
        return refused(refusal)
    return {"responses": [await _topic(ctx, request.group_id, topic) async for topic in ctx.paced(request.topics)]}


async def _topic(ctx: RequestContext, group_id: str, topic: Message) -> dict[str, Any]:
    name = topic.topic_name
    is_allowed = ctx.may(Operation.READ, ResourceType.TOPIC, name)
    stream = ctx.services.topics.get(name) if is_allowed else None
    unknown = ErrorCode.unknown_topic_or_partition if is_allowed else ErrorCode.topic_authorization_failed
    partitions = []
    async for asked in ctx.paced(topic.partitions):
        slot = slot_of(stream, asked.partition_index)
        error = unknown
        if stream is not None and slot is not None:
            key = PlaceKey(group_id, stream.uuid, asked.partition_index)
            try:
                # Kafka's tools ask for offsets between the log's start and its end; others are brought there.
                start = min(max(asked.start_offset, slot.start), slot.durable_end)
                error = await ctx.services.share.partitions.begin_at(key, slot, start)
            except StoreError as failed:
                error = code_of(failed, Asked.PARTITION)
        if error is ErrorCode.none:
            ctx.tell("share offsets changed", name=group_id, topic=name, partition=asked.partition_index)
        partitions.append({"partition_index": asked.partition_index, "error_code": error})
    return {"topic_name": name, "topic_id": None if stream is None else stream.uuid, "partitions": partitions}


API: Final = Api(
    key=91,
    name="AlterShareGroupOffsets",
    versions=range(1),
    handle=alter_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
