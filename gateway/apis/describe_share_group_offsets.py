"""DescribeShareGroupOffsets (key 90), versions 0-1 (KIP-932, lag in v1 by KIP-1226): positions of share groups.

A partition that the group has not begun has the start -1. The lag counts records that are not settled, delivered ones
too. Of partitions of other workers these are asked; another worker is told what is here, whoever keeps the group.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import NotHosted
from core.streams.live import Slot
from gateway.apis.shared.administration import slot_of
from gateway.apis.shared.new_groups import none_described
from gateway.apis.shared.sharing import is_worker, serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.elsewhere import Place
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
        if not is_worker(ctx) and ctx.services.share.coordinators.of(group_id).get(group_id) is None:
            told = f"Group {group_id} not found."
            return {"group_id": group_id, "error_code": ErrorCode.group_id_not_found, "error_message": told}
    except Refusal as refused:
        return {"group_id": group_id, "error_code": refused.code}
    if asked.topics is None:
        wanted = await _begun(ctx, group_id)
    else:
        wanted = {topic.topic_name: topic.partitions for topic in asked.topics}
    elsewhere: dict[Place, int] = {}
    topics = [await _topic(ctx, group_id, name, wanted[name], elsewhere) async for name in ctx.paced(wanted)]
    if elsewhere and not is_worker(ctx):
        await _fill_in(ctx, group_id, topics, elsewhere)
    return {"group_id": group_id, "topics": topics}


async def _begun(ctx: RequestContext, group_id: str) -> dict[str, list[int]]:
    """The partitions that the group has begun, of topics that the client may see."""
    places: set[Place] = set()
    async for key in ctx.paced(await ctx.services.share.partitions.begun(group_id)):
        stream = ctx.services.topics.by_uuid(key.topic)
        if stream is not None:
            places.add(Place(stream.name, key.partition))
    if not is_worker(ctx):
        places |= (await ctx.services.share.elsewhere.begun(group_id)).keys()
    begun: dict[str, list[int]] = {}
    async for name, number in ctx.paced(sorted(places)):
        if ctx.has(Operation.DESCRIBE, ResourceType.TOPIC, name):
            begun.setdefault(name, []).append(number)
    return begun


async def _fill_in(
    ctx: RequestContext, group_id: str, topics: list[dict[str, Any]], elsewhere: dict[Place, int]
) -> None:
    """Put in what other workers say of their partitions."""
    found = await ctx.services.share.elsewhere.positions(group_id, elsewhere)
    async for topic in ctx.paced(topics):
        async for partition in ctx.paced(topic["partitions"]):
            told = found.get(Place(topic["topic_name"], partition["partition_index"]))
            if told is not None:
                partition |= {
                    "start_offset": told.start,
                    "leader_epoch": told.leader_epoch,
                    "lag": told.lag,
                    "error_code": told.error,
                }


async def _topic(
    ctx: RequestContext, group_id: str, name: str, numbers: Sequence[int], elsewhere: dict[Place, int]
) -> dict[str, Any]:
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
            if answer.get("error_code"):
                elsewhere[Place(name, number)] = stream.state.container_of_slot(number)
        partitions.append({"partition_index": number, **answer})
    return {"topic_name": name, "topic_id": None if stream is None else stream.uuid, "partitions": partitions}


def _position(ctx: RequestContext, key: PlaceKey, slot: Slot) -> dict[str, Any]:
    try:
        found = ctx.services.share.partitions.position(key, slot)
    except NotHosted as elsewhere:
        return {"start_offset": -1, "error_code": code_of(elsewhere, Asked.PARTITION)}
    if found is None:
        return {"start_offset": -1}
    start, lag = found
    return {"start_offset": start, "leader_epoch": slot.leader_epoch, "lag": lag}


API: Final = Api(
    key=90,
    name="DescribeShareGroupOffsets",
    versions=range(2),
    handle=describe_share_group_offsets,
    error_response=lambda request, version, code: none_described((group.group_id for group in request.groups), code),
    large_answer=True,
)
