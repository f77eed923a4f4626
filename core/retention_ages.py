"""How old an entry is for retention, even when its own timestamp cannot tell.

If it cannot (`core.streams.ages`), the age counts from a time by which the entry had certainly been appended: the
making of its chunk, the beginning of the next log file, or the first look that found it in the newest file.

**Invariant**: that time is never before the append, so nothing leaves earlier than its policy says.

The time of the first look is kept in memory only, one mark for each slot that begins with such an entry. It need not
outlive a restart: a start begins a log file, and all entries before it are older than that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container as Holder
from typing import Final

from core.container.container import Container
from core.streams.ages import says_its_age
from core.streams.live import Slot
from core.tiering.catalog import Catalog
from core.tiering.rows import RunRow

UNKNOWN: Final = -1


class Ages:
    """Times by which entries of one container had been appended. Methods block; one thread for a slot at a time."""

    def __init__(self, container: Container, catalog: Catalog) -> None:
        self._container = container
        self._catalog = catalog
        self._marks: dict[tuple[int, int], tuple[int, int]] = {}  # by slot: up to an offset, there at a time

    def of_run(self, run: RunRow, now_ms: int) -> int:
        """The time when the newest entry of a run was written, or `UNKNOWN`."""
        if says_its_age(run.max_timestamp, now_ms):
            return run.max_timestamp
        chunk = self._catalog.find_chunk(run.chunk)
        return UNKNOWN if chunk is None else chunk.created_ms

    def of_row(self, slot: Slot, timestamp: int, end: int, file_lsn: int, durable_end: int, now_ms: int) -> int:
        """The same for an entry in the log that ends at `end`. An entry that is new here is remembered from now on."""
        if says_its_age(timestamp, now_ms):
            return timestamp
        files = [*self._container.files.complete, self._container.log.file]
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
