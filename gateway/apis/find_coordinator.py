"""FindCoordinator (key 10), versions 0-6: the broker that keeps a group or a transaction.

v1 brings key types, v4 (KIP-699) several keys at once, v6 (KIP-932) share groups, which are off: Kafka answers those
with INVALID_REQUEST. A key's coordinator is that of its home; there is none while that container's storage has failed.
Clients are sent back to the listener that they came by.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.wire.message import Message

BATCHED_FROM: Final = 4
MALFORMED: Final = (
    "This most likely occurs because of a request being malformed by the client library or the message was sent to an "
    "incompatible broker. See the broker logs for more details."
)
NO_NODE: Final[Mapping[str, Any]] = {"node_id": -1, "host": "", "port": -1}
NOBODY: Final[Mapping[str, Any]] = {"error_code": ErrorCode.coordinator_not_available, "error_message": "", **NO_NODE}


class KeyType(enum.IntEnum):
    GROUP = 0
    TRANSACTION = 1


async def find_coordinator(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if request.key_type not in (KeyType.GROUP, KeyType.TRANSACTION):
        return error_response(request, ctx.version, ErrorCode.invalid_request)
    listener = ctx.connection.listener
    services = ctx.services
    coordinators = services.groups if request.key_type == KeyType.GROUP else services.transactions
    node = {
        "error_code": ErrorCode.none,
        "node_id": services.node_id,
        "host": listener.advertised_host,
        "port": listener.advertised_port,
    }
    if ctx.version < BATCHED_FROM:
        is_here = coordinators.is_here(request.key)
        return node if is_here else error_response(request, ctx.version, ErrorCode.coordinator_not_available)
    return {
        "coordinators": [
            {"key": key, **(node if coordinators.is_here(key) else NOBODY)}
            async for key in ctx.paced(request.coordinator_keys)
        ]
    }


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    if version < BATCHED_FROM:
        why = MALFORMED if error == ErrorCode.invalid_request else None
        return {"error_code": error, "error_message": why, **NO_NODE}
    answer = {"error_code": error, "error_message": "", **NO_NODE}
    return {"coordinators": [{"key": key, **answer} for key in request.coordinator_keys]}


API: Final = Api(
    key=10,
    name="FindCoordinator",
    versions=range(7),
    handle=find_coordinator,
    error_response=error_response,
    large_answer=True,
)
