"""Pins: slots whose entries pin the log because they cannot go into chunks, with the reason and the bytes held.

A slot is tiered up to its stable end, and up to an entry that cannot be read. The rest of the container goes on without
it: chunks are made of the other slots, and when the log is pressed, the entries of the pinning slot are kept apart
(`core.container.kept`). So only the pinning slots' own bytes need room, and these are bounded: while the log is pressed
and such slots hold more than `HELD_SHARE` of it, those that hold most are refused, by name, and no others.

**Invariants**

- The part of a slot that may be tiered ends at or before its stable end, and before entries known to be damaged.
- No entry is given up because its log file went while it was looked for.
- A slot is refused only for its own entries, and only while the log is pressed. The end of a transaction is never
  refused, because it lets go of entries.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.errors import Corrupt, OutOfRange, StorageFull, StoreError
from core.index.rows import SIDECAR_SUFFIX
from core.reading.setting_aside import set_aside
from core.streams.damage import DAMAGED_DIRECTORY, DamagedRange

if TYPE_CHECKING:
    from core.index.rows import BlockRef
    from core.streams.live import Slot
    from core.tiering.context import TierContext

logger = logging.getLogger(__name__)

HELD_SHARE: Final = 0.5
"""The share of `log.max.bytes` that pinning slots may hold together while the log is pressed."""
NAMED_MAX: Final = 10
"""The most slots that are named, those that hold most first."""
COMPLAIN_EVERY_S: Final = 60.0
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 60.0
INDEX_S: Final = 1.0
"""The pause for an index, which the next turn of maintenance makes again."""
LOOK_EVERY_S: Final = 5.0
"""The pause while there is room enough; otherwise every turn of the storage writer looks."""
SLICE_STREAMS: Final = 50
GONE_MAX: Final = 1_000
"""The most ranges that one record forgets."""


@dataclass(slots=True)
class Unreadable:
    """A place where a slot cannot be read in the log: since when, and the time of the next look."""

    first: int
    bytes_before: int
    why: str
    retry_at: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Pin:
    """A slot with entries that cannot be tiered."""

    slot: Slot
    bytes: int  # held in the log from there on
    reason: str  # a word of ours: "transaction" or "damage"
    why: str
    writer_id: int = -1

    @property
    def place(self) -> str:
        return f"{self.slot.stream.name}-{self.slot.number}"

    def __str__(self) -> str:
        return f"{self.place} holds {self.bytes} bytes: {self.why}"


class Pins:
    """The pins of one container. For the event loop."""

    def __init__(self, context: TierContext) -> None:
        self._context = context
        self._container = context.container
        self._reader = context.reader
        self._clock = context.container.clock
        self._unreadable: dict[Slot, Unreadable] = {}
        self._complained_at = -COMPLAIN_EVERY_S
        self._look_at = 0.0
        self.named: Sequence[Pin] = ()  # as of the last look, those that hold most first
        self.slots = 0  # that pin the log, as of the last look
        self.bytes = 0  # held there

    def __repr__(self) -> str:
        return f"<Pins {self.slots} slots hold {self.bytes} bytes, {len(self._unreadable)} are damaged>"

    @property
    def unreadable(self) -> int:
        """The number of slots with unreadable entries in the log."""
        return len(self._unreadable)

    # How far a slot can be tiered

    def end_of(self, slot: Slot) -> tuple[int, int]:
        """The offset up to which a slot can be tiered, and its bytes before that."""
        known = self._unreadable.get(slot) if self._unreadable else None
        end, before = slot.stable_end, slot.stable_bytes
        if known is not None and known.first < end:
            end, before = known.first, known.bytes_before
        if self._container.damage:  # a run goes on behind a lost range: it cannot end with it
            for one in reversed(self._container.damage.of(slot)):
                if one.end == end:
                    end, before = one.first, before - one.size
        return end, before

    def found_unreadable(self, slot: Slot, first: int, bytes_before: int, error: Corrupt) -> None:
        """Note that an entry of a slot, or its index, could not be read."""
        known = self._unreadable.get(slot)
        pause_s = RETRY_FIRST_S if known is None or known.first != first else min(RETRY_MAX_S, 2 * known.pause_s)
        if error.path.suffix == SIDECAR_SUFFIX:  # which is made again
            self._container.unreadable_indices.add(error.path)
            pause_s = INDEX_S
        retry_at = self._clock.monotonic_s() + pause_s
        self._unreadable[slot] = Unreadable(first, bytes_before, str(error), retry_at, pause_s)
        if known is None or known.first != first:
            logger.error(
                "a partition is tiered up to an entry that cannot be read, and stays in the log from there on",
                extra={"topic": slot.stream.name, "partition": slot.number, "offset": first, "reason": str(error)},
            )

    async def look_again(self) -> None:
        """Look again at unreadable entries: they may be readable by now, or gone."""
        now = self._clock.monotonic_s()
        for slot, known in list(self._unreadable.items()):
            if slot.stream.deleted or slot.has_moved or slot.start > known.first:
                self._readable(slot)
            elif now >= known.retry_at:
                try:
                    await self._reader.in_thread(self._reader.check, slot, known.first)
                except OutOfRange:
                    continue
                except Corrupt as error:
                    self.found_unreadable(slot, known.first, known.bytes_before, error)
                    is_index = error.path.suffix == SIDECAR_SUFFIX
                    if not is_index and known.pause_s > RETRY_FIRST_S and self._has_pinned(slot):
                        await self._give_up(slot, known.first)
                else:
                    self._readable(slot)
        await self._forget_gone()

    def _has_pinned(self, slot: Slot) -> bool:
        """Whether the log is short of room, or was and so kept entries of the slot apart."""
        place = slot.stream.id, slot.number
        return self._context.is_pressed or any(place in kept.places for kept in self._container.kept)

    async def _give_up(self, slot: Slot, first: int) -> None:
        """Tier the slot past its damage: reading was tried more than once, and the log has no room for waiting."""
        container, moved = self._container, self._container.moved
        try:
            lost = await self._reader.in_thread(
                set_aside, self._reader, container.directory, slot, first, slot.stable_end
            )
            if lost is None or not container.is_here(slot):
                return
            if moved != container.moved:  # what could not be read any more may be kept elsewhere, as good as before
                return
            await container.update(lost.put())
        except (StoreError, OSError) as error:
            logger.warning("damaged entries could not be set aside, will be tried again", extra={"error": str(error)})
            return
        _name_lost(
            "damaged entries were set aside: readers are refused there, and may go on behind them",
            container.directory,
            slot,
            lost,
        )
        self._readable(slot)

    async def _forget_gone(self) -> None:
        """Forget ranges before the start of their slot, and ranges of streams that are gone."""
        gone = []
        for one in self._container.damage:
            slot = self._container.slot_at(one.stream_id, one.slot)
            if slot is None or slot.stream.deleted or slot.start >= one.end:
                gone.append(one.delete())
        if gone:
            with contextlib.suppress(StorageFull):
                await self._container.update(*gone[:GONE_MAX])

    def name_lost(self) -> None:
        """Log the ranges that are lost for good, at a start."""
        for one in islice(self._container.damage, NAMED_MAX):
            if (slot := self._container.slot_at(one.stream_id, one.slot)) is not None:
                _name_lost(
                    "a partition has a damaged range: readers are refused there",
                    self._container.directory,
                    slot,
                    one,
                )

    def _readable(self, slot: Slot) -> None:
        del self._unreadable[slot]
        if (
            not slot.stream.deleted
            and not slot.has_moved
            and not slot.untiered
            and slot.durable_end > slot.untiered_from[0]
        ):
            self._container.mark_untiered(slot)

    # Finding pins

    def pins(self, slot: Slot, ref: BlockRef) -> bool:
        """Whether these rows' entries cannot be tiered as things stand."""
        return ref.end > self.end_of(slot)[0]

    async def look(self) -> None:
        """Find the slots that pin the log, log them, and decide which to refuse."""
        now = self._clock.monotonic_s()
        if now < self._look_at and not self._context.is_pressed and not self._container.refused:
            return
        self._look_at = now + LOOK_EVERY_S
        found: list[Pin] = []
        streams = list(self._container.streams.values())
        for start in range(0, len(streams), SLICE_STREAMS):
            for stream in streams[start : start + SLICE_STREAMS]:
                found += (
                    pin for slot in stream.slots_in(self._container.id) if (pin := self._pin_of(slot)) is not None
                )
            await asyncio.sleep(0)
        seen = {pin.slot for pin in found}
        found += (pin for slot in self._come() if slot not in seen and (pin := self._pin_of(slot)) is not None)
        found.sort(key=lambda pin: -pin.bytes)
        found[:NAMED_MAX] = self.named = self._with_names(found[:NAMED_MAX])
        self.slots, self.bytes = len(found), sum(pin.bytes for pin in found)
        self._refuse(found)
        self._complain()

    def _come(self) -> list[Slot]:
        """Slots that have come by a decision of which this log is still to hear: it may lack room because of them."""
        own, beside = self._container.id, self._container.outcomes.beside.values()
        there = [slot for slot in beside if not slot.has_moved and slot.number < slot.stream.logged.slots]
        return [slot for slot in there if slot.stream.logged.container_of_slot(slot.number) == own]

    def _with_names(self, found: Sequence[Pin]) -> list[Pin]:
        names = self._container.name_writers({pin.writer_id for pin in found if pin.writer_id >= 0})
        return [replace(pin, why=f"{names.get(pin.writer_id, '')}{pin.why}") for pin in found]

    def _pin_of(self, slot: Slot) -> Pin | None:
        transactions = slot.transactions
        is_open = transactions is not None and bool(transactions.unstable)
        if not is_open and slot not in self._unreadable:
            return None
        end, before = self.end_of(slot)
        size = slot.total_bytes - before
        if size <= 0:
            return None
        known = self._unreadable.get(slot)
        if known is not None and known.first <= end:
            return Pin(slot, size, "damage", f"offset {known.first} cannot be read: {known.why}")
        assert transactions is not None
        first, unstable = next(islice(transactions.unstable.items(), 1))
        return Pin(slot, size, "transaction", f" has a transaction open since offset {first}", unstable.writer_id)

    def _refuse(self, found: Sequence[Pin]) -> None:
        """The slots that hold most, as many as it takes until the others are within bounds."""
        refused: dict[Slot, str] = {}
        if self._context.is_pressed:
            limit = HELD_SHARE * self._container.config.log_max_bytes
            held = self.bytes
            for pin in found:
                if held <= limit:
                    break
                held -= pin.bytes
                refused[pin.slot] = (
                    f"{pin}. These bytes cannot go to long-term storage, and the log is filling up. Such partitions "
                    f"may hold {int(limit)} bytes of it together: this partition takes writes again when it lets go"
                )
        self._container.refused = refused

    def _complain(self) -> None:
        now = self._clock.monotonic_s()
        if self.named and self._context.is_pressed and now >= self._complained_at + COMPLAIN_EVERY_S:
            self._complained_at = now
            logger.warning(
                "partitions hold back entries that cannot go to long-term storage, while the log is filling up",
                extra={"bytes": self.bytes, "partitions": self.slots, "those_that_hold_most": [*map(str, self.named)]}
                | {"refused": len(self._container.refused)},
            )


def _name_lost(what: str, directory: Path, slot: Slot, lost: DamagedRange) -> None:
    logger.error(
        what,
        extra={
            "topic": slot.stream.name,
            "partition": slot.number,
            "from_offset": lost.first,
            "to_offset": lost.end - 1,
        }
        | {"bytes": lost.size, "file": f"{directory / DAMAGED_DIRECTORY / lost.file}"},
    )
