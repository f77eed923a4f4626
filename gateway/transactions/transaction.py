"""One transactional id: its producer and its current transaction. Pure: no I/O, no clock.

Every transition is a method here that returns the next state; a forbidden one raises Refusal with Kafka's error.
After Kafka's TransactionMetadata and TransactionCoordinator (KIP-98, KIP-360, KIP-890).

    Empty, CompleteCommit, CompleteAbort  --adding-->  Ongoing  --ending-->  PrepareCommit, PrepareAbort
    PrepareCommit, PrepareAbort  --completed-->  CompleteCommit, CompleteAbort
    Empty, CompleteCommit, CompleteAbort  --initialised-->  Empty

Invariants:
- Identities (producer id, epoch) of a transactional id only rise, and each fences the producer with the one before.
- The outcome of a transaction is chosen once: one that is prepared to commit is never aborted, nor the other way round.
- Partitions and groups are set while a transaction is Ongoing or prepared, and at no other time.

An epoch has 15 bits. The last epoch is for fencing; a producer that would get it gets another producer id instead.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal
from gateway.transactions.places import NO_PLACES, Place, Places

NO_ID: Final = -1
NO_EPOCH: Final = -1
NO_TIME: Final = -1
EPOCH_MAX: Final = 2**15 - 1


class TransactionState(enum.IntEnum):
    """Numbers are stored; names are Kafka's."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5

    @property
    def kafka_name(self) -> str:
        return self.name.title().replace("_", "")


PREPARED: Final = frozenset({TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT})
COMPLETE: Final = frozenset({TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT})


class Identity(NamedTuple):
    """A producer's identity: its id and epoch."""

    producer_id: int
    epoch: int


