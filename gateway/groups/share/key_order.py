"""Delivery in the order of keys: records with the same key are with one member at a time, and come in order.

A pure judgement over a share-partition, with the keys of the records that are not settled. Keys are known from the read
that precedes a delivery; they are not stored. After a restart nobody holds anything, so every key is read again before
it matters.

Keeps: a record is free for a member if every earlier one with its key is settled, dead, or with that member, and none
with its key is with another. A record without a key is always free. No more keys are known than records may be in
flight, and those of one read. A key is known by its hash: two that are taken for the same only wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gateway.groups.share.partition import DEAD, Limits, SharePartition, Span, State

Keys = Mapping[int, int | None]
"""The hash of each record's key by offset; None: it has no key."""

_IS_OVER: Final = frozenset({State.SETTLED, *DEAD})


class KeyOrder:
    """What is known of the keys of one share-partition."""

    def __init__(self) -> None:
        self._keys: dict[int, int | None] = {}

    def __repr__(self) -> str:
        return f"<KeyOrder {len(self._keys)} keys>"

    def next_offset(self, partition: SharePartition, member_id: str, limits: Limits) -> int | None:
        """The first offset that the member may get, or whose key must be read; None if there is none."""
        taken = self._with_others(partition, member_id)
        if taken is None:
            return None
        for run in partition.runs:
            if run.state is State.AVAILABLE:
                for offset in range(run.first, run.last + 1):
                    if self._keys.get(offset, _UNKNOWN) not in taken:
                        return offset
        return partition.end if partition.in_flight < limits.in_flight else None

    def sift(self, partition: SharePartition, member_id: str, at: int, spans: Sequence[Span], keys: Keys) -> list[Span]:
        """The spans of a read from `at` on, cut into what is free for the member and what is not."""
        self._keys.update(keys)
        taken = self._with_others(partition, member_id)
        if taken is None or not self._add_waiting(taken, partition, at):
            return []
        sifted: list[Span] = []
        for span in spans:
            if span.is_data:
                sifted += _cut(span, at, keys, taken)
            else:
                sifted.append(span)
        return sifted

    def forget_settled(self, partition: SharePartition) -> None:
        """Keep the keys that may still matter."""
        known = self._keys
        self._keys = {offset: known[offset] for offset in _unsettled(partition) if offset in known}

    def _with_others(self, partition: SharePartition, member_id: str) -> set[int | None] | None:
        """The keys of records that other members hold; None if one of them is not known: the group was ordered when
        the record had been given away."""
        taken: set[int | None] = set()
        for run in partition.runs:
            if run.state is State.HELD and run.holder != member_id:
                for offset in range(run.first, run.last + 1):
                    if offset not in self._keys:
                        return None
                    taken.add(self._keys[offset])
        taken.discard(None)
        return taken

    def _add_waiting(self, taken: set[int | None], partition: SharePartition, at: int) -> bool:
        """Add the keys of available records before the read; False if one is not known."""
        for run in partition.runs:
            if run.first >= at:
                break
            if run.state is State.AVAILABLE:
                for offset in range(run.first, min(run.last + 1, at)):
                    if offset not in self._keys:
                        return False
                    taken.add(self._keys[offset])
        taken.discard(None)
        return True


_UNKNOWN: Final = -1 << 64
"""In place of a hash, which has 64 bits."""


def _cut(span: Span, at: int, keys: Keys, taken: set[int | None]) -> list[Span]:
    found: list[Span] = []
    first = begun = max(span.first, at)
    is_free = keys.get(first) not in taken
    for offset in range(first, span.last + 1):
        if (keys.get(offset) not in taken) is not is_free:
            found.append(Span(begun, offset - 1, True, is_free))
            begun, is_free = offset, not is_free
    if begun <= span.last:
        found.append(Span(begun, span.last, True, is_free))
    return found


def _unsettled(partition: SharePartition) -> Iterable[int]:
    return (offset for run in partition.runs if run.state not in _IS_OVER for offset in range(run.first, run.last + 1))
