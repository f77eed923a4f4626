"""How old an entry is when its own timestamp does not say.

An entry without a timestamp, or with one far ahead of the clock, would never be old; as entries leave a slot from its
front, it would keep everything behind it, too. Its age is then counted from a time by which it had been appended at
the latest: the making of its chunk, the beginning of the next log file, or the first look that found it in the newest
file. Invariant: that is never before it was appended, so nothing leaves earlier than its policy says.

What the first look found is remembered in memory only, one mark for each slot that such an entry leads: a start begins
a log file, so what was there before is older than that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container as Holder
from typing import TYPE_CHECKING, Final

from core.streams.live import Slot

if TYPE_CHECKING:
    from core.container.container import Container
    from core.tiering.rows import RunRow

AHEAD_MS_MAX: Final = 2 * 3_600_000
"""Timestamps up to so far ahead are believed: clocks differ, and an hour is what topics allow by default."""
UNKNOWN: Final = -1


class Ages:
    """Times by which entries of one container had been appended. Its methods block; one thread for a slot at a time."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}  # by slot: what was there up to an offset, at a time

    def of_run(self, run: RunRow, now_ms: int) -> int:
        """When the newest entry of a run was written, as far as that is known; `UNKNOWN` else."""
        if says_its_age(run.max_timestamp, now_ms):
            return run.max_timestamp
        chunk = self._container.catalog.find_chunk(run.chunk)
        return UNKNOWN if chunk is None else chunk.created_ms

    def of_row(self, slot: Slot, timestamp: int, end: int, file_lsn: int, durable_end: int, now_ms: int) -> int:
        """The same for an entry in the log that ends at `end`; one that is new here is remembered from now on."""
        if says_its_age(timestamp, now_ms):
            return timestamp
        files = [*self._container.files, self._container.log.file]
        following = bisect_right(files, file_lsn, key=lambda file: file.first_lsn)
        if following < len(files):
            return files[following].created_ms
        key = slot.stream.id, slot.number
        mark = self._marks.get(key)
        if mark is None or mark[0] <= slot.start:
            mark = self._marks[key] = durable_end, now_ms
        return mark[1] if end <= mark[0] else UNKNOWN

    def forget_others(self, streams: Holder[int]) -> None:
        """Keep marks of these streams only."""
        self._marks = {key: mark for key, mark in self._marks.items() if key[0] in streams}


def says_its_age(timestamp: int, now_ms: int) -> bool:
    """Whether a largest timestamp can be one: it is there, and not far ahead."""
    return 0 <= timestamp <= now_ms + AHEAD_MS_MAX
