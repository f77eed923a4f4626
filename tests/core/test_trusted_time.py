"""The belief in time, whatever the wall clock does: properties over runs, stops and jumps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.trusted_time import (
    HELD_MAX,
    HOLD_MS,
    JUMP_MS,
    BadTime,
    TrustedTime,
    decode_time,
    time_at_start,
)

pytestmark = pytest.mark.slow

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
YEAR_MS = 365 * DAY_MS
BEGIN_MS = 1_700_000_000_000
GOLDEN = Path(__file__).parent / "golden" / "time-v1.bin"


@dataclass
class World:
    """True time, a wall clock that may be wrong, and the stamps of events."""

    true_ms: int = BEGIN_MS
    error_ms: int = 0
    wrong_for_ms: int = 0  # running time since the wall clock is ahead
    time: TrustedTime = field(default_factory=lambda: TrustedTime(BEGIN_MS))
    stamps: list[tuple[int, int, bool]] = field(default_factory=list)  # true time, stamp, whether nothing was held

    def run(self, ms: int) -> None:
        """In looks of ten minutes at the most; a clock that is ahead is set right before anybody believes it."""
        while ms > 0:
            step = min(ms, 10 * MINUTE_MS)
            if self.error_ms > 0 and self.wrong_for_ms + step >= HOLD_MS:
                self.set(0)
            self.wrong_for_ms = self.wrong_for_ms + step if self.error_ms > 0 else 0
            self.true_ms += step
            self._look(step)
            ms -= step

    def set(self, error_ms: int) -> None:
        self._become(error_ms)
        self._look(0)

    def _become(self, error_ms: int) -> None:
        """A clock that is ahead has been so since it was not, however far; a step that is no jump is not taken."""
        if abs(error_ms - self.error_ms) <= JUMP_MS:
            return
        if error_ms <= 0 or self.error_ms <= 0:
            self.wrong_for_ms = 0
        self.error_ms = error_ms

    def stop(self, ms: int, error_ms: int | None = None) -> None:
        """Down for a time; the clock may be another afterwards."""
        if error_ms is not None:
            self._become(error_ms)
        self.true_ms += ms
        self.time = time_at_start(decode_time(self.time.encode()), None, self.true_ms + self.error_ms)
        self.stamp()

    def _look(self, passed_ms: int) -> None:
        before = self.time
        self.time = before.after(passed_ms, self.true_ms + self.error_ms)
        assert self.time.ages_ms >= before.ages_ms + passed_ms
        self.stamp()

    def stamp(self) -> None:
        self.stamps.append((self.true_ms, self.time.stamp_ms, not self.time.held))

    def check_nothing_too_old(self) -> None:
        assert self.time.timestamps_ms <= self.true_ms
        for true_ms, stamp_ms, _ in self.stamps:
            assert self.time.age_ms(stamp_ms) <= self.true_ms - true_ms


LONG = st.integers(2 * JUMP_MS, 400 * DAY_MS)
AHEAD = st.one_of(LONG, st.integers(YEAR_MS, 80 * YEAR_MS))
RESET = st.integers(-60 * YEAR_MS, -40 * YEAR_MS)  # 1970: never between two times that the process has seen
STEPS = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 3 * HOUR_MS)),
    st.tuples(st.just("stop"), st.one_of(st.integers(0, JUMP_MS), LONG)),
    st.tuples(st.just("set"), st.one_of(st.just(0), AHEAD, RESET)),
    st.tuples(st.just("boot"), st.one_of(st.just(0), AHEAD, RESET)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=14))
def test_nothing_seems_older_than_it_is(steps: list[tuple[str, int]]) -> None:
    """Wrong clocks that are mended within the hour, resets to 1970, stops: nothing expires before its time."""
    world = World()
    for kind, value in steps:
        if kind == "run":
            world.run(value)
        elif kind == "stop":
            world.stop(value)
        elif kind == "set":
            world.set(value)
        else:
            world.stop(5 * DAY_MS, value)
        world.check_nothing_too_old()
    world.set(0)
    world.run(HOLD_MS + 10 * MINUTE_MS)
    world.check_nothing_too_old()
    assert world.time.timestamps_ms == world.true_ms  # in the end the clock is believed, whatever it did


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3 * HOUR_MS), st.one_of(st.integers(0, JUMP_MS), LONG)), max_size=40))
def test_everything_gets_old(lives: list[tuple[int, int]]) -> None:
    """With a correct clock, all ages are exact as soon as the last stop has stood for its time."""
    world = World()
    for run_ms, stop_ms in lives:
        world.run(run_ms)
        world.stop(stop_ms)
    world.run(HOLD_MS)
    assert world.time.timestamps_ms == world.true_ms
    assert {world.true_ms - true_ms - world.time.age_ms(stamp) for true_ms, stamp, _ in world.stamps} == {0}


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=10))
def test_running_time_always_counts(steps: list[tuple[str, int]]) -> None:
    """A stamp from outside any held jump seems a day old after a day of running, whatever the clock did."""
    world = World()
    for kind, value in steps:
        world.run(value) if kind == "run" else world.set(value) if kind == "set" else world.stop(value)
    stamps = list(world.stamps)
    for _ in range(24):
        world.run(HOUR_MS)
        world.stop(1)
    assert all(world.time.age_ms(stamp_ms) >= DAY_MS for _, stamp_ms, settled in stamps if settled)


@pytest.mark.parametrize("run_ms", [HOUR_MS, 50 * MINUTE_MS, 10 * MINUTE_MS])
@pytest.mark.parametrize("stop_ms", [3_000, 8 * HOUR_MS])
def test_frequent_restarts(run_ms: int, stop_ms: int) -> None:
    """With a restart every hour, or one hour of running a day, things expire as usual, an hour of running later."""
    world = World()
    world.stamp()
    for _ in range(60):
        world.run(run_ms)
        world.stop(stop_ms)
    true_ms, stamp_ms, _ = world.stamps[0]
    late_ms = (HOLD_MS // run_ms + 2) * (run_ms + stop_ms)
    assert world.true_ms - true_ms - late_ms <= world.time.age_ms(stamp_ms) <= world.true_ms - true_ms
    assert world.time.timestamps_ms >= world.true_ms - late_ms


def test_more_stops_than_are_kept() -> None:
    """A process that never lives for long holds a bounded number of stops, and believes them in the end."""
    world = World()
    for _ in range(20 * HELD_MAX):
        world.run(MINUTE_MS)
        world.stop(HOUR_MS)
        assert len(world.time.held) <= HELD_MAX
        world.check_nothing_too_old()
    assert world.time.age_ms(BEGIN_MS) > 0.8 * (world.true_ms - BEGIN_MS)


def test_month_off() -> None:
    """An hour after a month's stop, things are a month older, and things that happened since are an hour old."""
    world = World()
    old = world.time.stamp_ms
    world.stop(30 * DAY_MS)
    new = world.time.stamp_ms
    assert (world.time.age_ms(old), world.time.timestamps_ms) == (0, BEGIN_MS)
    world.run(HOLD_MS)
    assert (world.time.age_ms(old), world.time.age_ms(new)) == (30 * DAY_MS + HOLD_MS, HOLD_MS)
    assert world.time.timestamps_ms == world.true_ms


