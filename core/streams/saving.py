"""A slot's durable state, saved at a checkpoint and taken over at a start; and the one that it will have.

**Invariants**

- What is saved is what was durable: appends on their way are left out of it, and replay adds them.
- What is foreseen is what will be saved once all is durable that was appended, if nothing else changes the slot.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from core.streams.live import Slot
from core.streams.markers import Marker
from core.streams.slot_format import decode_slot, encode_head, encode_rest, encode_writer, joined
from core.streams.transactions import NO_TRANSACTIONS, SlotTransactions
from core.streams.writers import WriterState


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the markers on their way will have changed in a slot."""

    transactions: SlotTransactions | None
    marked: Mapping[WriterState, int]  # by writer: the largest epoch of its markers

    @classmethod
    def of(cls, slot: Slot, markers: Iterable[Marker]) -> Foreseen:
        """`markers`: all of the slot that are on their way, in their order."""
        transactions = None if slot.transactions is None else slot.transactions.copy()
        marked: dict[WriterState, int] = {}
        for marker in markers:
            marked[marker.writer] = max(marker.epoch, marked.get(marker.writer, -1))
            if marker.first is not None and transactions is not None:
                transactions.ended(marker.first, marker.offset, committed=marker.committed)
        return cls(transactions, marked)


def encode_slot(slot: Slot, foreseen: Foreseen | None = None) -> bytes:
    """The durable state of a slot, as `core.streams.slot_format` lays it out; or the one that is foreseen."""
    steps = encoding_slot(slot, foreseen)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def encoding_slot(slot: Slot, foreseen: Foreseen | None = None) -> Generator[None, None, bytes]:
    """The same in steps, between which anything may happen to the slot. The result is encoded.

    All but the writers is as of the first step. Of each writer only what was durable then is taken, if it is still
    remembered: what it has done since lies behind the slot's end in the log, and replay adds it. A writer that has
    begun since is left out, for the same reason.
    """
    durable = slot.durable_end if foreseen is None else slot.end
    now = slot.transactions if foreseen is None else foreseen.transactions
    head = encode_head(
        start=slot.start,
        end=durable,
        total_bytes=slot.durable_bytes if foreseen is None else slot.total_bytes,
        start_bytes=slot.start_bytes,
        tiered_end=slot.tiered_end,
        tiered_bytes=slot.tiered_bytes,
        leader_epochs=[epoch for epoch in slot.leader_epochs if epoch[1] < durable],
        since_lsn=slot.since_lsn,
    )
    segments = [stretch for stretch in slot.untiered_segments() if stretch.first < durable]
    transactions = None if now is None else now.encoding(durable)
    writers, count = bytearray(), 0
    for states in slot.writers_stepwise():
        for writer_id, state in states:
            batches, marked = state.durable_batches(durable), state.marked_epoch
            if foreseen is not None:
                marked = max(marked, foreseen.marked.get(state, -1))
            if batches or marked >= 0:
                epoch = max(marked, batches[-1].epoch) if batches else marked
                writers += encode_writer(writer_id, epoch, state.last_use_ms, batches)
                count += 1
        yield
    ended = NO_TRANSACTIONS if transactions is None else (yield from transactions)
    rest = encode_rest(segments, ended, slot.since_lsn)
    return joined(head, count, writers, rest)


def load_slot(slot: Slot, value: bytes) -> None:
    """Have a slot take over a saved state. Raises CorruptState."""
    saved = decode_slot(value)
    slot.start, slot.end, slot.durable_end = saved.start, saved.end, saved.end
    slot.total_bytes, slot.start_bytes = saved.total_bytes, saved.start_bytes
    slot.tiered_end, slot.tiered_bytes = saved.tiered_end, saved.tiered_bytes
    slot.leader_epochs, slot.segments = saved.leader_epochs, saved.segments
    slot.transactions, slot.since_lsn = saved.transactions, saved.since_lsn
    slot.writers = None
    if saved.writers:
        slot.writers = {}
        for writer_id, epoch, last_use_ms, batches in saved.writers:
            state = slot.writers[writer_id] = WriterState(epoch, last_use_ms)
            state.marked_epoch = epoch
            state.batches.extend(batches)
