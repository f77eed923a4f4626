"""ExpireDelegationToken (key 40), versions 1-2: ends a token.

There are none (DELEGATION_TOKEN_REQUEST_NOT_ALLOWED).
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.without_security import NO_TIME, NO_TOKENS
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def expire_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return _refused(NO_TOKENS)


def _refused(code: int) -> Mapping[str, Any]:
    return {"error_code": code, "expiry_timestamp": NO_TIME}


API: Final = Api(
    key=40,
    name="ExpireDelegationToken",
    versions=range(1, 3),
    handle=expire_delegation_token,
    error_response=lambda request, version, code: _refused(code),
)
