"""The due time of each record.

Keeps: in an open loop, record *i* is due at `i / rate`, whatever happened to the records before it. A sender that was
held up finds several overdue records, and the latency of each counts from its due time.
"""

from __future__ import annotations

from typing import Final

SECOND_NS: Final = 1_000_000_000


class Schedule:
    """The sending times of one worker. The clock is passed in; nothing here waits."""

    def __init__(
        self, *, start_ns: int, warmup_s: float, seconds: float, records: int | None, rate: float | None
    ) -> None:
        self._start_ns = start_ns
        self._rate = rate
        self._sent = 0
        self.measured_from_ns = start_ns + int(warmup_s * SECOND_NS)
        self._until_ns = None if records is not None else self.measured_from_ns + int(seconds * SECOND_NS)
        self._left = records

    def next_due_ns(self, now_ns: int) -> int | None:
        """The due time of the next record, which may be long past; None if there is no further record."""
        due_ns = self._due_ns(self._sent, now_ns)
        ended = self._left == 0 if self._until_ns is None else due_ns >= self._until_ns
        return None if ended else due_ns

    def take(self, now_ns: int, at_most: int) -> list[int]:
        """The due times of the records to send now."""
        if self._rate is None:
            dues = [now_ns] * at_most
        else:
            passed = int((now_ns - self._start_ns) * self._rate / SECOND_NS) + 1
            count = max(1, min(at_most, passed - self._sent))
            dues = [self._due_ns(self._sent + number, now_ns) for number in range(count)]
        if self._until_ns is not None:
            dues = [due_ns for due_ns in dues if due_ns < self._until_ns]
        if self._left is not None:
            warming = [due_ns for due_ns in dues if due_ns < self.measured_from_ns]
            dues = warming + dues[len(warming) :][: self._left]
            self._left -= len(dues) - len(warming)
        self._sent += len(dues)
        return dues

    def _due_ns(self, number: int, now_ns: int) -> int:
        if self._rate is None:
            return max(now_ns, self._start_ns)
        return self._start_ns + int(number * SECOND_NS / self._rate)
