"""The right chunk for each stretch, compared with a model that treats each sequence number alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from core.tiering.rows import RunRow
from core.tiering.snapshots.adoption import Claims, settle
from core.tiering.snapshots.format import SlotSnapshot
from tier2.chunk_format import ChunkId

RANGES = st.tuples(st.integers(0, 40), st.integers(1, 15)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def row(first: int, end: int, leader_epoch: int = 0, sequence: int = 0) -> RunRow:
    return RunRow(
        stream_id=1,
        slot=2,
        first=first,
        end=end,
        chunk=ChunkId(container=0, epoch=leader_epoch, sequence=sequence),
        segment_id=0,
        generation=0,
        min_timestamp=0,
        max_timestamp=0,
        position=40,
        length=10 * (end - first),
        entries=1,
        leader_epoch=leader_epoch,
        bytes_before=77,
        appended=10 * (end - first),
    )


def known(
    start: int = 0, durable_end: int = 0, tiered_end: int = 0, epochs: Sequence[tuple[int, int]] = ()
) -> SlotSnapshot:
    return SlotSnapshot(1, 2, start, 0, durable_end, tiered_end, 0, tuple(epochs))


@given(st.lists(RANGES, max_size=12))
def test_claims(ranges: list[tuple[int, int]]) -> None:
    """The given parts are exactly the free ones, in order and in as few pieces as possible."""
    claims, taken = Claims(), set[int]()
    for first, end in ranges:
        free = claims.claim(first, end)

        assert [n for a, b in free for n in range(a, b)] == [n for n in range(first, end) if n not in taken]
        assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(free))
        taken |= set(range(first, end))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2)), max_size=8), st.integers(0, 60))
def test_what_is_settled_is_a_whole(steps: list[tuple[int, int, int]], start: int) -> None:
    """Rows tile from the start to the end, epochs rise, and each number that is missing was told."""
    found: list[RunRow] = []
    position = 0
    for size, gap, epoch in steps:
        found.append(row(position + gap, position + gap + size, epoch))
        position += gap + size
    slot = settle(known(start=start, durable_end=position, tiered_end=position), found)

    assert all(earlier.end == later.first for earlier, later in itertools.pairwise(slot.rows))
    assert all(one.leader_epoch <= other.leader_epoch for one, other in itertools.pairwise(slot.rows))
    assert start <= slot.start <= slot.end
    kept = {n for one in found if one not in slot.refused for n in range(one.first, one.end)}
    lost = {n for first, end in slot.lost for n in range(first, end)}
    assert lost == {n for n in range(start, position) if n not in kept}
    if slot.rows:
        assert slot.rows[0].first <= slot.start < slot.rows[0].end
        assert slot.rows[-1].end == slot.end
        assert [one.bytes_before for one in slot.rows] == [
            0,
            *itertools.accumulate(one.appended for one in slot.rows[:-1]),
        ]
        assert slot.total_bytes == sum(one.appended for one in slot.rows)
        assert 0 <= slot.start_bytes <= slot.rows[0].appended
    firsts = [first for _, first in slot.epochs]
    assert slot.epochs == tuple(sorted(set(slot.epochs)))
    assert firsts == sorted(set(firsts))


def test_a_gap_keeps_what_is_behind_it() -> None:
    """Runs behind a lost stretch stay, at their own sequence numbers; the run before it stands for the gap."""
    slot = settle(known(durable_end=30, tiered_end=30), [row(0, 10), row(20, 30)])

    assert (slot.start, slot.end, slot.lost) == (0, 30, ((10, 20),))
    assert [(one.first, one.end, one.length) for one in slot.rows] == [(0, 20, 100), (20, 30, 100)]


def test_a_chunk_that_overtook_another() -> None:
    """Behind what was known to be tiered, the first gap is the end: runs behind it had not been committed."""
    slot = settle(known(durable_end=30, tiered_end=10), [row(0, 10), row(10, 20), row(30, 40), row(40, 50)])

    assert (slot.start, slot.end, slot.lost, slot.untiered) == (0, 20, (), 10)
    assert [(one.first, one.end) for one in slot.behind] == [(30, 40), (40, 50)]


def test_the_first_chunk_did_not_arrive() -> None:
    """Then nothing came back: later runs are not taken for the beginning."""
    slot = settle(known(durable_end=10), [row(10, 20)])

    assert (slot.start, slot.end, slot.untiered) == (0, 0, 10)
    assert [one.first for one in slot.behind] == [10]


def test_a_gap_before_what_was_tiered_and_one_behind_it() -> None:
    """The first is a loss that readers skip, the second is the end."""
    slot = settle(known(durable_end=30, tiered_end=30), [row(0, 10), row(20, 35), row(40, 50)])

    assert (slot.end, slot.lost) == (35, ((10, 20),))
    assert [one.first for one in slot.behind] == [40]


def test_trimmed_behind_what_was_tiered() -> None:
    """A slot whose start had been moved into what no chunk held goes on there."""
    slot = settle(known(start=15, durable_end=30, tiered_end=10), [row(0, 10), row(15, 20)])

    assert (slot.start, slot.end, slot.behind, slot.untiered) == (15, 20, (), 10)


def test_the_end_is_missing() -> None:
    """A slot ends where its chunks do: later entries were in a lost chunk, or never in one."""
    slot = settle(known(durable_end=50, tiered_end=30), [row(0, 10)])

    assert (slot.end, slot.lost, slot.untiered) == (10, ((10, 30),), 20)


def test_a_late_upload_of_a_store_that_was_replaced() -> None:
    """A chunk whose leader epoch is older than the one before it is refused; the chunks behind it stay."""
    slot = settle(known(), [row(0, 10, 1), row(10, 20, 1001), row(20, 30, 1)])

    assert [one.first for one in slot.refused] == [20]
    assert slot.end == 20


def test_nothing_there() -> None:
    """A slot without chunks begins where its start was, never before it."""
    slot = settle(known(start=100, durable_end=150, tiered_end=100), [])

    assert (slot.start, slot.end, slot.untiered, slot.lost) == (100, 100, 50, ())


def test_a_slot_that_no_snapshot_knows() -> None:
    """A slot begins with its first chunk, because entries before it may have been deleted."""
    slot = settle(None, [row(40, 50, 3), row(50, 60, 4)])

    assert (slot.start, slot.end, slot.lost) == (40, 60, ())
    assert slot.epochs == ((3, 40), (4, 50))


def test_epochs() -> None:
    """The epochs that the snapshot knew, as far as their entries are there, then the chunks' epochs."""
    slot = settle(known(durable_end=15, epochs=[(1, 0), (2, 5), (7, 30)]), [row(0, 10, 2), row(10, 20, 9)])

    assert slot.epochs == ((1, 0), (2, 5), (9, 10))
