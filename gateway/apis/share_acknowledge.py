"""ShareAcknowledge (key 79), versions 1-2 (KIP-932, KIP-1222): a share group's member settles records it holds.

v2 brings renewals of locks. A last request (epoch -1) also gives back what the member still holds.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.new_groups import NOT_SERVED, refused
from gateway.apis.shared.sharing import by_topic, check_member, serves_share_groups, settle
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.sessions import FINAL_EPOCH, INITIAL_EPOCH
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def share_acknowledge(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return {"error_code": NOT_SERVED}
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id or "")
    sessions = ctx.services.share.sessions
    epoch = request.share_session_epoch
    try:
        group_id, member_id = check_member(request)
        if epoch == INITIAL_EPOCH:
            raise Refusal(ErrorCode.invalid_share_session_epoch)
        session = sessions.take(group_id, member_id, epoch, ctx.connection)
    except Refusal as refusal:
        return refused(refusal)
    settled = await settle(ctx, group_id, member_id, request.topics)
    outcome = await settled.stored()
    if epoch == FINAL_EPOCH:
        sessions.end(session)
    answers = {
        key: {
            "error_code": ErrorCode.none if refusal is None else refusal.code,
            "error_message": None if refusal is None else refusal.message,
        }
        async for key, refusal in ctx.paced(outcome.items())
    }
    return {
        "responses": await by_topic(ctx, answers),
        "acquisition_lock_timeout": ctx.services.share.settings(group_id).lock_ms,
    }


API: Final = Api(
    key=79,
    name="ShareAcknowledge",
    versions=range(1, 3),
    handle=share_acknowledge,
    error_response=lambda request, version, code: {"error_code": code},
)
