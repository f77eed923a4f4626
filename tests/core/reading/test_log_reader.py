"""The number of reads of a file that some of its entries take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.log.format import APPEND_OVERHEAD
from core.reading.log_reader import READ_BYTES_MAX, SPAN_GAP_MAX, SPAN_WASTE_MAX, Location, span

KIB = 1 << 10


def located(*entries: tuple[int, int]) -> list[Location]:
    """Entries of these sizes, each at its distance behind the one before it."""
    found, position = [], 0
    for number, (gap, length) in enumerate(entries):
        position += gap
        found.append(Location(1, number, number + 1, position, length, 0))
        position += APPEND_OVERHEAD + length
    return found


def reads(wanted: list[Location]) -> list[list[Location]]:
    found, start = [], 0
    while start < len(wanted):
        stop = span(wanted, start)
        found.append(wanted[start:stop])
        start = stop
    return found


def test_neighbours_are_read_at_once() -> None:
    assert len(reads(located((0, KIB), (0, KIB), (0, KIB)))) == 1


def test_a_small_gap_is_read_along() -> None:
    assert len(reads(located((0, 64 * KIB), (SPAN_GAP_MAX, 64 * KIB)))) == 1


def test_small_entries_far_apart_are_read_alone() -> None:
    """Bytes read along with an entry stay in memory with it."""
    assert len(reads(located((0, KIB), (SPAN_GAP_MAX, KIB)))) == 2


def test_large_entries_between_those_of_others_are_read_alone() -> None:
    """Four slots in turn: one read of all would take four times what is wanted."""
    assert len(reads(located(*[(3 << 20, 1 << 20)] * 4))) == 4


def test_a_read_is_bounded() -> None:
    assert len(reads(located(*[(0, 3 << 20)] * 4))) == 2


def test_an_entry_of_any_size_is_read() -> None:
    assert len(reads(located((0, 4 * READ_BYTES_MAX)))) == 1


@given(st.lists(st.tuples(st.integers(0, 3 * SPAN_GAP_MAX), st.integers(1, READ_BYTES_MAX)), min_size=1))
def test_every_entry_once_and_in_order_and_no_read_is_mostly_waste(entries: list[tuple[int, int]]) -> None:
    wanted = located(*entries)
    found = reads(wanted)
    assert [one for read in found for one in read] == wanted
    for read in found:
        useful = sum(APPEND_OVERHEAD + one.length for one in read)
        size = read[-1].position + APPEND_OVERHEAD + read[-1].length - read[0].position
        assert size - useful <= SPAN_GAP_MAX * (len(read) - 1)
        assert size <= SPAN_WASTE_MAX * useful
        assert len(read) == 1 or size <= READ_BYTES_MAX
