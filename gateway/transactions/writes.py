"""Checks on the batches of a transactional Produce before they are written.

Keeps: only its producer writes in a transaction, and only on partitions that are part of it. From version 12 on a write
makes its partition part of the transaction (KIP-890): the log then has the partition before the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.errors import SequenceGap, StoreError
from gateway.records.record_batch import HEADER_BYTES, BatchHeader, read_header
from gateway.refusals import Refusal
from gateway.transactions.places import Place
from gateway.transactions.transaction import Identity
from gateway.wire.errors import InvalidBatch

if TYPE_CHECKING:
    from core.streams.live import Slot, Stream
    from gateway.transactions.coordinator import TransactionCoordinator
    from gateway.wire.responses import TopicKey

ABORTABLE_SINCE: Final = 11
ADDED_BY_WRITING_SINCE: Final = 12

_CODES: Final[Mapping[ErrorCode, ErrorCode]] = {ErrorCode.producer_fenced: ErrorCode.invalid_producer_epoch}
"""Codes that Produce replaces: its clients know the fence by another name."""
_CODES_BEFORE_V2: Final[Mapping[ErrorCode, ErrorCode]] = {
    **_CODES,
    ErrorCode.concurrent_transactions: ErrorCode.not_enough_replicas,  # the code on which all clients try again
}

Topics = Sequence[tuple["TopicKey", Sequence[tuple[int, memoryview | None]]]]


class TransactionalWrites:
    """One Produce request that names a transactional id."""

    __slots__ = ("_adds", "_codes", "_failure", "_outside", "_transactional_id", "_transactions")

    def __init__(self, transactions: TransactionCoordinator, transactional_id: str, version: int) -> None:
        self._transactions = transactions
        self._transactional_id = transactional_id
        self._adds = version >= ADDED_BY_WRITING_SINCE
        self._codes = _CODES if self._adds else _CODES_BEFORE_V2
        self._outside = ErrorCode.transaction_abortable if version >= ABORTABLE_SINCE else ErrorCode.invalid_txn_state
        self._failure: StoreError | None = None

    def adding(self, topics: Topics, stream_of: Callable[[TopicKey], Stream | None]) -> Iterator[None]:
        """Add the partitions of a request to the transaction; `check` raises for refused ones.

        Yields at each partition, for others to have the loop; all are added in the last step.
        """
        places: list[Place] = []
        identity: Identity | None = None
        for topic, partitions in topics:
            yield
            stream = stream_of(topic)
            if stream is None:
                continue
            for index, records in partitions:
                yield
                if records is None or len(records) < HEADER_BYTES or not 0 <= index < stream.slot_count:
                    continue
                header = read_header(records)
                if header.is_transactional and header.has_producer_id:
                    identity = Identity(header.producer_id, header.producer_epoch)
                    places.append(Place(stream.id, index))
        if identity is None:
            return
        try:
            self._transactions.add_before_write(self._transactional_id, identity, places)
        except Refusal:
            pass
        except StoreError as failure:
            self._failure = failure

    def check(self, slot: Slot, batch: BatchHeader) -> None:
        """Raises InvalidBatch or SequenceGap for a batch that must not be written, StoreError if adding failed."""
        if self._failure is not None:
            raise self._failure
        identity = Identity(batch.producer_id, batch.producer_epoch)
        place = Place(slot.stream.id, slot.number)
        try:
            if self._transactions.admit_write(self._transactional_id, identity, place):
                self._check_first(slot, batch)
                return
        except Refusal as refused:
            code = self._codes.get(refused.code, refused.code)
            raise InvalidBatch(code, f"transaction of {identity}: {refused}") from refused
        raise InvalidBatch(self._outside, "the partition is not part of a transaction of this producer")

    def _check_first(self, slot: Slot, batch: BatchHeader) -> None:
        """With a new epoch for each transaction, an unknown writer begins at 0: any other batch has overtaken it."""
        is_known = slot.writers is not None and batch.producer_id in slot.writers
        if self._adds and batch.base_sequence and not is_known:
            raise SequenceGap(batch.producer_id, 0, batch.base_sequence)
