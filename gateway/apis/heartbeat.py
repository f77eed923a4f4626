"""Heartbeat (key 12), versions 0-4: a member says that it is alive, and learns whether it must join again.

v3 (KIP-345) knows static members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message


async def heartbeat(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    error = ctx.services.groups.of(request.group_id).heartbeat(
        request.group_id, request.member_id, request.group_instance_id, request.generation_id
    )
    return {"error_code": error}


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error}


API: Final = Api(
    key=12,
    name="Heartbeat",
    versions=range(5),
    handle=heartbeat,
    error_response=error_response,
)
