"""The last entries of a recovered slot: the writers that they make known again, and torn transactions."""

from __future__ import annotations

import pytest

from core.errors import SequenceGap
from core.streams.saving import load_slot
from core.streams.slot_format import encode_head, encode_tiered_rest
from core.streams.writers import BATCHES_KEPT, Duplicate, WriterBatch, WriterState, gap_after, new_batch
from core.tiering.rows import RunRow
from core.tiering.snapshots.format import WriterSnapshot
from core.tiering.snapshots.tail_reader import LOOK_BACK_BYTES, NEW_BYTES_MAX, last_rows
from core.tiering.snapshots.tails import Ends, EntryWriter, MarkerPlace, Tail, TransactionMark
from tests.core.support import Nowhere
from tests.core.tiering.snapshots.test_adoption import row

PLACE = (1, 0)
ENDS = Ends([], {})


def wrote(tail: Tail, first: int, count: int, sequence: int, epoch: int = 0, writer_id: int = 7) -> None:
    tail.passed(first, first + count, 5, EntryWriter(writer_id, epoch, sequence, False, None), 9, ENDS)


def state_of(batches: list[WriterBatch], epoch: int = 0) -> WriterState:
    state = WriterState(epoch, 0)
    state.batches = batches
    return state


def test_behind_a_gap() -> None:
    """A batch that came back is a duplicate, any other goes on; then sequences are checked again."""
    state = state_of([new_batch(0, 0, 0, 10, 1), new_batch(0, 10, 10, 10, 1)])
    state.batches.append(gap_after(state.batches[-1]))

    assert state.check(7, 0, 0, 10) == Duplicate(0, 10, 1)
    assert state.check(7, 0, 10, 10) == Duplicate(10, 20, 1)
    assert [state.check(7, 0, first, 5) for first in (0, 20, 95)] == [None, None, None]
    assert state.check(7, 3, 41, 5) is None  # a later epoch, whose beginning is gone
    state.record(new_batch(0, 95, 20, 5, 1), 1, durable_end=25)
    assert state.check(7, 0, 100, 1) is None
    with pytest.raises(SequenceGap):
        state.check(7, 0, 200, 1)


@pytest.fixture
def lost_batches() -> WriterSnapshot:
    return WriterSnapshot(7, 0, 3, tuple(new_batch(0, 10 * n, 10 * n, 10, 1) for n in range(5)))


def decoded(tail: Tail, end: int) -> dict[int, list[WriterBatch]]:
    """As the next start reads them."""
    from core.streams.live import Slot

    class Nothing:
        id, state, name = 1, None, "s"

        def segment_id_of(self, number: int) -> int:
            return 0

    slot = Slot(Nowhere(), Nothing(), 0)  # type: ignore[arg-type]
    head = encode_head(start=0, end=end, total_bytes=0, start_bytes=0, tiered_end=end, tiered_bytes=0, leader_epochs=())
    load_slot(slot, head + encode_tiered_rest(list(tail.writers())))
    return {writer_id: state.batches for writer_id, state in (slot.writers or {}).items()}


def test_only_what_came_back(lost_batches: WriterSnapshot) -> None:
    """A snapshot's batches behind the end or in a lost stretch are unknown."""
    tail = Tail(PLACE, 35, [(12, 15)], [lost_batches])

    found = decoded(tail, 35)[7]

    assert [batch.base for batch in found] == [0, 20, 20]
    assert found[-1] == gap_after(found[-2])


def test_nothing_of_a_writer_came_back(lost_batches: WriterSnapshot) -> None:
    """Such a writer is unknown: any sequence begins."""
    assert decoded(Tail(PLACE, 5, [], [lost_batches]), 5) == {}


def test_entries_behind_a_snapshot(lost_batches: WriterSnapshot) -> None:
    """Entries go on where the snapshot's batches end; batches in both count once, and five stay."""
    tail = Tail(PLACE, 90, [], [lost_batches])
    for first in range(30, 90, 10):
        wrote(tail, first, 10, first)
    wrote(tail, 0, 1, 0, writer_id=8)

    found = decoded(tail, 90)

    assert [batch.base for batch in found[7][:-1]] == [40, 50, 60, 70, 80]
    assert len(found[7]) == BATCHES_KEPT + 1
    assert found[8][0] == new_batch(0, 0, 0, 1, 5)


