"""Transactions in their partitions: how one ends there, and which are open where the coordinator's log does not say so.

Keeps: what is open in a partition is known to the coordinator, also after a crash. Each container has a log of its own,
so a crash may leave what was written to one and take the record in the home container that came before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from typing import Final

from core.slot import Slot
from core.store import Store
from core.transactions import TransactionEnd
from gateway.transactions.transaction import Place
from gateway.wire.control_batch import marker_batch
from gateway.wire.record_batch import LENGTH_PREFIX_BYTES, MARKER_TIMESTAMP, PLACE

TRANSACTIONS_ENDING: Final = 16
"""Markers that are kept: all of a transaction are made in one turn of the loop, but for those of other containers."""


def written_elsewhere(store: Store) -> Mapping[int, Collection[Place]]:
    """Partitions outside the home container with an open transaction, by producer id."""
    written: dict[int, list[Place]] = {}
    for container in store.containers.values():
        if container is store.home:
            continue
        for stream in container.streams.values():
            for slot in stream.written_slots():
                for producer_id in slot.transactions.open if slot.transactions is not None else ():
                    written.setdefault(producer_id, []).append(Place(stream.id, slot.number))
    return written


def transaction_end(slot: Slot, producer_id: int, epoch: int, *, committed: bool, now_ms: int) -> TransactionEnd:
    """The end of a producer's transaction in one partition."""
    coordinator_epoch = slot.leader_epoch
    return TransactionEnd(
        slot=slot,
        writer_id=producer_id,
        writer_epoch=epoch,
        committed=committed,
        timestamp=MARKER_TIMESTAMP,
        entry=partial(
            _marker, producer_id, epoch, committed=committed, coordinator_epoch=coordinator_epoch, now_ms=now_ms
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
) -> bytes:
    marker = _marker_anywhere(producer_id, epoch, committed, coordinator_epoch, now_ms)
    return PLACE.pack(base, len(marker) - LENGTH_PREFIX_BYTES, leader_epoch) + marker[PLACE.size :]


@lru_cache(maxsize=TRANSACTIONS_ENDING)
def _marker_anywhere(producer_id: int, epoch: int, committed: bool, coordinator_epoch: int, now_ms: int) -> bytes:
    """A transaction's marker: the same in all of its partitions but for its place, which the CRC does not cover."""
    return marker_batch(
        base_offset=0,
        leader_epoch=0,
        producer_id=producer_id,
        producer_epoch=epoch,
        committed=committed,
        coordinator_epoch=coordinator_epoch,
        timestamp_ms=now_ms,
    )
