"""ConsumerGroupHeartbeat (key 68), versions 0-1 (KIP-848): a member of a consumer group joins, is alive, or leaves.

v1 brings regular expressions, and ids that clients make (KIP-1082). Epoch 0 joins, -1 leaves, -2 leaves for a while
(static members); any other is the member's own.

Keeps: a heartbeat that changes nothing waits for nothing; a long list of topics is gone through in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.assignments import assignment
from gateway.apis.shared.new_groups import refused, serves_consumer_groups, turned_away
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.consumer.checks import check_heartbeat
from gateway.groups.consumer.messages import Heartbeat, HeartbeatAnswer, Partitions
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def consumer_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    config = ctx.services.config
    if not serves_consumer_groups(ctx):
        return turned_away(ctx, request.group_id, "consumer", "set group.protocol=classic for its consumers")
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    names = request.subscribed_topic_names
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names or ())
    if names is not None and any([name not in allowed async for name in ctx.paced(names)]):
        return {"error_code": ErrorCode.topic_authorization_failed}
    heartbeat = Heartbeat(
        member_id=request.member_id,
        epoch=request.member_epoch,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout,
        names=None if names is None else frozenset(names),
        regex=request.subscribed_topic_regex,
        assignor=request.server_assignor,
        owned=await _owned(ctx, request),
        client_id=ctx.client_id or "",
        client_host=f"/{ctx.connection.peer_host}",
        may_see=_sight(ctx) if request.subscribed_topic_regex is not None else None,
    )
    try:
        if not request.group_id.strip():
            raise invalid_request("GroupId can't be empty.")
        check_heartbeat(heartbeat, ctx.version, config.group_consumer_assignors)
        answer = await ctx.services.groups.of(request.group_id).consumer_heartbeat(request.group_id, heartbeat)
    except Refusal as refusal:
        return refused(refusal)
    return await _response(ctx, answer)


def _sight(ctx: RequestContext) -> Callable[[str], bool] | None:
    """Which topics a regular expression of this client may stand for."""
    if ctx.services.authorizer is None:
        return None
    return partial(ctx.has, Operation.DESCRIBE, ResourceType.TOPIC)


async def _owned(ctx: RequestContext, request: Message) -> Partitions | None:
    if request.topic_partitions is None:
        return None
    return {topic.topic_id: frozenset(topic.partitions) async for topic in ctx.paced(request.topic_partitions)}


async def _response(ctx: RequestContext, answer: HeartbeatAnswer) -> Mapping[str, Any]:
    return {
        "error_code": ErrorCode.none,
        "member_id": answer.member_id,
        "member_epoch": answer.epoch,
        "heartbeat_interval": answer.interval_ms,
        "assignment": await assignment(ctx, answer.assigned),
    }


API: Final = Api(
    key=68,
    name="ConsumerGroupHeartbeat",
    versions=range(2),
    handle=consumer_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code},
)