def test_wrong_date_that_is_mended() -> None:
    """A stamp from while the machine believed in 2099 is as old as the correction, not for ever new."""
    world = World()
    world.stop(MINUTE_MS, 73 * YEAR_MS)
    wrong = world.time.stamp_ms
    world.run(10 * MINUTE_MS)
    world.set(0)
    world.run(7 * DAY_MS)
    assert 7 * DAY_MS <= world.time.age_ms(wrong) <= 7 * DAY_MS + 10 * MINUTE_MS


def test_wrong_date_that_is_believed() -> None:
    """A wrong date that stands for an hour is believed; afterwards ages go on by the passing time."""
    time = TrustedTime(BEGIN_MS).after_stop(BEGIN_MS + 73 * YEAR_MS)
    for _ in range(6):
        time = time.after(10 * MINUTE_MS, time.wall_ms + 10 * MINUTE_MS)
    assert time.age_ms(BEGIN_MS) > 73 * YEAR_MS
    time = time.after(0, BEGIN_MS + HOUR_MS)
    stamp = time.stamp_ms
    assert time.timestamps_ms == BEGIN_MS + HOUR_MS
    time = time.after(DAY_MS, BEGIN_MS + HOUR_MS + DAY_MS).after_stop(BEGIN_MS + 2 * DAY_MS)
    assert time.age_ms(stamp) == DAY_MS


def test_earlier_release() -> None:
    """Without a mark of an earlier run, a past time is the last one known."""
    assert time_at_start(None, None, BEGIN_MS) == TrustedTime(BEGIN_MS)
    assert time_at_start(None, BEGIN_MS - DAY_MS, BEGIN_MS).timestamps_ms == BEGIN_MS - DAY_MS
    assert time_at_start(None, BEGIN_MS - MINUTE_MS, BEGIN_MS).timestamps_ms == BEGIN_MS
    assert time_at_start(None, BEGIN_MS + DAY_MS, BEGIN_MS).ages_ms == BEGIN_MS


def sample() -> TrustedTime:
    time = TrustedTime(BEGIN_MS).after_stop(BEGIN_MS + DAY_MS).after(MINUTE_MS, BEGIN_MS + DAY_MS // 2)
    return time.after(MINUTE_MS, BEGIN_MS + 9 * DAY_MS).after_stop(BEGIN_MS + 40 * DAY_MS)


def test_golden() -> None:
    """The stored form is what it was: a newer release reads it."""
    assert sample().encode() == GOLDEN.read_bytes()
    assert decode_time(GOLDEN.read_bytes()) == sample()


def test_damage() -> None:
    """No byte can change, be missing or be there too much without being noticed."""
    whole = sample().encode()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        for damaged in (bytes(changed), whole[:position], whole + whole[: position + 1]):
            with pytest.raises(BadTime):
                decode_time(damaged)
