"""The state in which a slot comes to another container: what it was, with the bytes of what was copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.log.format import ABORT_MARKER, COMMIT_MARKER, IN_TRANSACTION
from core.streams.handing import Mismatch, begun, tiered_of, with_copied
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.markers import Marker
from core.streams.policy import StreamPolicy
from core.streams.saving import Foreseen, encode_slot, load_slot
from core.streams.state import new_stream
from core.streams.transactions import Aborted


@dataclass
class Owner:
    id: int = 0
    epoch: int = 0
    known_writers: KnownWriters = field(default_factory=lambda: KnownWriters(100))


def slot_of(owner: Owner) -> Slot:
    state = new_stream(stream_id=1, name="s", uuid=UUID(int=1), slots=1, created_ms=0, container=0, config={})
    stream = Stream(state, StreamPolicy(), lambda stream, number: Slot(owner, stream, number))
    return stream.slot(0)


def append(slot: Slot, count: int, size: int, *, writer: int = -1, sequence: int = -1, flags: int = 0) -> None:
    slot.appended(slot.end, count, size, 7, slot.owner.epoch, 5, writer, 0, sequence, flags, 1)
    slot.durable(slot.end, size)


def copied(source: Slot, size: int) -> Slot:
    """All entries in one, of other bytes."""
    slot = slot_of(Owner(1, 4))
    load_slot(slot, begun(source, 99))
    append(slot, source.end - source.start, size)
    return slot


def test_all_but_bytes_is_the_sources() -> None:
    source = slot_of(Owner(0, 3))
    for sequence in range(4):
        append(source, 2, 50, writer=9, sequence=2 * sequence)
    append(source, 1, 30, writer=5, sequence=0, flags=IN_TRANSACTION)
    source.start, source.start_bytes = 2, 50
    target = copied(source, 200)
    load_slot(target, with_copied(encode_slot(source), target, (), tiered_of(target)))
    assert (target.start, target.end, target.stable_end, target.since_lsn) == (2, 9, 8, 99)
    assert target.leader_epochs == [(3, 0)]
    assert target.writers is not None
    assert source.writers is not None
    assert target.writers[9].batches == source.writers[9].batches
    assert target.has_open_transaction(5)
    assert (target.total_bytes, target.start_bytes) == (250, 70)  # 20 more than the source has
    assert target.stable_bytes == 220


def test_aborted_transactions_of_both() -> None:
    """Those that the source still knows, and those that it had forgotten when it was asked."""
    source = slot_of(Owner())
    append(source, 30, 10)
    mark = source.mark_transaction
    source.begin_transaction(5, 20)
    marker = mark(5, 0, 25, 1, committed=False)
    marker.appended()
    target = copied(source, 10)
    load_slot(target, with_copied(encode_slot(source), target, [Aborted(12, 10, 4, 13)], tiered_of(target)))
    assert [row.writer_id for row in target.aborted_in(0, 30)] == [4, 5]


def test_something_is_missing() -> None:
    source = slot_of(Owner())
    append(source, 3, 10)
    target = copied(source, 10)
    append(source, 1, 10)
    with pytest.raises(Mismatch, match="copied up to 3 and ends at 4"):
        with_copied(encode_slot(source), target, (), tiered_of(target))


@dataclass
class Queue:
    """What was appended to a slot and is not durable yet, oldest first."""

    slot: Slot
    waiting: list[tuple[int, int, Marker | None]] = field(default_factory=list)

    def do(self, what: str, writer: int) -> None:
        slot, marker, flags = self.slot, None, 0
        if what in ("commit", "abort"):
            flags = COMMIT_MARKER if what == "commit" else ABORT_MARKER
            marker = slot.mark_transaction(writer, 1, slot.end, 9, committed=what == "commit")
        elif what == "in a transaction":
            flags = IN_TRANSACTION
        size = 10 + len(self.waiting)
        slot.appended(slot.end, 1, size, 7, slot.owner.epoch, 5, writer, 1, slot.end, flags, 9)
        self.waiting.append((slot.end, size, marker))

    def settle(self, count: int) -> None:
        done, self.waiting = self.waiting[:count], self.waiting[count:]
        for end, size, marker in done:
            self.slot.durable(end, size)
            if marker is not None:
                marker.appended()

    @property
    def markers(self) -> list[Marker]:
        return [marker for _, _, marker in self.waiting if marker is not None]


deeds = st.tuples(st.sampled_from(("alone", "in a transaction", "commit", "abort")), st.integers(1, 3))


@given(st.lists(deeds, min_size=1, max_size=30), st.lists(deeds, max_size=30), st.integers(0, 60))
def test_what_is_foreseen_comes(before: list[tuple[str, int]], on_way: list[tuple[str, int]], count: int) -> None:
    """The state of a slot, some of whose entries and markers are on their way: it is the one that it has once they are
    durable, however many of them are by now."""
    source = slot_of(Owner(0, 3))
    queue = Queue(source)
    for deed in before:
        queue.do(*deed)
    queue.settle(len(before))
    for deed in on_way:
        queue.do(*deed)
    queue.settle(count)
    target = copied(source, 200)
    expected = with_copied(encode_slot(source, Foreseen.of(source, queue.markers)), target, (), tiered_of(target))
    queue.settle(len(queue.waiting))
    assert with_copied(encode_slot(source), target, (), tiered_of(target)) == expected


def test_what_changes_meanwhile_is_not_foreseen() -> None:
    """Whoever looks again sees that it came otherwise."""
    source = slot_of(Owner())
    append(source, 3, 10, writer=9, sequence=0)
    target = copied(source, 30)
    expected = with_copied(encode_slot(source, Foreseen.of(source, ())), target, (), tiered_of(target))
    assert with_copied(encode_slot(source), target, (), tiered_of(target)) == expected
    source.start, source.start_bytes = 2, 20
    assert with_copied(encode_slot(source), target, (), tiered_of(target)) != expected


def test_chunks_that_come_to_be_meanwhile() -> None:
    """They belong to the target, and are not what a state is compared by."""
    source = slot_of(Owner())
    append(source, 3, 10)
    target = copied(source, 30)
    tiered = tiered_of(target)
    expected = with_copied(encode_slot(source, Foreseen.of(source, ())), target, (), tiered)
    target.tiered_end, target.tiered_bytes = 3, 30
    assert with_copied(encode_slot(source), target, (), tiered) == expected
    assert with_copied(encode_slot(source), target, (), tiered_of(target)) != expected
