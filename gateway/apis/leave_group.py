"""LeaveGroup (key 13), versions 0-5: members leave, or an administrator removes them.

v3 (KIP-345) takes several members, by id or by instance id, each with its own error; before that
the one member's error is the response's. v5 (KIP-800) brings reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.classic.messages import LeavingMember
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

BATCHED_FROM: Final = 3
AT_ONCE: Final = 1_000
"""Members that leave in one step of their group; honest requests name fewer."""


async def leave_group(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.READ, ResourceType.GROUP, request.group_id)
    if ctx.version < BATCHED_FROM:
        leaving = [LeavingMember(request.member_id, None, None)]
    else:
        leaving = [
            LeavingMember(member.member_id, member.group_instance_id, member.reason)
            async for member in ctx.paced(request.members)
        ]
    error, errors = await _leave(ctx, request.group_id, leaving)
    if ctx.version < BATCHED_FROM:
        return {"error_code": error or errors[0]}
    return {
        "error_code": error,
        "members": [
            {
                "member_id": member.member_id,
                "group_instance_id": member.instance_id,
                "error_code": member_error,
            }
            async for member, member_error in ctx.paced(zip(leaving, errors, strict=False))
        ],
    }


async def _leave(
    ctx: RequestContext, group_id: str, leaving: Sequence[LeavingMember]
) -> tuple[ErrorCode, list[ErrorCode]]:
    """The error of the whole request, and one for each member."""
    groups = ctx.services.groups
    error, errors = groups.of(group_id).leave(group_id, leaving[:AT_ONCE])
    async for first in ctx.paced(range(AT_ONCE, len(leaving), AT_ONCE)):
        error, further = groups.of(group_id).leave(group_id, leaving[first : first + AT_ONCE])
        errors += further
    return error, errors


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error}


API: Final = Api(
    key=13,
    name="LeaveGroup",
    versions=range(6),
    handle=leave_group,
    error_response=error_response,
)
