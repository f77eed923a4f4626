"""All transactions of this process: a coordinator and a participant for each container, and what is asked of all.

Keeps: transactional ids of all containers share one bound. A request about one of them goes to its coordinator, `of`;
one about a partition, or a group's pending offsets, to the participant in that container.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.container.container import Container
from core.errors import NotHosted, NotMovedYet
from core.store import Store
from gateway.cluster.peer import Peer
from gateway.config.loading import Config
from gateway.coordination.local import LocalCoordinators
from gateway.groups.coordinators import GroupCoordinators
from gateway.refusals import Refusal
from gateway.transactions.coordinator import SHOWN_CHARS, TransactionCoordinator
from gateway.transactions.ending import Endings, TransactionCounters
from gateway.transactions.known import KnownTransactions
from gateway.transactions.outcome import EndsTransactions
from gateway.transactions.participant import Participant
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.remote import RemoteCoordinator, RemoteParticipant
from gateway.transactions.transaction import Transaction

if TYPE_CHECKING:
    from core.streams.live import Slot


class TransactionCoordinators(LocalCoordinators[TransactionCoordinator]):
    """See the module. Iterates over all transactional ids."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        groups: GroupCoordinators,
        producers: ProducerIds,
        peer_of: Callable[[int], Peer | None] = lambda container_id: None,
    ) -> None:
        """`peer_of` gives the node that has a container which is not here."""
        super().__init__(store, groups.homes, self._made)
        self._peer_of = peer_of
        self._config = config
        self._clock = clock
        self._groups = groups
        self._producers = producers
        self._parts = _Participants(self)
        self.counters: Final = TransactionCounters()
        store.mover.beside.comes_along(self._bring_coordinators)

    def __repr__(self) -> str:
        return f"<TransactionCoordinators {len(self)} ids, {self.under_way} under way>"

    def __iter__(self) -> Iterator[Transaction]:
        return (transaction for coordinator in self.all() for transaction in coordinator)

    def __len__(self) -> int:
        return sum(len(coordinator) for coordinator in self.all())

    @property
    def under_way(self) -> int:
        return sum(coordinator.under_way for coordinator in self.all())

    def _bring_coordinators(self, slot: Slot, target: int) -> None:
        """A partition leaves for another container: who was replaced there must not be heard here, either. Raises
        NotMovedYet while that cannot be told: a container is served before its coordinators are loaded."""
        if not slot.writers:
            return
        here, there = self.in_container(slot.container_id), self.in_container(target)
        if here is None or there is None:
            away = slot.container_id if here is None else target
            why = f"the coordinator of transactions in container {away} is not loaded"
            raise NotMovedYet(slot.stream.name, slot.number, why)
        known = ((writer, here.participant.coordinator_epoch(writer)) for writer in slot.writers)
        there.participant.know_coordinators({writer: epoch for writer, epoch in known if epoch is not None})

    def participant_in(self, container_id: int) -> Participant:
        """A container's part in transactions. Raises NotHosted, also while it loads."""
        found = self.in_container(container_id)
        if found is None:
            raise NotHosted(container_id)
        return found.participant

    def asked_by_leader(self, transactional_id: str) -> TransactionCoordinator | RemoteCoordinator:
        """The coordinator of a transactional id, for a partition's leader, wherever it is. Raises Refusal."""
        container_id = self.homes.of(transactional_id)
        peer = self._peer_of(container_id)
        if peer is None:
            return self.of(transactional_id)
        return RemoteCoordinator(peer, self._store, container_id, self.homes)

    def asked_by_group(self, transactional_id: str) -> TransactionCoordinator | RemoteCoordinator:
        """The same for a group's coordinator. Raises Refusal: as the client has asked the right coordinator, of the
        group, it is to ask that again."""
        try:
            return self.asked_by_leader(transactional_id)
        except Refusal as refused:
            raise Refusal(ErrorCode.coordinator_load_in_progress, str(refused)) from refused

    def in_part(self, container_id: int) -> EndsTransactions:
        """A container's part in transactions, wherever it is. Raises NotHosted."""
        peer = self._peer_of(container_id)
        return self.participant_in(container_id) if peer is None else RemoteParticipant(peer, self._store, container_id)

    def participant_of(self, group_id: str) -> Participant:
        """The part of a group's container. Raises Refusal."""
        return self.of(group_id).participant

    def name_producers(self, producer_ids: Collection[int]) -> Mapping[int, str]:
        """Names of these producers for an operator."""
        names = {producer_id: f"producer {producer_id}" for producer_id in producer_ids}
        for transaction in self:
            if transaction.producer_id in names:
                names[transaction.producer_id] = f"transactional id {transaction.transactional_id[:SHOWN_CHARS]!r}"
        return names

    def _made(self, container: Container) -> TransactionCoordinator:
        groups = self._groups.in_container(container.id)
        if groups is None:
            raise NotHosted(container.id)
        epochs_max = max(1, self._config.transactional_ids_max // len(self.homes))  # one budget for all
        participant = Participant(container, self._store, self._clock, groups.offsets, epochs_max)

        def endings(known: KnownTransactions) -> Endings:
            return Endings(container, self._store, self.homes, known, participant, self._parts, self.counters)

        return TransactionCoordinator(
            self._config,
            container,
            self._clock,
            participant,
            self._producers,
            lambda: len(self),
            self.counters,
            endings,
        )


class _Participants:
    """Those of all containers, for the coordinators."""

    def __init__(self, transactions: TransactionCoordinators) -> None:
        self._transactions = transactions

    def in_container(self, container_id: int) -> EndsTransactions:
        return self._transactions.in_part(container_id)
