"""The result of a run: the sum of its workers' reports.

Keeps: the seconds of a run end with its last record, so that late records make the rate smaller, not larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateway.bench.histogram import Latencies
from gateway.bench.schedule import SECOND_NS

MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """A stretch of time in numbers."""

    records: int
    bytes: int
    seconds: float
    errors: int
    latency_ms: dict[str, float]

    @property
    def records_s(self) -> float:
        return self.records / self.seconds if self.seconds else 0.0

    @property
    def mb_s(self) -> float:
        return self.bytes / MB / self.seconds if self.seconds else 0.0

    def to_json(self, workload: str) -> dict[str, Any]:
        return {
            "workload": workload,
            "records": self.records,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "records_s": round(self.records_s, 1),
            "mb_s": round(self.mb_s, 3),
            "errors": self.errors,
            "latency_ms": self.latency_ms,
        }


class _Sum:
    def __init__(self) -> None:
        self.records = self.bytes = self.errors = 0
        self.latencies = Latencies()

    def add(self, report: dict[str, Any]) -> None:
        self.records += report["records"]
        self.bytes += report["bytes"]
        self.latencies.add(report["counts"])

    def figures(self, seconds: float) -> Figures:
        return Figures(self.records, self.bytes, seconds, self.errors, self.latencies.figures_ms())


class Totals:
    """All reports so far, and those of the interval. Records are those of one role, errors those of all workers."""

    def __init__(self, measured_from_ns: int, *, counted: str) -> None:
        self._measured_from_ns = measured_from_ns
        self._last_ns = measured_from_ns
        self._counted = counted
        self._all = _Sum()
        self._interval = _Sum()
        self.error: str | None = None

    def add(self, role: str, report: dict[str, Any]) -> None:
        self.error = report["error"] or self.error
        for total in (self._all, self._interval):
            total.errors += report["errors"]
            if role == self._counted:
                total.add(report)
        if role == self._counted:
            self._last_ns = max(self._last_ns, report["last_ns"])

    @property
    def records(self) -> int:
        return self._all.records

    def interval(self, seconds: float) -> Figures:
        """The figures since the last call, which was `seconds` ago."""
        figures, self._interval = self._interval.figures(seconds), _Sum()
        return figures

    def final(self) -> Figures:
        return self._all.figures((self._last_ns - self._measured_from_ns) / SECOND_NS)
