"""Penstock's goals, as ratios within one run, and whether it reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.comparison import RATES
from bench.systems import BARE, BARE_WITHIN, KAFKA, KAFKA_FLUSHED, PENSTOCK, PENSTOCK_INTERVAL, PRAVEGA

PAIRS: Final = ((PENSTOCK, KAFKA_FLUSHED), (PENSTOCK, KAFKA), (PENSTOCK_INTERVAL, KAFKA))
AT_LEAST: Final = "≥"
AT_MOST: Final = "≤"
DISK_MARGIN_MS: Final = 4.0
SINGLE: Final = "single-record requests, 64 in flight"
NARROW: Final = "1 partition, 100 writers, warm"
WIDE: Final = "5,000 partitions, 100 writers, warm"
WIDE_SHARE: Final = 0.8
WRITTEN: Final = "read back 800 MB of 1 KB just written, 1 reader, 1 partition"

# Bounds in the order of PAIRS; None where there is no goal.
TABLE: Final[tuple[tuple[str, str, tuple[float | None, ...]], ...]] = (
    ("write 100 B, 1 writer, 1 partition", AT_LEAST, (1.2, 0.9, 1.0)),
    ("write 1 KB, 1 writer, 1 partition", AT_LEAST, (1.2, 0.9, 1.0)),
    (SINGLE, AT_LEAST, (6.0, 1.8, 2.0)),
    ("1,000 partitions, 100 writers, warm", AT_LEAST, (3.0, 1.3, 1.5)),
    ("5,000 partitions, 100 writers, warm", AT_LEAST, (3.0, 1.3, 1.5)),
    ("1,000 partitions, 100 writers, first writes", AT_LEAST, (8.0, 4.0, 4.0)),
    ("5,000 partitions, 100 writers, first writes", AT_LEAST, (8.0, 4.0, 4.0)),
    ("write 1 KB, 10 writers, 16 partitions", AT_LEAST, (1.3, 0.9, 1.2)),
    ("write 10 KB, 10 writers, 16 partitions", AT_LEAST, (None, 0.9, None)),
    ("write 100 KB, 10 writers, 16 partitions", AT_LEAST, (None, 0.9, None)),
    *((f"produce at {rate} MB/s of 1 KB, p99", AT_MOST, (0.3, 0.7, 0.8)) for rate in RATES),
    *((f"produce at {rate} MB/s of 1 KB, p99.9", AT_MOST, (0.3, 0.7, None)) for rate in RATES),
    ("tail consumer, 1 KB", AT_LEAST, (None, 1.5, None)),
    (WRITTEN, AT_LEAST, (None, 0.9, None)),
    *(
        (f"read back 400 MB of {size} just written, 10 readers, 16 partitions{what}", sign, (None, bound, None))
        for size in ("1 KB", "10 KB")
        for what, sign, bound in (("", AT_LEAST, 0.8), (", server CPU", AT_MOST, 1.0))
    ),
    ("single-record requests, server CPU", AT_MOST, (0.5, 0.6, 0.5)),
    ("write 1 KB, 1 writer, 1 partition, server CPU", AT_MOST, (0.9, 1.3, 1.0)),
    ("memory at rest", AT_MOST, (None, 0.25, None)),
    ("start-up, empty directory", AT_MOST, (None, 1 / 3, None)),
)
AGAINST_BARE: Final = {SINGLE: 1.0, WRITTEN: 0.8}
AGAINST_PRAVEGA: Final = {
    "write 100 B, 1 writer, 1 partition": 4.0,
    "write 1 KB, 1 writer, 1 partition": 2.0,
    "write 1 KB, 10 writers, 16 partitions": 4.0,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """One bound and its measured value; `measured` is None without a sample."""

    workload: str
    system: str
    other: str
    sign: str
    bound: float
    measured: float | None

    @property
    def reached(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.bound if self.sign == AT_LEAST else self.measured <= self.bound


def goals(rows: list[dict[str, Any]]) -> Iterator[Goal]:
    """Every goal, in the order of the table."""
    ratios = {(row["workload"], row["system"], row["ratio_to"]): row["ratio"] for row in rows}
    medians = {(row["workload"], row["system"]): row["median"] for row in rows}
    for workload, sign, bounds in TABLE:
        for (system, other), bound in zip(PAIRS, bounds, strict=True):
            if bound is not None:
                yield Goal(workload, system, other, sign, bound, ratios.get((workload, system, other)))
    for workload, bound in AGAINST_PRAVEGA.items():
        yield Goal(workload, PENSTOCK, PRAVEGA, AT_LEAST, bound, ratios.get((workload, PENSTOCK, PRAVEGA)))
    one, many = (medians.get((workload, PENSTOCK)) for workload in (NARROW, WIDE))
    yield Goal(WIDE, PENSTOCK, "1 partition", AT_LEAST, WIDE_SHARE, many / one if one and many else None)
    for workload, bound in AGAINST_BARE.items():
        for server in (BARE, BARE_WITHIN):
            if (ratio := ratios.get((workload, PENSTOCK, server))) is not None:
                yield Goal(workload, PENSTOCK, server, AT_LEAST, bound, ratio)
    for rate in RATES:
        if (disk_p99 := medians.get((f"disk, {rate} MB/s in synced writes, p99", "machine"))) is not None:
            workload = f"produce at {rate} MB/s of 1 KB, p99"
            bound = round(disk_p99 + DISK_MARGIN_MS, 2)
            yield Goal(workload, PENSTOCK, "the disk's p99 + 4 ms", AT_MOST, bound, medians.get((workload, PENSTOCK)))
