"""What the two sides of a transaction ask of one another: its coordinator, and the containers that take part.

The other side is in this process, or at another node. Each call is one of Kafka's requests between brokers:
AddPartitionsToTxn (4 and later) to the coordinator, WriteTxnMarkers to those that take part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.transactions.places import Place
from gateway.transactions.transaction import Identity, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a transaction ends, and who says so. It is in the coordinator's log before anybody else hears of it."""

    producer_id: int
    epoch: int
    """The producer epoch of the transaction."""
    marker_epoch: int
    """The producer epoch of its markers, which fences all earlier ones."""
    committed: bool
    coordinator_epoch: int
    """The epoch of the coordinator's container."""
    is_from_elsewhere: bool = True
    """Whether it comes from another container than it goes to, or in more than one step."""

    @classmethod
    def of(cls, prepared: Transaction, coordinator_epoch: int, *, is_from_elsewhere: bool = True) -> Outcome:
        """The outcome of a prepared transaction."""
        return cls(
            producer_id=prepared.producer_id,
            epoch=prepared.epoch,
            marker_epoch=prepared.marker_epoch,
            committed=prepared.is_committed,
            coordinator_epoch=coordinator_epoch,
            is_from_elsewhere=is_from_elsewhere,
        )


class EndsTransactions(Protocol):
    """A container that takes part in transactions, as their coordinators see it."""

    async def end(self, outcome: Outcome, places: Sequence[Place]) -> None:
        """End a transaction in these partitions, and apply or drop the offsets of the container's groups.

        All of it is synced when this returns. The same call again changes nothing. Raises Refusal with
        TRANSACTION_COORDINATOR_FENCED if a later coordinator has been here, StoreError.
        """


class CoordinatesTransactions(Protocol):
    """The coordinator of a transactional id, as the leaders of partitions and the coordinators of groups see it.

    What the methods say is synced when they return, so that a power cut cannot take it from under a batch elsewhere.
    """

    async def add_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> None:
        """Make partitions and groups part of a transaction, which begins if need be. Raises Refusal, StoreError."""

    async def verify_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> bool:
        """Whether all of them are part of the producer's current transaction. Raises Refusal, StoreError."""
