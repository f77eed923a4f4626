"""Where the rows of a name are kept."""

from __future__ import annotations

import collections

import hypothesis.strategies as st
from hypothesis import given

from gateway.coordination.homes import Homes


def test_for_ever() -> None:
    """A name's home never moves: rows that were written by any release are found again."""
    homes = Homes([0, 1, 2, 3])
    names = ("", "g", "orders", "payments-1", "größe", "日本")
    assert [homes.of(name) for name in names] == [0, 0, 2, 1, 3, 1]
    assert Homes([7]).of("g") == 7
    assert (homes.are_several, Homes([0]).are_several) == (True, False)


@given(st.text(), st.integers(1, 64))
def test_one_of_them(name: str, count: int) -> None:
    """Every name has a home, the same in every process."""
    ids = range(10, 10 + count)
    assert Homes(ids).of(name) == Homes(ids).of(name)
    assert Homes(ids).of(name) in ids


def test_evenly() -> None:
    """Many names are shared out evenly."""
    homes = Homes(range(4))
    counts = collections.Counter(homes.of(f"group-{number}") for number in range(4_000))
    assert all(900 < count < 1_100 for count in counts.values())
