"""ShareGroupDescribe (key 77), version 1 (KIP-932): state, members and assignments of share groups."""

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import NOT_ASKED
from gateway.apis.shared.assignments import named_partitions
from gateway.apis.shared.new_groups import in_every_group, none_described
from gateway.apis.shared.sharing import serves_share_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.share.group import Member, ShareGroup
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

UNSEEN: Final = "The group has described topic(s) that the client is not authorized to describe."
"""Kafka's words."""


async def share_group_describe(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_share_groups(ctx):
        return none_described(request.group_ids)
    is_asked = request.include_authorized_operations
    described = []
    async for group_id in ctx.paced(dict.fromkeys(request.group_ids)):
        if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group_id):
            described.append({"error_code": ErrorCode.group_authorization_failed, "group_id": group_id})
            continue
        try:
            group = ctx.services.share.coordinators.of(group_id).get(group_id)
        except Refusal as refused:
            described.append({"error_code": refused.code, "group_id": group_id})
            continue
        if group is None:
            told = f"Group {group_id} not found."
            error = ErrorCode.group_id_not_found
            described.append({"error_code": error, "error_message": told, "group_id": group_id})
            continue
        operations = ctx.operations(ResourceType.GROUP, group_id) if is_asked else NOT_ASKED
        described.append(await _described(ctx, group) | {"authorized_operations": operations})
    return {"groups": described}


async def _described(ctx: RequestContext, group: ShareGroup) -> dict[str, Any]:
    members = [await _member(ctx, group, member) async for member in ctx.paced(list(group.members.values()))]
    names = {
        topic["topic_name"]
        async for member in ctx.paced(members)
        async for topic in ctx.paced(member["assignment"]["topic_partitions"])
    }
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names)
    may_see = all([name in allowed async for name in ctx.paced(names)])
    return {
        "error_code": ErrorCode.none if may_see else ErrorCode.topic_authorization_failed,
        "error_message": None if may_see else UNSEEN,
        "group_id": group.group_id,
        "group_state": group.state,
        "group_epoch": group.epoch,
        "assignment_epoch": group.epoch,
        "assignor_name": "simple",
        "members": members if may_see else [],
    }


async def _member(ctx: RequestContext, group: ShareGroup, member: Member) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "rack_id": member.rack_id,
        "member_epoch": member.epoch,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "subscribed_topic_names": sorted(member.names),
        "assignment": {
            "topic_partitions": await named_partitions(ctx, ctx.services.topics, group.target_of(member.member_id))
        },
    }


API: Final = Api(
    key=77,
    name="ShareGroupDescribe",
    versions=range(1, 2),
    handle=share_group_describe,
    error_response=in_every_group,
    large_answer=True,
)
