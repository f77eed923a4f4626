"""Checks on the batches of a transactional Produce before they are written.

Keeps: only its producer writes in a transaction, and only on partitions that are part of it. From version 12 on a write
makes its partition part of the transaction (KIP-890).

Where a partition lies in the container of the transaction's coordinator, every batch is checked against the memory of
the coordinator, and a partition that is added lies before its batch in the log. Elsewhere the coordinator is asked
before the transaction's first batch there, and has answered from its synced log; from then on the partition itself
knows that the transaction is open, and its marker fences what comes late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.errors import NotHosted, SequenceGap, SlotMoves, StoreError
from gateway.records.record_batch import HEADER_BYTES, BatchHeader, read_header
from gateway.refusals import Refusal
from gateway.transactions.coordinator import TransactionCoordinator
from gateway.transactions.participant import Guard, is_open
from gateway.transactions.places import Place
from gateway.transactions.remote import RemoteCoordinator
from gateway.transactions.transaction import Identity
from gateway.wire.errors import InvalidBatch

if TYPE_CHECKING:
    from core.streams.live import Slot, Stream
    from gateway.transactions.coordinators import TransactionCoordinators
    from gateway.wire.responses import TopicKey

ABORTABLE_SINCE: Final = 11
ADDED_BY_WRITING_SINCE: Final = 12

_CODES: Final[Mapping[ErrorCode, ErrorCode]] = {
    # Clients of Produce know the fence by another name.
    ErrorCode.producer_fenced: ErrorCode.invalid_producer_epoch,
    # What is wrong is not the leader, whom the client has asked: it tries again, as with Kafka.
    ErrorCode.not_coordinator: ErrorCode.not_enough_replicas,
    ErrorCode.coordinator_not_available: ErrorCode.not_enough_replicas,
    ErrorCode.coordinator_load_in_progress: ErrorCode.not_enough_replicas,
    # The coordinator has not heard of the topic yet, which is led here.
    ErrorCode.unknown_topic_or_partition: ErrorCode.not_enough_replicas,
}
"""Codes that Produce replaces."""
_CODES_BEFORE_V2: Final[Mapping[ErrorCode, ErrorCode]] = {
    **_CODES,
    ErrorCode.concurrent_transactions: ErrorCode.not_enough_replicas,  # the code on which all clients try again
}

Topics = Sequence[tuple["TopicKey", Sequence[tuple[int, memoryview | None]]]]
Question = Awaitable[None]


class TransactionalWrites:
    """One Produce request that names a transactional id."""

    __slots__ = (
        "_adds",
        "_asked",
        "_asked_in",
        "_codes",
        "_coordinator",
        "_failure",
        "_identity",
        "_near",
        "_outside",
        "_refusal",
        "_transactional_id",
        "_transactions",
    )

    def __init__(self, transactions: TransactionCoordinators, transactional_id: str, version: int) -> None:
        self._transactions = transactions
        self._transactional_id = transactional_id
        self._adds = version >= ADDED_BY_WRITING_SINCE
        self._codes = _CODES if self._adds else _CODES_BEFORE_V2
        self._outside = ErrorCode.transaction_abortable if version >= ABORTABLE_SINCE else ErrorCode.invalid_txn_state
        self._failure: StoreError | None = None
        self._refusal: Refusal | None = None
        self._coordinator: TransactionCoordinator | RemoteCoordinator | None = None
        self._identity: Identity | None = None  # whose partitions were asked for
        self._asked: dict[Place, Guard] = {}  # partitions elsewhere, once they are part of the transaction
        self._asked_in: dict[Place, int] = {}  # the containers that they were in by then
        self._near: Collection[Place] = ()  # partitions that were in the container of the coordinator
        try:
            self._coordinator = transactions.asked_by_leader(transactional_id)
        except Refusal as refused:
            self._refusal = refused

    def preparing(self, topics: Topics, stream_of: Callable[[TopicKey], Stream | None]) -> Iterator[Question | None]:
        """Add the partitions of a request to the transaction, or ask for them; `check` raises for refused ones.

        Yields None at each partition, for others to have the loop. All are added in the last step. Where the
        coordinator is another container than that of a partition, the last step yields what is to be waited for.
        """
        coordinator, are_several = self._coordinator, self._transactions.homes.are_several
        if coordinator is None or not (self._adds or are_several):
            return
        places: list[Place] = []
        elsewhere: list[Slot] = []
        for topic, partitions in topics:
            yield None
            stream = stream_of(topic)
            if stream is None:
                continue
            for index, records in partitions:
                yield None
                if records is None or len(records) < HEADER_BYTES or not 0 <= index < stream.slot_count:
                    continue
                header = read_header(records)
                if header.is_transactional and header.has_producer_id:
                    self._identity = Identity(header.producer_id, header.producer_epoch)
                    slot = stream.slot(index) if are_several else None
                    if slot is None or slot.container_id == coordinator.container_id:
                        places.append(Place(stream.id, index))
                    elif not is_open(slot, self._identity):
                        elsewhere.append(slot)
        self._near = places
        if self._identity is None:
            return
        if elsewhere:
            if not self._know(coordinator, self._identity, places, elsewhere):
                yield self._ask(coordinator, self._identity, places)
        elif self._adds and places and isinstance(coordinator, TransactionCoordinator):
            self._add(coordinator, self._identity, places)

    def _add(self, coordinator: TransactionCoordinator, identity: Identity, places: Collection[Place]) -> None:
        """Add partitions of the coordinator's container: they lie before their batches in its log."""
        try:
            coordinator.add_before_write(self._transactional_id, identity, places)
        except Refusal:
            pass
        except StoreError as failure:
            self._failure = failure

    def _know(
        self,
        coordinator: TransactionCoordinator | RemoteCoordinator,
        identity: Identity,
        places: Sequence[Place],
        elsewhere: Sequence[Slot],
    ) -> bool:
        """Have guards for partitions of other containers; whether there is nothing to ask their coordinator.

        That is the rule for a client that has added its partitions before it writes, and whose coordinator is in this
        process.
        """
        try:
            guards: dict[int, Guard] = {}  # by container
            for slot in elsewhere:
                if slot.container_id not in guards:
                    participant = self._transactions.participant_in(slot.container_id)
                    guards[slot.container_id] = participant.guard(identity)
                self._asked[Place(slot.stream.id, slot.number)] = guards[slot.container_id]
                self._asked_in[Place(slot.stream.id, slot.number)] = slot.container_id
            if not isinstance(coordinator, TransactionCoordinator):
                return False
            wanted = [*places, *self._asked] if self._adds else self._asked
            return coordinator.is_verified(self._transactional_id, identity, wanted)
        except Refusal as refused:
            self._refusal = refused
        except StoreError as failure:
            self._failure = failure
        return True

    async def _ask(
        self, coordinator: TransactionCoordinator | RemoteCoordinator, identity: Identity, places: Sequence[Place]
    ) -> None:
        """Add partitions of other containers, or ask whether they are part of the transaction, and wait for the answer.

        After Kafka's AddPartitionsToTxnManager (KIP-890).
        """
        asked, self._asked = self._asked, {}
        try:
            if self._adds:
                await coordinator.add_elsewhere(self._transactional_id, identity, [*places, *asked])
                self._asked = asked
            else:
                for place, guard in asked.items():
                    if await coordinator.verify_elsewhere(self._transactional_id, identity, [place]):
                        self._asked[place] = guard
        except Refusal as refused:
            self._refusal = refused
        except StoreError as failure:
            self._failure = failure

    def check(self, slot: Slot, batch: BatchHeader) -> None:
        """Raises InvalidBatch or SequenceGap for a batch that must not be written, StoreError if adding failed, or if
        nobody here knows any more whether it may be."""
        if self._failure is not None:
            raise self._failure
        identity = Identity(batch.producer_id, batch.producer_epoch)
        try:
            if self._is_part(slot, identity):
                self._check_first(slot, batch)
                return
        except Refusal as refused:
            code = self._codes.get(refused.code, refused.code)
            raise InvalidBatch(code, f"transaction of {identity}: {refused}") from refused
        raise InvalidBatch(self._outside, "the partition is not part of a transaction of this producer")

    def _is_part(self, slot: Slot, identity: Identity) -> bool:
        """Raises Refusal, StoreError."""
        place, coordinator = Place(slot.stream.id, slot.number), self._coordinator
        if isinstance(coordinator, TransactionCoordinator) and slot.container_id == coordinator.container_id:
            if self._transactions.in_container(coordinator.container_id) is not coordinator:
                raise NotHosted(slot.container_id)  # it was away: another coordinator knows more
            return coordinator.admit_write(self._transactional_id, identity, place)
        if is_open(slot, identity):
            return True
        if self._refusal is not None:
            raise self._refusal
        guard = self._asked.get(place)
        if guard is not None and (guard.has_gone or self._asked_in[place] != slot.container_id):
            raise SlotMoves(slot.stream.name, slot.number, self._asked_in[place])  # it was elsewhere since, unguarded
        if guard is None and place in self._near and coordinator is not None:
            raise SlotMoves(slot.stream.name, slot.number, coordinator.container_id)  # the same, from the coordinator's
        return guard is not None and not guard.is_broken and identity == self._identity

    def _check_first(self, slot: Slot, batch: BatchHeader) -> None:
        """With a new epoch for each transaction, an unknown writer begins at 0: any other batch has overtaken it."""
        is_known = slot.writers is not None and batch.producer_id in slot.writers
        if self._adds and batch.base_sequence and not is_known:
            raise SequenceGap(batch.producer_id, 0, batch.base_sequence)
