"""RenewDelegationToken (key 39), versions 1-2: puts off a token's end, for its owner and those who may renew it."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.delegation import no_end, require_own_proof, tell
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.wire.message import Message


async def renew_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    try:
        require_own_proof(ctx)
        secret = bytes(request.hmac)
        token = await ctx.services.delegation_tokens.renew(secret, ctx.principal, request.renew_period)
    except Refusal as refused:
        return no_end(refused.code)
    tell(ctx, "delegation token renewed", token)
    return {"error_code": 0, "expiry_timestamp": token.ends_ms}


API: Final = Api(
    key=39,
    name="RenewDelegationToken",
    versions=range(1, 3),
    handle=renew_delegation_token,
    error_response=lambda request, version, code: no_end(code),
)
