"""The ends of a transaction in its partitions: markers, which name one another.

Keeps: the markers of one step have the same bytes, except for their places and what they say of one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final

from core.container.ports import TransactionEnd
from core.streams.live import Slot
from gateway.records.control_batch import MarkerEnd, encode_ends, marker_batch
from gateway.records.record_batch import LENGTH_PREFIX_BYTES, MARKER_TIMESTAMP, PLACE

TRANSACTIONS_ENDING: Final = 16
"""Markers that are kept: one turn of the loop makes all of a transaction, except those of other containers."""

ENDS_TOGETHER: Final = 16
"""Partitions of a large transaction are grouped: a marker names those of its own group and of the next one, 16 bytes
each. So the markers that are left name a missing one, unless the whole group beside it is missing, too."""


def transaction_ends(
    slots: Sequence[Slot], producer_id: int, epoch: int, *, committed: bool, coordinator_epoch: int, now_ms: int
) -> list[TransactionEnd]:
    """The ends of a producer's transaction in partitions of one container, which come in one step."""
    together = _Together(slots, producer_id) if len(slots) > 1 else None
    return [
        transaction_end(
            slot,
            producer_id,
            epoch,
            committed=committed,
            coordinator_epoch=coordinator_epoch,
            now_ms=now_ms,
            together=together,
        )
        for slot in slots
    ]


class _Together:
    """Partitions in which a transaction ends in one step: each marker lists places of others.

    The places are read when the first marker is made: all are then appended in the same turn of the loop.
    """

    def __init__(self, slots: Sequence[Slot], producer_id: int) -> None:
        self._slots = slots
        self._producer_id = producer_id
        self._said: list[bytes] | None = None
        self._group_of: dict[tuple[int, int], int] = {}

    def said_in(self, slot: Slot) -> bytes:
        """The list of other places in a partition's marker."""
        if self._said is None:
            self._said = self._made()
        group = self._group_of.get((slot.stream.id, slot.number))
        return b"" if group is None else self._said[group]

    def _made(self) -> list[bytes]:
        ends = [
            MarkerEnd(slot.stream.id, slot.number, slot.end)
            for slot in self._slots
            if slot.has_open_transaction(self._producer_id)
        ]
        if len(ends) < 2:
            return []
        groups = [ends[at : at + ENDS_TOGETHER] for at in range(0, len(ends), ENDS_TOGETHER)]
        self._group_of = {end[:2]: number for number, group in enumerate(groups) for end in group}
        if len(groups) == 1:
            return [encode_ends(len(ends), ends)]
        following = [*groups[1:], groups[0]]
        return [encode_ends(len(ends), [*own, *next_one]) for own, next_one in zip(groups, following, strict=True)]


def transaction_end(
    slot: Slot,
    producer_id: int,
    epoch: int,
    *,
    committed: bool,
    coordinator_epoch: int,
    now_ms: int,
    together: _Together | None = None,
) -> TransactionEnd:
    """The end of a producer's transaction in one partition."""
    return TransactionEnd(
        slot=slot,
        writer_id=producer_id,
        writer_epoch=epoch,
        committed=committed,
        timestamp=MARKER_TIMESTAMP,
        entry=partial(
            _marker,
            producer_id,
            epoch,
            committed=committed,
            coordinator_epoch=coordinator_epoch,
            now_ms=now_ms,
            said=(lambda: b"") if together is None else partial(together.said_in, slot),
        ),
    )


def _marker(
    producer_id: int,
    epoch: int,
    base: int,
    leader_epoch: int,
    *,
    committed: bool,
    coordinator_epoch: int,
    now_ms: int,
    said: Callable[[], bytes],
) -> bytes:
    marker = _marker_anywhere(producer_id, epoch, committed, coordinator_epoch, now_ms, said())
    return PLACE.pack(base, len(marker) - LENGTH_PREFIX_BYTES, leader_epoch) + marker[PLACE.size :]


@lru_cache(maxsize=TRANSACTIONS_ENDING)
def _marker_anywhere(
    producer_id: int, epoch: int, committed: bool, coordinator_epoch: int, now_ms: int, ends: bytes
) -> bytes:
    """A transaction's marker: the same in all of its partitions except for its place, which the CRC does not cover."""
    return marker_batch(
        base_offset=0,
        leader_epoch=0,
        producer_id=producer_id,
        producer_epoch=epoch,
        committed=committed,
        coordinator_epoch=coordinator_epoch,
        timestamp_ms=now_ms,
        ends=ends,
    )
