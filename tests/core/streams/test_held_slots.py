"""The slots of a stream that memory holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from core.streams.held_slots import HeldSlots


@dataclass(eq=False)
class Place:
    """A slot, as far as this goes."""

    number: int
    container_id: int


def test_one_container_has_all() -> None:
    """While a stream is not spread, its one container has every slot, and takes all of them along."""
    held: HeldSlots[Place] = HeldSlots(is_spread=False)
    first, second = Place(0, 7), Place(1, 7)
    held.put(first)
    held.put(second)
    assert list(held.in_container(7)) == [first, second]
    assert held.take(7) == [first, second]
    assert not held.by_number


@pytest.mark.parametrize("is_spread", [False, True])
def test_a_number_has_one_slot(is_spread: bool) -> None:
    """A slot that comes takes the place of the one of its number, also in the share of that one's container."""
    held: HeldSlots[Place] = HeldSlots(is_spread=is_spread)
    before, after = Place(3, 1), Place(3, 2)
    assert held.put(before) is None
    assert held.put(after) is before
    assert held.by_number == {3: after}
    if is_spread:
        assert not list(held.in_container(1))
        assert list(held.in_container(2)) == [after]


def test_spread_later() -> None:
    """What a stream had when it grew into other containers stays where it was; a container takes its own along only."""
    held: HeldSlots[Place] = HeldSlots(is_spread=False)
    old, new = Place(0, 1), Place(1, 2)
    held.put(old)
    held.spread(1)
    held.put(new)
    assert list(held.in_container(1)) == [old]
    assert held.take(2) == [new]
    assert held.by_number == {0: old}
    held.remove(old)
    assert not held.by_number
    assert not list(held.in_container(1))
