"""ShareGroupHeartbeat (key 76), version 1 (KIP-932): a member of a share group joins, is alive, or leaves.

Epoch 0 joins, -1 leaves; any other is the member's own. v0 was Kafka 4.0's early access, and is served nowhere.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.assignments import assignment
from gateway.apis.shared.new_groups import refused, turned_away
from gateway.apis.shared.sharing import serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.modern.epochs import JOINING_EPOCH, LEAVING_EPOCH
from gateway.groups.share.group import Answer, Heartbeat
from gateway.refusals import Refusal, invalid_request
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

MEMBER_ID_CHARS_MAX: Final = 36 * 4
"""Characters of a member's id, which is the text of a UUID."""


async def share_group_heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return turned_away(ctx, request.group_id, "share", "read the topic with a consumer group")
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    names = request.subscribed_topic_names
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names or ())
    if names is not None and any([name not in allowed async for name in ctx.paced(names)]):
        return {"error_code": ErrorCode.topic_authorization_failed}
    try:
        _check(request)
        heartbeat = Heartbeat(
            member_id=request.member_id,
            epoch=request.member_epoch,
            rack_id=request.rack_id,
            names=None if names is None else frozenset(names),
            client_id=ctx.client_id or "",
            client_host=f"/{ctx.connection.peer_host}",
        )
        answer = await ctx.services.share.coordinators.of(request.group_id).heartbeat(request.group_id, heartbeat)
    except Refusal as refusal:
        return refused(refusal)
    return await _response(ctx, answer)


def _check(request: Message) -> None:
    """Kafka's checks, with its words. Raises Refusal."""
    if not request.member_id.strip():
        raise invalid_request("MemberId can't be empty.")
    if len(request.member_id) > MEMBER_ID_CHARS_MAX:
        raise invalid_request(f"MemberId has more than {MEMBER_ID_CHARS_MAX} characters.")
    if not request.group_id.strip():
        raise invalid_request("GroupId can't be empty.")
    if request.member_epoch < LEAVING_EPOCH:
        raise invalid_request("MemberEpoch is invalid.")
    if request.member_epoch == JOINING_EPOCH and not request.subscribed_topic_names:
        raise invalid_request("SubscribedTopicNames must be set in first request.")


async def _response(ctx: RequestContext, answer: Answer) -> Mapping[str, Any]:
    return {
        "error_code": ErrorCode.none,
        "member_id": answer.member_id,
        "member_epoch": answer.epoch,
        "heartbeat_interval": answer.interval_ms,
        "assignment": await assignment(ctx, answer.assignment),
    }


API: Final = Api(
    key=76,
    name="ShareGroupHeartbeat",
    versions=range(1, 2),
    handle=share_group_heartbeat,
    error_response=lambda request, version, code: {"error_code": code},
)
