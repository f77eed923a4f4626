"""PushTelemetry (key 72), version 0 (KIP-714): a client's metrics.

No subscription asks for any (see GetTelemetrySubscriptions): metrics for the empty one are dropped, for another they
are UNKNOWN_SUBSCRIPTION_ID; none are opened or kept. Never advertised, as by a Kafka without a receiver.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.telemetry import NOTHING
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def push_telemetry(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    known = request.subscription_id == NOTHING
    return {"error_code": ErrorCode.none if known else ErrorCode.unknown_subscription_id}


API: Final = Api(
    key=72,
    name="PushTelemetry",
    versions=range(1),
    handle=push_telemetry,
    error_response=lambda request, version, code: {"error_code": code},
    advertised=False,
)
