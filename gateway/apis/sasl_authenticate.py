"""SaslAuthenticate (key 36), versions 0-2: a token of the mechanism; v1 (KIP-368) adds the session's lifetime.

Where no exchange is under way (a listener without SASL, or after the exchange) a token is ILLEGAL_SASL_STATE, in
Kafka's words, and is not read, kept or logged. A refused one is SASL_AUTHENTICATION_FAILED, with one message whatever
the reason.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.without_security import NOT_IN_THIS_STATE
from gateway.dispatch.authentication import authenticate
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.sasl import Accepted, Challenge, Denied, State
from gateway.wire.message import Message

TOO_LATE: Final = "SaslAuthenticate request received after successful authentication"


async def sasl_authenticate(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    session = ctx.connection.sasl_session
    if session is None or session.state is not State.TOKEN:
        return {"error_code": NOT_IN_THIS_STATE, "error_message": TOO_LATE}
    match await authenticate(ctx.connection, bytes(request.auth_bytes), ctx.services):
        case Challenge(token):
            return {"error_code": 0, "auth_bytes": token}
        case Accepted(token, _, lifetime_ms):
            return {"error_code": 0, "auth_bytes": token, "session_lifetime": lifetime_ms}
        case Denied(_, _, message):
            return {"error_code": ErrorCode.sasl_authentication_failed, "error_message": message}


API: Final = Api(
    key=36,
    name="SaslAuthenticate",
    versions=range(3),
    handle=sasl_authenticate,
    error_response=lambda request, version, code: {"error_code": code},
)
