"""A slot's durable state, saved at a checkpoint and taken over at a start.

**Invariant**: what is saved is what was durable: appends on their way are left out of it, and replay adds them.
"""

from __future__ import annotations

from collections.abc import Generator

from core.streams.live import Slot
from core.streams.slot_format import decode_slot, encode_head, encode_rest, encode_writer, joined
from core.streams.transactions import NO_TRANSACTIONS
from core.streams.writers import WriterState


def encode_slot(slot: Slot) -> bytes:
    """The durable state of a slot, as `core.streams.slot_format` lays it out."""
    steps = encoding_slot(slot)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def encoding_slot(slot: Slot) -> Generator[None, None, bytes]:
    """The same in steps, between which anything may happen to the slot. The result is encoded.

    All but the writers is as of the first step. Of each writer only what was durable then is taken, if it is still
    remembered: what it has done since lies behind the slot's end in the log, and replay adds it. A writer that has
    begun since is left out, for the same reason.
    """
    durable = slot.durable_end
    head = encode_head(
        start=slot.start,
        end=durable,
        total_bytes=slot.durable_bytes,
        start_bytes=slot.start_bytes,
        tiered_end=slot.tiered_end,
        tiered_bytes=slot.tiered_bytes,
        leader_epochs=[epoch for epoch in slot.leader_epochs if epoch[1] < durable],
        since_lsn=slot.since_lsn,
    )
    segments = [stretch for stretch in slot.untiered_segments() if stretch.first < durable]
    transactions = None if slot.transactions is None else slot.transactions.encoding(durable)
    writers, count = bytearray(), 0
    for states in slot.writers_stepwise():
        for writer_id, state in states:
            batches = state.durable_batches(durable)
            if batches or state.marked_epoch >= 0:
                epoch = max(state.marked_epoch, batches[-1].epoch) if batches else state.marked_epoch
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
