"""CreateDelegationToken (key 38), versions 1-3; v3 (KIP-373) lets one principal make a token for another.

A connection without authentication gets no token: DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, with the principals that the
request concerns.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.without_security import ANONYMOUS, NO_TIME, NO_TOKENS, USER
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def create_delegation_token(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return _refused(request, NO_TOKENS)


def _refused(request: Message, code: int) -> Mapping[str, Any]:
    named = bool(request.owner_principal_name)
    return {
        "error_code": code,
        "principal_type": (request.owner_principal_type or USER) if named else USER,
        "principal_name": request.owner_principal_name if named else ANONYMOUS,
        "token_requester_principal_type": USER,
        "token_requester_principal_name": ANONYMOUS,
        "issue_timestamp": NO_TIME,
        "expiry_timestamp": NO_TIME,
        "max_timestamp": NO_TIME,
    }


API: Final = Api(
    key=38,
    name="CreateDelegationToken",
    versions=range(1, 4),
    handle=create_delegation_token,
    error_response=lambda request, version, code: _refused(request, code),
)
