"""Scaling a stream, as pure state: whatever is split, merged and grown, the key space is covered and history kept."""

from __future__ import annotations

import zlib
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import core.streams.state
from core.streams.keyspace import covers, key_point, position_of_slot, slot_range
from core.streams.state import Epoch, StreamState, decode_stream, new_stream
from tests.core.streams.test_keyspace import murmur2

pytestmark = pytest.mark.slow


def stream_of(slots: int, segments: int = 1) -> StreamState:
    return new_stream(
        stream_id=1, name="s", uuid=UUID(int=1), slots=slots, created_ms=0, container=0, config={}, segments=segments
    )


@st.composite
def scaled_streams(draw: st.DrawFn) -> StreamState:
    """A stream after some splits, merges, new cuts and growths."""
    state = stream_of(draw(st.integers(1, 40)), draw(st.integers(1, 50)))
    for step in range(draw(st.integers(0, 12))):
        runs = state.current.segments
        begin = draw(st.integers(0, len(runs) - 1))
        some = runs[begin : begin + draw(st.integers(1, 4))]
        places = range(some[0].first + 1, some[-1].last)
        cuts = draw(st.sets(st.sampled_from(places), max_size=4)) if places else set()
        if draw(st.integers(0, 9)) == 0:
            state = state.grown(state.slots + draw(st.integers(1, 40)), step)
        elif [run.first for run in some] != [some[0].first, *sorted(cuts)]:
            state = state.scaled([run.number for run in some], cuts, step, "why")
    return state


@given(scaled_streams())
def test_scales_keep_the_invariants(state: StreamState) -> None:
    """Every epoch covers all slots in key order; epochs and numbers grow; unsealed segments go on."""
    for epoch in state.epochs:
        assert covers([(run.first, run.last) for run in epoch.segments], epoch.slots)
        assert sorted(epoch.segments, key=lambda run: run.first) == list(epoch.segments)
    seen: set[int] = set()
    for before, after in pairwise(state.epochs):
        assert after.epoch == before.epoch + 1
        seen |= {run.number for run in before.segments}
        assert min(run.number for run in after.opened) > max(seen)
        assert set(after.segments) - set(after.opened) <= set(before.segments)


@given(scaled_streams())
def test_history_reads_back(state: StreamState) -> None:
    """An encoded stream comes back, with all its epochs."""
    assert decode_stream(state.encode()) == state
    assert decode_stream(state.sealed_at(9).encode()) == state.sealed_at(9)


@st.composite
def placed_streams(draw: st.DrawFn) -> list[StreamState]:
    """All states of a stream over some containers, with growths and scales."""
    some = st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True)
    state = new_stream(
        stream_id=1,
        name="s",
        uuid=UUID(int=1),
        slots=draw(st.integers(1, 20)),
        created_ms=0,
        container=0,
        config={},
        segments=draw(st.integers(1, 4)),
        placement=draw(some),
    )
    states = [state]
    for step in range(draw(st.integers(0, 6))):
        segment = draw(st.sampled_from(state.current.segments))
        if segment.last - segment.first > 1 and draw(st.booleans()):
            state = state.scaled([segment.number], [segment.first + 1], step, "why")
        else:
            more = draw(st.one_of(st.just(state.slots), st.integers(1, 20)))
            state = state.grown(state.slots + more, step, draw(st.one_of(st.just([]), some)))
        states.append(state)
    return states


@given(placed_streams())
def test_slots_never_leave_their_container(states: list[StreamState]) -> None:
    """Growths and scales leave each slot where it is; the row reads back, and tells which of two is newer."""
    for before, after in pairwise(states):
        for number in range(before.slots):
            assert after.container_of_slot(number) == before.container_of_slot(number)
        assert covers([(run.first, run.last) for run in after.current.segments], after.slots)
        assert not after.is_elsewhere or after.revision > before.revision
    for state in states:
        assert decode_stream(state.encode()) == state
        assert state.containers == {state.container_of_slot(number) for number in range(state.slots)}


@given(placed_streams())
def test_another_container_may_decide(states: list[StreamState]) -> None:
    """That moves no slot."""
    for container in range(5):
        state = states[-1].decided_by(container)
        assert state.container == container
        for number in range(state.slots):
            assert state.container_of_slot(number) == states[-1].container_of_slot(number)
        assert decode_stream(state.encode()) == state


