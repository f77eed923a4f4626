"""Heartbeat (key 12), versions 0-4: a member says that it is alive, and learns whether it must join again.

v3 (KIP-345) knows static members.

Keeps: a member of a group that is being loaded hears of no error, as in Kafka. Clients such as Sarama end their session
over any that they do not expect, and the group would rebalance; nobody's session runs out meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    try:
        error = ctx.services.groups.of(request.group_id).heartbeat(
            request.group_id, request.member_id, request.group_instance_id, request.generation_id
        )
    except Refusal as refused:
        error = refused.code
    return {"error_code": ErrorCode.none if error is ErrorCode.coordinator_load_in_progress else error}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error}


API: Final = Api(
    key=12,
    name="Heartbeat",
    versions=range(5),
    handle=heartbeat,
    error_response=error_response,
)
