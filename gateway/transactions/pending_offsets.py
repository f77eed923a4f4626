"""Offsets that transactions will commit if they commit.

They lie in the container of their group, which takes part in the transaction.

Keeps: the offsets here are those of the container's table "transactions.offsets", once all queued changes are durable.
A transaction's offsets are here until its end is queued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from core.applied.tables import Delete, Put
from gateway.groups.persistence import CommittedOffset, OffsetKey, decode_offset, encode_offset
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, decode_pending_key, encode_pending_key

_NONE: Final[Mapping[OffsetKey, CommittedOffset]] = {}


class PendingOffsets:
    """Pending offsets by producer id."""

    def __init__(self) -> None:
        self._by_producer: dict[int, dict[OffsetKey, CommittedOffset]] = {}
        self._asked: dict[int, tuple[int, set[str]]] = {}  # by producer: epoch and groups of what came since the start
        self._transactions: Counter[OffsetKey] = Counter()  # open ones with this offset

    def __repr__(self) -> str:
        return f"<PendingOffsets of {len(self._by_producer)} producers>"

    def load(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Load the table at the start. Raises UnreadableRecord."""
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
        self._transactions.update(key for key in offsets if key not in known)
        known.update(offsets)

    def drop(self, producer_id: int, keys: Iterable[OffsetKey]) -> None:
        """Forget some of a producer's offsets."""
        known = self._by_producer.get(producer_id, {})
        for key in keys:
            del known[key]
            self._transactions[key] -= 1
            if not self._transactions[key]:
                del self._transactions[key]
        if not known:
            self._by_producer.pop(producer_id, None)
            self._asked.pop(producer_id, None)

    def topics(self) -> set[str]:
        """Topics with pending offsets."""
        return {key.topic for key in self._transactions}

    def of_topic(self, topic: str) -> Mapping[int, list[OffsetKey]]:
        """A topic's offsets, by producer id."""
        return self._where(lambda key: key.topic == topic)

    def of_group(self, group_id: str) -> Mapping[int, list[OffsetKey]]:
        """A group's offsets, by producer id."""
        return self._where(lambda key: key.group_id == group_id)

    def _where(self, wanted: Callable[[OffsetKey], bool]) -> Mapping[int, list[OffsetKey]]:
        found = ((producer, list(filter(wanted, known))) for producer, known in self._by_producer.items())
        return {producer_id: keys for producer_id, keys in found if keys}

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
        """All offsets of a group that transactions may still change."""
        return (key for key in self._transactions if key.group_id == group_id)


def puts(producer_id: int, offsets: Mapping[OffsetKey, CommittedOffset]) -> list[Put]:
    """Puts that store offsets as pending."""
    return [
        Put(PENDING_OFFSETS_TABLE, encode_pending_key(producer_id, key), encode_offset(offset))
        for key, offset in offsets.items()
    ]


def deletes(producer_id: int, keys: Iterable[OffsetKey]) -> list[Delete]:
    """Deletes that remove pending offsets."""
    return [Delete(PENDING_OFFSETS_TABLE, encode_pending_key(producer_id, key)) for key in keys]
