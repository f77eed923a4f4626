"""JoinGroup (key 11), versions 0-9: a member joins a group, or joins it again.

v1 has a rebalance time-out of its own (v0: the session's), v4 (KIP-394) asks a new member to come
back with the id it was given, v5 (KIP-345) knows static members, v7 (KIP-559) names the protocol
type, v8 (KIP-800) a reason, v9 (KIP-814) tells a returning static leader not to assign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.classic.messages import JoinRequest, JoinResult, Protocol
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

REBALANCE_TIMEOUT_FROM: Final = 1
KNOWN_MEMBER_ID_FROM: Final = 4
NULL_PROTOCOL_NAME_FROM: Final = 7
SKIP_ASSIGNMENT_FROM: Final = 9
PROTOCOLS_MAX: Final = 100
"""Assignors that one member may offer; clients offer two or three."""


async def join_group(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    session_timeout_ms = request.session_timeout
    if len(request.protocols) > PROTOCOLS_MAX:
        return error_response(request, ctx.version, ErrorCode.invalid_request)
    has_rebalance_timeout = ctx.version >= REBALANCE_TIMEOUT_FROM
    result = await ctx.services.groups.of(request.group_id).join(
        request.group_id,
        JoinRequest(
            member_id=request.member_id,
            instance_id=request.group_instance_id,
            client_id=ctx.client_id or "",
            client_host=f"/{ctx.connection.peer_host}",
            protocol_type=request.protocol_type,
            protocols=tuple(Protocol(protocol.name, bytes(protocol.metadata)) for protocol in request.protocols),
            session_timeout_ms=session_timeout_ms,
            rebalance_timeout_ms=(request.rebalance_timeout if has_rebalance_timeout else session_timeout_ms),
            reason=request.reason,
            requires_known_member_id=ctx.version >= KNOWN_MEMBER_ID_FROM,
            supports_skip_assignment=ctx.version >= SKIP_ASSIGNMENT_FROM,
        ),
    )
    return _response(result, ctx.version)


def _response(result: JoinResult, version: int) -> Mapping[str, Any]:
    no_name = None if version >= NULL_PROTOCOL_NAME_FROM else ""
    return {
        "error_code": result.error,
        "generation_id": result.generation,
        "protocol_type": result.protocol_type,
        "protocol_name": no_name if result.protocol_name is None else result.protocol_name,
        "leader": result.leader,
        "skip_assignment": result.skip_assignment,
        "member_id": result.member_id,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
            for member_id, instance_id, metadata in result.members
        ],
    }


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    answer = _response(JoinResult(member_id=request.member_id), version)
    return {**answer, "error_code": error}


API: Final = Api(
    key=11,
    name="JoinGroup",
    versions=range(10),
    handle=join_group,
    error_response=error_response,
)
