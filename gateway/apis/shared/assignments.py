"""The partitions that a member of a group has, as the groups' APIs write them. A long list is gone through in turns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from gateway.dispatch.context import RequestContext
from gateway.groups.visible import VisibleTopics


async def named_partitions(
    ctx: RequestContext, topics: VisibleTopics, partitions: Mapping[UUID, Collection[int]]
) -> list[dict[str, Any]]:
    """Partitions by topic, with names. Topics that are deleted have none any more, and are left out."""
    return [
        {"topic_id": topic, "topic_name": stream.name, "partitions": sorted(numbers)}
        async for topic, numbers in ctx.paced(partitions.items())
        if (stream := topics.by_uuid(topic)) is not None
    ]


async def assignment(ctx: RequestContext, partitions: Mapping[UUID, Collection[int]] | None) -> dict[str, Any] | None:
    """The assignment in a heartbeat's answer, by topic id; None where it has not changed."""
    if partitions is None:
        return None
    topics = [
        {"topic_id": topic, "partitions": sorted(numbers)} async for topic, numbers in ctx.paced(partitions.items())
    ]
    return {"topic_partitions": topics}
