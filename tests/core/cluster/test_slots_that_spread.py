"""Which slots go to other nodes by themselves, and which come back: never to and fro, within bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cluster.balancing import GAIN, loads_of, next_move
from core.cluster.loads import BASE_WEIGHT
from core.cluster.spreading import (
    APART_S,
    BYTES_AN_HOUR,
    HOT_S,
    HOUR_S,
    MOVES_AN_HOUR,
    SLOT_BYTES_MAX,
    ColdSlot,
    Hot,
    SlotLoad,
    Spreader,
    best_to_go,
    goes_back_to,
    hottest,
)

IDLE: Final = BASE_WEIGHT
ONE_IS_HOT: Final = {1: {0: 0.8, 1: IDLE}, 2: {2: IDLE, 3: 0.05}}
SLOTS: Final = [SlotLoad((7, number), 0.25, 1_000) for number in range(4)]


def test_only_where_no_container_would_help() -> None:
    """The busiest node alone decides, and the coldest container of the one with the least is the target."""
    hot = hottest(ONE_IS_HOT, 1)
    assert hot is not None
    assert (hot.container, hot.target) == (0, 2)
    assert hottest(ONE_IS_HOT, 2) is None
    many = {1: {0: 0.4, 1: 0.4}, 2: {2: IDLE}}
    assert next_move(many) is not None
    assert hottest(many, 1) is None
    assert hottest({1: {0: 0.8}}, 1) is None
    assert hottest({1: {0: 0.8}, 2: {}}, 1) is None, "there is no container to go to: one has to come first"


def test_a_slot_that_is_nearly_all_of_it_stays() -> None:
    hot = hottest(ONE_IS_HOT, 1)
    assert hot is not None
    assert best_to_go(hot, [SlotLoad((7, 0), 1.0, 0)]) is None
    best = best_to_go(hot, [SlotLoad((7, 0), 0.6, SLOT_BYTES_MAX + 1), SlotLoad((7, 1), 0.4, 5)])
    assert best is not None
    assert best[0].place == (7, 1), "the other one has too long a history"


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
    st.lists(st.lists(st.floats(BASE_WEIGHT, 0.3), min_size=1, max_size=3), min_size=1, max_size=4),
    st.floats(0.2, 1.0),
)
@settings(deadline=None)
def test_slots_that_go_come_to_an_end(rates: list[float], others: list[list[float]], weight: float) -> None:
    """Whatever moves lowers the higher load, until nothing helps any more."""
    whole = sum(rates) or 1.0
    of_slots = {number: (weight - BASE_WEIGHT) * rate / whole for number, rate in enumerate(rates)}
    places = dict.fromkeys(of_slots, 0)
    base = {0: (1, BASE_WEIGHT)}
    for node, weights in enumerate(others, 2):
        base |= {len(base) + n: (node, one) for n, one in enumerate(weights)}

    def nodes() -> dict[int, dict[int, float]]:
        found: dict[int, dict[int, float]] = {}
        for container, (node, idle) in base.items():
            here = sum(of_slots[number] for number, place in places.items() if place == container)
            found.setdefault(node, {})[container] = idle + here
        return found

    moved = 0
    while True:
        now = nodes()
        hot = next((hot for node in now if (hot := hottest(now, node)) is not None), None)
        if hot is None:
            return
        appended = max(hot.weight - BASE_WEIGHT, 1e-12)
        slots = [
            SlotLoad((7, number), of_slots[number] / appended, 0)
            for number, place in places.items()
            if place == hot.container
        ]
        best = best_to_go(hot, [one for one in slots if one.share <= 1])
        if best is None:
            return
        most = max(loads_of(now).values())
        places[best[0].place[1]] = hot.target
        pair = [
            load for node, load in loads_of(nodes()).items() if hot.target in now[node] or hot.container in now[node]
        ]
        assert max(pair) <= (1 - GAIN) * most + 1e-9
        moved += 1
        assert moved <= 20 * len(rates)


def test_it_waits_before_it_begins_and_between_two() -> None:
    spreader = Spreader()
    assert spreader.look(ONE_IS_HOT, 1, 0.0, is_at_rest=True) is None
    assert spreader.look(ONE_IS_HOT, 1, HOT_S - 1, is_at_rest=True) is None
    hot = spreader.look(ONE_IS_HOT, 1, HOT_S, is_at_rest=True)
    assert hot is not None
    assert spreader.go(hot, SLOTS, HOT_S) is not None
    assert spreader.look(ONE_IS_HOT, 1, HOT_S + 1, is_at_rest=False) is None, "a container is on its way"
    assert spreader.look(ONE_IS_HOT, 1, HOT_S + 2, is_at_rest=True) is None, "it begins to count anew"
    assert spreader.look(ONE_IS_HOT, 1, 2 * HOT_S + 2, is_at_rest=True) is not None


def test_bounds_of_an_hour() -> None:
    spreader = Spreader()
    hot = hottest(ONE_IS_HOT, 1)
    assert hot is not None
    gone = [now for now in range(int(HOUR_S)) if spreader.go(hot, SLOTS, float(now)) is not None]
    assert gone == [int(APART_S) * n for n in range(MOVES_AN_HOUR)]
    assert spreader.go(hot, SLOTS, HOUR_S) is not None

    spreader = Spreader()
    large = [SlotLoad((7, number), 0.25, SLOT_BYTES_MAX) for number in range(4)]
    gone = [now for now in range(int(HOUR_S)) if spreader.go(hot, large, float(now)) is not None]
    assert len(gone) == BYTES_AN_HOUR // SLOT_BYTES_MAX
    assert isinstance(hot, Hot)


@pytest.mark.parametrize(
    ("own", "left", "right", "goes_to"),
    [(3, 1, 1, 1), (3, 1, 2, 1), (3, None, 2, 2), (3, 3, 2, None), (3, 1, 3, None), (3, None, None, None)],
)
def test_a_cold_slot_goes_where_fewer_neighbours_are_apart(
    own: int, left: int | None, right: int | None, goes_to: int | None
) -> None:
    """One that has a neighbour in its own container waits for the scaler."""
    slot = ColdSlot((7, 0), own, left, right, 0)
    assert goes_back_to(slot) == goes_to
    move = Spreader().back([slot], 0.0)
    assert (None if move is None else move.target) == goes_to


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.randoms())
def test_cold_slots_come_to_rest(places: list[int], dice: object) -> None:
    """Each that goes back leaves fewer neighbours apart."""

    def apart() -> int:
        return sum(one != other for one, other in pairwise(places))

    while True:
        slots = [
            ColdSlot(
                (7, n),
                place,
                places[n - 1] if n else None,
                places[n + 1] if n + 1 < len(places) else None,
                0,
            )
            for n, place in enumerate(places)
        ]
        going = [(slot, to) for slot in slots if (to := goes_back_to(slot)) is not None]
        if not going:
            return
        slot, to = dice.choice(going)  # type: ignore[attr-defined]
        before = apart()
        places[slot.place[1]] = to
        assert apart() < before
