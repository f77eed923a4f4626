"""Rates: an even rate is read as it is, a rate that ended fades, and sums agree."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scaling.rates import Rates
from core.streams.averages import FADED, WINDOWS_S


def slot() -> Any:
    return SimpleNamespace(total_bytes=0, end=0, sampled_bytes=0, sampled_end=0, rate=None)


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_even_load_is_read_as_it_is(factor: float) -> None:
    """From the first sample on, in every window, however long it has been taken."""
    one, rates = slot(), Rates(factor)
    rates.begin([one], 100.0)
    for second in range(1, 400):
        one.total_bytes += int(700 * factor)
        one.end += 3
        rates.step(100.0 + second * factor)
        rates.sample([one])
        assert rates.bytes_of(one) == pytest.approx((700.0,) * len(WINDOWS_S))
        assert rates.of_slot(one).events_s == pytest.approx(3 / factor)


def test_what_was_there_before_counts_for_nothing() -> None:
    """A slot that held something when sampling began has no rate."""
    one, rates = slot(), Rates()
    one.total_bytes = one.end = 10**9
    rates.begin([one], 0.0)
    rates.step(1.0)
    rates.sample([one])

    assert one.rate is None
    assert rates.of_slot(one) == (0.0, 0.0)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=40), st.integers(0, 3000))
def test_idle_times_need_no_samples(sizes: list[int], idle: int) -> None:
    """A slot that is not looked at while it gets nothing has the averages of one that is looked at every second."""
    lazy, busy = Rates(), Rates()
    one, other = slot(), slot()
    lazy.begin([one], 0.0)
    busy.begin([other], 0.0)
    now = 0.0
    for size in sizes:
        now += 1
        one.total_bytes += size
        other.total_bytes += size
        for rates, which in ((lazy, one), (busy, other)):
            rates.step(now)
            rates.sample([which])
    for _ in range(idle):
        now += 1
        busy.step(now)
        busy.sample([other])
    if idle:
        lazy.step(now)

    assert lazy.bytes_of(one) == pytest.approx(busy.bytes_of(other))
    if one.rate is not None:
        assert lazy.bytes_of(one)[1:] == pytest.approx(exact(sizes, idle)[1:])


def exact(sizes: list[int], idle: int) -> list[float]:
    """The same averages from their definition."""
    steps = sizes + [0] * idle
    found: list[float] = []
    for window in WINDOWS_S:
        weight = 1 - math.exp(-1 / window)
        total = sum(size * weight * (1 - weight) ** (len(steps) - 1 - n) for n, size in enumerate(steps))
        found.append(total / (1 - math.exp(-len(steps) / window)))
    return found


def test_long_silence_is_forgotten() -> None:
    """Averages that have faded take no memory."""
    one, rates = slot(), Rates()
    rates.begin([one], 0.0)
    one.total_bytes = 10**9
    rates.step(1.0)
    rates.sample([one])
    rates.step(FADED)
    rates.forget([one])
    assert one.rate is not None
    rates.step(FADED + 2)
    assert max(rates.bytes_of(one)) < 10**9 / 20 / 60 / 100_000
    rates.forget([one])
    assert one.rate is None
