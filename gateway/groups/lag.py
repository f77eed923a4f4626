"""The lag of groups of this node, of all kinds, over the partitions of all nodes: what consumer groups have not
committed, and what share groups have not settled.

Keeps: counting takes at most `OFFSETS_AT_ONCE` offsets at a time on the event loop, and runs at most once a second,
whatever the number of requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from core.clock import Clock
from core.streams.live import Stream
from core.turns import in_turns
from gateway.cluster.nodes import Nodes
from gateway.groups.admission import AnyGroup
from gateway.groups.classic.group import Group
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Bounds, Elsewhere
from gateway.groups.persistence import CommittedOffset
from gateway.groups.share.group import ShareGroup
from gateway.groups.share.service import ShareGroups
from gateway.groups.streams.group import StreamsGroup
from gateway.topics.topics import Topics

OFFSETS_AT_ONCE: Final = 1_000
AGE_S_MAX: Final = 1.0
NOT_TOLD: Final = Bounds(0, 0)
"""In place of a partition's bounds that its node did not tell: it adds nothing to a lag."""


@dataclass(frozen=True, slots=True)
class TopicLag:
    """One group's lag on one topic, over the partitions with a committed offset, or that a share group has begun."""

    partitions: int
    lag: int


class PartitionLag(NamedTuple):
    """One group's lag on one partition. Bounds that its node did not tell are None."""

    topic: str
    partition: int
    committed: int
    start: int | None
    end: int | None
    lag: int


@dataclass(frozen=True, slots=True)
class GroupLag:
    """One group's lag. `kind` is classic, consumer, streams or share."""

    name: str
    kind: str
    state: str
    members: int
    topics: Mapping[str, TopicLag]

    @property
    def lag(self) -> int:
        return sum(topic.lag for topic in self.topics.values())


def kind_of(group: AnyGroup) -> str:
    """A group's protocol, as Kafka's tools call it."""
    if isinstance(group, Group):
        return "classic"
    return "streams" if isinstance(group, StreamsGroup) else "consumer"


