"""The scaler's decisions: thresholds, where it cuts, and that it settles whatever the load did before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.scaling.decisions import COOL_DOWN_S, Decision, SegmentLoad, at_limit, balanced_cuts, decide
from core.scaling.rates import Rates
from core.streams.averages import MINUTE_S, WINDOWS_S, Averages
from core.streams.policy import ScalingKind, ScalingPolicy
from core.streams.state import Segment, StreamState, new_stream

TARGET: Final = 100.37  # loads are whole numbers: none is just at a threshold
OLD: Final = 3600.0


def policy(**changes: Any) -> ScalingPolicy:
    return ScalingPolicy(**{"kind": ScalingKind.BYTES, "target_rate": TARGET, **changes})


def stream_of(slots: int, segments: int = 1) -> StreamState:
    return new_stream(
        stream_id=1, name="s", uuid=UUID(int=1), slots=slots, created_ms=0, container=0, config={}, segments=segments
    )


def judge(
    state: StreamState, averages: Sequence[Averages], rules: ScalingPolicy, age_s: float = OLD
) -> Decision | None:
    """The decision for segments with these averages; all their slots have the same load."""
    runs = state.current.segments
    loads = [SegmentLoad(run, age_s, one) for run, one in zip(runs, averages, strict=True)]
    return decide(rules, state.current, loads, lambda run: [1.0] * (run.last - run.first))


def at(two: float, five: float, ten: float, twenty: float) -> Averages:
    """Averages as multiples of the target."""
    return (0.0, two * TARGET, five * TARGET, ten * TARGET, twenty * TARGET)


@pytest.mark.parametrize(
    ("averages", "splits", "words"),
    [
        pytest.param(at(5.1, 1.9, 0.9, 0.5), True, "2 minutes, more than 5 times", id="two minutes"),
        pytest.param(at(4.9, 2.1, 0.9, 0.5), True, "5 minutes, more than 2 times", id="five minutes"),
        pytest.param(at(1.1, 1.1, 1.1, 0.5), True, "10 minutes, more than the target", id="ten minutes"),
        pytest.param(at(4.9, 1.9, 0.9, 2.0), False, "", id="none of them"),
    ],
)
def test_thresholds_of_a_split(averages: Averages, splits: bool, words: str) -> None:
    """Pravega's: two minutes over five times the target, five over twice, ten over it; not in the cool-down."""
    decision = judge(stream_of(8), [averages], policy())
    assert (decision is not None) == splits
    if decision is not None:
        assert words in decision.reason
    assert judge(stream_of(8), [averages], policy(), COOL_DOWN_S - 1) is None


@pytest.mark.parametrize(("rate", "factor", "pieces"), [(1.1, 4, 2), (2.5, 4, 3), (9, 4, 4), (9, 2, 2), (100, 64, 16)])
def test_how_many_pieces(rate: float, factor: int, pieces: int) -> None:
    """As many as the load needs, up to the factor and the slots."""
    decision = judge(stream_of(16), [at(rate, rate, rate, rate)], policy(factor=factor))
    assert decision is not None
    assert len(decision.cuts) + 1 == pieces


@pytest.mark.parametrize(
    ("shares", "least", "merged"),
    [
        pytest.param([0.3, 0.3], 1, (0, 1), id="both cold"),
        pytest.param([0.3, 0.51], 1, None, id="one is not"),
        pytest.param([0.45, 0.45], 1, None, id="together too much"),
        pytest.param([0.1, 0.1], 2, None, id="at the minimum"),
        pytest.param([0.1] * 4, 2, (0, 1, 2), id="down to the minimum"),
        pytest.param([0.3, 0.6, 0.3], 1, None, id="no neighbours"),
        pytest.param([0.3, 0.3, 0.6, 0.1, 0.1], 1, (3, 4), id="the least"),
    ],
)
def test_merges(shares: list[float], least: int, merged: tuple[int, ...] | None) -> None:
    """Cold neighbours merge if what comes of it stays clear of a split."""
    state, averages = stream_of(16, len(shares)), [at(share, share, share, share) for share in shares]
    decision = judge(state, averages, policy(min_segments=least))
    assert merged == (None if decision is None else decision.sealed)
    assert judge(state, averages, policy(min_segments=least), WINDOWS_S[-1] - 1) is None


