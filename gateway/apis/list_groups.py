"""ListGroups (key 16), versions 0-5: all groups of this broker; COORDINATOR_LOAD_IN_PROGRESS while some of them load.

v4 (KIP-518) filters by state, v5 (KIP-848) by type; both ignore case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.classic.group import Group
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.share.group import ShareGroup
from gateway.groups.streams.group import StreamsGroup
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

CLASSIC: Final = "classic"
CONSUMER: Final = "consumer"
SHARE: Final = "share"
STREAMS: Final = "streams"


async def list_groups(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if ctx.services.groups.are_loading or ctx.services.share.coordinators.are_loading:
        return error_response(request, ctx.version, ErrorCode.coordinator_load_in_progress)
    states = {state.strip().lower() for state in request.states_filter}
    types = {kind.strip().lower() for kind in request.types_filter}
    may_see_all = ctx.has(Operation.DESCRIBE, ResourceType.CLUSTER)
    return {
        "groups": [
            {
                "group_id": group.group_id,
                "protocol_type": group.protocol_type or "",
                "group_state": str(group.state),
                "group_type": _type(group),
            }
            async for group in ctx.paced([*ctx.services.groups, *ctx.services.share.coordinators])
            if (not types or _type(group) in types)
            and (not states or group.state.lower() in states)
            and (may_see_all or ctx.has(Operation.DESCRIBE, ResourceType.GROUP, group.group_id))
        ]
    }


def _type(group: Group | ConsumerGroup | ShareGroup | StreamsGroup) -> str:
    if isinstance(group, ShareGroup):
        return SHARE
    if isinstance(group, StreamsGroup):
        return STREAMS
    return CLASSIC if isinstance(group, Group) else CONSUMER


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error}


API: Final = Api(
    key=16,
    name="ListGroups",
    versions=range(6),
    handle=list_groups,
    error_response=error_response,
    large_answer=True,
)
