"""Offsets that transactions will commit if they commit.

They lie in the container of their group, which takes part in the transaction.

Keeps: the offsets here are those of the container's table "transactions.offsets", once all queued changes are durable.
A transaction's offsets are here until its end is queued.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, TypeAlias, TypeVar

from core.applied.tables import Delete, Put
from gateway.groups.persistence import CommittedOffset, OffsetKey, decode_offset, encode_offset
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, decode_pending_key, encode_pending_key

_NONE: Final[Mapping[OffsetKey, CommittedOffset]] = {}
_K = TypeVar("_K")

_Index: TypeAlias = "dict[str, dict[_K, int]]"
"""By group, or topic: how many offsets each producer has, or each producer of each topic's id."""


class PendingOffsets:
    """Pending offsets by producer id."""

    def __init__(self) -> None:
        self._by_producer: dict[int, dict[OffsetKey, CommittedOffset]] = {}
        self._asked: dict[int, tuple[int, set[str]]] = {}  # by producer: epoch and groups of what came since the start
        self._transactions: Counter[OffsetKey] = Counter()  # open ones with this offset
        self._by_topic: _Index[tuple[bytes, int]] = {}
        self._by_group: _Index[int] = {}

    def __repr__(self) -> str:
        return f"<PendingOffsets of {len(self._by_producer)} producers>"

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Load some of the table at the start. Raises UnreadableRecord."""
        for stored, value in entries:
            producer_id, key = decode_pending_key(stored)
            self._add(producer_id, {key: decode_offset(value)})

    def add(self, producer_id: int, epoch: int, offsets: Mapping[OffsetKey, CommittedOffset]) -> None:
        """Note offsets of the transaction that the producer has under way with this epoch."""
        if not offsets:
            return
        self._add(producer_id, offsets)
        known_epoch, groups = self._asked.get(producer_id, (epoch, set()))
        new = {key.group_id for key in offsets}
        self._asked[producer_id] = epoch, groups | new if known_epoch == epoch else new

    def _add(self, producer_id: int, offsets: Mapping[OffsetKey, CommittedOffset]) -> None:
        known = self._by_producer.setdefault(producer_id, {})
        for key, offset in offsets.items():
            before = known.get(key)
            if before is None:
                self._transactions[key] += 1
                _more(self._by_group, key.group_id, producer_id)
            else:
                _less(self._by_topic, key.topic, (before.topic_id, producer_id))
            _more(self._by_topic, key.topic, (offset.topic_id, producer_id))
            known[key] = offset

    def drop(self, producer_id: int, keys: Iterable[OffsetKey]) -> None:
        """Forget some of a producer's offsets."""
        known = self._by_producer.get(producer_id, {})
        for key in keys:
            offset = known.pop(key)
            self._transactions[key] -= 1
            if not self._transactions[key]:
                del self._transactions[key]
            _less(self._by_topic, key.topic, (offset.topic_id, producer_id))
            _less(self._by_group, key.group_id, producer_id)
        if not known:
            self._by_producer.pop(producer_id, None)
            self._asked.pop(producer_id, None)

    def topics(self) -> list[str]:
        """Topics with pending offsets."""
        return list(self._by_topic)

    def topic_ids(self, topic: str) -> Collection[bytes]:
        """The ids in pending offsets of a topic; NO_TOPIC_ID among them, if one has none."""
        return {topic_id for topic_id, _ in self._by_topic.get(topic, ())}

    def is_of_group(self, group_id: str) -> bool:
        """Is any offset of a group pending?"""
        return group_id in self._by_group

    def some_of_topics(
        self, topics: Collection[str], is_living: Callable[[str, bytes], bool], most: int
    ) -> tuple[int, list[OffsetKey]] | None:
        """A producer with offsets of these topics that are of dead ones, and as many of them."""
        for topic in topics:
            for topic_id, producer_id in self._by_topic.get(topic, ()):
                if not is_living(topic, topic_id):
                    offsets = self._by_producer[producer_id].items()
                    keys = (
                        key
                        for key, offset in offsets
                        if key.topic in topics and not is_living(key.topic, offset.topic_id)
                    )
                    return producer_id, list(itertools.islice(keys, most))
        return None

    def some_of_group(self, group_id: str, most: int) -> tuple[int, list[OffsetKey]] | None:
        """A producer with offsets of a group, and as many of them."""
        for producer_id in self._by_group.get(group_id, ()):
            keys = (key for key in self._by_producer[producer_id] if key.group_id == group_id)
            return producer_id, list(itertools.islice(keys, most))
        return None

    def of(self, producer_id: int, epoch: int) -> Mapping[OffsetKey, CommittedOffset]:
        """Those that end with the producer's transaction of this epoch: none, if what came since the start is a later
        transaction's, whose epoch is higher (KIP-890)."""
        known_epoch, _ = self._asked.get(producer_id, (epoch, ()))
        return _NONE if known_epoch > epoch else self._by_producer.get(producer_id, _NONE)

    def count_of(self, producer_id: int) -> int:
        """Offsets of a producer."""
        return len(self._by_producer.get(producer_id, _NONE))

    def has_group(self, producer_id: int, epoch: int, group_id: str) -> bool:
        """Whether a producer is known to have offsets of a group here, in its transaction with this epoch."""
        known_epoch, groups = self._asked.get(producer_id, (epoch, ()))
        return known_epoch == epoch and group_id in groups

    def is_unstable(self, key: OffsetKey) -> bool:
        """Whether a transaction may still change this offset."""
        return key in self._transactions

    def keys_of_group(self, group_id: str) -> Iterator[OffsetKey]:
        """All offsets of a group that transactions may still change; one of several transactions comes as often."""
        for producer_id in list(self._by_group.get(group_id, ())):
            for key in list(self._by_producer.get(producer_id, ())):
                if key.group_id == group_id:
                    yield key


def _more(index: _Index[_K], name: str, whose: _K) -> None:
    """There is one offset more of a topic, or a group."""
    counts = index.setdefault(name, {})
    counts[whose] = counts.get(whose, 0) + 1


def _less(index: _Index[_K], name: str, whose: _K) -> None:
    """There is one offset less of a topic, or a group."""
    counts = index[name]
    counts[whose] -= 1
    if not counts[whose]:
        del counts[whose]
        if not counts:
            del index[name]


def puts(producer_id: int, offsets: Mapping[OffsetKey, CommittedOffset]) -> list[Put]:
    """Puts that store offsets as pending."""
    return [
        Put(PENDING_OFFSETS_TABLE, encode_pending_key(producer_id, key), encode_offset(offset))
        for key, offset in offsets.items()
    ]


def deletes(producer_id: int, keys: Iterable[OffsetKey]) -> list[Delete]:
    """Deletes that remove pending offsets."""
    return [Delete(PENDING_OFFSETS_TABLE, encode_pending_key(producer_id, key)) for key in keys]
