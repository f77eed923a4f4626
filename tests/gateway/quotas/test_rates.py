"""Rates and pauses: Kafka's figures, and properties that hold for any client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quotas.rates import SAMPLE_S, SAMPLES, Rate

AMOUNTS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10**9)), min_size=1, max_size=60)


def test_kafkas_figure() -> None:
    """60 KB at once with a limit of 1,000 bytes a second pauses for 50 s, as measured on Kafka 4.3.1."""
    rate = Rate()
    rate.add(60_209, 100.0)
    assert rate.pause_ms(1_000, 100.0) == 50_209


def test_what_is_not_counted_yet() -> None:
    """The pause for more than was counted is the one that comes once it is."""
    rate, counted = Rate(), Rate()
    rate.add(10_000, 100.0)
    counted.add(10_000, 100.0)
    counted.add(300, 100.0)
    assert rate.pause_ms(1_000, 100.0, 300) == counted.pause_ms(1_000, 100.0) == 300
    assert rate.pause_ms(1_000, 100.0) == 0


def test_a_burst_is_no_rate() -> None:
    """What fits into ten seconds at the limit may be done at once."""
    rate = Rate()
    rate.add(10_000, 5.0)
    assert rate.pause_ms(1_000, 5.0) == 0
    rate.add(1, 5.0)
    assert rate.pause_ms(1_000, 5.0) == 1


def test_what_is_long_ago_counts_no_more() -> None:
    """After a window without anything a client begins anew."""
    rate = Rate()
    rate.add(10**9, 0.0)
    assert not rate.is_idle(SAMPLES * SAMPLE_S - 0.001)
    assert rate.is_idle(SAMPLES * SAMPLE_S)
    assert rate.pause_ms(1, SAMPLES * SAMPLE_S) == 0


@given(AMOUNTS, st.integers(1, 10**8))
def test_the_pause_is_enough(steps: list[tuple[float, int]], limit: int) -> None:
    """A client that pauses as told, then does nothing, has been at its limit over window and pause; never above."""
    rate, now_s = Rate(), 0.0
    for wait_s, amount in steps:
        now_s += wait_s
        rate.add(amount, now_s)
        pause_s = rate.pause_ms(limit, now_s) / 1000
        assert pause_s >= 0
        assert rate.total <= limit * (rate.window_s(now_s) + pause_s) * (1 + 1e-9) + limit / 1000
        now_s += pause_s


@given(AMOUNTS)
def test_bounded(steps: list[tuple[float, int]]) -> None:
    """No more than SAMPLES samples are kept, and their sum is the total."""
    rate, now_s = Rate(), 0.0
    for wait_s, amount in steps:
        now_s += wait_s
        rate.add(amount, now_s)
        assert len(rate._samples) <= SAMPLES
        assert rate.total == pytest.approx(sum(amount for _, amount in rate._samples))
        assert SAMPLES - 1 <= rate.window_s(now_s) < SAMPLES + 1


def test_taken_back() -> None:
    """What was counted and not done leaves no trace."""
    rate = Rate()
    rate.add(500, 1.0)
    rate.add(10**6, 1.5)
    rate.take_back(10**6)
    assert rate.total == 500
