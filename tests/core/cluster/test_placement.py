"""New slots go to the containers with the least load."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from core.cluster.placement import RATES_S, Loads
from core.streams.state import StreamState, new_stream


def stream(slots: int, *placement: int) -> StreamState:
    return new_stream(
        stream_id=1, name="s", uuid=UUID(int=1), slots=slots, created_ms=0, container=0, config={}, placement=placement
    )


def test_slots_go_where_fewest_are() -> None:
    """Each stream takes the emptiest containers, as many as it has slots for."""
    loads = Loads()
    loads.add(stream(6, 0))
    loads.add(stream(2, 2))
    assert loads.place(1, (0, 1, 2), spread=True) == [1]
    assert loads.place(2, (0, 1, 2), spread=True) == [1, 2]
    assert loads.place(100, (0, 1, 2), spread=True) == [1, 2, 0]
    assert loads.place(100, (0, 1, 2), spread=False) == [1]
    loads.add(stream(6, 0), -1)
    assert loads.place(1, (0, 1, 2), spread=True) == [0]


def test_bytes_count_as_slots_do() -> None:
    """A container that is written to much gets less, once it has been looked at for some time."""
    loads = Loads()
    loads.add(stream(4, 0, 1))
    loads.observe({0: 0, 1: 0}, 100.0)
    loads.observe({0: 1 << 30, 1: 1 << 20}, 100.0 + RATES_S / 2)
    assert loads.order((0, 1)) == [0, 1]
    loads.observe({0: 1 << 30, 1: 1 << 20}, 100.0 + RATES_S)
    assert loads.order((0, 1)) == [1, 0]


def test_slots_on_their_way_count() -> None:
    """Streams that are created together do not all go to the same container."""
    loads = Loads()
    found = []
    for _ in range(8):
        (place,) = loads.place(1, (0, 1, 2, 3), spread=True)
        loads.expect([place], 1)
        found.append(place)
    assert sorted(found) == [0, 0, 1, 1, 2, 2, 3, 3]


@given(st.lists(st.tuples(st.integers(1, 64), st.booleans()), max_size=40), st.integers(1, 8))
def test_no_container_is_far_ahead(wanted: list[tuple[int, bool]], count: int) -> None:
    """Spread streams leave containers within a slot for each stream of one another."""
    loads, slots = Loads(), dict.fromkeys(range(count), 0)
    spread = [size for size, is_spread in wanted if is_spread]
    for size in spread:
        state = stream(size, *loads.place(size, slots, spread=True))
        loads.add(state)
        for segment in state.current.segments:
            slots[state.container_of(segment)] += segment.last - segment.first
    assert sum(slots.values()) == sum(spread)
    assert max(slots.values()) - min(slots.values()) <= len(spread)
