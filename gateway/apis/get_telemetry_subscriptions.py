"""GetTelemetrySubscriptions (key 71), version 0 (KIP-714): the metrics that a client should send.

The operator's `client-metrics` configs say which. A client that asks again before its interval is over gets
THROTTLING_QUOTA_EXCEEDED.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.apis.shared.telemetry import properties_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.telemetry.clients import CODECS, Client
from gateway.wire.message import Message


async def get_telemetry_subscriptions(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    telemetry = ctx.services.telemetry
    clients = telemetry.clients()
    client = clients.ask(request.client_instance_id, properties_of(ctx), telemetry.now_ms())
    if not isinstance(client, Client):
        return {"error_code": client}
    return {
        "client_instance_id": client.instance_id,
        "subscription_id": client.subscribed.id,
        "accepted_compression_types": CODECS,
        "push_interval": client.subscribed.interval_ms,
        "telemetry_max_bytes": clients.max_bytes,
        "delta_temporality": True,
        "requested_metrics": client.subscribed.metrics,
    }


API: Final = Api(
    key=71,
    name="GetTelemetrySubscriptions",
    versions=range(1),
    handle=get_telemetry_subscriptions,
    error_response=lambda request, version, code: {"error_code": code},
)
