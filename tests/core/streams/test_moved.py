"""A slot that moves cuts its segment around itself, and nothing else changes."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import StreamSealed
from core.streams.state import StreamState, decode_stream, new_stream


def stream(slots: int, containers: int, segments: int) -> StreamState:
    return new_stream(
        stream_id=1,
        name="s",
        uuid=UUID(int=1),
        slots=slots,
        created_ms=0,
        container=0,
        config={},
        segments=segments,
        placement=range(containers),
    )


def places(state: StreamState) -> list[int]:
    return [state.container_of_slot(number) for number in range(state.slots)]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.data())
def test_only_that_slot_moves(slots: int, containers: int, segments: int, data: st.DataObject) -> None:
    """One slot has another container, every other one has its own, through a chain of moves and their encoding."""
    state = stream(slots, containers, segments)
    for _ in range(5):
        number = data.draw(st.integers(0, slots - 1))
        target = data.draw(st.sampled_from([one for one in range(6) if one != state.container_of_slot(number)]))
        expected = places(state)
        expected[number] = target
        moved = state.moved(number, target, 1, "moved")
        assert places(moved) == expected
        assert moved.revision > state.revision
        assert moved.current.epoch == state.current.epoch + 1
        assert len(moved.current.segments) <= len(state.current.segments) + 2
        again = decode_stream(moved.encode())
        assert (again, again.containers) == (moved, moved.containers)
        for container in range(6):
            runs = moved.runs_in(container)
            assert sum(last - first for first, last in runs) == expected.count(container)
            assert all(before[1] < after[0] for before, after in itertools.pairwise(runs))
        state = moved


def test_the_first_change_brings_all_together() -> None:
    """Copies of the stream lie in two containers: the other one has to see that it is older."""
    state = stream(2, 2, 1)
    assert state.is_elsewhere
    moved = state.moved(1, state.container, 1, "moved")
    assert not moved.is_elsewhere
    assert state.is_behind(moved, 1)
    assert not moved.is_behind(state, 1)


def test_refusals() -> None:
    """A slot that is there already, one that there is none of, and a sealed stream."""
    state = stream(4, 2, 2)
    with pytest.raises(ValueError, match="lies in container 0 already"):
        state.moved(0, 0, 1, "moved")
    with pytest.raises(ValueError, match="none of number 4"):
        state.moved(4, 1, 1, "moved")
    with pytest.raises(StreamSealed):
        state.sealed_at(5).moved(0, 1, 6, "moved")
