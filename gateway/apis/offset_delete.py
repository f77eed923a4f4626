"""OffsetDelete (key 47), version 0: deletes offsets of topics that a group no longer reads (KIP-496).

Keeps: whether an offset may be deleted is asked when its deletion is submitted, without an await in between, and what
a client sends behind it comes after. Many are deleted in parts, by a request that is alone on its connection: what a
member that comes meanwhile commits to a topic that it subscribes to stays. A coordinator that has gone meanwhile, and
forgot what it had, deletes none of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.dispatch.context import RequestContext
from gateway.dispatch.registry import Api
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.offsets.committed import Subscriber
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType
from gateway.wire.message import Message

AT_ONCE: Final = 1_200
"""Partitions whose offsets are deleted together."""
PARTITION_BYTES: Final = 4
"""The least that a partition has in a request."""


async def offset_delete(ctx: RequestContext, request: Message) -> Mapping[str, Any]:
    ctx.require(Operation.DELETE, ResourceType.GROUP, request.group_id)
    groups = ctx.services.groups.of(request.group_id)
    error = groups.admission.delete(request.group_id)
    if error:
        return error_response(request, ctx.version, error)
    asked = {
        (topic.name, partition.partition_index): None
        async for topic in ctx.paced(request.topics, ctx.is_alone)
        async for partition in ctx.paced(topic.partitions, ctx.is_alone)
    }
    errors: dict[tuple[str, int], ErrorCode] = {}
    deleted: dict[str, None] = {}
    places = list(asked)
    async for first in ctx.paced(range(0, len(places), AT_ONCE), ctx.is_alone):
        if error := _gone(ctx, request.group_id, groups):
            break
        group = groups.get(request.group_id)
        some = {place: _check(ctx, group, *place) for place in places[first : first + AT_ONCE]}
        allowed = [place for place, refused in some.items() if not refused]
        error = await groups.offsets.delete(request.group_id, allowed)
        if error:
            break
        errors |= some
        deleted |= dict.fromkeys(name for name, _ in allowed)
    async for name in ctx.paced(deleted):
        ctx.tell("offsets deleted", name=request.group_id, topic=name)
    if error:
        return error_response(request, ctx.version, error)
    return {
        "error_code": ErrorCode.none,
        "topics": [
            {
                "name": topic.name,
                "partitions": [
                    {
                        "partition_index": partition.partition_index,
                        "error_code": errors[topic.name, partition.partition_index],
                    }
                    async for partition in ctx.paced(topic.partitions)
                ],
            }
            async for topic in ctx.paced(request.topics)
        ],
    }


def _gone(ctx: RequestContext, group_id: str, groups: GroupCoordinator) -> ErrorCode:
    """Why the coordinator that a deletion began with cannot go on; no error if it can."""
    try:
        is_there = ctx.services.groups.of(group_id) is groups
    except Refusal as refusal:
        return refusal.code
    return ErrorCode.none if is_there else ErrorCode.coordinator_load_in_progress  # it has left and come back


def _check(ctx: RequestContext, group: Subscriber | None, name: str, partition: int) -> ErrorCode:
    if not ctx.may(Operation.READ, ResourceType.TOPIC, name):
        return ErrorCode.topic_authorization_failed
    stream = ctx.services.all_topics.get(name)
    if stream is None or not 0 <= partition < stream.slot_count:
        return ErrorCode.unknown_topic_or_partition
    if group is not None and group.is_subscribed_to(name):
        return ErrorCode.group_subscribed_to_topic
    return ErrorCode.none


def error_response(request: Message, version: int, error: int) -> Mapping[str, Any]:
    return {"error_code": error}


API: Final = Api(
    key=47,
    name="OffsetDelete",
    versions=range(1),
    handle=offset_delete,
    error_response=error_response,
    alone_from=AT_ONCE * PARTITION_BYTES,
)
