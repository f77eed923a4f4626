"""DeleteGroups (key 42), versions 0-2: deletes groups without members, and all their offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

AT_ONCE: Final = 200
"""Groups that are deleted together: they share a sync, and other requests wait for no more than these."""


async def delete_groups(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    asked = dict.fromkeys(request.groups_names)
    deletable = await ctx.allowed(Operation.DELETE, ResourceType.GROUP, asked)
    group_ids = [group_id for group_id in asked if group_id in deletable]
    denied = ErrorCode.group_authorization_failed
    results: list[dict[str, Any]] = [
        {"group_id": group_id, "error_code": denied} for group_id in asked if group_id not in deletable
    ]
    async for first in ctx.paced(range(0, len(group_ids), AT_ONCE)):
        some = group_ids[first : first + AT_ONCE]
        errors = await asyncio.gather(*(_deleted(ctx, group_id) for group_id in some))
        for group_id, error in zip(some, errors, strict=True):
            if error is ErrorCode.none:
                ctx.tell("group deleted", name=group_id)
        results += [{"group_id": name, "error_code": error} for name, error in zip(some, errors, strict=True)]
    return {"results": results}


async def _deleted(ctx: RequestContext, group_id: str) -> ErrorCode:
    try:
        if (share := ctx.services.share).coordinators.find(group_id) is not None:
            return await share.delete(group_id)
        error = await ctx.services.groups.of(group_id).delete_group(group_id)
        if error is ErrorCode.none:
            ctx.services.transactions.participant_of(group_id).group_deleted(group_id)
    except Refusal as refused:
        return refused.code
    return error


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"results": [{"group_id": group_id, "error_code": error} for group_id in request.groups_names]}


API: Final = Api(
    key=42,
    name="DeleteGroups",
    versions=range(3),
    handle=delete_groups,
    error_response=error_response,
)
