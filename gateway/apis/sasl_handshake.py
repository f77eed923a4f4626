"""SaslHandshake (key 17), versions 0-1: names the mechanism; bare tokens follow in v0, SaslAuthenticate in v1.

A mechanism that the listener does not have is UNSUPPORTED_SASL_MECHANISM with those that it has, and the connection
ends. On a listener without SASL, and when a client comes again too soon, Kafka answers ILLEGAL_SASL_STATE.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.without_security import NOT_IN_THIS_STATE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.sasl import Handshake
from gateway.wire.message import Message


async def sasl_handshake(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    connection = ctx.connection
    session = connection.sasl_session
    if session is None:
        return {"error_code": NOT_IN_THIS_STATE, "mechanisms": []}
    match session.handshake(ctx.version, request.mechanism, ctx.services.clock.wall_ms()):
        case Handshake.BEGUN:
            assert connection.sasl is not None
            connection.await_proof(connection.sasl)
            return {"error_code": 0, "mechanisms": session.mechanisms}
        case Handshake.UNSUPPORTED:
            connection.end_after_answers()
            return {"error_code": ErrorCode.unsupported_sasl_mechanism, "mechanisms": session.mechanisms}
        case Handshake.ILLEGAL:
            return {"error_code": NOT_IN_THIS_STATE, "mechanisms": []}


API: Final = Api(
    key=17,
    name="SaslHandshake",
    versions=range(2),
    handle=sasl_handshake,
    error_response=lambda request, version, code: {"error_code": code},
)
