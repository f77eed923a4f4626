"""How a transaction ends: in one step of the log, or with its outcome first, wherever its partitions lie.

Invariants:
- Markers in every partition, the offsets that it commits, and its new state: all of it lasts, or nothing.
- If partitions lie in other containers, or partitions or offsets are many, the outcome is logged first, then the
  markers in each partition and the offsets, some at a time, then the rest. What a crash or a failure leaves in between
  is completed by the next look or the next start, with the same outcome. An offset is unstable until its turn.
- Offsets of a topic or group that is deleted meanwhile are not committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from core.clock import Clock
from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StoreError
from core.store import Store
from core.streams.live import Slot, Stream
from core.turns import in_turns
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import CommittedOffset, OffsetKey
from gateway.transactions.known import KnownTransactions, nobody_waits, put
from gateway.transactions.partitions import transaction_ends
from gateway.transactions.pending_offsets import PendingOffsets, deletes
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE
from gateway.transactions.places import Place
from gateway.transactions.transaction import PREPARED, Transaction

if TYPE_CHECKING:
    from gateway.topics.topics import Topics

_log: Final = logging.getLogger(__name__)


PLACES_AT_ONCE: Final = 1_000
"""Partitions that are added, or get their markers, in one turn of the loop: some 10 ms of markers."""


OFFSETS_AT_ONCE: Final = 2_000
"""Offsets that are committed in one turn of the loop: some 12 ms."""


class TransactionCounters:
    """Counts since the start, for the operator."""

    __slots__ = ("aborted", "committed", "timed_out")

    def __init__(self) -> None:
        self.committed = 0
        self.aborted = 0
        self.timed_out = 0


class Endings:
    """The ends of all transactions of this node, and the offsets that wait for their ends."""

    def __init__(
        self, store: Store, clock: Clock, topics: Topics, offsets: OffsetService, known: KnownTransactions
    ) -> None:
        self._store = store
        self._clock = clock
        self._trusted = store.trusted
        self._topics = topics
        self._offsets = offsets
        self._known = known
        self._ending: set[str] = set()  # prepared transactions that a task is completing
        self.pending_offsets = PendingOffsets()
        self.counters = TransactionCounters()

    def load(self) -> None:
        """Load pending offsets from the store."""
        self.pending_offsets.load(self._store.table(PENDING_OFFSETS_TABLE).items())

    def drop_orphans(self) -> None:
        """Drop offsets of topics that were deleted before this start."""
        for topic in self.pending_offsets.topics():
            if self._topics.get(topic) is None:
                self._drop_offsets(self.pending_offsets.of_topic(topic))

    async def end(self, prepared: Transaction) -> None:
        """Carry out the chosen outcome. Nothing has changed if it raises StoreError before anything was logged."""
        offsets = self.pending_offsets.of(prepared.producer_id)
        if len(prepared.partitions) > PLACES_AT_ONCE or len(offsets) > OFFSETS_AT_ONCE:
            await self._carry_out_in_turns(prepared)
            await self._complete(prepared, ())
            return
        home = self._store.home
        ends = self._ends(prepared, sorted(prepared.partitions))
        at_home = ends.pop(home, ())
        if ends:
            await self._mark_elsewhere(prepared, ends)
        await self._complete(prepared, at_home)

    async def _mark_elsewhere(self, prepared: Transaction, ends: Mapping[Container, Sequence[TransactionEnd]]) -> None:
        """Log the outcome, which cannot change from here on, and the markers in other containers. The next look, or the
        next start, tries again what fails."""
        self._ending.add(prepared.transactional_id)
        try:
            await self._known.change(prepared)
            await asyncio.gather(*(container.end_transactions(some, ()) for container, some in ends.items()))
        finally:
            self._ending.discard(prepared.transactional_id)

    async def _carry_out_in_turns(self, prepared: Transaction) -> None:
        """Log the outcome, then the markers and offsets, some in a turn. From the outcome on nobody writes in this
        transaction, so a partition without an open one has none until the end."""
        self._ending.add(prepared.transactional_id)
        try:
            await self._known.change(prepared)
            async for first in in_turns(range(0, len(prepared.partitions), PLACES_AT_ONCE)):
                ends = self._ends(prepared, prepared.places.some(first, PLACES_AT_ONCE), only_open=True)
                await asyncio.gather(*(container.end_transactions(some, ()) for container, some in ends.items()))
            await self._settle_offsets(prepared)
        finally:
            self._ending.discard(prepared.transactional_id)

    async def _settle_offsets(self, prepared: Transaction) -> None:
        """Commit or drop all offsets but the last ones, which go with the transaction's new state."""
        producer_id = prepared.producer_id
        pending = list(self.pending_offsets.of(producer_id).items())
        async for first in in_turns(range(0, len(pending) - OFFSETS_AT_ONCE, OFFSETS_AT_ONCE)):
            held = self.pending_offsets.of(producer_id)  # less, where a topic or group was deleted meanwhile
            some = {key: offset for key, offset in pending[first : first + OFFSETS_AT_ONCE] if key in held}
            committed = self._committed(some) if prepared.is_committed else {}
            logged = self._store.home.submit([*deletes(producer_id, some), *self._offsets.puts(committed)])
            self.pending_offsets.drop(producer_id, some)
            self._offsets.submitted(committed, logged)
            await asyncio.shield(logged)

    async def _complete(self, prepared: Transaction, ends: Sequence[TransactionEnd]) -> None:
        producer_id = prepared.producer_id
        completed = prepared.completed(self._trusted.stamp_ms())
        pending = self.pending_offsets.of(producer_id)
        committed = self._committed(pending) if prepared.is_committed else {}
        logged = self._store.home.end_transactions(
            ends, [put(completed), *deletes(producer_id, pending), *self._offsets.puts(committed)]
        )
        self._known.set(completed)
        self.pending_offsets.take(producer_id)
        self._offsets.submitted(committed, logged)
        if prepared.is_committed:
            self.counters.committed += 1
        else:
            self.counters.aborted += 1
        await asyncio.shield(logged)

    async def complete_prepared(self) -> None:
        """End what was chosen and is not complete, and what no task is about to. Raises StoreError."""
        for known in self._known:
            if known.state in PREPARED and known.transactional_id not in self._ending:
                _log.info("a transaction is completed", extra={"transactional_id": known.transactional_id})
                await self.end(known)

    def _committed(self, pending: Mapping[OffsetKey, CommittedOffset]) -> dict[OffsetKey, CommittedOffset]:
        """Offsets whose topics still exist."""
        return {key: offset for key, offset in pending.items() if self._topics.get(key.topic) is not None}

    def _ends(
        self, prepared: Transaction, places: Iterable[Place], *, only_open: bool = False
    ) -> dict[Container, Sequence[TransactionEnd]]:
        slots: dict[Container, list[Slot]] = {}
        for slot in self._slots(places):
            if only_open and not slot.has_open_transaction(prepared.producer_id):
                continue
            slots.setdefault(self._store.hosted(slot).container, []).append(slot)
        now_ms = self._clock.wall_ms()
        return {
            container: transaction_ends(
                some, prepared.producer_id, prepared.marker_epoch, committed=prepared.is_committed, now_ms=now_ms
            )
            for container, some in slots.items()
        }

    def _slots(self, places: Iterable[Place]) -> Iterator[Slot]:
        """The partitions' slots; without those of deleted topics."""
        for stream_id, number in places:
            stream = self._store.stream_of(stream_id)
            if stream is not None and number < stream.slot_count:
                yield stream.slot(number)

    # --- Offsets of what is deleted ----------------------------------------------------------

    def topic_deleted(self, stream: Stream) -> None:
        """Drop the topic's pending offsets."""
        self._drop_offsets(self.pending_offsets.of_topic(stream.name))

    def group_deleted(self, group_id: str) -> None:
        """Drop the group's pending offsets: otherwise the end of their transactions would bring it back."""
        self._drop_offsets(self.pending_offsets.of_group(group_id))

    def _drop_offsets(self, dropped: Mapping[int, list[OffsetKey]]) -> None:
        """Delete pending offsets: a new topic or group with a deleted one's name must not get them."""
        for producer_id, keys in dropped.items():
            try:
                logged = self._store.home.submit(deletes(producer_id, keys))
            except StoreError as error:
                _log.warning("pending offsets of a deleted topic or group stay", extra={"error": str(error)})
            else:
                logged.add_done_callback(nobody_waits)
                self.pending_offsets.drop(producer_id, keys)
