"""The lag of consumer groups.

Keeps: counting takes at most `OFFSETS_AT_ONCE` offsets at a time on the event loop, and runs at most once a second,
whatever the number of requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from core.clock import Clock
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.persistence import CommittedOffset
from gateway.topics.topics import Topics

OFFSETS_AT_ONCE: Final = 1_000
AGE_S_MAX: Final = 1.0


@dataclass(frozen=True, slots=True)
class TopicLag:
    """One group's lag on one topic, over the partitions with a committed offset."""

    partitions: int
    lag: int


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group's lag."""

    name: str
    state: str
    members: int
    topics: Mapping[str, TopicLag]

    @property
    def lag(self) -> int:
        return sum(topic.lag for topic in self.topics.values())


@dataclass(slots=True)
class Lags:
    """The result of the last count."""

    groups: GroupCoordinators
    topics: Topics
    clock: Clock
    found: list[GroupLag] = field(default_factory=list)
    measured_ms: int = 0
    _counted_s: float | None = None
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> list[GroupLag]:
        """All groups, counted at most a second ago."""
        async with self._counting:
            now_s = self.clock.monotonic_s()
            if self._counted_s is None or now_s - self._counted_s >= AGE_S_MAX:
                self.found = await self._count()
                self.measured_ms = self.clock.wall_ms()
                self._counted_s = self.clock.monotonic_s()
            return self.found

    async def _count(self) -> list[GroupLag]:
        found: list[GroupLag] = []
        counted = 0
        for coordinator, group in [(some, group) for some in self.groups.all() for group in some]:
            topics: dict[str, TopicLag] = {}
            for topic, offsets in coordinator.offsets.of_group(group.group_id).items():
                topics[topic] = TopicLag(len(offsets), self._lag(topic, offsets))
                counted += len(offsets)
                if counted >= OFFSETS_AT_ONCE:
                    counted = 0
                    await asyncio.sleep(0)
            found.append(GroupLag(group.group_id, str(group.state), group.member_count, topics))
        return found

    def _lag(self, topic: str, offsets: Mapping[int, CommittedOffset]) -> int:
        stream = self.topics.get(topic)
        if stream is None:
            return 0
        behind = 0
        for partition, committed in offsets.items():
            if partition < stream.slot_count:
                slot = stream.slot(partition)
                behind += max(0, slot.durable_end - max(committed.offset, slot.start))
        return behind
