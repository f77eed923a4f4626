"""Who has which partition of a consumer group, in use or still to be given up.

Keeps: no partition has two owners. A member that goes frees all that it had at once; its entries are thrown away little
by little, whatever their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

from gateway.groups.consumer.messages import Holdings

ENTRIES_PER_CALL: Final = 2_000
"""Topics of members that are gone which one call throws away: some 1 ms."""


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
        self._gone: deque[tuple[_Holder, Iterator[tuple[UUID, Mapping[int, int]]]]] = deque()

    def __repr__(self) -> str:
        return f"<Owners of {len(self._by_topic)} topics>"

    def of(self, topic: UUID, partition: int) -> str | None:
        holder = self._by_topic.get(topic, {}).get(partition)
        return None if holder is None or holder.is_gone else holder.member_id

    def is_taken(self, member_id: str, topic: UUID, partition: int) -> bool:
        """Does another member have it?"""
        holders = self._by_topic.get(topic)
        holder = None if holders is None else holders.get(partition)
        return holder is not None and not holder.is_gone and holder.member_id != member_id

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
            self._gone.extend((holder, iter(some.items())) for some in holdings if some)
        self._throw_away()

    def _throw_away(self) -> None:
        """Drop entries of members that are gone, where nobody else has taken their places."""
        for _ in range(ENTRIES_PER_CALL):
            if not self._gone:
                return
            holder, entries = self._gone[0]
            entry = next(entries, None)
            if entry is None:
                self._gone.popleft()
                continue
            topic, held = entry
            holders = self._by_topic.get(topic, {})
            for partition in held:
                if holders.get(partition) is holder:
                    del holders[partition]
            if not holders:
                self._by_topic.pop(topic, None)
