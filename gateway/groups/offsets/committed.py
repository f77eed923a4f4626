"""Committed offsets: the visible ones, the ones being written, the expired ones.

Keeps: an offset is visible only when its commit is durable. The visible offsets are those of the
store's table, so they follow the order of the log. An offset whose commit is being written never
expires. This module only decides; the coordinator writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from core.trusted_time import TrustedTime
from gateway.groups.persistence import (
    NO_EXPIRY,
    CommittedOffset,
    OffsetKey,
    decode_offset,
    decode_offset_key,
    offset_times_ms,
)

_NO_TOPICS: Final[Mapping[str, Mapping[int, bytes]]] = {}
_NONE_IN_FLIGHT: Final[Mapping[tuple[str, int], int]] = {}


class Subscriber(Protocol):
    """A group, of whatever kind, as far as its offsets' life depends on it."""

    group_id: str

    @property
    def expiry_since_ms(self) -> int | None: ...

    def is_subscribed_to(self, topic: str) -> bool: ...


class _Decoded(Mapping[int, CommittedOffset]):
    """A topic's offsets by partition. Each is decoded when it is asked for, as there may be a hundred thousand."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[int, bytes]) -> None:
        self._values = values

    def __repr__(self) -> str:
        return f"<offsets of {len(self._values)} partitions>"

    def __getitem__(self, partition: int) -> CommittedOffset:
        return decode_offset(self._values[partition])

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class CommittedOffsets:
    """The visible offsets of all groups, by group, topic and partition.

    Values are the table's own bytes, decoded on request: a million offsets cost only their
    dictionary entries.
    """

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, dict[int, bytes]]] = {}
        #: Commits and deletions that were sent to the log and are not known to be durable.
        self._in_flight: dict[str, Counter[tuple[str, int]]] = {}

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Load the table's entries at the start. Raises UnreadableRecord."""
        for key, value in entries:
            decode_offset(value)  # an unreadable entry stops the start, not a consumer
            self._show(decode_offset_key(key), value)

    def group_ids(self) -> Iterator[str]:
        return iter(self._groups)

    def topic_names(self) -> set[str]:
        """All topics for which any group has an offset."""
        return {topic for topics in self._groups.values() for topic in topics}

    def topics(self, group_id: str) -> Mapping[str, Mapping[int, bytes]]:
        return self._groups.get(group_id, _NO_TOPICS)

    def get(self, key: OffsetKey) -> CommittedOffset | None:
        value = self.topics(key.group_id).get(key.topic, {}).get(key.partition)
        return None if value is None else decode_offset(value)

    def of_group(self, group_id: str) -> dict[str, Mapping[int, CommittedOffset]]:
        """All visible offsets of a group, those of each topic as they are when they are looked at."""
        return {topic: _Decoded(partitions) for topic, partitions in self.topics(group_id).items()}

    # Changes on their way

    def begin(self, keys: Iterable[OffsetKey]) -> None:
        """Note that new values of these keys were sent to the log."""
        for group_id, topic, partition in keys:
            self._in_flight.setdefault(group_id, Counter())[topic, partition] += 1

    def finish(self, key: OffsetKey, value: bytes | None) -> None:
        """One change of `key` has ended; `value` is the table's present value."""
        counts = self._in_flight[key.group_id]
        counts[key.topic, key.partition] -= 1
        if not counts[key.topic, key.partition]:
            del counts[key.topic, key.partition]
            if not counts:
                del self._in_flight[key.group_id]
        if value is None:
            self._hide(key)
        else:
            self._show(key, value)

    def has_in_flight(self, group_id: str) -> bool:
        return group_id in self._in_flight

    def is_used(self, group_id: str) -> bool:
        """Has the group any offset, visible or being written?"""
        return group_id in self._groups or group_id in self._in_flight

    # What to delete

    def has(self, key: OffsetKey) -> bool:
        """Is the offset in the table, or its change in flight?"""
        group_id, topic, partition = key
        visible = self.topics(group_id).get(topic, {})
        return partition in visible or (topic, partition) in self._in_flight.get(group_id, _NONE_IN_FLIGHT)

    def keys_of_group(self, group_id: str) -> list[OffsetKey]:
        """All keys of a group in the table, including those of changes in flight."""
        visible = {
            (topic, partition) for topic, partitions in self.topics(group_id).items() for partition in partitions
        }
        in_flight = self._in_flight.get(group_id, _NONE_IN_FLIGHT)
        return [OffsetKey(group_id, *place) for place in sorted(visible | set(in_flight))]

    def keys_of_topic(self, topic: str) -> list[OffsetKey]:
        """All keys of a topic, of all groups, in the table, including those of changes in flight."""
        return [
            OffsetKey(group_id, topic, partition)
            for group_id in self._groups.keys() | self._in_flight.keys()
            for partition in self._partitions(group_id, topic)
        ]

    def expired(self, group: Subscriber, topic: str, now: TrustedTime, retention_ms: int) -> list[OffsetKey]:
        """The group's expired offsets of a topic, by Kafka's rules of expiry."""
        since_ms = group.expiry_since_ms
        if since_ms is None or group.is_subscribed_to(topic):
            return []
        in_flight = self._in_flight.get(group.group_id, _NONE_IN_FLIGHT)
        return [
            OffsetKey(group.group_id, topic, partition)
            for partition, value in self.topics(group.group_id).get(topic, {}).items()
            if (topic, partition) not in in_flight and _is_expired(value, since_ms, now, retention_ms)
        ]

    def _partitions(self, group_id: str, topic: str) -> set[int]:
        in_flight = self._in_flight.get(group_id, _NONE_IN_FLIGHT)
        partitions = {partition for name, partition in in_flight if name == topic}
        return partitions | set(self.topics(group_id).get(topic, {}))

    def _show(self, key: OffsetKey, value: bytes) -> None:
        self._groups.setdefault(key.group_id, {}).setdefault(key.topic, {})[key.partition] = value

    def _hide(self, key: OffsetKey) -> None:
        topics = self._groups.get(key.group_id, {})
        partitions = topics.get(key.topic, {})
        if partitions.pop(key.partition, None) is not None and not partitions:
            del topics[key.topic]
            if not topics:
                del self._groups[key.group_id]


def _is_expired(value: bytes, since_ms: int, now: TrustedTime, retention_ms: int) -> bool:
    """Has a stored offset expired, given since when its group has been empty?"""
    commit_ms, expire_ms = offset_times_ms(value)
    age_ms = now.age_ms(commit_ms)
    if expire_ms != NO_EXPIRY:  # OffsetCommit v2-v4 carried its own retention time
        return age_ms >= expire_ms - commit_ms
    # A commit to an already empty group (an administrator's reset) expires by its own time.
    return min(age_ms, now.age_ms(since_ms)) >= retention_ms


def metadata_units(metadata: str) -> int:
    """Length as Kafka measures it: in UTF-16 code units."""
    return len(metadata) if metadata.isascii() else len(metadata.encode("utf-16-le")) // 2
