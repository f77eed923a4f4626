"""The state in which a slot comes to another container: its state where it was, and what was copied. Pure.

**Invariant**: whoever asks the slot after its move gets the answer that it gave before: the same start and end, writers
with their sequences, open and aborted transactions, leader epochs. Only its bytes count from what was copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.streams.live import Slot
from core.streams.slot_format import SavedSlot, SegmentStretch, decode_slot
from core.streams.transactions import Aborted, SlotTransactions, Unstable


@dataclass(frozen=True, slots=True)
class Mismatch(Exception):
    """What was copied does not end where the slot does."""

    copied_end: int
    end: int

    def __str__(self) -> str:
        return f"it was copied up to {self.copied_end} and ends at {self.end}"


def begun(source: Slot, since_lsn: int, chunks: tuple[int, int] | None = None) -> bytes:
    """A slot's value before anything was copied: it has nothing, and begins where the other one does. `chunks`: where
    its log begins if chunks are to have what lies before, and the bytes that were appended up to there. So no chunk is
    ever made of that here, also by a start that finds the arrival before they are copied."""
    end, total_bytes = (source.start, source.start_bytes) if chunks is None else chunks
    return SavedSlot(
        start=source.start,
        end=end,
        total_bytes=total_bytes,
        start_bytes=source.start_bytes,
        tiered_end=0 if chunks is None else end,
        tiered_bytes=0 if chunks is None else total_bytes,
        leader_epochs=[],
        writers=[],
        segments=[],
        transactions=None,
        since_lsn=since_lsn,
    ).encode()


Tiered = tuple[int, int]
"""What a container has of a slot in chunks: up to which sequence number, and the bytes before that."""


def tiered_of(slot: Slot) -> Tiered:
    return slot.tiered_end, slot.tiered_bytes


def with_copied(state: bytes, copied: Slot, aborted: Iterable[Aborted], tiered: Tiered) -> bytes:
    """A slot's value once all of its entries were copied, up to where `state` ends: the source's as `encode_slot` gives
    it, of what is durable there, or foreseen. To read a state takes three times as long as to make it: some 10
    microseconds a writer.

    `aborted`: the aborted transactions that were met on the way; the source may have forgotten some of them by now,
    because only chunks have their entries. `tiered`: of `copied`, now or before. Raises Mismatch.
    """
    tiered_end, tiered_bytes = tiered
    saved = decode_slot(state)
    if copied.end != saved.end:
        raise Mismatch(copied.end, saved.end)
    more = copied.total_bytes - saved.total_bytes
    return saved._replace(
        total_bytes=copied.total_bytes,
        start_bytes=max(0, saved.start_bytes + more),
        tiered_end=tiered_end,
        tiered_bytes=tiered_bytes,
        segments=[SegmentStretch(one.first, one.id, max(0, one.bytes_before + more)) for one in saved.segments],
        transactions=_transactions(saved.transactions, more, aborted),
        since_lsn=copied.since_lsn,
    ).encode()


def _transactions(saved: SlotTransactions | None, more: int, aborted: Iterable[Aborted]) -> SlotTransactions | None:
    made = SlotTransactions()
    known = set(aborted)
    if saved is not None:
        rows = saved.aborted
        known.update(Aborted(*rows[at : at + len(Aborted._fields)]) for at in range(0, len(rows), len(Aborted._fields)))
        made.open = dict(saved.open)
        for first, unstable in saved.unstable.items():
            made.unstable[first] = Unstable(unstable.writer_id, max(0, unstable.bytes_before + more))
    for row in sorted(known):
        made.aborted.extend(row)
    return made if made.unstable or made.aborted else None
