"""The stretches that compaction took out of a slot, against a list of runs...."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.streams.removed import NOTHING_REMOVED, Removed

END = 40
PUTS = st.tuples(st.integers(0, END - 1), st.integers(1, 8), st.integers(-1, 90))


def replaced(runs: list[tuple[int, int, int]], first: int, end: int, size: int) -> list[tuple[int, int, int]]:
    """A model: a run takes the place of those that it overlaps."""
    return sorted([run for run in runs if run[1] <= first or run[0] >= end] + [(first, end, max(size, 0))])


@given(st.lists(PUTS, max_size=15))
def test_like_a_list(puts: list[tuple[int, int, int]]) -> None:
    """After any runs, in any order and repeated, the bytes behind each border of a run are those of the runs there."""
    runs: list[tuple[int, int, int]] = []
    removed = NOTHING_REMOVED
    for first, length, size in puts:
        runs = replaced(runs, first, first + length, size)
        removed = removed.with_run(first, first + length, size)

    borders = {0, *(first for first, _, _ in runs), *(end for _, end, _ in runs)}
    assert [sum(size for first, _, size in runs if first >= at) for at in borders] == list(map(removed.behind, borders))
    assert repr(Removed.of_runs(runs)) == repr(removed)
    for at in borders:
        later = removed.without_before(at)
        assert [later.behind(border) for border in borders if border >= at] == [
            removed.behind(border) for border in borders if border >= at
        ]


def test_half_a_run() -> None:
    """A run that a slot's start divides counts with the part behind it."""
    removed = Removed.of_runs([(0, 10, 100), (10, 20, 50)])
    assert [removed.behind(at) for at in (0, 5, 9, 10, 15, 20, 25)] == [150, 100, 60, 50, 25, 0, 0]