@dataclass(slots=True)
class Lags:
    """The result of the last count."""

    groups: GroupCoordinators
    topics: Topics
    clock: Clock
    nodes: Nodes
    elsewhere: Elsewhere
    share: ShareGroups
    found: list[GroupLag] = field(default_factory=list)
    measured_ms: int = 0
    _counted_s: float | None = None
    _bounds: Mapping[tuple[str, int], Bounds] = field(default_factory=dict)  # of partitions of other nodes
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
        self._bounds = await self._bounds_elsewhere()
        found: list[GroupLag] = []
        async for coordinator, group in self._all():
            topics: dict[str, TopicLag] = {}
            async for topic, offsets in in_turns(list(coordinator.offsets.of_group(group.group_id).items())):
                topics[topic] = TopicLag(len(offsets), await self._lag(topic, offsets))
            found.append(GroupLag(group.group_id, kind_of(group), str(group.state), group.member_count, topics))
        for shared in list(self.share.coordinators):
            found.append(await self._of_share_group(shared))
        return found

    async def of_partitions(self, group_id: str) -> list[PartitionLag]:
        """A group's lag on every partition in which it has come somewhere; as far as its bounds were counted last.
        Raises Refusal for a group of another node."""
        await self.refresh()
        if self.share.coordinators.of(group_id).get(group_id) is not None:
            return await self._partitions_of_share_group(group_id)
        found: list[PartitionLag] = []
        for topic, offsets in self.groups.of(group_id).offsets.of_group(group_id).items():
            stream = self.topics.get(topic)
            if stream is None:
                continue
            async for partition in in_turns(list(offsets)):
                committed = offsets.get(partition)
                if committed is None:
                    continue  # it was deleted meanwhile
                bounds = self._bounds_of(stream, partition)
                if bounds is NOT_TOLD:
                    found.append(PartitionLag(topic, partition, committed.offset, None, None, 0))
                    continue
                lag = max(0, bounds.end - max(committed.offset, bounds.start))
                found.append(PartitionLag(topic, partition, committed.offset, bounds.start, bounds.end, lag))
        return found

    async def _partitions_of_share_group(self, group_id: str) -> list[PartitionLag]:
        """Every partition that the group has begun. Other nodes tell no bounds of theirs."""
        found: list[PartitionLag] = []
        async for key in in_turns(await self.share.partitions.begun(group_id)):
            stream = self.topics.by_uuid(key.topic)
            if stream is None or key.partition >= stream.slot_count:
                continue
            slot = stream.slot(key.partition)
            position = self.share.partitions.position(key, slot)
            if position is not None:
                start, lag = position
                found.append(PartitionLag(stream.name, key.partition, start, slot.start, slot.durable_end, lag))
        if not self.nodes.is_alone:
            for place, told in (await self.share.elsewhere.begun(group_id)).items():
                found.append(PartitionLag(place.topic, place.number, told.start, None, None, max(told.lag, 0)))
        return found

    async def _of_share_group(self, group: ShareGroup) -> GroupLag:
        """A share group's lag, over the partitions that it has begun."""
        behind: dict[str, list[int]] = {}
        for one in await self._partitions_of_share_group(group.group_id):
            behind.setdefault(one.topic, []).append(one.lag)
        topics = {topic: TopicLag(len(lags), sum(lags)) for topic, lags in behind.items()}
        return GroupLag(group.group_id, "share", group.state, len(group.members), topics)

    async def _all(self) -> AsyncIterator[tuple[GroupCoordinator, AnyGroup]]:
        """All groups; others have their turn at the loop after each `OFFSETS_AT_ONCE` offsets."""
        counted = 0
        for coordinator, group in [(some, group) for some in self.groups.all() for group in some]:
            yield coordinator, group
            counted += sum(map(len, coordinator.offsets.of_group(group.group_id).values()))
            if counted >= OFFSETS_AT_ONCE:
                counted = 0
                await asyncio.sleep(0)

    async def _bounds_elsewhere(self) -> dict[tuple[str, int], Bounds]:
        """The bounds of all partitions that have committed offsets and lie in containers of other nodes."""
        if self.nodes.is_alone:
            return {}
        wanted: dict[int, set[tuple[str, int]]] = {}  # by container
        async for coordinator, group in self._all():
            for topic, offsets in coordinator.offsets.of_group(group.group_id).items():
                stream = self.topics.get(topic)
                if stream is None:
                    continue
                async for partition in in_turns(list(offsets)):
                    container_id = self._container_of(stream, partition)
                    if container_id is not None and not self.nodes.here(container_id):
                        wanted.setdefault(container_id, set()).add((topic, partition))
        found: dict[tuple[str, int], Bounds] = {}
        for container_id, places in wanted.items():
            found |= await self.elsewhere.bounds(container_id, places)
        return found

    async def _lag(self, topic: str, offsets: Mapping[int, CommittedOffset]) -> int:
        stream = self.topics.get(topic)
        if stream is None:
            return 0
        behind = 0
        for looked_at, partition in enumerate(list(offsets), 1):
            committed = offsets.get(partition)
            if committed is not None:  # it was not deleted meanwhile
                bounds = self._bounds_of(stream, partition)
                behind += max(0, bounds.end - max(committed.offset, bounds.start))
            if looked_at % OFFSETS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return behind

    def _bounds_of(self, stream: Stream, partition: int) -> Bounds:
        container_id = self._container_of(stream, partition)
        if container_id is None:
            return NOT_TOLD
        if not self.nodes.here(container_id):
            return self._bounds.get((stream.name, partition), NOT_TOLD)
        slot = stream.slot(partition)
        return Bounds(slot.start, slot.durable_end)

    @staticmethod
    def _container_of(stream: Stream, partition: int) -> int | None:
        return stream.state.container_of_slot(partition) if partition < stream.slot_count else None
