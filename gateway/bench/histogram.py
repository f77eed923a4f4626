"""Latencies as an HdrHistogram: three significant digits from a microsecond to an hour.

Keeps: merging histograms of many workers gives the same percentiles as one worker that saw every record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hdrh.histogram import HdrHistogram

LOWEST_US: Final = 1
HIGHEST_US: Final = 3_600_000_000
DIGITS: Final = 3
SIGNIFICANT_BITS: Final = 11
"""Three significant digits in an HdrHistogram: 2,048 steps to each power of two."""
PERCENTILES: Final = {"p50": 50.0, "p75": 75.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9, "p99_99": 99.99}

Counts = list[tuple[int, int]]
"""Microseconds and the number of records that took them, as a worker sends them."""


def counts_of(latencies_ns: Iterable[int]) -> Counts:
    """Latencies in microseconds, rounded as in the histogram, equal ones counted together: a report stays small."""
    together: Counter[int] = Counter()
    for us, count in Counter([-(-ns // 1000) for ns in latencies_ns]).items():
        shift = max(0, us.bit_length() - SIGNIFICANT_BITS)
        together[us >> shift << shift] += count
    return list(together.items())


class Latencies:
    """All latencies recorded so far."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        self._sum_us = 0
        self._max_us = 0

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def add(self, counts: Iterable[tuple[int, int]]) -> None:
        for us, count in counts:
            within = min(max(us, LOWEST_US), HIGHEST_US)
            self._histogram.record_value(within, count)
            self._sum_us += us * count
            self._max_us = max(self._max_us, us)

    def merge(self, other: Latencies) -> None:
        self._histogram.add(other._histogram)
        self._sum_us += other._sum_us
        self._max_us = max(self._max_us, other._max_us)

    def figures_ms(self) -> dict[str, float]:
        """Average, maximum and percentiles, in milliseconds; all 0 if nothing was recorded."""
        average = self._sum_us / self.count if self.count else 0.0
        figures = {"avg": average, "max": float(self._max_us)}
        for name, percentile in PERCENTILES.items():
            bound = self._histogram.get_value_at_percentile(percentile) if self.count else 0
            figures[name] = float(min(bound, self._max_us))
        return {name: round(us / 1000, 3) for name, us in figures.items()}
