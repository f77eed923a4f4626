"""PushTelemetry (key 72), version 0 (KIP-714): a client's metrics, which `/metrics` then shows.

Keeps: metrics are opened in a thread; only those that the operator subscribes to are kept. More than
`telemetry.max.bytes`, as they come or opened, are TELEMETRY_TOO_LARGE; what is no OTLP is INVALID_RECORD, after which
clients push no more.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.telemetry import properties_of
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.telemetry.clients import Client, Push
from gateway.telemetry.points import BadMetrics, Read
from gateway.wire.error_codes import MESSAGE_TOO_LARGE
from gateway.wire.errors import InvalidBatch
from gateway.wire.message import Message


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
            bytes_max = ctx.services.config.telemetry_max_bytes
            opened = ctx.connection.aside(_opened, metrics, push.codec, bytes_max, client.subscribed.wants)
            telemetry.take(client, await opened)
        except InvalidBatch as wrong:
            too_large = wrong.error_code == MESSAGE_TOO_LARGE
            client.last_error = ErrorCode.telemetry_too_large if too_large else ErrorCode.invalid_record
        except BadMetrics:
            client.last_error = ErrorCode.invalid_record
    return {"error_code": client.last_error}


def _opened(metrics: bytes, codec: int, bytes_max: int, wants: Callable[[str], bool]) -> Read:
    from gateway.telemetry.otlp import read  # its libraries take time to load, and few clients push

    return read(metrics, codec, bytes_max, wants)


API: Final = Api(
    key=72,
    name="PushTelemetry",
    versions=range(1),
    handle=push_telemetry,
    error_response=lambda request, version, code: {"error_code": code},
)
