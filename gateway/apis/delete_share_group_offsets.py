"""DeleteShareGroupOffsets (key 92), version 0 (KIP-932): has a share group without members forget topics.

Keeps: an answer without an error is durable. No member joins meanwhile: it would lose its place in the middle.
"""

from collections.abc import Mapping, Sequence
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
    if is_worker(ctx):
        return {"responses": await _forgotten(ctx, request)}
    with ctx.services.share.coordinators.of(request.group_id).closing(request.group_id) as error:
        if error is not ErrorCode.none:  # it is being deleted
            return {"error_code": error}
        return {"responses": await _forgotten(ctx, request)}


async def _forgotten(ctx: RequestContext, request: Message) -> list[dict[str, Any]]:
    """The answer for each topic."""
    names = dict.fromkeys([topic.topic_name async for topic in ctx.paced(request.topics)])
    topics = [_topic(ctx, name) async for name in ctx.paced(names)]
    await _forget(ctx, request.group_id, topics)
    known = [topic["topic_name"] for topic in topics if not topic["error_code"]]
    if known and not is_worker(ctx):
        codes = await ctx.services.share.elsewhere.forget(request.group_id, known)
        for topic in topics:
            topic["error_code"] = topic["error_code"] or codes[topic["topic_name"]]
    return topics


def _topic(ctx: RequestContext, name: str) -> dict[str, Any]:
    """The answer for a topic; without an error if it can be forgotten."""
    if not ctx.may(Operation.READ, ResourceType.TOPIC, name):
        return {"topic_name": name, "error_code": ErrorCode.topic_authorization_failed}
    stream = ctx.services.topics.get(name)
    if stream is None:
        error = ErrorCode.unknown_topic_or_partition
        return {"topic_name": name, "error_code": error, "error_message": NOTHING_TO_DELETE}
    return {"topic_name": name, "topic_id": stream.uuid, "error_code": ErrorCode.none}


async def _forget(ctx: RequestContext, group_id: str, topics: Sequence[dict[str, Any]]) -> None:
    """Have the group forget these topics, those that can be, and put in what comes of it."""
    forgotten = [topic async for topic in ctx.paced(topics) if not topic["error_code"]]
    code = ErrorCode.none
    try:
        await ctx.services.share.partitions.delete_topics(group_id, {topic["topic_id"] for topic in forgotten})
    except StoreError as failed:
        code = code_of(failed, Asked.COORDINATOR)
    async for topic in ctx.paced(forgotten):
        topic["error_code"] = code
        if code is ErrorCode.none:
            ctx.tell("share offsets deleted", name=group_id, topic=topic["topic_name"])


API: Final = Api(
    key=92,
    name="DeleteShareGroupOffsets",
    versions=range(1),
    handle=delete_share_group_offsets,
    error_response=lambda request, version, code: {"error_code": code},
)
