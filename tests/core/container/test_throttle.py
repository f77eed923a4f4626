"""Appends slowed down while the log is nearly full: evenly, to what leaves it, and never for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.container.throttle import HOLD_MAX_S, LAST_PART_S, THROTTLE_FROM, Throttle

MB = 1_000_000
LOG_MAX = 2000 * MB
BATCH = 1 * MB
FILE = 64 * MB


class Flood:
    """Somebody who appends as fast as it is let, and a log that is emptied some files at a time."""

    def __init__(self, leaving: float, every_s: float) -> None:
        self.throttle = Throttle(LOG_MAX)
        self.leaving, self.every_s = leaving, every_s
        self.now_s = self.leave_at_s = 0.0
        self.log = 0
        self.appended = self.left = self.refused = 0
        self.observed_at_s = 0.0

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            if self.now_s >= self.leave_at_s:
                gone = min(self.log, int(self.leaving * self.every_s))
                self.log, self.left = self.log - gone, self.left + gone
                self.leave_at_s += self.every_s
                self.throttle.observe(self.now_s, self.log, self.left)
            if self.now_s >= self.observed_at_s + 1 or self.appended % FILE == 0:
                self.observed_at_s = self.now_s
                self.throttle.observe(self.now_s, self.log, self.left)
            hold_s = self.throttle.hold_s(self.now_s, BATCH)
            if self.log + BATCH > LOG_MAX:
                self.refused += 1
            else:
                self.log, self.appended = self.log + BATCH, self.appended + BATCH
            self.now_s += max(hold_s, 0.001)  # a thousand MB a second is all that it has


def test_nobody_waits_below_the_border() -> None:
    throttle = Throttle(LOG_MAX)
    throttle.observe(0, int(THROTTLE_FROM * LOG_MAX), 0)
    assert not throttle.is_on
    assert throttle.hold_s(0, BATCH) == 0


def test_what_comes_in_becomes_what_goes_out() -> None:
    """Without a refusal once it has settled, though files leave three seconds' worth at a time."""
    for leaving in (20 * MB, 80 * MB, 150 * MB):
        flood = Flood(leaving, every_s=3)
        flood.run(120)
        flood.refused = flood.appended = 0
        flood.run(120)
        assert flood.refused == 0
        assert 0.9 * leaving <= flood.appended / 120 <= 1.1 * leaving


def test_where_nothing_leaves_the_log_fills_up() -> None:
    """Slowly, and then appends are refused, so that clients hear of it."""
    flood = Flood(0, every_s=1)
    while not flood.refused:
        flood.run(0.5)
        assert flood.now_s < 2 * LAST_PART_S
    assert flood.now_s > 0.7 * LAST_PART_S


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 10), st.integers(0, 2 * LOG_MAX), st.integers(0, 1 << 40), st.integers(0, 1 << 30))
    )
)
def test_nobody_is_held_up_for_long(steps: list[tuple[float, int, int, int]]) -> None:
    """Any observations, even numbers that make no sense."""
    throttle, now_s = Throttle(LOG_MAX), 0.0
    for gone_s, log_bytes, left_bytes, size in steps:
        now_s += gone_s
        throttle.observe(now_s, log_bytes, left_bytes)
        assert 0 <= throttle.hold_s(now_s, size) <= HOLD_MAX_S + 1e-6
        assert 0 <= throttle.held_s(now_s) <= HOLD_MAX_S + 1e-6
