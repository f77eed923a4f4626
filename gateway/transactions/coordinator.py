"""The transaction coordinator: a thin asyncio shell around the state machine of each transactional id.

Invariants:
- A transaction ends in one step of the log, with its markers in every partition, the offsets that it commits, and its
  new state: all of it lasts, or nothing. If partitions lie in other containers, or are more than PLACES_AT_ONCE, the
  outcome is logged first, then the markers in each of them, then the rest; after a crash in between, the next start
  completes the end.
- A request is decided, changed in memory and queued for the log without an await, and answered when it is durable. So
  memory is ahead of the log only by queued changes, in order.
- An identity is answered when it is synced, whatever the sync mode: after a power cut no other producer gets it.
- A partition or group is in the log as part of a transaction before anything is written to it in that transaction.
- Only the newest producer of a transactional id writes, on any partition.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StoreError
from core.store import Store
from core.streams.live import Slot, Stream
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups.offsets.service import OffsetService
from gateway.groups.persistence import CommittedOffset, OffsetKey
from gateway.refusals import Refusal
from gateway.transactions.partitions import transaction_ends, written_elsewhere
from gateway.transactions.pending_offsets import PendingOffsets, deletes, puts
from gateway.transactions.persistence import (
    ID_BYTES_MAX,
    PENDING_OFFSETS_TABLE,
    TRANSACTIONS_TABLE,
    decode_transaction,
    encode_transaction,
)
from gateway.transactions.places import Place
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.transaction import (
    NO_ID,
    PREPARED,
    Identity,
    Transaction,
)

if TYPE_CHECKING:
    from gateway.topics.topics import Topics

_log: Final = logging.getLogger(__name__)

TIMEOUTS_PER_LOOK_MAX: Final = 1_000
"""Timed-out transactions that one look ends, and unused ids that it forgets: the next look takes the rest."""

FIRST_EXPIRY_S_MAX: Final = 60.0
"""Time from the start to the first look for unused ids: a gateway that restarts every hour forgets some, too."""
PLACES_AT_ONCE: Final = 1_000
"""Partitions that are added, or get their markers, in one turn of the loop: some 10 ms of markers."""

ADDING_TRIES_MAX: Final = 5
"""How often many partitions are added from the beginning, as the transaction changed meanwhile."""
SHOWN_CHARS: Final = 100
"""Characters of a transactional id, in messages."""


class TransactionCounters:
    """Counts since the start, for the operator."""

    __slots__ = ("aborted", "committed", "timed_out")

    def __init__(self) -> None:
        self.committed = 0
        self.aborted = 0
        self.timed_out = 0


class TransactionCoordinator:
    """All transactional ids of this node. Versions of APIs are known in gateway/apis only."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        topics: Topics,
        offsets: OffsetService,
        producers: ProducerIds,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._trusted = store.trusted
        self._topics = topics
        self._offsets = offsets
        self._producers = producers
        topics.on_deletion(self._topic_deleted)
        self._transactions: dict[str, Transaction] = {}
        self._deadlines: dict[str, float] = {}  # of transactions under way, monotonic s
        self._ending: set[str] = set()  # prepared transactions that a task is completing
        self._looker: asyncio.Task[None] | None = None
        self.pending_offsets = PendingOffsets()
        self.counters = TransactionCounters()

    def __repr__(self) -> str:
        return f"<TransactionCoordinator {len(self._transactions)} ids, {len(self._deadlines)} under way>"

    def __iter__(self) -> Iterator[Transaction]:
        return iter(list(self._transactions.values()))

    def __len__(self) -> int:
        return len(self._transactions)

    @property
    def under_way(self) -> int:
        return len(self._deadlines)

    def get(self, transactional_id: str) -> Transaction | None:
        return self._transactions.get(transactional_id)

    def name_producers(self, producer_ids: Collection[int]) -> Mapping[int, str]:
        """Names of these producers for an operator."""
        names = {producer_id: f"producer {producer_id}" for producer_id in producer_ids}
        for transaction in self._transactions.values():
            if transaction.producer_id in names:
                names[transaction.producer_id] = f"transactional id {transaction.transactional_id[:SHOWN_CHARS]!r}"
        return names

    # --- Life ---------------------------------------------------------------------------------

    def load(self) -> None:
        """Load transactions from the store. Raises UnreadableRecord."""
        written = written_elsewhere(self._store)
        for key, value in self._store.table(TRANSACTIONS_TABLE).items():
            stored = decode_transaction(key, value)
            transaction = stored.holding(written.get(stored.producer_id, ()), self._trusted.stamp_ms())
            self._set(transaction)
            if transaction.is_ongoing:
                gone_ms = self._trusted.age_ms(transaction.started_ms)
                left_ms = min(max(transaction.timeout_ms - gone_ms, 0), transaction.timeout_ms)
                self._deadlines[transaction.transactional_id] = self._clock.monotonic_s() + left_ms / 1_000
        self.pending_offsets.load(self._store.table(PENDING_OFFSETS_TABLE).items())

    async def start(self) -> None:
        """Complete prepared transactions; from now on time-outs run."""
        for topic in self.pending_offsets.topics():
            if self._topics.get(topic) is None:
                self._drop_offsets(self.pending_offsets.of_topic(topic))
        await self._complete_prepared()
        self._looker = asyncio.create_task(self._look_for_ever(), name="transactions")
        _log.info("transactions loaded", extra={"ids": len(self), "under_way": self.under_way})

    async def stop(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)

    # --- Producers ----------------------------------------------------------------------------

    async def init_producer(self, transactional_id: str, timeout_ms: int, expected: Identity | None) -> Identity:
        """The next producer of this id; a transaction of the one before is aborted. Raises Refusal, StoreError."""
        if not transactional_id or len(transactional_id.encode()) > ID_BYTES_MAX:
            raise Refusal(ErrorCode.invalid_request)
        if not 0 < timeout_ms <= self._config.transaction_max_timeout_ms:
            raise Refusal(ErrorCode.invalid_transaction_timeout)
        new_id = NO_ID
        while True:  # the state may have changed during every await
            known = self._transactions.get(transactional_id)
            if known is not None:
                known.admit_init(expected)
                if known.is_ongoing:
                    await self._fence(known, remembers=expected is not None)
                    continue
            if known is None and len(self._transactions) >= self._config.transactional_ids_max:
                self._refuse_id(transactional_id)
            if new_id == NO_ID and (known is None or known.is_exhausted):
                new_id = await self._producers.allocate()
                continue
            now_ms = self._trusted.stamp_ms()
            if known is None:
                following = Transaction(
                    transactional_id=transactional_id,
                    producer_id=new_id,
                    epoch=0,
                    timeout_ms=timeout_ms,
                    changed_ms=now_ms,
                )
            else:
                following = known.initialised(timeout_ms, expected, new_id, now_ms)
            await self._change(following)
            await self._store.synced()
            return following.identity

    def _refuse_id(self, transactional_id: str) -> NoReturn:
        _log.warning(
            "a new transactional id is refused: there are as many as transactional.ids.max allows",
            extra={"transactional_id": transactional_id[:SHOWN_CHARS], "ids": len(self)},
        )
        raise Refusal(ErrorCode.policy_violation)

    async def _fence(self, known: Transaction, *, remembers: bool) -> None:
        """Abort the transaction under way, and fence its producer."""
        now_ms = self._trusted.stamp_ms()
        await self._end(known.ending(committed=False, following=known.fenced(), remembers=remembers, now_ms=now_ms))

    # --- Partitions and groups of a transaction -----------------------------------------------

    async def add(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> None:
        """Add partitions and groups to a transaction, which begins if need be. Raises Refusal, StoreError."""
        known = self._find(transactional_id)
        known.admit(identity)
        if len(places) > PLACES_AT_ONCE:
            await self._add_many(transactional_id, identity, list(places), groups)
        elif known.holds(places, groups):
            await self._store.home.all_durable()
        else:
            await self._change(known.adding(places, groups, self._trusted.stamp_ms()))

    async def _add_many(
        self, transactional_id: str, identity: Identity, places: Sequence[Place], groups: Collection[str]
    ) -> None:
        """Gather them in turns, and add them all in the last one. Raises Refusal, StoreError."""
        for _ in range(ADDING_TRIES_MAX):
            known = self._find(transactional_id)
            known.admit(identity)
            grown = known.places
            async for first in in_turns(range(0, len(places), PLACES_AT_ONCE)):
                grown = grown.adding(places[first : first + PLACES_AT_ONCE])
            if self._transactions.get(transactional_id) is known:
                await self._change(known.grown(grown, groups, self._trusted.stamp_ms()))
                return
        raise Refusal(ErrorCode.concurrent_transactions)

    def add_before_write(self, transactional_id: str, identity: Identity, places: Collection[Place]) -> None:
        """The same for partitions whose batches follow this in the log. Raises Refusal, StoreError."""
        known = self._find(transactional_id)
        known.admit(identity)
        if not known.holds(places, ()):
            logged = self._submit(known.adding(places, (), self._trusted.stamp_ms()))
            logged.add_done_callback(_nobody_waits)

    def admit_write(self, transactional_id: str, identity: Identity, place: Place) -> bool:
        """Whether a partition is part of this producer's current transaction. Raises Refusal."""
        known = self._find(transactional_id)
        known.admit(identity)
        return known.is_ongoing and place in known.partitions

    def has_group(self, transactional_id: str, identity: Identity, group_id: str) -> bool:
        """The same for a group. Raises Refusal."""
        known = self._find(transactional_id)
        known.admit(identity)
        return known.is_ongoing and group_id in known.groups

    async def commit_offsets(
        self, transactional_id: str, identity: Identity, group_id: str, offsets: Mapping[OffsetKey, CommittedOffset]
    ) -> None:
        """Note the offsets that a transaction commits for a group if it commits. Raises Refusal, StoreError."""
        known = self._find(transactional_id)
        known.admit(identity)
        following = known.adding((), (group_id,), self._trusted.stamp_ms())
        logged = self._store.home.end_transactions((), [_put(following), *puts(identity.producer_id, offsets)])
        self._set(following)
        self.pending_offsets.add(identity.producer_id, offsets)
        await asyncio.shield(logged)

    # --- The end ------------------------------------------------------------------------------

    async def end(self, transactional_id: str, identity: Identity, *, committed: bool, bumps: bool) -> Identity:
        """Commit or abort; returns the producer's identity from here on. Raises Refusal, StoreError.

        `bumps`: with each end the producer gets a new epoch (KIP-890).
        """
        new_id = NO_ID
        while True:
            known = self._find(transactional_id)
            if not known.admit_end(identity, committed=committed, bumps=bumps):
                await self._store.home.all_durable()
                await self._store.synced()
                return known.identity
            if bumps and known.is_exhausted and new_id == NO_ID:
                new_id = await self._producers.allocate()
                continue  # another request may have ended it meanwhile
            following = known.bumped(new_id) if bumps else known.identity
            now_ms = self._trusted.stamp_ms()
            prepared = known.ending(committed=committed, following=following, remembers=bumps, now_ms=now_ms)
            await self._end(prepared)
            if bumps:
                await self._store.synced()
            return following

    async def _end(self, prepared: Transaction) -> None:
        """Carry out the chosen outcome. Nothing has changed if it raises StoreError before anything was logged."""
        if len(prepared.partitions) > PLACES_AT_ONCE:
            await self._mark_many(prepared)
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
            await self._change(prepared)
            await asyncio.gather(*(container.end_transactions(some, ()) for container, some in ends.items()))
        finally:
            self._ending.discard(prepared.transactional_id)

    async def _mark_many(self, prepared: Transaction) -> None:
        """The same for many partitions, some in a turn. From the outcome on nobody writes in this transaction, so a
        partition without an open one has none until the end."""
        self._ending.add(prepared.transactional_id)
        try:
            await self._change(prepared)
            async for first in in_turns(range(0, len(prepared.partitions), PLACES_AT_ONCE)):
                ends = self._ends(prepared, prepared.places.some(first, PLACES_AT_ONCE), only_open=True)
                await asyncio.gather(*(container.end_transactions(some, ()) for container, some in ends.items()))
        finally:
            self._ending.discard(prepared.transactional_id)

    async def _complete(self, prepared: Transaction, ends: Sequence[TransactionEnd]) -> None:
        producer_id = prepared.producer_id
        completed = prepared.completed(self._trusted.stamp_ms())
        pending = self.pending_offsets.of(producer_id)
        committed = self._committed(pending) if prepared.is_committed else {}
        logged = self._store.home.end_transactions(
            ends, [_put(completed), *deletes(producer_id, pending), *self._offsets.puts(committed)]
        )
        self._set(completed)
        self.pending_offsets.take(producer_id)
        self._offsets.submitted(committed, logged)
        if prepared.is_committed:
            self.counters.committed += 1
        else:
            self.counters.aborted += 1
        await asyncio.shield(logged)

    def _committed(self, pending: Mapping[OffsetKey, CommittedOffset]) -> dict[OffsetKey, CommittedOffset]:
        """Offsets whose topics still exist."""
        return {key: offset for key, offset in pending.items() if self._topics.get(key.topic) is not None}

    def _topic_deleted(self, stream: Stream) -> None:
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
                logged.add_done_callback(_nobody_waits)
                self.pending_offsets.drop(producer_id, keys)

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

    # --- Time-outs ----------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        interval_s = self._config.transaction_abort_timed_out_transaction_cleanup_interval_ms / 1_000
        expiry_s = self._config.transaction_remove_expired_transaction_cleanup_interval_ms / 1_000
        expire_at = self._clock.monotonic_s() + min(expiry_s, FIRST_EXPIRY_S_MAX)
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._complete_prepared()
                await self.abort_overdue()
                if self._clock.monotonic_s() >= expire_at:
                    expire_at = self._clock.monotonic_s() + expiry_s
                    await self.forget_unused()
            except StoreError as error:
                _log.warning("transactions could not be ended and will be tried again", extra={"error": str(error)})

    async def abort_overdue(self) -> None:
        """Abort transactions that took longer than their producer's time-out. Raises StoreError."""
        now_s = self._clock.monotonic_s()
        overdue = [name for name, deadline_s in self._deadlines.items() if deadline_s <= now_s]
        for transactional_id in overdue[:TIMEOUTS_PER_LOOK_MAX]:
            known = self._transactions.get(transactional_id)
            if known is None or not known.is_ongoing or transactional_id not in self._deadlines:
                continue  # it ended while others were aborted
            _log.warning(
                "a transaction timed out and is aborted",
                extra={"transactional_id": transactional_id, "timeout_ms": known.timeout_ms},
            )
            self.counters.timed_out += 1
            await self._fence(known, remembers=False)

    async def _complete_prepared(self) -> None:
        for known in self:
            if known.state in PREPARED and known.transactional_id not in self._ending:
                _log.info("a transaction is completed", extra={"transactional_id": known.transactional_id})
                await self._end(known)

    async def forget_unused(self) -> None:
        """Forget ids that were not used for transactional.id.expiration.ms. Raises StoreError."""
        now, expiration_ms = self._trusted.now(), self._config.transactional_id_expiration_ms
        unused = [known for known in self if _is_idle(known) and now.age_ms(known.changed_ms) >= expiration_ms]
        for known in unused[:TIMEOUTS_PER_LOOK_MAX]:
            if self._transactions.get(known.transactional_id) is known:
                gone = self._store.home.submit([Delete(TRANSACTIONS_TABLE, known.transactional_id.encode())])
                del self._transactions[known.transactional_id]
                await asyncio.shield(gone)

    # --- Changes ------------------------------------------------------------------------------

    def _find(self, transactional_id: str) -> Transaction:
        known = self._transactions.get(transactional_id)
        if known is None:
            raise Refusal(ErrorCode.invalid_producer_id_mapping if transactional_id else ErrorCode.invalid_request)
        return known

    async def _change(self, following: Transaction) -> None:
        await asyncio.shield(self._submit(following))

    def _submit(self, following: Transaction) -> asyncio.Future[None]:
        logged = self._store.home.submit([_put(following)])
        self._set(following)
        return logged

    def _set(self, following: Transaction) -> None:
        name = following.transactional_id
        self._transactions[name] = following
        if not following.is_ongoing:
            self._deadlines.pop(name, None)
        elif name not in self._deadlines:
            self._deadlines[name] = self._clock.monotonic_s() + following.timeout_ms / 1_000


def _put(transaction: Transaction) -> Put:
    return Put(TRANSACTIONS_TABLE, transaction.transactional_id.encode(), encode_transaction(transaction))


def _is_idle(transaction: Transaction) -> bool:
    return not transaction.is_ongoing and transaction.state not in PREPARED


def _nobody_waits(logged: asyncio.Future[None]) -> None:
    """Ignore the result: later writes get a storage failure by themselves."""
    if not logged.cancelled():
        logged.exception()