def marked(tail: Tail, ends: Ends, offset: int, places: list[MarkerPlace], *, committed: bool = True) -> None:
    mark = TransactionMark(committed, 100, len(places), places)
    tail.passed(offset, offset + 1, 0, EntryWriter(7, 2, -1, True, mark), 9, ends)


def in_transaction(tail: Tail, ends: Ends, first: int) -> None:
    tail.passed(first, first + 1, 0, EntryWriter(7, 2, 0, True, None), 9, ends)


PLACES = [MarkerPlace(1, 0, 4), MarkerPlace(1, 1, 8), MarkerPlace(2, 0, 6)]


def test_torn() -> None:
    """A committed one whose marker lies behind a slot's end is torn; each place is there, gone, or cut."""
    ends = Ends([1, 2], {(1, 0): (0, 5), (1, 1): (0, 8), (2, 0): (0, 0)})
    first, second = Tail((1, 0), 5, [], []), Tail((1, 1), 8, [], [])
    in_transaction(first, ends, 3)
    marked(first, ends, 4, PLACES)
    in_transaction(second, ends, 7)
    for tail in (first, second):
        tail.finish([], ends)

    (torn,) = ends.torn()

    assert (torn.writer_id, torn.epoch, torn.ended_ms, torn.slots) == (7, 2, 100, 3)
    assert (torn.here, torn.gone) == ({PLACES[0]}, {PLACES[1], PLACES[2]})
    assert torn.cut == {MarkerPlace(1, 1, 7)}


def test_cut_in_its_only_slot() -> None:
    """One whose end is nowhere is known by what is there of it."""
    ends = Ends([1], {(1, 0): (0, 5)})
    tail = Tail((1, 0), 5, [], [])
    in_transaction(tail, ends, 3)
    tail.finish([(7, 2), (8, 9)], ends)  # an earlier one of its writer was aborted, and another writer's

    (torn,) = ends.torn()

    assert (torn.cut, torn.here, torn.gone, torn.ended_ms) == ({MarkerPlace(1, 0, 3)}, set(), set(), -1)


@pytest.mark.parametrize("why", ["aborted", "its end was aborted", "deleted", "trimmed", "whole"])
def test_not_torn(why: str) -> None:
    """Nothing is missing of what nobody reads, of what was deleted, or before a slot's start."""
    bounds = {(1, 0): (0, 5), (1, 1): (0, 9), (2, 0): (0, 7)}
    if why == "aborted":
        bounds[2, 0] = 0, 0
    if why == "trimmed":
        bounds[2, 0] = 7, 7
    ends = Ends([1] if why == "deleted" else [1, 2], bounds)
    tail = Tail((1, 0), 5, [], [])
    if why == "its end was aborted":
        in_transaction(tail, ends, 3)
        tail.finish([(7, 9)], ends)
    else:
        in_transaction(tail, ends, 3)
        marked(tail, ends, 4, PLACES, committed=why != "aborted")
        tail.finish([], ends)

    assert ends.torn() == []


def rows(*sizes: int) -> list[RunRow]:
    from dataclasses import replace

    return [replace(row(10 * n, 10 * n + 10), length=size) for n, size in enumerate(sizes)]


def test_how_much_is_looked_at() -> None:
    """All entries are read that the snapshot did not know, within a bound, and always some before them."""
    some = LOOK_BACK_BYTES // 2
    assert [one.first for one in last_rows(rows(some, some, some, some), 40)] == [20, 30]
    assert [one.first for one in last_rows(rows(some, some, some, some), 10)] == [10, 20, 30]
    assert [one.first for one in last_rows(rows(some, NEW_BYTES_MAX, some), 0)] == [10, 20]
    assert last_rows([], 0) == []
