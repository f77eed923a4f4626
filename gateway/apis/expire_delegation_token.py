"""ExpireDelegationToken (key 40), versions 1-2: ends a token after a time, or at once, for its owner and renewers."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.delegation import no_end, require_own_proof, tell
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.wire.message import Message


async def expire_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    try:
        require_own_proof(ctx)
        secret = bytes(request.hmac)
        token, ends_ms = await ctx.services.delegation_tokens.expire(secret, ctx.principal, request.expiry_time_period)
    except Refusal as refused:
        return no_end(refused.code)
    tell(ctx, "delegation token expired", token)
    return {"error_code": 0, "expiry_timestamp": ends_ms}


API: Final = Api(
    key=40,
    name="ExpireDelegationToken",
    versions=range(1, 3),
    handle=expire_delegation_token,
    error_response=lambda request, version, code: no_end(code),
)