@pytest.mark.parametrize(
    ("factor", "split", "merge"),
    [(1, "10 minutes", "20 minutes"), (0.01, "6 s", "12 s"), (2.5, "25 minutes", "50 minutes")],
)
def test_reasons_tell_the_time_that_passed(factor: float, split: str, merge: str) -> None:
    """With multiplied times of the scaler, a reason names the multiplied times."""
    hot = [SegmentLoad(run, OLD, at(1.1, 1.1, 1.1, 1.1)) for run in stream_of(2, 1).current.segments]
    cold = [SegmentLoad(run, OLD, at(0, 0, 0, 0)) for run in stream_of(2, 2).current.segments]
    single = [SegmentLoad(run, OLD, at(1.1, 1.1, 1.1, 1.1)) for run in stream_of(1, 1).current.segments]

    reasons = [
        decided.reason
        for loads, segments in ((hot, 1), (cold, 2))
        if (decided := decide(policy(), stream_of(2, segments).current, loads, lambda run: [1.0, 1.0], factor))
    ]

    assert [f" over {split}, more than the target" in reasons[0], f" over {merge}, each less" in reasons[1]] == [
        True
    ] * 2
    assert f" over {split}, more" in at_limit(policy(), single, factor)[0].why


def test_a_burst_keeps_segments_apart() -> None:
    """Cold over twenty minutes, but not over two."""
    assert judge(stream_of(4, 2), [at(0.9, 0.4, 0.2, 0.1)] * 2, policy()) is None


def test_fixed_streams_stay_as_they_are() -> None:
    """A fixed stream never scales, whatever comes, but it gets the segments that it should have at least."""
    averages = [at(9, 9, 9, 9)]
    assert judge(stream_of(8), averages, policy(kind=ScalingKind.FIXED)) is None

    decision = judge(stream_of(8), averages, policy(kind=ScalingKind.FIXED, min_segments=4), 0)
    assert decision is not None
    assert decision.cuts == (2, 4, 6)


def test_one_slot_is_the_limit() -> None:
    """A hot segment of one slot is not split but told."""
    state = stream_of(2, 2)
    loads = [SegmentLoad(run, OLD, at(3, 3, 3, 3)) for run in state.current.segments]
    assert decide(policy(), state.current, loads, lambda run: [1.0]) is None
    assert [limit.segment.number for limit in at_limit(policy(), loads)] == [0, 1]
    assert at_limit(policy(kind=ScalingKind.FIXED), loads) == []


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40), st.integers(2, 8))
def test_cuts_balance(rates: list[int], pieces: int) -> None:
    """Cuts are inside, in order, and no piece has more than its share and one slot's load, except around empty ones."""
    cuts = balanced_cuts(Segment(3, 5, 5 + len(rates)), rates, pieces)
    places = [5, *cuts, 5 + len(rates)]
    assert places == sorted(set(places))
    assert len(cuts) == min(pieces, len(rates)) - 1
    if all(rates) and len(cuts) == 1:
        left, right = sum(rates[: cuts[0] - 5]), sum(rates[cuts[0] - 5 :])
        assert abs(left - right) <= max(rates)


