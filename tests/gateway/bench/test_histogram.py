"""Latencies: percentiles of many workers are those of all their records."""

from __future__ import annotations

import math
import random

import pytest

from gateway.bench.histogram import PERCENTILES, Latencies, counts_of

MS = 1_000_000


def recorded(latencies_ns: list[int]) -> Latencies:
    latencies = Latencies()
    latencies.add(counts_of(latencies_ns))
    return latencies


def test_percentiles_are_those_of_the_sorted_list() -> None:
    """To three digits, each percentile is the value at its place."""
    draw = random.Random(1)
    latencies_ns = [int(draw.lognormvariate(0, 1) * MS) for _ in range(100_000)]

    figures = recorded(latencies_ns).figures_ms()

    latencies_ns.sort()
    for name, percent in PERCENTILES.items():
        exact = latencies_ns[math.ceil(len(latencies_ns) * percent / 100) - 1] / MS
        assert figures[name] == pytest.approx(exact, rel=2e-3)
    assert figures["avg"] == pytest.approx(sum(latencies_ns) / len(latencies_ns) / MS, rel=2e-3)
    assert figures["max"] == pytest.approx(latencies_ns[-1] / MS, rel=2e-3)


def test_merged_is_the_same_as_together() -> None:
    """Ten workers' reports give what one worker would have given that saw everything."""
    draw = random.Random(2)
    parts = [[draw.randrange(1, 10 ** draw.randrange(4, 10)) for _ in range(500)] for _ in range(10)]

    merged = Latencies()
    for part in parts:
        merged.add(counts_of(part))

    assert merged.figures_ms() == recorded([ns for part in parts for ns in part]).figures_ms()
    assert merged.count == 5000


def test_reports_stay_small() -> None:
    """A hundred thousand different latencies are a report of some thousand pairs."""
    assert len(counts_of(range(MS, 1000 * MS, 9_990))) < 12_000


def test_nothing_recorded() -> None:
    """Without records every figure is 0."""
    assert set(Latencies().figures_ms().values()) == {0.0}


def test_beyond_an_hour() -> None:
    """A latency beyond an hour is counted, and the maximum shows it."""
    assert recorded([5_000_000 * MS]).figures_ms()["max"] == pytest.approx(5_000_000, rel=1e-3)
