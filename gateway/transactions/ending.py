"""How a coordinator ends a transaction: in one step of the log, or its outcome first, then everywhere, then its row.

Invariants:
- If all of it lies in the coordinator's own container, and is small, the markers, the offsets that it commits and its
  new state are one step: all of it lasts, or nothing.
- Else the outcome is logged first, and is the point of no return. Then each container that takes part ends it, each by
  itself (`participant.py`), and the row is complete when all have. A failure or a crash leaves a prepared row: a retry,
  or the next start, goes through all of it again, with the same outcome, and whoever has the containers then.
- A row is complete only when each partition has ended the transaction, or is known to be gone (`whereabouts.py`).
- One transaction that cannot end holds up no other, nor the start of its coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from core.turns import in_turns
from gateway.coordination.homes import Homes
from gateway.refusals import Refusal
from gateway.transactions.known import KnownTransactions, nobody_waits, put
from gateway.transactions.outcome import EndsTransactions, Outcome
from gateway.transactions.participant import PLACES_AT_ONCE, Participant
from gateway.transactions.places import Place
from gateway.transactions.retries import Retries
from gateway.transactions.transaction import PREPARED, Transaction
from gateway.transactions.whereabouts import container_of

_log: Final = logging.getLogger(__name__)

ANSWER_S_MAX: Final = 0.1
"""Longest wait of an answer behind the logged outcome, for all containers to have ended the transaction. Nearly always
they have by then, so that the producer's next request finds it complete, and readers all records."""
COMPLETED_AT_ONCE: Final = 64
"""Transactions that one look completes at a time."""
LOOK_S_MAX: Final = 1.0
"""Longest wait of a look for these; what takes longer goes on beside it."""
LOOKS_APART_S: Final = 0.05
"""Least time between two looks for what is to be tried again: each goes through all of it."""


class TransactionCounters:
    """Counts since the start, for the operator."""

    __slots__ = ("aborted", "committed", "timed_out")

    def __init__(self) -> None:
        self.committed = 0
        self.aborted = 0
        self.timed_out = 0


class Participants(Protocol):
    """The containers that may take part in a transaction."""

    def in_container(self, container_id: int) -> EndsTransactions:
        """Raises NotHosted where nobody can be asked."""


@dataclass(frozen=True, slots=True)
class _Shares:
    """Who takes part in a transaction: the partitions of each container. `unknown`: why there may be others."""

    by_container: Mapping[int, list[Place]]
    unknown: Sequence[Refusal]


