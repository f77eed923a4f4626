"""ConsumerGroupDescribe (key 69), versions 0-1 (KIP-848): state, members and assignments of consumer groups.

v1 tells the protocol of each member: a group that migrates has members of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.apis.shared.administration import NOT_ASKED
from gateway.apis.shared.assignments import named_partitions
from gateway.apis.shared.new_groups import NOT_SERVED, in_every_group, none_described, serves_consumer_groups
from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.member import Member
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

CLASSIC: Final = 0
CONSUMER: Final = 1
UNSEEN: Final = "The group has described topic(s) that the client is not authorized to describe."
"""Kafka's words."""


async def consumer_group_describe(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    if not serves_consumer_groups(ctx):
        return none_described(request.group_ids, NOT_SERVED)
    is_asked = request.include_authorized_operations
    described = []
    async for group_id in ctx.paced(dict.fromkeys(request.group_ids)):  # a group named twice is described once
        if not ctx.may(Operation.DESCRIBE, ResourceType.GROUP, group_id):
            described.append({"error_code": ErrorCode.group_authorization_failed, "group_id": group_id})
            continue
        try:
            coordinator = ctx.services.groups.of(group_id)
            error, group = coordinator.check_group_id(group_id), coordinator.get(group_id)
        except Refusal as refused:
            error, group = refused.code, None
        if error:
            described.append({"error_code": error, "group_id": group_id})
        elif isinstance(group, ConsumerGroup):
            operations = ctx.operations(ResourceType.GROUP, group_id) if is_asked else NOT_ASKED
            shown = await _described(ctx, group)
            if not await _may_see_topics(ctx, shown["members"]):
                shown |= {"error_code": ErrorCode.topic_authorization_failed, "error_message": UNSEEN, "members": []}
            described.append(shown | {"authorized_operations": operations})
        else:
            why = "not found" if group is None else "is not a consumer group"
            told = f"Group {group_id} {why}."
            error = ErrorCode.group_id_not_found
            described.append({"error_code": error, "error_message": told, "group_id": group_id})
    return {"groups": described}


async def _described(ctx: RequestContext, group: ConsumerGroup) -> dict[str, Any]:
    members = [await _member(ctx, group, member) async for member in ctx.paced(list(group.members.values()))]
    return {
        "error_code": ErrorCode.none,
        "group_id": group.group_id,
        "group_state": group.state.value,
        "group_epoch": group.epoch,
        "assignment_epoch": group.target_epoch,
        "assignor_name": group.assignor,
        "members": members,
    }


async def _may_see_topics(ctx: RequestContext, members: list[dict[str, Any]]) -> bool:
    """May the client see every topic that a member has, or is to have?"""
    names = {
        topic["topic_name"]
        async for member in ctx.paced(members)
        for what in ("assignment", "target_assignment")
        async for topic in ctx.paced(member[what]["topic_partitions"])
    }
    allowed = await ctx.allowed(Operation.DESCRIBE, ResourceType.TOPIC, names)
    return all([name in allowed async for name in ctx.paced(names)])


async def _member(ctx: RequestContext, group: ConsumerGroup, member: Member) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "instance_id": member.instance_id,
        "rack_id": member.rack_id,
        "member_epoch": member.epoch,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "subscribed_topic_names": sorted(member.names),
        "subscribed_topic_regex": member.regex,
        "assignment": {"topic_partitions": await named_partitions(ctx, ctx.services.all_topics, member.assigned)},
        "target_assignment": {
            "topic_partitions": await named_partitions(ctx, ctx.services.all_topics, group.target_of(member.member_id))
        },
        "member_type": CONSUMER if member.classic is None else CLASSIC,
    }


API: Final = Api(
    key=69,
    name="ConsumerGroupDescribe",
    versions=range(2),
    handle=consumer_group_describe,
    error_response=in_every_group,
    large_answer=True,
)
