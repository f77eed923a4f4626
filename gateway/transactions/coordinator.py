"""The transaction coordinator of one container: a thin shell around the state machine of each transactional id.

Invariants:
- A request is decided, changed in memory and queued for the log without an await, and answered when it is durable.
- An identity is answered when it is synced, whatever the sync mode: after a power cut no other producer gets it.
- A partition or group is in the log as part of a transaction before anything is written to it in that transaction: in
  the same container it lies before it in the log, for others it is synced first (`add_elsewhere`).
- Only the newest producer of a transactional id writes, on any partition.
- A transaction that nobody ends is aborted when its producer's time-out has passed, by one look or the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.container.container import Container
from core.errors import StoreError
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups.persistence import CommittedOffset, OffsetKey
from gateway.refusals import Refusal
from gateway.transactions.ending import Endings, TransactionCounters
from gateway.transactions.known import KnownTransactions, nobody_waits, put
from gateway.transactions.participant import PLACES_AT_ONCE, Participant
from gateway.transactions.persistence import (
    ID_BYTES_MAX,
    TRANSACTIONS_TABLE,
    decode_transaction,
)
from gateway.transactions.places import Place
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.transaction import (
    NO_ID,
    PREPARED,
    Identity,
    Transaction,
)

_log: Final = logging.getLogger(__name__)

TIMEOUTS_PER_LOOK_MAX: Final = 1_000
"""Timed-out transactions that one look ends, and unused ids that it forgets: the next look takes the rest."""

FIRST_EXPIRY_S_MAX: Final = 60.0
"""Time from the start to the first look for unused ids: a gateway that restarts every hour forgets some, too."""
IDS_AT_ONCE: Final = 300
"""Transactional ids that are read in one step of a load, in some 4 ms."""
BYTES_AT_ONCE: Final = 16 * 1024
"""Bytes of a row that is decoded at once, with 2,000 partitions in some 2 ms."""
ADDING_TRIES_MAX: Final = 5
"""How often many partitions are added from the beginning, as the transaction changed meanwhile."""
SHOWN_CHARS: Final = 100
"""Characters of a transactional id, in messages."""


class TransactionCoordinator:
    """The transactional ids whose home is one container. Versions of APIs are known in gateway/apis only."""

    def __init__(
        self,
        config: Config,
        container: Container,
        clock: Clock,
        participant: Participant,
        producers: ProducerIds,
        ids: Callable[[], int],
        counters: TransactionCounters,
        endings: Callable[[KnownTransactions], Endings],
    ) -> None:
        """`ids` counts the transactional ids of the process, `endings` makes what ends the transactions of this one."""
        self._config = config
        self._container = container
        self._clock = clock
        self._trusted = container.trusted
        self._producers = producers
        self._ids = ids
        self._counters = counters
        self._known = KnownTransactions(container, clock)
        self._endings = endings(self._known)
        self._looker: asyncio.Task[None] | None = None
        self.participant = participant
        self.container_id = container.id

    def __repr__(self) -> str:
        return f"<TransactionCoordinator {len(self)} ids, {self.under_way} under way>"

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def under_way(self) -> int:
        return self._known.under_way

    def get(self, transactional_id: str) -> Transaction | None:
        return self._known.get(transactional_id)

    # --- Life ---------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load transactions from the container, in steps. Raises UnreadableRecord."""
        async for rows in self._container.table(TRANSACTIONS_TABLE).in_steps(most=IDS_AT_ONCE):
            for key, value in rows:
                decode = partial(decode_transaction, key, value)
                self._load(decode() if len(value) <= BYTES_AT_ONCE else await asyncio.to_thread(decode))
        await self.participant.load()

    def _load(self, transaction: Transaction) -> None:
        self._known.set(transaction)
        if transaction.is_ongoing:
            gone_ms = self._trusted.age_ms(transaction.started_ms)
            left_ms = min(max(transaction.timeout_ms - gone_ms, 0), transaction.timeout_ms)
            self._known.limit(transaction, left_ms)

    async def start(self) -> None:
        """Complete prepared transactions; from now on time-outs run."""
        await self.participant.drop_orphans()
        await self.complete_prepared()
        self._looker = asyncio.create_task(self._look_for_ever(), name="transactions")
        facts = {"container": self.container_id, "ids": len(self), "under_way": self.under_way}
        _log.info("transactions loaded", extra=facts)

    async def stop(self) -> None:
        self.participant.stop()
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)
        await self._endings.stop()

    async def let_go(self) -> None:
        """Free what it knows of transactional ids, in turns; from now on they get NOT_COORDINATOR."""
        await self._known.let_go()

    # --- Producers ----------------------------------------------------------------------------

    async def init_producer(self, transactional_id: str, timeout_ms: int, expected: Identity | None) -> Identity:
        """The next producer of this id; a transaction of the one before is aborted. Raises Refusal, StoreError."""
        if not transactional_id or len(transactional_id.encode()) > ID_BYTES_MAX:
            raise Refusal(ErrorCode.invalid_request)
        if not 0 < timeout_ms <= self._config.transaction_max_timeout_ms:
            raise Refusal(ErrorCode.invalid_transaction_timeout)
        new_id = NO_ID
        while True:  # the state may have changed during every await
            known = self._known.get(transactional_id)
            if known is not None:
                known.admit_init(expected)
                if known.is_ongoing:
                    await self._fence(known, remembers=expected is not None)
                    continue
            if known is None and self._ids() >= self._config.transactional_ids_max:
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
            await self._known.change(following)
            await self._container.synced()
            return following.identity

    def _refuse_id(self, transactional_id: str) -> NoReturn:
        _log.warning(
            "a new transactional id is refused: there are as many as transactional.ids.max allows",
            extra={"transactional_id": transactional_id[:SHOWN_CHARS], "ids": self._ids()},
        )
        raise Refusal(ErrorCode.policy_violation)

    async def _fence(self, known: Transaction, *, remembers: bool) -> None:
        """Abort the transaction under way, and fence its producer."""
        now_ms = self._trusted.stamp_ms()
        await self._endings.end(
            known.ending(committed=False, following=known.fenced(), remembers=remembers, now_ms=now_ms)
        )

    # --- Partitions and groups of a transaction -----------------------------------------------

    async def add(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> None:
        """Add partitions and groups to a transaction, which begins if need be. Raises Refusal, StoreError."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        if len(places) > PLACES_AT_ONCE:
            await self._add_many(transactional_id, identity, list(places), groups)
        elif known.holds(places, groups):
            await self._container.all_durable()
        else:
            await self._known.change(known.adding(places, groups, self._trusted.stamp_ms()))

    async def _add_many(
        self, transactional_id: str, identity: Identity, places: Sequence[Place], groups: Collection[str]
    ) -> None:
        """Gather them in turns, and add them all in the last one. Raises Refusal, StoreError."""
        for _ in range(ADDING_TRIES_MAX):
            known = self._known.find(transactional_id)
            known.admit(identity)
            grown = known.places
            async for first in in_turns(range(0, len(places), PLACES_AT_ONCE)):
                grown = grown.adding(places[first : first + PLACES_AT_ONCE])
            if self._known.get(transactional_id) is known:
                await self._known.change(known.grown(grown, groups, self._trusted.stamp_ms()))
                return
        raise Refusal(ErrorCode.concurrent_transactions)

    def add_before_write(self, transactional_id: str, identity: Identity, places: Collection[Place]) -> None:
        """The same for partitions whose batches follow this in the log. Raises Refusal, StoreError."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        if not known.holds(places, ()):
            logged = self._known.submit(known.adding(places, (), self._trusted.stamp_ms()))
            logged.add_done_callback(nobody_waits)

    def admit_write(self, transactional_id: str, identity: Identity, place: Place) -> bool:
        """Whether a partition is part of this producer's current transaction. Raises Refusal."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        return known.is_ongoing and place in known.partitions

    def has_group(self, transactional_id: str, identity: Identity, group_id: str) -> bool:
        """The same for a group. Raises Refusal."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        return known.is_ongoing and group_id in known.groups

    def groups_of(self, transactional_id: str, identity: Identity) -> Collection[str]:
        """The groups of a producer's current transaction. Raises Refusal."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        return known.groups if known.is_ongoing else ()

    async def add_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> None:
        """See `CoordinatesTransactions`, whose local implementation this is."""
        await self.add(transactional_id, identity, places, groups)
        await self._container.synced()

    async def verify_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> bool:
        """See `CoordinatesTransactions`."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        if not known.holds(places, groups):
            return False
        await self._known.synced(transactional_id)
        return True

    def is_verified(self, transactional_id: str, identity: Identity, places: Collection[Place]) -> bool:
        """Whether `verify_elsewhere` would say yes without a wait. Raises Refusal."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        return known.holds(places, ()) and self._known.is_synced(transactional_id)

    async def commit_offsets(
        self, transactional_id: str, identity: Identity, group_id: str, offsets: Mapping[OffsetKey, CommittedOffset]
    ) -> None:
        """Note the offsets that a transaction commits if it commits, for a group of the same container, which becomes
        part of it. Raises Refusal, StoreError."""
        known = self._known.find(transactional_id)
        known.admit(identity)
        following = known.adding((), (group_id,), self._trusted.stamp_ms())
        logged = self.participant.commit_offsets(identity, offsets, [put(following)])
        self._known.set(following)
        await asyncio.shield(logged)

    # --- The end ------------------------------------------------------------------------------

    async def end(self, transactional_id: str, identity: Identity, *, committed: bool, bumps: bool) -> Identity:
        """Commit or abort; returns the producer's identity from here on. Raises Refusal, StoreError.

        `bumps`: with each end the producer gets a new epoch (KIP-890).
        """
        new_id = NO_ID
        while True:
            known = self._known.find(transactional_id)
            if not known.admit_end(identity, committed=committed, bumps=bumps):
                await self._container.all_durable()
                await self._container.synced()
                return known.identity
            if bumps and known.is_exhausted and new_id == NO_ID:
                new_id = await self._producers.allocate()
                continue  # another request may have ended it meanwhile
            following = known.bumped(new_id) if bumps else known.identity
            now_ms = self._trusted.stamp_ms()
            prepared = known.ending(committed=committed, following=following, remembers=bumps, now_ms=now_ms)
            await self._endings.end(prepared)
            if bumps:
                await self._container.synced()
            return following

    # --- Time-outs ----------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        interval_s = self._config.transaction_abort_timed_out_transaction_cleanup_interval_ms / 1_000
        expiry_s = self._config.transaction_remove_expired_transaction_cleanup_interval_ms / 1_000
        expire_at = self._clock.monotonic_s() + min(expiry_s, FIRST_EXPIRY_S_MAX)
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.complete_prepared()
                await self.abort_overdue()
                if self._clock.monotonic_s() >= expire_at:
                    expire_at = self._clock.monotonic_s() + expiry_s
                    await self.forget_unused()
            except StoreError as error:
                _log.warning("transactions could not be ended and will be tried again", extra={"error": str(error)})

    async def complete_prepared(self) -> None:
        """Go through all ends that were chosen and are not complete."""
        await self._endings.complete_prepared()

    async def abort_overdue(self) -> None:
        """Abort transactions that took longer than their producer's time-out. Raises StoreError."""
        for transactional_id in self._known.overdue()[:TIMEOUTS_PER_LOOK_MAX]:
            known = self._known.get(transactional_id)
            if known is None or not self._known.is_overdue(transactional_id):
                continue  # it ended while others were aborted
            _log.warning(
                "a transaction timed out and is aborted",
                extra={"transactional_id": transactional_id, "timeout_ms": known.timeout_ms},
            )
            self._counters.timed_out += 1
            await self._fence(known, remembers=False)

    async def forget_unused(self) -> None:
        """Forget ids that were not used for transactional.id.expiration.ms. Raises StoreError."""
        now, expiration_ms = self._trusted.now(), self._config.transactional_id_expiration_ms
        every = in_turns(self)
        unused = [known async for known in every if _is_idle(known) and now.age_ms(known.changed_ms) >= expiration_ms]
        for known in unused[:TIMEOUTS_PER_LOOK_MAX]:
            if self._known.get(known.transactional_id) is known:
                await self._known.forget(known)


def _is_idle(transaction: Transaction) -> bool:
    return not transaction.is_ongoing and transaction.state not in PREPARED