@dataclass
class Simulation:
    """A stream under load, a sample every half minute."""

    state: StreamState
    rules: ScalingPolicy
    noise: random.Random
    now: float = 0.0
    slots: list[Any] = field(default_factory=list)
    opened: dict[int, float] = field(default_factory=dict)
    made: list[tuple[float, Decision, tuple[int, ...]]] = field(default_factory=list)
    rates: Rates = field(default_factory=Rates)

    def __post_init__(self) -> None:
        self.slots = [
            SimpleNamespace(total_bytes=0, end=0, sampled_bytes=0, sampled_end=0, rate=None)
            for _ in range(self.state.slots)
        ]
        self.opened = {run.number: 0.0 for run in self.state.current.segments}
        self.rates.begin(self.slots, 0.0)

    def run(self, load: Sequence[int], minutes: int, noise: float = 0.0) -> None:
        for _ in range(2 * minutes):
            self.now += MINUTE_S / 2
            for slot, rate in zip(self.slots, load, strict=True):
                slot.total_bytes += rate * MINUTE_S / 2 * (1 + self.noise.uniform(-noise, noise))
            self.rates.step(self.now)
            self.rates.sample(self.slots)
            self.decide()

    def decide(self) -> None:
        runs = self.state.current.segments
        loads = [SegmentLoad(run, self.now - self.opened[run.number], self.averages(run)) for run in runs]
        decision = decide(self.rules, self.state.current, loads, self.slot_rates)
        if decision is None:
            return
        if "min.segments" not in decision.reason:
            assert all(self.now - self.opened[number] >= COOL_DOWN_S for number in decision.sealed)
        self.state = self.state.scaled(decision.sealed, decision.cuts, 0, decision.reason)
        new = self.state.current.opened
        assert len(new) <= self.rules.factor
        assert decision.kind == "split" or len(self.state.current.segments) >= self.rules.min_segments
        self.opened |= {run.number: self.now for run in new}
        self.made.append((self.now, decision, tuple(run.number for run in new)))

    def averages(self, run: Segment) -> Averages:
        rows = [self.rates.bytes_of(slot) for slot in self.slots[run.first : run.last]]
        return tuple(map(sum, zip(*rows, strict=True)))

    def slot_rates(self, run: Segment) -> list[float]:
        return [max(self.rates.bytes_of(slot)[1:]) for slot in self.slots[run.first : run.last]]

    def since(self, when: float) -> list[tuple[float, Decision, tuple[int, ...]]]:
        return [one for one in self.made if one[0] > when]


@st.composite
def curves(draw: st.DrawFn) -> tuple[Simulation, list[tuple[list[int], int]], list[int]]:
    """A stream, some phases of load with their minutes, and the load that stays in the end."""
    slots = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    rules = policy(factor=draw(st.integers(2, 5)), min_segments=draw(st.integers(1, 4)))
    load = st.lists(st.one_of(st.integers(0, 60), st.integers(0, 600)), min_size=slots, max_size=slots)
    phases = draw(st.lists(st.tuples(load, st.integers(1, 90)), max_size=5))
    simulation = Simulation(stream_of(slots, rules.min_segments), rules, random.Random(draw(st.integers(0, 999))))
    return simulation, phases, draw(load)


@pytest.mark.slow
@settings(max_examples=60)
@given(curves())
def test_settles(curve: tuple[Simulation, list[tuple[list[int], int]], list[int]]) -> None:
    """When the load stays as it is, scaling ends, and ends where nothing can be made better."""
    simulation, phases, load = curve
    for phase, minutes in phases:
        simulation.run(phase, minutes, noise=0.3)
    begun = simulation.now
    simulation.run(load, 240)
    settled = simulation.now
    simulation.run(load, 120)

    assert simulation.since(settled) == []
    assert len(simulation.since(begun)) <= 2 * len(load)
    for run in simulation.state.current.segments:
        assert run.last - run.first == 1 or sum(load[run.first : run.last]) <= TARGET
    assert len(simulation.state.current.segments) >= min(simulation.rules.min_segments, len(load))


@pytest.mark.slow
@settings(max_examples=30)
@given(curves())
def test_noise_does_not_flap(curve: tuple[Simulation, list[tuple[list[int], int]], list[int]]) -> None:
    """Under a load that only trembles nothing that has merged splits again, and scales are few."""
    simulation, phases, load = curve
    for phase, minutes in phases:
        simulation.run(phase, minutes, noise=0.3)
    simulation.run(load, 120, noise=0.2)
    begun = simulation.now
    simulation.run(load, 600, noise=0.2)

    late = simulation.since(begun)
    merged = {number for _, decision, opened in late if decision.kind == "merge" for number in opened}
    assert not any(merged & set(decision.sealed) for _, decision, _ in late if decision.kind == "split")
    assert len(late) <= 2 * len(load)
