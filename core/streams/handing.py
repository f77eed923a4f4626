"""The state in which a slot comes to another container: its state where it was, and what was copied. Pure.

**Invariant**: whoever asks the slot after its move gets the answer that it gave before: the same start and end, writers
with their sequences, open and aborted transactions, leader epochs. Only its bytes count from what was copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core.streams.live import Slot
from core.streams.saving import encode_slot
from core.streams.slot_format import SavedSlot, SegmentStretch, decode_slot
from core.streams.transactions import Aborted, SlotTransactions, Unstable


@dataclass(frozen=True, slots=True)
class Mismatch(Exception):
    """What was copied does not end where the slot does."""

    copied_end: int
    end: int

    def __str__(self) -> str:
        return f"it was copied up to {self.copied_end} and ends at {self.end}"


def begun(source: Slot, since_lsn: int) -> bytes:
    """A slot's value before anything was copied: it has nothing, and begins where the other one does."""
    return SavedSlot(
        start=source.start,
        end=source.start,
        total_bytes=source.start_bytes,
        start_bytes=source.start_bytes,
        tiered_end=0,
        tiered_bytes=0,
        leader_epochs=[],
        writers=[],
        segments=[],
        transactions=None,
        since_lsn=since_lsn,
    ).encode()


def handed_over(source: Slot, copied: Slot, aborted: Iterable[Aborted]) -> bytes:
    """A slot's value once all of its entries were copied.

    `aborted`: the aborted transactions that were met on the way; `source` may have forgotten some of them by now,
    because only chunks have their entries. Raises Mismatch.
    """
    saved = decode_slot(encode_slot(source))
    if copied.end != saved.end:
        raise Mismatch(copied.end, saved.end)
    more = copied.total_bytes - saved.total_bytes
    return saved._replace(
        total_bytes=copied.total_bytes,
        start_bytes=max(0, saved.start_bytes + more),
        tiered_end=copied.tiered_end,
        tiered_bytes=copied.tiered_bytes,
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