NOBODY: Final = Identity(NO_ID, NO_EPOCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transactional id's state. Times in wall-clock milliseconds."""

    transactional_id: str
    producer_id: int
    epoch: int
    last: Identity = NOBODY
    """The producer's former identity, if it may ask again for its present one."""
    next: Identity = NOBODY
    """Of a prepared transaction: the producer's next identity."""
    remembers: bool = False
    """Of a prepared transaction: the producer may ask again with its former identity."""
    timeout_ms: int
    state: TransactionState = TransactionState.EMPTY
    partitions: Set[Place] = NO_PLACES
    groups: frozenset[str] = frozenset()
    started_ms: int = NO_TIME
    changed_ms: int

    @property
    def identity(self) -> Identity:
        return Identity(self.producer_id, self.epoch)

    @property
    def places(self) -> Places:
        """The partitions, as they can grow."""
        return self.partitions if isinstance(self.partitions, Places) else Places(sorted(self.partitions))

    @property
    def is_ongoing(self) -> bool:
        return self.state is TransactionState.ONGOING

    @property
    def is_committed(self) -> bool:
        """Whether a prepared or complete transaction commits."""
        return self.state in (TransactionState.PREPARE_COMMIT, TransactionState.COMPLETE_COMMIT)

    @property
    def is_exhausted(self) -> bool:
        """Whether the next producer needs another producer id."""
        return self.epoch >= EPOCH_MAX - 1

    @property
    def marker_epoch(self) -> int:
        """Of a prepared transaction: the producer epoch of its markers, which fences all earlier ones."""
        return self.next.epoch if self.next.producer_id == self.producer_id else self.epoch + 1

    # --- A producer begins --------------------------------------------------------------------

    def admit_init(self, expected: Identity | None) -> None:
        """May a producer take over, which names its former identity (KIP-360) or none? Raises Refusal."""
        if self.state in PREPARED:
            raise Refusal(ErrorCode.concurrent_transactions)
        is_known = expected in (None, self.identity) or (expected == self.last and not self.is_ongoing)
        if not is_known:
            raise Refusal(ErrorCode.producer_fenced)

    def initialised(self, timeout_ms: int, expected: Identity | None, new_id: int, now_ms: int) -> Transaction:
        """The next producer of this id; `new_id` is taken if the epochs are used up.

        A producer that asks again gets the same identity again.
        """
        identity, last = self.identity, self.last
        if expected in (None, identity) or self.epoch == EPOCH_MAX:  # the last epoch was for fencing only
            last = NOBODY if expected is None else expected
            identity = Identity(new_id, 0) if self.is_exhausted else Identity(self.producer_id, self.epoch + 1)
        return replace(
            self,
            producer_id=identity.producer_id,
            epoch=identity.epoch,
            last=last,
            timeout_ms=timeout_ms,
            state=TransactionState.EMPTY,
            changed_ms=now_ms,
        )

    # --- A transaction grows ------------------------------------------------------------------

    def admit(self, identity: Identity) -> None:
        """May this producer do anything in a transaction? Raises Refusal."""
        self._admit_next(identity)
        if identity.producer_id != self.producer_id:
            raise Refusal(ErrorCode.invalid_producer_id_mapping)
        if identity.epoch != self.epoch:
            raise Refusal(ErrorCode.producer_fenced)
        if self.state in PREPARED:
            raise Refusal(ErrorCode.concurrent_transactions)

    def holds(self, places: Iterable[Place], groups: Iterable[str]) -> bool:
        return self.is_ongoing and self.places.has_all(places) and self.groups.issuperset(groups)

    def adding(self, places: Iterable[Place], groups: Iterable[str], now_ms: int) -> Transaction:
        """With more partitions and groups; a transaction begins if none is under way."""
        return self.grown(self.places.adding(places), groups, now_ms)

    def grown(self, partitions: Places, groups: Iterable[str], now_ms: int) -> Transaction:
        """With `partitions`, which grew from those that it has, and more groups."""
        return replace(
            self,
            state=TransactionState.ONGOING,
            partitions=partitions,
            groups=self.groups.union(groups),
            started_ms=self.started_ms if self.is_ongoing else now_ms,
            changed_ms=now_ms,
        )

    # --- A transaction ends -------------------------------------------------------------------

    def admit_end(self, identity: Identity, *, committed: bool, bumps: bool) -> bool:
        """Is there something to end? False when it has ended and the producer only asks again. Raises Refusal.

        `bumps`: the producer gets a new identity with each end (KIP-890), so it may come with its last one.
        """
        again = bumps and identity == self.last and self.state in COMPLETE
        if not again:
            self._admit_identity(identity)
        if self.is_ongoing:
            return True
        wanted = TransactionState.PREPARE_COMMIT if committed else TransactionState.PREPARE_ABORT
        if self.state in PREPARED:
            raise Refusal(ErrorCode.concurrent_transactions if self.state is wanted else ErrorCode.invalid_txn_state)
        is_same = self.state in COMPLETE and self.is_committed == committed
        if bumps and not again and not committed:
            return True  # nothing was written; the epoch rises all the same
        if not is_same or (bumps and not again):
            raise Refusal(ErrorCode.invalid_txn_state)
        return False

    def _admit_next(self, identity: Identity) -> None:
        """A producer that knows its next identity already, as the outcome is logged, has to wait. Raises Refusal."""
        if self.state in PREPARED and identity == self.next != self.identity:
            raise Refusal(ErrorCode.concurrent_transactions)

    def _admit_identity(self, identity: Identity) -> None:
        self._admit_next(identity)
        if identity.producer_id != self.producer_id:
            raise Refusal(ErrorCode.invalid_producer_id_mapping)
        if identity.epoch != self.epoch:
            raise Refusal(ErrorCode.producer_fenced)

    def ending(self, *, committed: bool, following: Identity, remembers: bool, now_ms: int) -> Transaction:
        """Prepared: the outcome is chosen, and the producer's next identity."""
        return replace(
            self,
            state=TransactionState.PREPARE_COMMIT if committed else TransactionState.PREPARE_ABORT,
            next=following,
            remembers=remembers,
            changed_ms=now_ms,
        )

    def bumped(self, new_id: int) -> Identity:
        """The producer's identity after an end that changes its epoch."""
        return Identity(new_id, 0) if self.is_exhausted else Identity(self.producer_id, self.epoch + 1)

    def fenced(self) -> Identity:
        """An identity that no producer has: any producer that goes on is stale."""
        return Identity(self.producer_id, self.epoch + 1)

    def completed(self, now_ms: int) -> Transaction:
        """Complete: the markers are written."""
        changed = self.next != self.identity
        return replace(
            self,
            producer_id=self.next.producer_id,
            epoch=self.next.epoch,
            last=(self.identity if self.remembers else NOBODY) if changed else self.last,
            next=NOBODY,
            remembers=False,
            state=TransactionState.COMPLETE_COMMIT if self.is_committed else TransactionState.COMPLETE_ABORT,
            partitions=NO_PLACES,
            groups=frozenset(),
            started_ms=NO_TIME,
            changed_ms=now_ms,
        )
