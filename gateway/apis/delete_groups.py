"""DeleteGroups (key 42), versions 0-2: deletes groups without members, and all their offsets.

Keeps: groups that are deleted together have some thousand offsets at most; one with more goes by itself, in steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.offsets.deleted_topics import OFFSETS_AT_ONCE
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

AT_ONCE: Final = 200
"""Groups that are deleted together: they share a sync, and other requests wait for no more than these."""


async def delete_groups(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    asked = dict.fromkeys(request.groups_names)
    deletable = await ctx.allowed(Operation.DELETE, ResourceType.GROUP, asked)
    group_ids = [group_id async for group_id in ctx.paced(asked) if group_id in deletable]
    denied = ErrorCode.group_authorization_failed
    results: list[dict[str, Any]] = [
        {"group_id": group_id, "error_code": denied} async for group_id in ctx.paced(asked) if group_id not in deletable
    ]
    async for some in ctx.paced(_together(ctx, group_ids)):
        errors = await _delete(ctx, some)
        for group_id in some:
            if errors[group_id] is ErrorCode.none:
                ctx.tell("group deleted", name=group_id)
        results += [{"group_id": group_id, "error_code": errors[group_id]} for group_id in some]
    return {"results": results}


def _together(ctx: RequestContext, group_ids: Sequence[str]) -> Iterator[list[str]]:
    """Groups to delete together: AT_ONCE of them at most, with OFFSETS_AT_ONCE offsets, or a single one with more."""
    some: list[str] = []
    left = OFFSETS_AT_ONCE
    for group_id in group_ids:
        count = _offsets_of(ctx, group_id)
        if some and (len(some) == AT_ONCE or count > left):
            yield some
            some, left = [], OFFSETS_AT_ONCE
        some.append(group_id)
        left -= count
    if some:
        yield some


def _offsets_of(ctx: RequestContext, group_id: str) -> int:
    try:
        return ctx.services.groups.of(group_id).offsets.count(group_id)
    except Refusal:  # it is not here
        return 0


async def _delete(ctx: RequestContext, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
    """Share groups share a record of the log, the others a sync."""
    share = ctx.services.share
    shared = [group_id for group_id in group_ids if share.coordinators.find(group_id) is not None]
    others = [group_id for group_id in group_ids if share.coordinators.find(group_id) is None]
    codes, errors = await asyncio.gather(
        share.delete(shared), asyncio.gather(*(_deleted(ctx, group_id) for group_id in others))
    )
    return codes | dict(zip(others, errors, strict=True))


async def _deleted(ctx: RequestContext, group_id: str) -> ErrorCode:
    try:
        ctx.services.transactions.participant_of(group_id)  # what transactions would commit to it is known here, too
        return await ctx.services.groups.of(group_id).delete_group(group_id)
    except Refusal as refused:
        return refused.code


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"results": [{"group_id": group_id, "error_code": error} for group_id in request.groups_names]}


API: Final = Api(
    key=42,
    name="DeleteGroups",
    versions=range(3),
    handle=delete_groups,
    error_response=error_response,
)
