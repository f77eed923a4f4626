"""CreateDelegationToken (key 38), versions 1-3; v3 (KIP-373) lets one principal make a token for another.

A token for somebody else needs CREATE_TOKENS on that user. A refused request is answered with the principals that it
concerns, and without a token.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.delegation import NO_TIME, require_own_proof, tell, told_token
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.security.principal import ANONYMOUS, USER, Principal
from gateway.wire.message import Message


async def create_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    owner = _owner(request, ctx.principal)
    tokens = ctx.services.delegation_tokens
    try:
        require_own_proof(ctx)
        if owner != ctx.principal:
            ctx.require(Operation.CREATE_TOKENS, ResourceType.USER, str(owner))
        renewers = [Principal(one.principal_type, one.principal_name) async for one in ctx.paced(request.renewers)]
        token = await tokens.create(owner, ctx.principal, renewers, request.max_lifetime)
    except Refusal as refused:
        return _refused(owner, ctx.principal, refused.code)
    tell(ctx, "delegation token created", token)
    return {"error_code": 0, **told_token(token), "hmac": tokens.secret_of(token.id)}


def _owner(request: Message, asking: Principal) -> Principal:
    """Whose token it is to be: the client's own, unless it names somebody."""
    name = request.owner_principal_name
    return Principal(request.owner_principal_type or USER, name) if name else asking


def _refused(owner: Principal, requester: Principal, code: int) -> Mapping[str, Any]:
    return {
        "error_code": code,
        "principal_type": owner.type,
        "principal_name": owner.name,
        "token_requester_principal_type": requester.type,
        "token_requester_principal_name": requester.name,
        "issue_timestamp": NO_TIME,
        "expiry_timestamp": NO_TIME,
        "max_timestamp": NO_TIME,
    }


API: Final = Api(
    key=38,
    name="CreateDelegationToken",
    versions=range(1, 4),
    handle=create_delegation_token,
    error_response=lambda request, version, code: _refused(_owner(request, ANONYMOUS), ANONYMOUS, code),
)
