"""The transactional ids whose home is one container, in memory and in its log.

Invariants:
- A change is made in memory and queued for the log without an await between. So memory is ahead of the log only by
  queued changes, in order.
- A transaction has a deadline from its beginning to its end, and no other id has one.
- From its beginning until it is complete it is known which frame of the log has its newest state.
- An id is unknown only if the log has none: once its container is not here any more, nothing is said of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from math import inf

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.container.container import Container
from core.turns import let_go
from gateway.refusals import Refusal
from gateway.transactions.persistence import TRANSACTIONS_TABLE, encode_transaction
from gateway.transactions.transaction import PREPARED, Transaction


class KnownTransactions:
    """By transactional id. For the event loop."""

    def __init__(self, container: Container, clock: Clock) -> None:
        self._container = container
        self._clock = clock
        self._transactions: dict[str, Transaction] = {}
        self._deadlines: dict[str, float] = {}  # of transactions under way, monotonic s
        self._has_left = False
        self._rows: dict[str, int] = {}  # LSNs of the newest states of those that are under way or prepared

    def __iter__(self) -> Iterator[Transaction]:
        return iter(list(self._transactions.values()))

    def __len__(self) -> int:
        return len(self._transactions)

    @property
    def under_way(self) -> int:
        return len(self._deadlines)

    def get(self, transactional_id: str) -> Transaction | None:
        """Raises Refusal when the container has left."""
        if self._has_left:
            raise Refusal(ErrorCode.not_coordinator)
        return self._transactions.get(transactional_id)

    def find(self, transactional_id: str) -> Transaction:
        """The same. Raises Refusal for an id that is not known, too."""
        known = self.get(transactional_id)
        if known is None:
            raise Refusal(ErrorCode.invalid_producer_id_mapping if transactional_id else ErrorCode.invalid_request)
        return known

    async def let_go(self) -> None:
        """The container has left: free all of it, in turns."""
        self._has_left = True
        for known in (self._transactions, self._deadlines, self._rows):
            await let_go(known)

    # --- Time ---------------------------------------------------------------------------------

    def limit(self, transaction: Transaction, left_ms: int) -> None:
        """Give a transaction under way that much time from now on."""
        self._deadlines[transaction.transactional_id] = self._clock.monotonic_s() + left_ms / 1_000

    def overdue(self) -> list[str]:
        """Ids whose transactions should have ended by now."""
        now_s = self._clock.monotonic_s()
        return [name for name, deadline_s in self._deadlines.items() if deadline_s <= now_s]

    def is_overdue(self, transactional_id: str) -> bool:
        """Whether it has a transaction that should have ended by now."""
        return self._deadlines.get(transactional_id, inf) <= self._clock.monotonic_s()

    # --- Changes ------------------------------------------------------------------------------

    def set(self, following: Transaction) -> None:
        """The next state of an id, which the log has, or which was queued for it."""
        name = following.transactional_id
        self._transactions[name] = following
        if following.is_ongoing or following.state in PREPARED:
            self._rows[name] = self._container.log.next_lsn - 1
        else:
            self._rows.pop(name, None)
        if not following.is_ongoing:
            self._deadlines.pop(name, None)
        elif name not in self._deadlines:
            self.limit(following, following.timeout_ms)

    def submit(self, following: Transaction) -> asyncio.Future[None]:
        """Make a change; what is returned is done when it is durable. Raises StoreError: then nothing has changed."""
        logged = self._container.submit([put(following)])
        self.set(following)
        return logged

    async def change(self, following: Transaction) -> None:
        """Make a change; it is durable when this returns. Raises StoreError."""
        await asyncio.shield(self.submit(following))

    def is_synced(self, transactional_id: str) -> bool:
        """Whether no crash can take back what is known of a transaction that is under way or prepared."""
        return self._rows.get(transactional_id, 0) <= self._container.log.synced_lsn

    async def synced(self, transactional_id: str) -> None:
        """Wait until that is so, in every sync mode; not for what others have queued since. Raises StorageFailure."""
        await self._container.synced_up_to(self._rows.get(transactional_id, 0))

    async def forget(self, known: Transaction) -> None:
        """Forget an id, durably. Raises StoreError."""
        gone = self._container.submit([Delete(TRANSACTIONS_TABLE, known.transactional_id.encode())])
        del self._transactions[known.transactional_id]
        await asyncio.shield(gone)


def put(transaction: Transaction) -> Put:
    """The operation that logs a state."""
    return Put(TRANSACTIONS_TABLE, transaction.transactional_id.encode(), encode_transaction(transaction))


def nobody_waits(logged: asyncio.Future[None]) -> None:
    """Ignore the result: later writes get a storage failure by themselves."""
    if not logged.cancelled():
        logged.exception()
