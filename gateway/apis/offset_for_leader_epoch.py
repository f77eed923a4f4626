"""OffsetForLeaderEpoch (key 23), versions 2-4: an epoch's end offset, from which consumers notice losses.

Keeps: an epoch that we cannot know is answered with -1/-1 and no error (KIP-320); a client whose
current epoch is not ours is refused first (74, 75).
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.streams.live import Stream
from gateway.apis.shared.administration import epoch_error, slot_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def offset_for_leader_epoch(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    is_broker = ctx.has(Operation.CLUSTER_ACTION, ResourceType.CLUSTER)
    return {"topics": [await _topic(ctx, topic, is_broker) async for topic in ctx.paced(request.topics)]}


async def _topic(ctx: RequestContext, topic: Message, is_broker: bool) -> dict[str, Any]:
    name = topic.topic
    if is_broker or ctx.may(Operation.DESCRIBE, ResourceType.TOPIC, name):
        answers = [_answer(ctx, ctx.services.readable(name), asked) async for asked in ctx.paced(topic.partitions)]
    else:
        denied = ErrorCode.topic_authorization_failed
        answers = [_refused(asked, denied) async for asked in ctx.paced(topic.partitions)]
    return {"topic": name, "partitions": answers}


def _answer(ctx: RequestContext, stream: Stream | None, asked: Message) -> dict[str, Any]:
    slot = slot_of(stream, asked.partition)
    if slot is None:
        return _refused(asked, ErrorCode.unknown_topic_or_partition)
    if code := epoch_error(ctx.services.store, slot, asked.current_leader_epoch):
        return _refused(asked, code)
    epoch, end = slot.end_of_epoch(asked.leader_epoch)
    return {
        "error_code": ErrorCode.none,
        "partition": asked.partition,
        "leader_epoch": epoch,
        "end_offset": end,
    }


def _refused(asked: Message, code: int) -> dict[str, Any]:
    return {
        "error_code": code,
        "partition": asked.partition,
        "leader_epoch": -1,
        "end_offset": -1,
    }


def _error_response(request: Message, version: int, code: int) -> Mapping[str, Any]:
    return {
        "topics": [
            {"topic": topic.topic, "partitions": [_refused(p, code) for p in topic.partitions]}
            for topic in request.topics
        ]
    }


API: Final = Api(
    key=23,
    name="OffsetForLeaderEpoch",
    versions=range(2, 5),
    handle=offset_for_leader_epoch,
    error_response=_error_response,
    large_answer=True,
)
