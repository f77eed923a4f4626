"""Who has which partition of a consumer group, in use or still to be given up.

Keeps: no partition has two owners. A member that goes frees all that it had at once; its entries are thrown away little
by little, whatever their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final
from uuid import UUID

from gateway.groups.consumer.messages import Holdings

ENTRIES_PER_CALL: Final = 10_000
"""Partitions of members that are gone which one call throws away: some 4 ms. A step takes fewer, so they do not pile
up."""


class _Holder:
    """A member that has partitions; `is_gone`: it has none any more."""

    __slots__ = ("is_gone", "member_id")

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.is_gone = False


class Owners:
    """Members by topic and partition."""

    def __init__(self) -> None:
        self._by_topic: dict[UUID, dict[int, _Holder]] = {}
        self._holders: dict[str, _Holder] = {}
        self._gone: deque[tuple[_Holder, Iterator[tuple[UUID, int]]]] = deque()

    def __repr__(self) -> str:
        return f"<Owners of {len(self._by_topic)} topics>"

    def of(self, topic: UUID, partition: int) -> str | None:
        holder = self._by_topic.get(topic, {}).get(partition)
        return None if holder is None or holder.is_gone else holder.member_id

    def free_for(self, member_id: str, topic: UUID, partitions: Iterable[int]) -> list[int]:
        """Those of some partitions that no other member has: of 100,000 in some 10 ms."""
        holder_of = self._by_topic.get(topic, {}).get
        return [
            partition
            for partition in partitions
            if (holder := holder_of(partition)) is None or holder.is_gone or holder.member_id == member_id
        ]

    def take(self, member_id: str, holdings: Holdings) -> None:
        """The partitions are free, and the member's from now on."""
        self._throw_away()
        holder = self._holders.get(member_id)
        if holder is None:
            holder = self._holders[member_id] = _Holder(member_id)
        for topic, held in holdings.items():
            holders = self._by_topic.setdefault(topic, {})
            for partition in held:
                before = holders.get(partition)
                assert before is None or before.is_gone, f"partition {partition} of {topic} would have two owners"
                holders[partition] = holder

    def let_go(self, holdings: Holdings) -> None:
        for topic, held in holdings.items():
            holders = self._by_topic[topic]
            for partition in held:
                del holders[partition]
            if not holders:
                del self._by_topic[topic]

    def rename(self, member_id: str, new_id: str) -> None:
        """A member with all that it has has another id now."""
        holder = self._holders.pop(member_id, None)
        if holder is not None:
            holder.member_id = new_id
            self._holders[new_id] = holder

    def leave(self, member_id: str, *holdings: Holdings) -> None:
        """A member is gone, with all that it had."""
        holder = self._holders.pop(member_id, None)
        if holder is not None:
            holder.is_gone = True
            self._gone.extend((holder, _places(some)) for some in holdings if some)
        self._throw_away()

    def _throw_away(self) -> None:
        """Drop entries of members that are gone, where nobody else has taken their places."""
        for _ in range(ENTRIES_PER_CALL):
            if not self._gone:
                return
            holder, places = self._gone[0]
            place = next(places, None)
            if place is None:
                self._gone.popleft()
                continue
            topic, partition = place
            holders = self._by_topic.get(topic, {})
            if holders.get(partition) is holder:
                del holders[partition]
                if not holders:
                    del self._by_topic[topic]


def _places(holdings: Holdings) -> Iterator[tuple[UUID, int]]:
    return ((topic, partition) for topic, held in holdings.items() for partition in held)
