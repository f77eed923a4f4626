"""SyncGroup (key 14), versions 0-5: a member asks for its assignment; the leader brings all of them.

v3 (KIP-345) knows static members; from v5 (KIP-559) the client must name the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.classic.messages import SyncRequest
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

PROTOCOL_NAMED_FROM: Final = 5


async def sync_group(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    is_named = request.protocol_type is not None and request.protocol_name is not None
    if ctx.version >= PROTOCOL_NAMED_FROM and not is_named:
        return error_response(request, ctx.version, ErrorCode.inconsistent_group_protocol)
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    shares = ctx.paced(request.assignments, ctx.is_alone)
    assignments = [(share.member_id, bytes(share.assignment)) async for share in shares]
    result = await ctx.services.groups.of(request.group_id).sync(
        request.group_id,
        SyncRequest(
            member_id=request.member_id,
            instance_id=request.group_instance_id,
            generation=request.generation_id,
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignments=tuple(assignments),
        ),
    )
    return {
        "error_code": result.error,
        "protocol_type": result.protocol_type,
        "protocol_name": result.protocol_name,
        "assignment": result.assignment,
    }


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error, "assignment": b""}


API: Final = Api(
    key=14,
    name="SyncGroup",
    versions=range(6),
    handle=sync_group,
    error_response=error_response,
)
