"""GetTelemetrySubscriptions (key 71), version 0 (KIP-714): the metrics that a client should send.

Kafka advertises it only with a receiver of metrics; without one it still answers, with a subscription that asks for
nothing. Here it is never advertised, so clients do not ask.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.telemetry import CODECS, NOTHING, PAYLOAD_BYTES_MAX, PUSH_INTERVAL_MS
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message


async def get_telemetry_subscriptions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    return {
        "client_instance_id": request.client_instance_id or uuid.uuid4(),
        "subscription_id": NOTHING,
        "accepted_compression_types": CODECS,
        "push_interval": PUSH_INTERVAL_MS,
        "telemetry_max_bytes": PAYLOAD_BYTES_MAX,
        "delta_temporality": True,
        "requested_metrics": [],
    }


API: Final = Api(
    key=71,
    name="GetTelemetrySubscriptions",
    versions=range(1),
    handle=get_telemetry_subscriptions,
    error_response=lambda request, version, code: {"error_code": code},
    advertised=False,
)
