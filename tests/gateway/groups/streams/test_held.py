"""What is held, by the epoch at which it came: as a dictionary tells it, and without copies that nobody needs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.groups.streams.held import Held, common, joined, without

THINGS = st.integers(0, 9)
SETS = st.frozensets(THINGS)
EPOCHS = st.dictionaries(THINGS, st.integers(1, 3))


def told(held: Held[int]) -> dict[int, int]:
    return dict(held.pairs())


@given(EPOCHS, SETS)
def test_as_a_dictionary(epochs: dict[int, int], some: frozenset[int]) -> None:
    """All questions, and both parts of a split."""
    held = Held.of(epochs.items())
    inside, outside = held.split(some)

    assert told(held) == epochs
    assert (len(held), bool(held)) == (len(epochs), bool(epochs))
    assert sorted(held) == sorted(held.all()) == sorted(epochs)
    assert held.all() == frozenset().union(*held.sets)
    assert {thing: held.epoch_of(thing) for thing in range(10)} == {thing: epochs.get(thing) for thing in range(10)}
    assert held.has_any_of(some) == (not some.isdisjoint(epochs))
    assert told(inside) == {thing: epoch for thing, epoch in epochs.items() if thing in some}
    assert told(outside) == {thing: epoch for thing, epoch in epochs.items() if thing not in some}
    assert held == Held.of(reversed(epochs.items()))


@given(EPOCHS, SETS, st.integers(1, 4))
def test_more_comes(epochs: dict[int, int], some: frozenset[int], epoch: int) -> None:
    """At a new epoch, or at one of which there is something already; what was there before does not change."""
    held, more = Held.of(epochs.items()), some - epochs.keys()

    assert told(held.plus(epoch, more)) == epochs | dict.fromkeys(more, epoch)
    assert told(held) == epochs


@given(SETS, SETS, SETS)
def test_sets(first: frozenset[int], second: frozenset[int], third: frozenset[int]) -> None:
    assert common(first, second) == first & second
    assert joined(first, second) == first | second
    assert without(first, first & second, (first & third) - second) == first - second - third


def test_nothing_is_copied() -> None:
    """One set is given, kept, and taken away again."""
    all_of_it = frozenset(range(100_000))
    half = frozenset(range(50_000))
    held = Held[int]().plus(7, all_of_it)

    assert held.all() is all_of_it
    assert held.split(all_of_it)[0].all() is all_of_it
    assert not held.split(all_of_it)[1]
    assert held.split(half)[0].all() is half
    assert Held({7: half}).split(all_of_it)[0].all() is half
    assert without(all_of_it) is all_of_it
    assert joined(frozenset(), all_of_it) is joined(all_of_it, frozenset()) is all_of_it