@given(scaled_streams())
def test_successors_are_the_other_side_of_predecessors(state: StreamState) -> None:
    """Links go both ways, and a segment has successors once it is sealed and only then."""
    numbers = {run.number for epoch in state.epochs for run in epoch.segments}
    active = {run.number for run in state.current.segments}
    for number in numbers:
        successors = state.successors(number)
        assert bool(successors) == (number not in active)
        assert all(number in state.predecessors(successor) for successor in successors)


@given(scaled_streams(), st.data())
def test_slots_have_one_segment(state: StreamState, data: st.DataObject) -> None:
    """The segment at a position is the one whose run holds it."""
    position = position_of_slot(data.draw(st.integers(0, state.slots - 1)), state.slots)
    run = state.current.segment_at(position)
    assert run.first <= position < run.last


@given(st.integers(0, 5), st.data())
def test_doubling_keeps_every_cut_of_the_key_space(bits: int, data: st.DataObject) -> None:
    """A stream that doubles is cut after as it was before."""
    state = stream_of(1 << bits, data.draw(st.integers(1, 1 << bits)))
    grown = state.grown(2 << bits, 1)

    def ranges(epoch: Epoch) -> list[object]:
        return [epoch.key_range(run) for run in epoch.segments]

    assert ranges(grown.current) == ranges(state.current)


@given(st.integers(0, 5), st.binary(max_size=20), st.data())
def test_doubling_keeps_keys_in_their_range(bits: int, key: bytes, data: st.DataObject) -> None:
    """With either hash that clients use, a key's segment after a growth has the key range of the one before."""
    slots = 1 << bits
    before = stream_of(slots, data.draw(st.integers(1, slots)))
    for key_hash in (murmur2(key) & 0x7FFF_FFFF, zlib.crc32(key)):
        state, slot = before, key_hash % slots
        ranges = set()
        for doubled in range(4):
            epoch = state.current
            ranges.add(epoch.key_range(epoch.segment_at(position_of_slot(slot, epoch.slots))))
            assert slot % slots == key_hash % slots
            assert key_point(key_hash) in slot_range(slot, epoch.slots)
            state, slot = state.grown(2 * epoch.slots, doubled), key_hash % (2 * epoch.slots)
            assert slot in (slot % epoch.slots, slot % epoch.slots + epoch.slots)
        assert len(ranges) == 1


@pytest.mark.parametrize(
    ("sealed", "cuts", "why"),
    [
        pytest.param([], [2], "at least one", id="nothing sealed"),
        pytest.param([9], [2], "not active", id="unknown"),
        pytest.param([0, 2], [], "not neighbours", id="not neighbours"),
        pytest.param([0], [], "already", id="no change"),
        pytest.param([0, 1], [4], "already", id="the same cut"),
        pytest.param([0], [0], "between", id="cut at the low end"),
        pytest.param([0], [4], "between", id="cut at the high end"),
    ],
)
def test_no_scales(sealed: list[int], cuts: list[int], why: str) -> None:
    """A change that would not be a scale is refused, with the reason."""
    with pytest.raises(ValueError, match=why):
        stream_of(16, 4).scaled(sealed, cuts, 0, "")


def test_what_is_named_is_bounded() -> None:
    """A stream of hundreds of segments says which are active, and not all of them."""
    with pytest.raises(ValueError, match=r"active are 0, 1, .*, 19 and 480 more$"):
        stream_of(500, 500).current.segment(500)


def test_sealed_stream_stays_as_it_is() -> None:
    """A sealed stream neither scales nor grows, nor is it sealed twice; its configuration may change."""
    state = stream_of(4).sealed_at(5)
    with pytest.raises(ValueError, match="is sealed"):
        state.scaled([0], [2], 6, "")
    with pytest.raises(ValueError, match="is sealed"):
        state.grown(8, 6)
    with pytest.raises(ValueError, match="is sealed"):
        state.sealed_at(6)

    assert state.configured({"a": "b"}).sealed_ms == 5


def test_oldest_epochs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest epochs go; the others are read back."""
    monkeypatch.setattr(core.streams.state, "EPOCHS_MAX", 3)
    state = stream_of(8, 4)
    for step in range(6):
        newest = max(run.number for run in state.current.segments)
        runs = [run.number for run in state.current.segments][:2]
        state = state.scaled(runs, [], step, "merge") if step % 2 else state.scaled([runs[0]], [1], step, "split")
        assert max(run.number for run in state.current.segments) > newest

    assert [epoch.epoch for epoch in state.epochs] == [4, 5, 6]
    assert decode_stream(state.encode()) == state