class Endings:
    """The ends of the transactions of one coordinator, which lies in the same container as `own`."""

    def __init__(
        self,
        container: Container,
        store: Store,
        homes: Homes,
        known: KnownTransactions,
        own: Participant,
        participants: Participants,
        counters: TransactionCounters,
    ) -> None:
        self._container = container
        self._store = store
        self._homes = homes
        self._known = known
        self._own = own
        self._participants = participants
        self._counters = counters
        self._completing: dict[str, asyncio.Task[None]] = {}  # by transactional id
        self._behind = Retries()  # of ids whose outcome could not be carried out everywhere
        self._fell = asyncio.Event()  # one more
        self._retrying: asyncio.Task[None] | None = None

    async def end(self, prepared: Transaction) -> None:
        """Carry out the chosen outcome. It is logged when this returns, and carried out if that takes no longer than
        `ANSWER_S_MAX`. Nothing has changed if it raises StoreError."""
        if self._own.is_small(prepared.producer_id, len(prepared.partitions)) and self._is_all_here(prepared):
            await self._end_in_one_step(prepared)
            return
        await self._known.change(prepared)
        await self._known.synced(prepared.transactional_id)
        if self._known.get(prepared.transactional_id) is prepared:
            await asyncio.wait([self._completion_of(prepared)], timeout=ANSWER_S_MAX)

    async def complete_prepared(self) -> None:
        """Go through all that was chosen and is not complete."""
        await self._try([known for known in self._known if known.state in PREPARED])

    async def stop(self) -> None:
        """Leave what is not complete to the next start."""
        tasks = list(self._completing.values())
        if self._retrying is not None:
            tasks.append(self._retrying)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- What is not complete -----------------------------------------------------------------

    async def _try(self, due: Sequence[Transaction]) -> None:
        async for first in in_turns(range(0, len(due), COMPLETED_AT_ONCE)):
            tasks = []
            for known in due[first : first + COMPLETED_AT_ONCE]:
                if self._known.get(known.transactional_id) is known:
                    tasks.append(self._completion_of(known))
            if tasks:
                await asyncio.wait(tasks, timeout=LOOK_S_MAX)

    def _fell_behind(self, prepared: Transaction, error: StoreError | Refusal) -> None:
        """Try again soon, and tell of it once."""
        is_new = self._behind.failed(prepared.transactional_id, _now_s())
        told = _log.warning if is_new else _log.debug
        told(
            "a transaction is not complete: its outcome is logged, what is missing is tried again",
            extra={"producer": prepared.identity, "committed": prepared.is_committed, "error": str(error)},
        )
        self._fell.set()
        if self._retrying is None:
            self._retrying = asyncio.create_task(self._retry(), name="ends of transactions")

    async def _retry(self) -> None:
        while self._behind:
            await asyncio.sleep(LOOKS_APART_S)
            self._fell.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._behind.wait_s(_now_s())):
                    await self._fell.wait()
            await self._try(self._due())
        self._retrying = None

    def _due(self) -> list[Transaction]:
        due = []
        for name in self._behind.due(_now_s()):
            known = self._known.get(name)
            if known is not None and known.state in PREPARED:
                due.append(known)
            else:
                self._behind.over(name)
        return due

    # --- Within the container -----------------------------------------------------------------

    def _is_all_here(self, prepared: Transaction) -> bool:
        if not self._homes.are_several:
            return True
        own = self._container.id
        return all(self._homes.of(group) == own for group in prepared.groups) and all(
            self._is_at_most_here(place) for place in prepared.partitions
        )

    def _is_at_most_here(self, place: Place) -> bool:
        """Whether a partition lies in this container, or is gone."""
        try:
            return container_of(self._store, place) in (self._container.id, None)
        except Refusal:
            return False

    async def _end_in_one_step(self, prepared: Transaction) -> None:
        completed = prepared.completed(self._container.trusted.stamp_ms())
        outcome = Outcome.of(prepared, self._container.epoch, is_from_elsewhere=False)
        logged = self._own.end_at_once(outcome, sorted(prepared.partitions), [put(completed)])
        self._known.set(completed)
        self._count(prepared)
        await asyncio.shield(logged)

    # --- Over containers ----------------------------------------------------------------------

    def _completion_of(self, prepared: Transaction) -> asyncio.Task[None]:
        """The one task that completes it now, begun if there is none."""
        name = prepared.transactional_id
        if name in self._completing:
            return self._completing[name]
        task = asyncio.create_task(self._complete(prepared), name=f"end of a transaction of {prepared.identity}")
        self._completing[name] = task
        task.add_done_callback(lambda _: self._completing.pop(name, None))
        return task

    async def _complete(self, prepared: Transaction) -> None:
        """Have every container end it, then log that it is complete. What fails is left to the next look."""
        try:
            # No container hears of an outcome that a crash could take back.
            await self._known.synced(prepared.transactional_id)
            outcome = Outcome.of(prepared, self._container.epoch)
            shares = await self._shares(prepared)
            ends = [self._end_in(*share, outcome) for share in shares.by_container.items()]
            failures = [done for done in await asyncio.gather(*ends, return_exceptions=True) if done is not None]
            for failure in (*failures, *shares.unknown):
                raise failure
            completed = self._known.submit(prepared.completed(self._container.trusted.stamp_ms()))
            completed.add_done_callback(nobody_waits)
            self._behind.over(prepared.transactional_id)
            self._count(prepared)
        except (StoreError, Refusal) as error:
            self._fell_behind(prepared, error)

    async def _end_in(self, container_id: int, places: list[Place], outcome: Outcome) -> None:
        await self._participants.in_container(container_id).end(outcome, places)

    async def _shares(self, prepared: Transaction) -> _Shares:
        shares: dict[int, list[Place]] = {self._homes.of(group): [] for group in prepared.groups}
        places, unknown = prepared.places, list[Refusal]()
        async for first in in_turns(range(0, len(places), PLACES_AT_ONCE)):
            for place in places.some(first, PLACES_AT_ONCE):
                try:
                    container_id = container_of(self._store, place)
                except Refusal as refused:
                    unknown = [refused]
                    continue
                if container_id is not None:
                    shares.setdefault(container_id, []).append(place)
        return _Shares(shares, unknown)

    def _count(self, prepared: Transaction) -> None:
        if prepared.is_committed:
            self._counters.committed += 1
        else:
            self._counters.aborted += 1


def _now_s() -> float:
    return asyncio.get_running_loop().time()
