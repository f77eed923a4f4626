"""PushTelemetry (key 72), version 0 (KIP-714): a client's metrics, which `/metrics` then shows.

Keeps: metrics are opened in a thread, unless they are few and not compressed; only those that the operator subscribes
to are kept. More than `telemetry.max.bytes`, as they come or opened, are TELEMETRY_TOO_LARGE; what is no OTLP is
INVALID_RECORD, after which clients push no more.
"""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.telemetry import properties_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.telemetry.clients import Client, Push
from gateway.telemetry.otlp import BadMetrics, Read, read
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch
from gateway.wire.message import Message

ON_LOOP_BYTES_MAX: Final = 4_096
"""Metrics that are opened on the event loop: about a millisecond."""


async def push_telemetry(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    telemetry = ctx.services.telemetry
    metrics = bytes(request.metrics)
    push = Push(
        request.client_instance_id,
        request.subscription_id,
        request.terminating,
        request.compression_type,
        len(metrics),
    )
    client = telemetry.clients().push(push, properties_of(ctx), telemetry.now_ms())
    if not isinstance(client, Client):
        return {"error_code": client}
    if metrics:
        try:
            telemetry.take(client, await _opened(ctx, client, push.codec, metrics))
        except InvalidBatch as wrong:
            too_large = wrong.error_code == MESSAGE_TOO_LARGE
            client.last_error = ErrorCode.telemetry_too_large if too_large else ErrorCode.invalid_record
        except BadMetrics:
            client.last_error = ErrorCode.invalid_record
    return {"error_code": client.last_error}


async def _opened(ctx: RequestContext, client: Client, codec: int, metrics: bytes) -> Read:
    arguments = metrics, codec, ctx.services.config.telemetry_max_bytes, client.subscribed.wants
    if not codec and len(metrics) <= ON_LOOP_BYTES_MAX:
        return read(*arguments)
    return await ctx.connection.aside(read, *arguments)


API: Final = Api(
    key=72,
    name="PushTelemetry",
    versions=range(1),
    handle=push_telemetry,
    error_response=lambda request, version, code: {"error_code": code},
)
