"""Partitions over the members of a share group: evenly, and each keeps what it may."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from gateway.groups.share.spreading import spread

TOPIC = UUID(int=1)


def spread_out(readers: int, places: int, before: dict[str, set[int]]) -> dict[str, set[int]]:
    had = {reader: {TOPIC: frozenset(numbers)} for reader, numbers in before.items()}
    found: dict[str, set[int]] = {f"m{number:02}": set() for number in range(readers)}
    pairs = list(spread(list(found), [(TOPIC, number) for number in range(places)], had))
    for reader, (_, number) in pairs:
        found[reader].add(number)
    assert sum(map(len, found.values())) == len(pairs), "no pair comes twice"
    return found


@given(before=st.tuples(st.integers(1, 12), st.integers(1, 12)), now=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_even(before: tuple[int, int], now: tuple[int, int]) -> None:
    """Whatever there was before, everyone has something, and nobody much more than another."""
    found = spread_out(*now, spread_out(*before, {}))
    readers = Counter(number for numbers in found.values() for number in numbers)
    for counts in ([len(numbers) for numbers in found.values()], [readers[number] for number in range(now[1])]):
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1


@given(readers=st.integers(1, 12), places=st.integers(1, 12))
def test_nothing_moves_without_need(readers: int, places: int) -> None:
    """The same members over the same partitions stay where they are."""
    before = spread_out(readers, places, {})
    assert spread_out(readers, places, before) == before


def test_one_leaves() -> None:
    """The partitions of a member that leaves go to others, which keep their own."""
    before = spread_out(4, 12, {})
    del before["m03"]
    found = spread_out(3, 12, before)
    assert all(before[reader] < found[reader] for reader in found)


def test_one_joins() -> None:
    """A member that joins gets of each its part, and nothing else moves."""
    before = spread_out(3, 12, {})
    found = spread_out(4, 12, before)
    assert all(found[reader] < before[reader] for reader in before)
    assert len(found["m03"]) == 3
