"""DescribeShareGroupOffsets (key 90), versions 0-1 (KIP-932, lag in v1 by KIP-1226): positions of share groups.

A partition that the group has not begun has the start -1. The lag counts records that are not settled, delivered ones
too.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import NotHosted
from core.streams.live import Slot
from gateway.apis.shared.administration import slot_of
from gateway.apis.shared.new_groups import none_described
from gateway.apis.shared.sharing import serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.format import PlaceKey
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def describe_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return none_described(group.group_id for group in request.groups)
    return {"groups": [await _group(ctx, group) async for group in ctx.paced(request.groups)]}


async def _group(ctx: RequestContext, asked: Message) -> dict[str, Any]:
    group_id = asked.group_id
    if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group_id):
        return {"group_id": group_id, "error_code": ErrorCode.group_authorization_failed}
    try:
        group = ctx.services.share.coordinators.of(group_id).get(group_id)
    except Refusal as refused:
        return {"group_id": group_id, "error_code": refused.code}
    if group is None:
        told = f"Group {group_id} not found."
        return {"group_id": group_id, "error_code": ErrorCode.group_id_not_found, "error_message": told}
    if asked.topics is None:
        return {"group_id": group_id, "topics": await _all_topics(ctx, group_id)}
    topics = [
        await _topic(ctx, group_id, topic.topic_name, topic.partitions) async for topic in ctx.paced(asked.topics)
    ]
    return {"group_id": group_id, "topics": topics}


async def _all_topics(ctx: RequestContext, group_id: str) -> list[dict[str, Any]]:
    """Those that the group has begun, and the client may see."""
    begun: dict[str, list[int]] = {}
    async for key in ctx.paced(ctx.services.share.partitions.begun(group_id)):
        stream = ctx.services.topics.by_uuid(key.topic)
        if stream is not None and ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, stream.name):
            begun.setdefault(stream.name, []).append(key.partition)
    return [await _topic(ctx, group_id, name, sorted(begun[name])) async for name in ctx.paced(sorted(begun))]


async def _topic(ctx: RequestContext, group_id: str, name: str, numbers: list[int]) -> dict[str, Any]:
    is_allowed = ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, name)
    stream = ctx.services.topics.get(name) if is_allowed else None
    unknown = ErrorCode.unknown_topic_or_partition if is_allowed else ErrorCode.topic_authorization_failed
    partitions = []
    async for number in ctx.paced(numbers):
        slot = slot_of(stream, number)
        if stream is None or slot is None:
            answer: dict[str, Any] = {"start_offset": -1, "error_code": unknown}
        else:
            answer = _position(ctx, PlaceKey(group_id, stream.uuid, number), slot)
        partitions.append({"partition_index": number, **answer})
    return {"topic_name": name, "topic_id": None if stream is None else stream.uuid, "partitions": partitions}


def _position(ctx: RequestContext, key: PlaceKey, slot: Slot) -> dict[str, Any]:
    try:
        state = ctx.services.share.partitions.look(key, slot)
    except NotHosted as elsewhere:
        return {"start_offset": -1, "error_code": code_of(elsewhere, Asked.PARTITION)}
    if state is None:
        return {"start_offset": -1}
    start = max(state.start, slot.start)
    open_below_end = state.in_flight if state.start == start else max(state.end - start, 0)
    return {
        "start_offset": start,
        "leader_epoch": slot.leader_epoch,
        "lag": open_below_end + max(slot.durable_end - max(state.end, start), 0),
    }


API: Final = Api(
    key=90,
    name="DescribeShareGroupOffsets",
    versions=range(2),
    handle=describe_share_group_offsets,
    error_response=lambda request, version, code: none_described((group.group_id for group in request.groups), code),
    large_answer=True,
)
