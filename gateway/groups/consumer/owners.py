"""Who has which partition of a consumer group, in use or still to be given up.

Keeps: no partition has two owners.
"""

from __future__ import annotations

from uuid import UUID

from gateway.groups.consumer.messages import Holdings


class Owners:
    """Member ids by topic and partition."""

    def __init__(self) -> None:
        self._by_topic: dict[UUID, dict[int, str]] = {}

    def of(self, topic: UUID, partition: int) -> str | None:
        return self._by_topic.get(topic, {}).get(partition)

    def is_taken(self, member_id: str, topic: UUID, partition: int) -> bool:
        """Does another member have it?"""
        owner = self.of(topic, partition)
        return owner is not None and owner != member_id

    def take(self, member_id: str, holdings: Holdings) -> None:
        """The partitions are free, and the member's from now on."""
        for topic, held in holdings.items():
            owners = self._by_topic.setdefault(topic, {})
            for partition in held:
                assert partition not in owners, f"partition {partition} of {topic} would have two owners"
                owners[partition] = member_id

    def let_go(self, holdings: Holdings) -> None:
        for topic, held in holdings.items():
            owners = self._by_topic[topic]
            for partition in held:
                del owners[partition]
            if not owners:
                del self._by_topic[topic]

    def rename(self, holdings: Holdings, member_id: str) -> None:
        """Their owner has another id now."""
        for topic, held in holdings.items():
            self._by_topic[topic].update(dict.fromkeys(held, member_id))
