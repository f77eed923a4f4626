"""Partitions of one fetch whose entries are not in memory, read side by side.

A fetch waits for long-term storage as long as its client would wait for new records, half a second at most, and not at
all once other partitions have enough. Then the partition is left empty, the read still completes, and a later fetch
finds its entries in memory. Unreachable storage is no error, only nothing new. A damaged or missing object is
CORRUPT_MESSAGE, which clients report with partition and offset. (On KAFKA_STORAGE_ERROR they expect the broker to
recover: they try again for ever, silently.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from core.errors import OutOfRange, StoreClosed, StoreError, TierUnavailable
from core.streams.entries import StillLoading
from gateway.fetching.looking import ColdRead, Findings
from gateway.fetching.readers import reader_of
from gateway.fetching.reports import report
from gateway.fetching.sessions import Target
from gateway.refusals import Asked, code_of
from gateway.wire.error_codes import KAFKA_STORAGE_ERROR, NOT_LEADER_OR_FOLLOWER, OFFSET_OUT_OF_RANGE

TIER_WAIT_MAX_S: Final = 0.5
"""Longest wait for long-term storage: Kafka's `remote.fetch.max.wait.ms`."""
TIER_WAIT_MIN_S: Final = 0.05
"""Shortest wait, also for clients that do not wait: they would ask again and again while a page is loaded."""

Choose = Callable[[Sequence[Target]], Awaitable[tuple[list[ColdRead], list[Target]]]]


class ColdReads:
    """The reads of one fetch. `wait_s`: how long its client waits; `choose` looks at partitions, and gives way; `woken`
    is called when others have enough, perhaps after the reads have ended."""

    def __init__(
        self, findings: Findings, min_bytes: int, wait_s: float, choose: Choose, woken: Callable[[], None]
    ) -> None:
        self._findings = findings
        self._min_bytes = min_bytes
        self._wait_s = max(TIER_WAIT_MIN_S, min(TIER_WAIT_MAX_S, wait_s))
        self._choose = choose
        self._woken = woken
        self._patience: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the fetch waits for long-term storage no longer."""
        self.late: list[Target] = []
        """Partitions that were, or should have been, read from long-term storage, and may have more."""

    def lose_patience(self) -> None:
        """Wait for long-term storage no longer."""
        if not self._patience.done():
            self._patience.set_result(None)

    async def run(self, cold: list[ColdRead], left: list[Target]) -> bool:
        """Read many partitions at once, each with its share of the bytes; then the rest, while there is room and time.

        Returns whether time ran out while the fetch had too little."""
        loop = asyncio.get_running_loop()
        findings, patience = self._findings, self._patience
        ends_at = loop.time() + self._wait_s
        timer = loop.call_at(ends_at, self.lose_patience)
        has_enough = findings.size >= self._min_bytes or findings.urgent
        if has_enough:
            patience.set_result(None)
        else:
            findings.wanted.wait(self._min_bytes - findings.size, self._woken)
        read = list(cold)
        try:
            await self._read_all(cold)
            if not findings.size and not findings.urgent:
                await self._read_one(cold)
            while left and cold and self._has_room() and loop.time() < ends_at:
                cold, left = await self._choose(left)
                read += cold
                await self._read_all(cold)
        finally:
            timer.cancel()
            findings.reserved = 0
            findings.wanted.stop_waiting()
        self.late = [one.target for one in read if one.target in findings.wanted.dirty]
        return patience.done() and not has_enough

    def _has_room(self) -> bool:
        return 0 < self._findings.size < self._findings.max_bytes and not self._findings.urgent

    async def _read_all(self, cold: Sequence[ColdRead]) -> None:
        await asyncio.gather(*(self._read(one) for one in cold))
        self._findings.reserved = 0

    async def _read_one(self, cold: Sequence[ColdRead]) -> None:
        """Read one partition's first entry whole, as none fitted into its share."""
        for read in cold:
            if read.fits_nothing and not self._findings.size:
                read.at_least_one = True
                await self._read(read)

    async def _read(self, read: ColdRead) -> None:
        findings, target, slot = self._findings, read.target, read.slot
        findings.forget(target)
        try:
            reader = reader_of(findings.store, slot)
            found = await reader.read(slot, target.offset, read.end, read.room, read.at_least_one, self._patience)
        except OutOfRange:  # what a slot has left is let go of there: a consumer must not begin anew for that
            findings.fail(target, NOT_LEADER_OR_FOLLOWER if slot.has_moved else OFFSET_OUT_OF_RANGE)
        except StillLoading:
            findings.add(target, slot, None)
        except (TierUnavailable, StoreClosed):
            await asyncio.wait((self._patience,))  # as if nothing were there: answered at once, clients would spin
            findings.add(target, slot, None)
        except (StoreError, OSError) as error:
            report(slot, error)
            findings.fail(target, code_of(error, Asked.READ) if isinstance(error, StoreError) else KAFKA_STORAGE_ERROR)
        else:
            read.fits_nothing = not found.size
            findings.add(target, slot, found)
