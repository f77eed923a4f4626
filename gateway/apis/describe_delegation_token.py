"""DescribeDelegationToken (key 41), versions 1-3: tokens by owner or renewer, with their secrets.

A client sees its own, those that it may renew, those that it may DESCRIBE by their id, and those of users whose tokens
it may describe (DESCRIBE_TOKENS on the user). Others are left out, never refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.apis.shared.delegation import require_own_proof, told_token
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.security.delegation_rows import DelegationToken
from gateway.security.principal import Principal
from gateway.wire.message import Message


async def describe_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    named: set[Principal] | None = None
    if request.owners is not None:
        named = {Principal(one.principal_type, one.principal_name) async for one in ctx.paced(request.owners)}

    def may_see(token: DelegationToken) -> bool:
        if named is not None and not any(map(token.concerns, named)):
            return False
        return (
            token.concerns(ctx.principal)
            or ctx.has(Operation.DESCRIBE, ResourceType.DELEGATION_TOKEN, token.id)
            or ctx.has(Operation.DESCRIBE_TOKENS, ResourceType.USER, str(token.owner))
        )

    tokens = ctx.services.delegation_tokens
    try:
        require_own_proof(ctx)
        seen = await tokens.visible(may_see)
    except Refusal as refused:
        return {"error_code": refused.code}
    return {
        "error_code": 0,
        "tokens": [
            {
                **told_token(token),
                "hmac": tokens.secret_of(token.id),
                "renewers": _told(token.renewers),
            }
            async for token in ctx.paced(seen)
        ],
    }


def _told(principals: Iterable[Principal]) -> list[dict[str, str]]:
    return [{"principal_type": one.type, "principal_name": one.name} for one in principals]


API: Final = Api(
    key=41,
    name="DescribeDelegationToken",
    versions=range(1, 4),
    handle=describe_delegation_token,
    error_response=lambda request, version, code: {"error_code": code},
)
