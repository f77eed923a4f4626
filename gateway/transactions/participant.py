"""One container's part in transactions, whose coordinator may be another container's: its partitions, its groups.

Invariants:
- Each step of an end is atomic: markers in partitions with that transaction open, offsets that it commits. Another try
  changes nothing more. An offset is unstable until its turn.
- A partition takes a transaction's first batch only while its coordinator has the partition in its log as a part of the
  transaction. The coordinator was asked before; a `Guard` breaks if the transaction ends here meanwhile.
- A coordinator that was replaced is refused, at each step: its successor may have ended all of it between two.
- Offsets of a topic or group that is deleted meanwhile are not committed, and go in steps.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import NotHosted, StoreError
from core.log.records import Operation
from core.store import Store
from core.streams.live import Slot
from core.streams.writers import WriterState
from core.turns import in_turns
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import CommittedOffset, OffsetKey
from gateway.refusals import Asked, Refusal, code_of
from gateway.transactions.coordinator_epochs import COORDINATORS_TABLE, CoordinatorEpochs
from gateway.transactions.known import nobody_waits
from gateway.transactions.outcome import Outcome
from gateway.transactions.partitions import transaction_ends
from gateway.transactions.pending_offsets import PendingOffsets, deletes, puts
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE
from gateway.transactions.places import Place
from gateway.transactions.transaction import Identity

_log: Final = logging.getLogger(__name__)

PLACES_AT_ONCE: Final = 1_000
"""Partitions that get their markers in one step, which is one turn of the loop: some 10 ms."""

OFFSETS_AT_ONCE: Final = 2_000
"""Offsets that are committed, or dropped, in one step: some 12 ms."""

LOADED_AT_ONCE: Final = 500
"""Pending offsets that are read in one step of a load: some 4 ms."""


class Guard:
    """Whether a producer's transaction may still begin in a container, since its coordinator was asked: not once it has
    ended there (`is_broken`), nor once the container has gone from here (`has_gone`), as nobody here sees that then."""

    __slots__ = ("__weakref__", "has_gone", "identity", "is_broken")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.is_broken = False
        self.has_gone = False


class Participant:
    """See the module. Times are the wall clock's."""

    def __init__(
        self,
        container: Container,
        store: Store,
        clock: Clock,
        offsets: OffsetService,
        epochs_max: int,
    ) -> None:
        self._container = container
        self._store = store
        self._clock = clock
        self._offsets = offsets
        self._epochs = CoordinatorEpochs(epochs_max)
        self._guards: weakref.WeakSet[Guard] = weakref.WeakSet()  # of requests under way
        self.pending_offsets = PendingOffsets()
        offsets.has_pending(self)

    def __repr__(self) -> str:
        return f"<Participant in container {self._container.id}, {self.pending_offsets!r}>"

    async def load(self) -> None:
        """Load pending offsets and the epochs of coordinators, in steps. Raises UnreadableRecord."""
        async for rows in self._container.table(PENDING_OFFSETS_TABLE).in_steps(most=LOADED_AT_ONCE):
            self.pending_offsets.load(rows)
        async for rows in self._container.table(COORDINATORS_TABLE).in_steps():
            self._epochs.load(rows)

    def stop(self) -> None:
        """Its container goes. If it comes back, what was asked before does not count."""
        for guard in self._guards:
            guard.has_gone = True

    async def drop_orphans(self) -> None:
        """Drop offsets of topics that were deleted before this start."""
        async for topic in in_turns(self.pending_offsets.topics()):
            self._offsets.look_for_dead(topic)

    # --- A transaction grows ------------------------------------------------------------------

    def guard(self, identity: Identity) -> Guard:
        """Watch over the time between a question to the coordinator and what is appended at its answer."""
        guard = Guard(identity)
        self._guards.add(guard)
        return guard

    def commit_offsets(
        self, identity: Identity, offsets: Mapping[OffsetKey, CommittedOffset], further: Sequence[Operation] = ()
    ) -> asyncio.Future[None]:
        """Note offsets that a transaction commits if it commits, in one step with `further` operations.

        The future is done when they are durable. Raises StoreError: then nothing has changed.
        """
        logged = self._container.end_transactions((), [*further, *puts(identity.producer_id, offsets)])
        self.pending_offsets.add(identity.producer_id, identity.epoch, offsets)
        return logged

    # --- A transaction ends -------------------------------------------------------------------

    async def end(self, outcome: Outcome, places: Sequence[Place]) -> None:
        """See `EndsTransactions`, whose local implementation this is."""
        self.check_coordinator(outcome.producer_id, outcome.coordinator_epoch)
        self.break_guards(outcome.producer_id, outcome.epoch)
        last = max(0, len(places) - PLACES_AT_ONCE)  # these go with the last offsets
        async for first in in_turns(range(0, last, PLACES_AT_ONCE)):
            some = places[first : min(first + PLACES_AT_ONCE, last)]
            await asyncio.shield(self._step(outcome, self._ends(outcome, some), ()))
        pending = list(self.pending_offsets.of(outcome.producer_id, outcome.epoch))
        async for first in in_turns(range(0, len(pending) - OFFSETS_AT_ONCE, OFFSETS_AT_ONCE)):
            keys = pending[first : first + OFFSETS_AT_ONCE]
            # Less, where a topic or group was deleted meanwhile.
            held = self.pending_offsets.of(outcome.producer_id, outcome.epoch)
            await asyncio.shield(self._apply(outcome, {key: held[key] for key in keys if key in held}, (), ()))
        held = self.pending_offsets.of(outcome.producer_id, outcome.epoch)
        await asyncio.shield(self._apply(outcome, held, self._ends(outcome, places[last:]), ()))
        await self._container.synced()

    def end_at_once(
        self, outcome: Outcome, places: Iterable[Place], further: Sequence[Operation]
    ) -> asyncio.Future[None]:
        """End a transaction in these partitions and all its offsets here, in one step with `further` operations.

        The future is done when that is durable. Raises StoreError: then nothing has changed.
        """
        pending = self.pending_offsets.of(outcome.producer_id, outcome.epoch)
        return self._apply(outcome, pending, self._ends(outcome, places), further)

    def is_small(self, producer_id: int, places: int) -> bool:
        """Whether `end_at_once` holds the loop for a moment only."""
        return places <= PLACES_AT_ONCE and self.pending_offsets.count_of(producer_id) <= OFFSETS_AT_ONCE

    def _apply(
        self,
        outcome: Outcome,
        pending: Mapping[OffsetKey, CommittedOffset],
        ends: Sequence[TransactionEnd],
        further: Sequence[Operation],
    ) -> asyncio.Future[None]:
        """Apply or drop these offsets, in one step with these markers and operations."""
        producer_id = outcome.producer_id
        committed = self._committed(pending) if outcome.committed else {}
        logged = self._step(outcome, ends, [*further, *deletes(producer_id, pending), *self._offsets.puts(committed)])
        self.pending_offsets.drop(producer_id, list(pending))
        self._offsets.submitted(committed, logged)
        return logged

    def _step(
        self, outcome: Outcome, ends: Sequence[TransactionEnd], operations: Sequence[Operation]
    ) -> asyncio.Future[None]:
        """One step of the log; the first of a new coordinator raises the epoch of coordinators with it. Raises Refusal
        for the word of one that was replaced: what is open by then may be the producer's next transaction."""
        raising: Sequence[Operation] = ()
        if outcome.is_from_elsewhere:
            self.check_coordinator(outcome.producer_id, outcome.coordinator_epoch)
            raising = self._epochs.raising(outcome.producer_id, outcome.coordinator_epoch)
            if not (raising or ends or operations):  # a log that is another node's by now must not say that all is done
                raising = [self._epochs.row(outcome.producer_id, outcome.coordinator_epoch)]
        logged = self._container.end_transactions(ends, [*raising, *operations])
        if raising:
            self._epochs.raised(outcome.producer_id, outcome.coordinator_epoch)
        return logged

    def _committed(self, pending: Mapping[OffsetKey, CommittedOffset]) -> dict[OffsetKey, CommittedOffset]:
        """Offsets whose topics still exist, and whose groups are not being deleted."""
        takes = self._offsets.takes
        return {key: offset for key, offset in pending.items() if takes(key, offset.topic_id)}

    def _ends(self, outcome: Outcome, places: Iterable[Place]) -> list[TransactionEnd]:
        return transaction_ends(
            [slot for slot in self._slots(places) if _is_open_for(slot, outcome)],
            outcome.producer_id,
            outcome.marker_epoch,
            committed=outcome.committed,
            coordinator_epoch=outcome.coordinator_epoch,
            now_ms=self._clock.wall_ms(),
        )

    def _slots(self, places: Iterable[Place]) -> Iterator[Slot]:
        """The partitions' slots; without those of deleted topics, and those beyond what is shown of a topic in which
        nothing was ever written.

        Raises NotHosted for one that has left this container since its coordinator looked: nothing is open of it here,
        and its transaction is, wherever it is.
        """
        for stream_id, number in places:
            stream = self._store.stream_of(stream_id)
            if stream is None:
                continue
            slot = stream.slot(number) if number < stream.slot_count else stream.known_slot(number)
            if slot is None:
                continue
            if slot.container_id != self._container.id:
                raise NotHosted(self._container.id)
            yield slot

    # --- Coordinators that were replaced ------------------------------------------------------

    def check_coordinator(self, producer_id: int, epoch: int) -> None:
        """Raises Refusal for the word of a coordinator that was replaced."""
        if self._epochs.is_fenced(producer_id, epoch):
            raise Refusal(ErrorCode.transaction_coordinator_fenced)

    def know_coordinators(self, epochs: Mapping[int, int]) -> None:
        """Queue what another container knows of these producers' coordinators, as far as that is newer. Raises
        StoreError."""
        newer = {id: epoch for id, epoch in epochs.items() if epoch > (self._epochs.get(id) or -1)}
        for producer_id, epoch in newer.items():
            logged = self._container.submit(self._epochs.raising(producer_id, epoch))
            logged.add_done_callback(nobody_waits)
            self._epochs.raised(producer_id, epoch)

    def coordinator_epoch(self, producer_id: int) -> int | None:
        """The epoch of the newest coordinator elsewhere that has ended a transaction of this producer here."""
        return self._epochs.get(producer_id)

    def break_guards(self, producer_id: int, epoch: int) -> None:
        """A transaction ends here: what was asked about it before does not count.

        With a new epoch for each transaction (KIP-890) a question about the next one can be under way by then, if this
        end is late or sent again. It stands.
        """
        for guard in self._guards:
            if guard.identity.producer_id == producer_id and guard.identity.epoch <= epoch:
                guard.is_broken = True

    # --- Offsets of what is deleted -----------------------------------------------------------

    def topic_ids(self, topic: str) -> Collection[bytes]:
        """See `Pending`, whose implementation this is."""
        return self.pending_offsets.topic_ids(topic)

    def has_group(self, group_id: str) -> bool:
        """See `Pending`."""
        return self.pending_offsets.is_of_group(group_id)

    def drop_some_of_topics(self, topics: Collection[str]) -> asyncio.Future[ErrorCode] | None:
        """See `Pending`: a new topic of a deleted one's name must not get its offsets."""
        some = self.pending_offsets.some_of_topics(topics, self._offsets.is_living, OFFSETS_AT_ONCE)
        return None if some is None else self._drop(*some)

    def drop_some_of_group(self, group_id: str) -> asyncio.Future[ErrorCode] | None:
        """See `Pending`: the end of their transactions would bring the group back."""
        some = self.pending_offsets.some_of_group(group_id, OFFSETS_AT_ONCE)
        return None if some is None else self._drop(*some)

    def _drop(self, producer_id: int, keys: Sequence[OffsetKey]) -> asyncio.Task[ErrorCode]:
        """Submit the deletion of pending offsets."""
        try:
            logged = self._container.submit(deletes(producer_id, keys))
        except StoreError as error:
            return asyncio.create_task(_refused(error))
        self.pending_offsets.drop(producer_id, keys)
        return asyncio.create_task(_outcome(logged))


async def _outcome(logged: asyncio.Future[None]) -> ErrorCode:
    try:
        await logged
    except StoreError as error:
        return await _refused(error)
    return ErrorCode.none


async def _refused(error: StoreError) -> ErrorCode:
    _log.warning("pending offsets of a deleted topic or group stay", extra={"error": str(error)})
    return code_of(error, Asked.COORDINATOR)


def is_open(slot: Slot, identity: Identity) -> bool:
    """Whether a producer with this very epoch has a transaction open in a partition."""
    state = _writer(slot, identity.producer_id)
    return state is not None and state.epoch == identity.epoch and slot.has_open_transaction(identity.producer_id)


def _is_open_for(slot: Slot, outcome: Outcome) -> bool:
    """Whether the transaction that ends is open in a partition, and not a later one of the same producer."""
    if not slot.has_open_transaction(outcome.producer_id):
        return False
    state = _writer(slot, outcome.producer_id)
    return state is None or state.epoch <= outcome.epoch


def _writer(slot: Slot, producer_id: int) -> WriterState | None:
    return None if slot.writers is None else slot.writers.get(producer_id)
