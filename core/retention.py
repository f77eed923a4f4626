"""Retention: how far a slot's start may move, by time and by bytes, and when idle writers are forgotten.

Entries leave from the front, for one of three reasons:

- Their largest timestamp is older than `retention_ms`. `core.retention_ages` gives the age where the timestamp cannot.
- The slot holds `retention_bytes` without them.
- All of the policy's consumers are through with them, as in Pravega, within the limits `keep_ms` and `keep_bytes`.

In the log entries leave one by one. In chunks a whole run leaves, once its last entry may; so no object is read for it.
Streams that are compacted only are never trimmed.

**Invariants**

- Nothing leaves because the wall clock jumped; `core.trusted_time` decides which time is believed.
- Nothing leaves by a policy that has been replaced, even if that happened while it was applied.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.background import Background
from core.container.forgetting import forget_expired
from core.log.records import Trim
from core.retention_ages import Ages
from core.streams.live import Slot
from core.streams.policy import StreamPolicy

if TYPE_CHECKING:
    from core.container.container import Container
    from core.reading.reader import Reader
    from core.tiering.catalog import Catalog

FIRST_LOOK_S_MAX: Final = 30.0
"""The first look comes this soon after a start, so that a store that restarts often has one, too."""
SLOTS_PER_STEP: Final = 100
"""The most slots that one step in a thread looks at and that one log record trims."""


Consumed = Callable[[Sequence[Slot], Sequence[str]], Awaitable[Sequence[int | None]]]
"""How far all of these consumers are through with each of a stream's slots: an offset, None if one has said nothing."""


class Retention:
    """Retention by the streams' policies in one container."""

    def __init__(
        self, container: Container, reader: Reader, catalog: Catalog, consumed: Consumed | None = None
    ) -> None:
        self._container = container
        self._reader = reader
        self._catalog = catalog
        self._consumed = consumed
        self._ages = Ages(container, catalog)
        interval_s = self._interval_s = container.config.retention_check_interval_ms / 1000
        first_s = min(interval_s, FIRST_LOOK_S_MAX)
        self._background = Background("retention", container.id, self._step, retry_s=interval_s, first_s=first_s)

    def start(self, consumed: Consumed | None = None) -> None:
        """Begin; `consumed` gives the progress of the consumers that a policy names."""
        self._consumed = consumed
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    async def _step(self) -> float:
        await self.enforce()
        return self._interval_s

    async def enforce(self) -> int:
        """Move starts as far as the policies say; returns the number of slots that moved. Raises StoreError."""
        now = self._container.trusted.now()
        self._ages.forget_others(self._container.streams)
        moved = 0
        for stream in list(self._container.streams.values()):
            slots = [
                slot
                for slot in stream.slots_in(self._container.id)
                if slot.start < slot.stable_end and not slot.has_moved
            ]
            for start in range(0, len(slots), SLOTS_PER_STEP):
                moved += await self._trim(slots[start : start + SLOTS_PER_STEP], stream.policy, now.timestamps_ms)
        await forget_expired(self._container, now)
        return moved

    async def _trim(self, slots: Sequence[Slot], policy: StreamPolicy, now_ms: int) -> int:
        consumers = policy.consumers if self._consumed is not None else ()
        if not policy.delete or (policy.retention_ms < 0 and policy.retention_bytes < 0 and not consumers):
            return 0
        consumed = await self._consumed_of(slots, consumers)
        limits = [Limits(policy, now_ms, slot.stable_end, up_to) for slot, up_to in zip(slots, consumed, strict=True)]
        trims = await self._reader.in_thread(self._retained, slots, limits)
        staying = {
            (slot.stream.id, slot.number)
            for slot in slots
            if not self._container.is_leaving(slot) and slot.stream.policy == policy  # else it is judged again
        }
        live = [
            trim
            for trim in trims
            if trim.stream_id in self._container.streams and (trim.stream_id, trim.slot) in staying
        ]
        if live:
            await self._container.update(*live)
        return len(live)

    async def _consumed_of(self, slots: Sequence[Slot], consumers: Sequence[str]) -> list[int]:
        """The offsets up to which all consumers are through; 0 where one of them has not said anything yet."""
        if not consumers or self._consumed is None:
            return [0] * len(slots)
        return [up_to or 0 for up_to in await self._consumed(slots, consumers)]

    def _retained(self, slots: Sequence[Slot], limits: Sequence[Limits]) -> list[Trim]:
        """The new start of each slot that the limits move. Blocks."""
        trims = (self._trimmed(slot, some) for slot, some in zip(slots, limits, strict=True))
        return [trim for trim in trims if trim is not None]

    def _trimmed(self, slot: Slot, limits: Limits) -> Trim | None:
        start = slot.start
        new_start, before, is_done = start, slot.start_bytes, False
        if start < slot.tiered_end:
            for run in self._catalog.iter_runs(slot.stream.id, slot.number, start):
                rest_bytes = slot.bytes_behind(run.end, run.bytes_before + run.appended)
                written_ms = self._ages.of_run(run, limits.now_ms)
                is_done = run.entries > 0 and not limits.allow(written_ms, run.end, rest_bytes)
                is_done |= run.first > new_start > start  # rewritten just now: look again next time
                if is_done:
                    break
                new_start, before = run.end, run.bytes_before + run.appended
        if not is_done:
            new_start, before = self._trimmed_in_log(slot, limits, new_start, before)
        return Trim(slot.stream.id, slot.number, new_start, before) if new_start > start else None

    def _trimmed_in_log(self, slot: Slot, limits: Limits, start: int, before: int) -> tuple[int, int]:
        """The first entry from `start` on that stays, and the bytes before it."""
        end, total = limits.stable_end, slot.total_bytes
        for file_lsn, rows in self._reader.all_rows(slot, start, lambda ref: True):
            first = max(0, rows.row_of(start))
            before = rows.bytes_before + sum(rows.length[:first])
            for row in range(first, len(rows.base)):
                # In this order: durable rows are whole, while a row beyond them may be half written by now.
                row_end, rest_bytes = rows.row_end(row), total - before - rows.length[row]
                if rows.base[row] >= end or row_end > end:
                    return start, before
                written_ms = self._ages.of_row(slot, rows.timestamp[row], row_end, file_lsn, end, limits.now_ms)
                if not limits.allow(written_ms, row_end, rest_bytes):
                    return start, before
                start, before = row_end, before + rows.length[row]
        return start, before


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one slot just now. `consumed`: the offset up to which all of the policy's consumers are through."""

    policy: StreamPolicy
    now_ms: int
    stable_end: int  # taken on the event loop: transactions come and go while another thread looks
    consumed: int = 0

    def allow(self, timestamp: int, end: int, rest_bytes: int) -> bool:
        """Whether an entry leaves: its largest timestamp, where it ends, the slot's bytes behind it."""
        policy = self.policy
        if policy.retention_ms >= 0 and 0 <= timestamp < self.now_ms - policy.retention_ms:
            return True
        if 0 <= policy.retention_bytes <= rest_bytes:
            return True
        if end > self.consumed or rest_bytes < policy.keep_bytes:
            return False
        return policy.keep_ms <= 0 or 0 <= timestamp < self.now_ms - policy.keep_ms
