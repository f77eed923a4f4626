"""All groups of this process: a coordinator for each container, and what is asked of all of them.

Keeps: groups of all containers share one budget. A request about one group goes to that group's coordinator, `of`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from core.clock import Clock
from core.container.container import Container
from core.store import Store
from gateway.config.loading import Config
from gateway.coordination.homes import Homes
from gateway.coordination.local import LocalCoordinators
from gateway.groups.admission import AnyGroup
from gateway.groups.classic.allowance import Allowance
from gateway.groups.consumer.rules import GroupSettings
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.known import GroupBudget
from gateway.groups.persistence import OffsetKey
from gateway.groups.streams.messages import StreamsSettings
from gateway.groups.visible import VisibleTopics

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.topics.topics import Topics


class GroupCoordinators(LocalCoordinators[GroupCoordinator]):
    """See the module. Iterates over all groups."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        topics: Topics,
        visible: VisibleTopics,
        homes: Homes,
        settings: Callable[[str], GroupSettings],
        streams_settings: Callable[[str], StreamsSettings],
        elsewhere: Elsewhere,
    ) -> None:
        super().__init__(store, homes, self._made)
        self._config = config
        self._clock = clock
        self._visible = visible
        self.allowance = Allowance(config.group_member_metadata_max_bytes, config.groups_metadata_max_bytes)
        self._budget = GroupBudget(self.allowance, config.groups_max, self._count, self._is_shared)
        self.is_shared: Callable[[str], bool] = lambda _: False
        """Whether a share group has this id."""
        self.writes_ids: Callable[[], bool] = lambda: True
        """Whether offsets are stored with their topics' ids."""
        self.shared_count: Callable[[], int] = lambda: 0
        self._settings = settings
        self._streams_settings = streams_settings
        self._elsewhere = elsewhere
        topics.on_deletion(self._topic_deleted)
        topics.on_change(self._topic_changed)

    def __repr__(self) -> str:
        return f"<GroupCoordinators {len(self)} groups>"

    def __iter__(self) -> Iterator[AnyGroup]:
        return (group for coordinator in self.all() for group in coordinator)

    def __len__(self) -> int:
        return sum(len(coordinator) for coordinator in self.all())

    def have_room(self) -> bool:
        """May there be one more group, of any protocol?"""
        return self._count() < self._budget.groups_max

    def _count(self) -> int:
        return len(self) + self.shared_count()

    def _is_shared(self, group_id: str) -> bool:
        return self.is_shared(group_id)

    async def consumed(self, topic: str, partitions: Sequence[int], group_ids: Sequence[str]) -> list[int | None]:
        """The smallest offset that any of these groups has committed, for each partition. None when one of them has
        committed nothing, or when its coordinator does not answer: another node's, or one that loads."""
        offsets: dict[tuple[str, int], int] = {}
        elsewhere: dict[int, list[str]] = {}  # groups by container
        for group_id in group_ids:
            container_id = self.homes.of(group_id)
            coordinator = self.in_container(container_id)
            if coordinator is None:
                elsewhere.setdefault(container_id, []).append(group_id)
                continue
            for partition in partitions:
                committed = coordinator.offsets.get(OffsetKey(group_id, topic, partition))
                if committed is not None:
                    offsets[group_id, partition] = committed.offset
        for container_id, some in elsewhere.items():
            offsets |= await self._elsewhere.committed(container_id, some, topic, partitions)
        return [self._smallest(offsets, partition, group_ids) for partition in partitions]

    @staticmethod
    def _smallest(offsets: Mapping[tuple[str, int], int], partition: int, group_ids: Sequence[str]) -> int | None:
        found = [offsets.get((group_id, partition)) for group_id in group_ids]
        known = [offset for offset in found if offset is not None]
        return min(known, default=None) if len(known) == len(found) else None

    def _made(self, container: Container) -> GroupCoordinator:
        return GroupCoordinator(
            self._config,
            container,
            self._clock,
            self._visible,
            self._budget,
            self._settings,
            self._streams_settings,
            self._writes_ids,
            self._store.streams.awaits,
        )

    def _writes_ids(self) -> bool:
        return self.writes_ids()

    def _topic_changed(self, stream: Stream) -> None:
        for coordinator in self.all():
            coordinator.consumer.topic_changed(stream)
            coordinator.streams.topic_changed(stream)

    def _topic_deleted(self, stream: Stream) -> list[asyncio.Task[None]]:
        ends = [coordinator.topic_deleted(stream) for coordinator in self.all()]
        return [end for end in ends if end is not None]
