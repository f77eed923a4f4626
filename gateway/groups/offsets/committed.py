"""Committed offsets: the visible ones, the ones being written, the expired ones.

Keeps: an offset is visible only when its commit is durable. The visible offsets are those of the
store's table, so they follow the order of the log, but for those of topics that are gone: what names another topic's id
than the one that has the name now, and what names none, once a topic of the name is being deleted. An offset whose
commit is being written never expires. This module only decides; the coordinator writes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, Protocol

from core.trusted_time import TrustedTime
from core.turns import in_turns, let_go
from gateway.groups.persistence import (
    NO_EXPIRY,
    CommittedOffset,
    OffsetKey,
    decode_offset,
    decode_offset_key,
    offset_times_ms,
    offset_topic_id,
)

_NO_TOPICS: Final[Mapping[str, Mapping[int, bytes]]] = {}
_NONE_IN_FLIGHT: Final[Mapping[str, Mapping[int, int]]] = {}


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
    """The visible offsets of all groups, by group, topic and partition. `id_of` gives the id of the topic that has a
    name now; None where there is none. `awaits` says whether one is there that cannot be shown yet.

    Values are the table's own bytes, decoded on request: a million offsets cost only their
    dictionary entries.
    """

    def __init__(self, id_of: Callable[[str], bytes | None], awaits: Callable[[str], bool]) -> None:
        self._id_of = id_of
        self._awaits = awaits
        self._groups: dict[str, dict[str, dict[int, bytes]]] = {}
        self._groups_of: dict[str, dict[str, None]] = {}  # by topic: the groups that have an offset of it in the table
        self._ids_of: dict[str, dict[bytes, int]] = {}  # by topic: how many offsets in the table name each id
        #: Commits and deletions that were sent to the log and are not known to be durable, counted for each partition.
        self._in_flight: dict[str, dict[str, dict[int, int]]] = {}
        self._hidden: set[str] = set()

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Load some of the table's entries at the start. Raises UnreadableRecord."""
        for key, value in entries:
            decode_offset(value)  # an unreadable entry stops the start, not a consumer
            self._put(decode_offset_key(key), value)

    async def let_go(self) -> None:
        """Forget all, in turns: the container has left. A topic's offsets in a group go at once, and not from under
        those who look at them."""
        groups, groups_of = self._groups, self._groups_of
        self._groups, self._groups_of, self._ids_of = {}, {}, {}
        async for topics in in_turns(groups.values()):
            await let_go(topics)
        async for of_topic in in_turns(groups_of.values()):
            await let_go(of_topic)
        await let_go(groups)

    def group_ids(self) -> Iterator[str]:
        return iter(self._groups)

    def topic_names(self) -> set[str]:
        """All topics for which any group has an offset."""
        return set(self._groups_of)

    def topics(self, group_id: str) -> Mapping[str, Mapping[int, bytes]]:
        """A group's offsets in the table, those of topics that are gone, too."""
        return self._groups.get(group_id, _NO_TOPICS)

    def get(self, key: OffsetKey) -> CommittedOffset | None:
        value = self.topics(key.group_id).get(key.topic, {}).get(key.partition)
        if value is None or not self.is_living(key.topic, offset_topic_id(value)):
            return None
        return decode_offset(value)

    def of_group(self, group_id: str) -> dict[str, Mapping[int, CommittedOffset]]:
        """All visible offsets of a group; where all of a topic are, as they are when they are looked at."""
        topics = ((topic, self._visible(topic, partitions)) for topic, partitions in self.topics(group_id).items())
        return {topic: _Decoded(partitions) for topic, partitions in topics if partitions}

    def _visible(self, topic: str, partitions: Mapping[int, bytes]) -> Mapping[int, bytes]:
        living = [topic_id for topic_id in self._ids_of[topic] if self.is_living(topic, topic_id)]
        if len(living) == len(self._ids_of[topic]):
            return partitions
        if not living:
            return {}
        return {number: value for number, value in partitions.items() if offset_topic_id(value) in living}

    # Topics that are gone

    def id_of(self, topic: str) -> bytes | None:
        """The id of the topic that has a name now."""
        return self._id_of(topic)

    def is_gone(self, topic: str) -> bool:
        """Has no topic the name, also none that cannot be shown yet for want of room?"""
        return self._id_of(topic) is None and not self._awaits(topic)

    def is_living(self, topic: str, topic_id: bytes) -> bool:
        """Are offsets with this id those of the topic that has the name? Offsets without an id are, unless they are
        hidden. A topic that is not known here may be about to be: its offsets are told as long as nobody deletes it."""
        if topic_id and (living := self._id_of(topic)) is not None:
            return topic_id == living
        return topic not in self._hidden

    def topic_ids(self, topic: str) -> Collection[bytes]:
        """The ids in the offsets of a topic in the table; NO_TOPIC_ID among them, if one has none."""
        return self._ids_of.get(topic, ())

    def hide(self, topic: str) -> None:
        """A topic is gone: let nobody see offsets that may be its, until `reveal`."""
        self._hidden.add(topic)

    def reveal(self, topic: str) -> None:
        self._hidden.discard(topic)

    def of_dead(self, topic: str) -> Iterator[OffsetKey | None]:
        """Go through all offsets of a topic: the keys of those that are to be deleted, and None for each other one.
        What is in flight stays: it may be of a new topic of the name."""
        for group_id in list(self._groups_of.get(topic, ())):
            for partition in list(self.topics(group_id).get(topic, ())):
                value = self.topics(group_id).get(topic, {}).get(partition)
                is_moving = partition in self._moving(group_id).get(topic, {})
                stays = value is None or is_moving or self.is_living(topic, offset_topic_id(value))
                yield None if stays else OffsetKey(group_id, topic, partition)

    # Changes on their way

    def begin(self, keys: Iterable[OffsetKey]) -> None:
        """Note that new values of these keys were sent to the log."""
        for group_id, topic, partition in keys:
            topics = self._in_flight.setdefault(group_id, {})
            counts = topics.setdefault(topic, {})
            counts[partition] = counts.get(partition, 0) + 1

    def finish(self, key: OffsetKey, value: bytes | None) -> None:
        """One change of `key` has ended; `value` is the table's present value."""
        topics = self._in_flight[key.group_id]
        counts = topics[key.topic]
        counts[key.partition] -= 1
        if not counts[key.partition]:
            del counts[key.partition]
            if not counts:
                del topics[key.topic]
                if not topics:
                    del self._in_flight[key.group_id]
        if value is None:
            self._remove(key)
        else:
            self._put(key, value)

    def has_in_flight(self, group_id: str) -> bool:
        return group_id in self._in_flight

    def is_used(self, group_id: str) -> bool:
        """Has the group any offset, in the table or being written?"""
        return group_id in self._groups or group_id in self._in_flight

    # What to delete

    def has(self, key: OffsetKey) -> bool:
        """Is the offset in the table, or its change in flight?"""
        group_id, topic, partition = key
        return partition in self.topics(group_id).get(topic, {}) or partition in self._moving(group_id).get(topic, {})

    def is_moving(self, topic: str) -> bool:
        """Is a change of any group's offset of a topic in flight?"""
        return any(topic in topics for topics in self._in_flight.values())

    def count_of_group(self, group_id: str) -> int:
        """Offsets of a group in the table, and changes in flight."""
        return sum(map(len, self.topics(group_id).values())) + sum(map(len, self._moving(group_id).values()))

    def keys_of_group(self, group_id: str) -> list[OffsetKey]:
        """All keys of a group in the table, including those of changes in flight."""
        return sorted({*self._keys(group_id, self.topics(group_id)), *self._keys(group_id, self._moving(group_id))})

    def some_of_group(self, group_id: str, most: int) -> list[OffsetKey]:
        """As many keys of a group in the table."""
        return list(itertools.islice(self._keys(group_id, self.topics(group_id)), most))

    def expired(
        self, group: Subscriber, topic: str, partitions: Iterable[int], now: TrustedTime, retention_ms: int
    ) -> list[OffsetKey]:
        """Those of the group's partitions of a topic whose offsets have expired, by Kafka's rules of expiry."""
        since_ms = group.expiry_since_ms
        if since_ms is None or group.is_subscribed_to(topic):
            return []
        in_flight = self._moving(group.group_id).get(topic, {})
        stored = self.topics(group.group_id).get(topic, {})
        return [
            OffsetKey(group.group_id, topic, partition)
            for partition in partitions
            if partition not in in_flight
            and (value := stored.get(partition)) is not None
            and _is_expired(value, since_ms, now, retention_ms)
        ]

    @staticmethod
    def _keys(group_id: str, topics: Mapping[str, Iterable[int]]) -> Iterator[OffsetKey]:
        return (OffsetKey(group_id, topic, partition) for topic, some in topics.items() for partition in some)

    def _moving(self, group_id: str) -> Mapping[str, Mapping[int, int]]:
        """A group's changes in flight."""
        return self._in_flight.get(group_id, _NONE_IN_FLIGHT)

    def _put(self, key: OffsetKey, value: bytes) -> None:
        group_id, topic, partition = key
        topics = self._groups.setdefault(group_id, {})
        partitions = topics.get(topic)
        if partitions is None:
            partitions = topics[topic] = {}
            self._groups_of.setdefault(topic, {})[group_id] = None
        before, topic_id = partitions.get(partition), offset_topic_id(value)
        partitions[partition] = value
        if before is not None and offset_topic_id(before) == topic_id:
            return
        counts = self._ids_of.setdefault(topic, {})
        counts[topic_id] = counts.get(topic_id, 0) + 1
        if before is not None:
            self._forget_id(topic, offset_topic_id(before))

    def _remove(self, key: OffsetKey) -> None:
        group_id, topic, partition = key
        topics = self._groups.get(group_id, {})
        partitions = topics.get(topic, {})
        value = partitions.pop(partition, None)
        if value is None:
            return
        self._forget_id(topic, offset_topic_id(value))
        if partitions:
            return
        del topics[topic]
        if not topics:
            del self._groups[group_id]
        groups = self._groups_of[topic]
        del groups[group_id]
        if not groups:
            del self._groups_of[topic]

    def _forget_id(self, topic: str, topic_id: bytes) -> None:
        """An offset that names an id is gone, or names another."""
        counts = self._ids_of[topic]
        counts[topic_id] -= 1
        if not counts[topic_id]:
            del counts[topic_id]
            if not counts:
                del self._ids_of[topic]


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
