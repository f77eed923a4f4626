"""DescribeDelegationToken (key 41), versions 1-3: tokens by owner.

A connection without authentication sees none, as in Kafka (DELEGATION_TOKEN_REQUEST_NOT_ALLOWED).
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.without_security import NO_TOKENS
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def describe_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NO_TOKENS}


API: Final = Api(
    key=41,
    name="DescribeDelegationToken",
    versions=range(1, 4),
    handle=describe_delegation_token,
    error_response=lambda request, version, code: {"error_code": code},
)
