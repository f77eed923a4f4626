"""One worker's counts between two of its reports.

Keeps: a record that was due before the measured time is not counted, neither as a record nor as an error.
"""

from __future__ import annotations

import time
from typing import Any

from gateway.bench.histogram import counts_of


class Tally:
    """Latencies, errors and the time of the last record. Client threads add, the worker's own thread takes."""

    def __init__(self, measured_from_ns: int) -> None:
        self._from_ns = measured_from_ns
        self._latencies_ns: list[int] = []
        self._bytes = 0
        self._errors: list[str] = []
        self._last_ns = measured_from_ns

    def finished(self, due_ns: int, size: int, error: object | None, _message: object = None) -> None:
        """Count a record that has finished now, even with an error. Called for every record, so it is kept short."""
        if due_ns < self._from_ns:
            return
        if error is not None:
            self._errors.append(str(error))
            return
        self._last_ns = now_ns = time.monotonic_ns()
        self._latencies_ns.append(now_ns - due_ns)
        self._bytes += size

    def took(self, latency_ns: int, records: int, size: int) -> None:
        """Count the records of one call, each with the latency of the call."""
        self._latencies_ns.extend([latency_ns] * records)
        self._bytes += size
        self._last_ns = time.monotonic_ns()

    def fail(self, error: str, count: int = 1) -> None:
        self._errors.extend([error] * count)

    def take(self) -> dict[str, Any]:
        """The counts since the last call, as a report."""
        latencies, self._latencies_ns = self._latencies_ns, []
        errors, self._errors = self._errors, []
        size, self._bytes = self._bytes, 0
        return {
            "records": len(latencies),
            "bytes": size,
            "errors": len(errors),
            "error": errors[-1] if errors else None,
            "counts": counts_of(latencies),
            "last_ns": self._last_ns,
        }
