"""The other side of a transaction in another process: what is asked of it goes as Kafka's requests between brokers.

A leader, or a group's coordinator, asks the coordinator of a transactional id: AddPartitionsToTxn v5 for partitions,
AddOffsetsToTxn v4 to add a group. A coordinator ends a transaction in other containers: WriteTxnMarkers v2. As in
Kafka, a group stands for a partition of `__consumer_offsets`, which here has the number of the group's container.
Topics have their ids beside their names (`whereabouts.py`).

Keeps: an answer that does not come is a refusal that its client tries again. All that is asked may be repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from kio.schema.errors import ErrorCode

from core.store import Store
from gateway.cluster.peer import Peer, PeerAway
from gateway.coordination.homes import Homes
from gateway.refusals import Refusal
from gateway.transactions.outcome import Outcome
from gateway.transactions.places import Place
from gateway.transactions.transaction import Identity
from gateway.transactions.whereabouts import topics_of
from gateway.wire.message import Message

GROUPS_TOPIC: Final = "__consumer_offsets"
ANSWER_S: Final = 10.0
"""Longest wait for an answer, which waits for a sync of the other node's disk."""

ADD_PARTITIONS: Final = (24, 5)
ADD_OFFSETS: Final = (25, 4)
WRITE_MARKERS: Final = (27, 2)
BUMPED: Final = 2
"""The version of transactions in which a marker's epoch is above that of its transaction."""


def cause(codes: Sequence[ErrorCode]) -> ErrorCode:
    """The first error among those of partitions that are added or refused together, but for those that were not
    attempted because of another one."""
    failed = [code for code in codes if code is not ErrorCode.none]
    causes = [code for code in failed if code is not ErrorCode.operation_not_attempted]
    return next(iter([*causes, *failed]), ErrorCode.none)


class _Remote:
    """A container of another node."""

    def __init__(self, peer: Peer, store: Store, container_id: int) -> None:
        self._peer = peer
        self._store = store
        self.container_id = container_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of container {self.container_id} by {self._peer!r}>"

    async def _ask(self, api: tuple[int, int], values: Mapping[str, Any], away: ErrorCode) -> Message:
        try:
            return await self._peer.ask(*api, values, ANSWER_S)
        except PeerAway as error:
            raise Refusal(away, str(error)) from error


class RemoteCoordinator(_Remote):
    """See `CoordinatesTransactions`."""

    def __init__(self, peer: Peer, store: Store, container_id: int, homes: Homes) -> None:
        super().__init__(peer, store, container_id)
        self._homes = homes

    async def add_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> None:
        if places:
            topics = topics_of(self._store, places, "partitions")
            codes = await self._partitions(transactional_id, identity, topics, verify_only=False)
            if (code := cause(codes)) is not ErrorCode.none:
                raise Refusal(code)
        for group_id in groups:
            values = {
                "transactional_id": transactional_id,
                "producer_id": identity.producer_id,
                "producer_epoch": identity.epoch,
                "group_id": group_id,
            }
            answer = await self._ask(ADD_OFFSETS, values, ErrorCode.coordinator_not_available)
            if answer.error_code:
                raise Refusal(ErrorCode(answer.error_code))

    async def verify_elsewhere(
        self, transactional_id: str, identity: Identity, places: Collection[Place], groups: Collection[str] = ()
    ) -> bool:
        topics = topics_of(self._store, places, "partitions")
        if groups:
            homes = sorted({self._homes.of(group_id) for group_id in groups})
            topics.append({"name": GROUPS_TOPIC, "partitions": homes})
        code = cause(await self._partitions(transactional_id, identity, topics, verify_only=True))
        if code in (ErrorCode.transaction_abortable, ErrorCode.invalid_txn_state):
            return False
        if code is not ErrorCode.none:
            raise Refusal(code)
        return True

    async def _partitions(
        self, transactional_id: str, identity: Identity, topics: Sequence[Mapping[str, Any]], *, verify_only: bool
    ) -> list[ErrorCode]:
        asked = {
            "transactional_id": transactional_id,
            "producer_id": identity.producer_id,
            "producer_epoch": identity.epoch,
            "verify_only": verify_only,
            "topics": topics,
        }
        answer = await self._ask(ADD_PARTITIONS, {"transactions": [asked]}, ErrorCode.coordinator_not_available)
        if answer.error_code:
            raise Refusal(ErrorCode(answer.error_code))
        return [
            ErrorCode(found.partition_error_code)
            for result in answer.results_by_transaction
            for topic in result.topic_results
            for found in topic.results_by_partition
        ]


class RemoteParticipant(_Remote):
    """See `EndsTransactions`."""

    async def end(self, outcome: Outcome, places: Sequence[Place]) -> None:
        topics = topics_of(self._store, places, "partition_indexes")
        topics.append({"name": GROUPS_TOPIC, "partition_indexes": [self.container_id]})
        marker = {
            "producer_id": outcome.producer_id,
            "producer_epoch": outcome.marker_epoch,
            "transaction_result": outcome.committed,
            "coordinator_epoch": outcome.coordinator_epoch,
            "transaction_version": BUMPED if outcome.marker_epoch > outcome.epoch else 0,
            "topics": topics,
        }
        answer = await self._ask(WRITE_MARKERS, {"markers": [marker]}, ErrorCode.not_leader_or_follower)
        for result in answer.markers:
            for topic in result.topics:
                for found in topic.partitions:
                    if found.error_code:
                        raise Refusal(ErrorCode(found.error_code))
