"""SaslAuthenticate (key 36), versions 0-2: a token of the mechanism; v1 (KIP-368) adds the session's lifetime.

On a PLAINTEXT listener every client counts as authenticated, so a token comes too late: ILLEGAL_SASL_STATE, in Kafka's
words. The token is not read, kept or logged.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.without_security import NOT_IN_THIS_STATE
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message

TOO_LATE: Final = "SaslAuthenticate request received after successful authentication"


async def sasl_authenticate(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {"error_code": NOT_IN_THIS_STATE, "error_message": TOO_LATE}


API: Final = Api(
    key=36,
    name="SaslAuthenticate",
    versions=range(3),
    handle=sasl_authenticate,
    error_response=lambda request, version, code: {"error_code": code},
)
