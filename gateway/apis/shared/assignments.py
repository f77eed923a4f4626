"""The partitions that a member of a group has, as the groups' APIs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from gateway.groups.visible import VisibleTopics


def named_partitions(topics: VisibleTopics, partitions: Mapping[UUID, frozenset[int]]) -> list[dict[str, Any]]:
    """Partitions by topic, with names. Topics that are deleted have none any more, and are left out."""
    return [
        {"topic_id": topic, "topic_name": stream.name, "partitions": sorted(numbers)}
        for topic, numbers in partitions.items()
        if (stream := topics.by_uuid(topic)) is not None
    ]


def assignment(partitions: Mapping[UUID, frozenset[int]] | None) -> dict[str, Any] | None:
    """The assignment in a heartbeat's answer, by topic id; None where it has not changed."""
    if partitions is None:
        return None
    return {
        "topic_partitions": [
            {"topic_id": topic, "partitions": sorted(numbers)} for topic, numbers in partitions.items()
        ]
    }
