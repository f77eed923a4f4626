"""A TxnOffsetCommit: the offsets of one group in one transaction, whichever containers the two live in.

Keeps: a group is in the coordinator's log as part of a transaction before an offset of it is pending there. In one
container both are one step; else the coordinator is asked first, once for a group and transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kio.schema.errors import ErrorCode

from gateway.groups.persistence import CommittedOffset, OffsetKey
from gateway.refusals import Refusal
from gateway.transactions.coordinator import TransactionCoordinator

if TYPE_CHECKING:
    from gateway.transactions.coordinators import TransactionCoordinators
    from gateway.transactions.participant import Guard
    from gateway.transactions.transaction import Identity


class GroupWrites:
    """See the module."""

    def __init__(
        self, transactions: TransactionCoordinators, transactional_id: str, identity: Identity, group_id: str
    ) -> None:
        """Raises Refusal where one of the coordinators is not here."""
        self._coordinator = transactions.asked_by_group(transactional_id)
        self._participant = transactions.participant_of(group_id)
        self._together: TransactionCoordinator | None = None  # the coordinator, if both live in one container
        if isinstance(self._coordinator, TransactionCoordinator):
            is_same = self._coordinator.participant is self._participant
            self._together = self._coordinator if is_same else None
        self._transactional_id = transactional_id
        self._identity = identity
        self._group_id = group_id
        self._guard: Guard | None = None

    async def admit(self, *, adds: bool) -> bool:
        """Whether the group is part of the transaction; one that `adds` makes it so. Raises Refusal, StoreError."""
        name, identity, group_id = self._transactional_id, self._identity, self._group_id
        if self._together is not None:
            return self._together.has_group(name, identity, group_id) or adds
        if self._participant.pending_offsets.has_group(*identity, group_id):
            return True
        self._guard = self._participant.guard(identity)
        if adds:
            await self._coordinator.add_elsewhere(name, identity, (), (group_id,))
            return True
        return await self._coordinator.verify_elsewhere(name, identity, (), (group_id,))

    async def commit(self, offsets: Mapping[OffsetKey, CommittedOffset]) -> None:
        """Note offsets of the group, which was admitted; durable when this returns. Raises Refusal, StoreError."""
        if self._together is not None:
            await self._together.commit_offsets(self._transactional_id, self._identity, self._group_id, offsets)
            return
        if self._guard is not None and self._guard.is_broken:
            raise Refusal(ErrorCode.invalid_txn_state, "the transaction has ended meanwhile")
        await asyncio.shield(self._participant.commit_offsets(self._identity, offsets))
