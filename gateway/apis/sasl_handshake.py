"""SaslHandshake (key 17), versions 0-1: names the mechanism; raw tokens follow in v0, SaslAuthenticate in v1.

Every listener is PLAINTEXT, where Kafka answers ILLEGAL_SASL_STATE and names no mechanism: a client that was configured
for SASL fails at once, with the reason.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.without_security import NOT_IN_THIS_STATE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def sasl_handshake(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NOT_IN_THIS_STATE, "mechanisms": []}


API: Final = Api(
    key=17,
    name="SaslHandshake",
    versions=range(2),
    handle=sasl_handshake,
    error_response=lambda request, version, code: {"error_code": code},
)
