"""DeleteShareGroupOffsets (key 92), version 0 (KIP-932): has a share group without members forget topics.

Keeps: an answer without an error is durable.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.apis.shared.new_groups import NOT_SERVED, NOT_SERVED_TEXT, refused
from gateway.apis.shared.sharing import empty_group, is_worker, serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Asked, Refusal, code_of
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

NOTHING_TO_DELETE: Final = "There is no offset information to delete."
"""Kafka's words."""


async def delete_share_group_offsets(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return {"error_code": NOT_SERVED, "error_message": NOT_SERVED_TEXT}
    ctx.require(Operation.DELETE, ResourceType.GROUP, request.group_id)
    try:
        empty_group(ctx, request.group_id)
    except Refusal as refusal:
        return refused(refusal)
    names = dict.fromkeys(topic.topic_name for topic in request.topics)
    topics = [await _topic(ctx, request.group_id, name) async for name in ctx.paced(names)]
    known = [topic["topic_name"] for topic in topics if not topic["error_code"]]
    if known and not is_worker(ctx):
        codes = await ctx.services.share.elsewhere.forget(request.group_id, known)
        for topic in topics:
            topic["error_code"] = topic["error_code"] or codes[topic["topic_name"]]
    return {"responses": topics}


async def _topic(ctx: RequestContext, group_id: str, name: str) -> dict[str, Any]:
    if not ctx.may(Operation.READ, ResourceType.TOPIC, name):
        return {"topic_name": name, "error_code": ErrorCode.topic_authorization_failed}
    stream = ctx.services.topics.get(name)
    if stream is None:
        error = ErrorCode.unknown_topic_or_partition
        return {"topic_name": name, "error_code": error, "error_message": NOTHING_TO_DELETE}
    try:
        await ctx.services.share.partitions.delete_topic(group_id, stream.uuid)
    except StoreError as failed:
        return {"topic_name": name, "topic_id": stream.uuid, "error_code": code_of(failed, Asked.COORDINATOR)}
    ctx.tell("share offsets deleted", name=group_id, topic=name)
    return {"topic_name": name, "topic_id": stream.uuid, "error_code": ErrorCode.none}


API: Final = Api(
    key=92,
    name="DeleteShareGroupOffsets",
    versions=range(1),
    handle=delete_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
