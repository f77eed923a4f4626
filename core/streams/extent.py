"""How far a slot reaches, in sequence numbers and in bytes: what of it is gone, in chunks, and in the log; and which of
its stream's segments it was appended to.

**Invariant**: bytes before a place are bytes of all entries that were ever appended before it, gone or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from core.index.rows import SlotColumns
from core.streams.removed import NOTHING_REMOVED, Removed
from core.streams.slot_format import SegmentStretch

SEGMENTS_MAX: Final = 1_000
"""Stretches that a slot remembers; beyond it the oldest goes, and what is tiered late is taken to be the next one's."""


class Extent:
    """The part of a slot that knows its ends and its bytes. Only the slot changes them, by itself or for a caller."""

    __slots__ = (
        "columns",
        "compacted_end",
        "durable_end",
        "end",
        "removed",
        "segment_id",
        "segments",
        "start",
        "start_bytes",
        "tiered_bytes",
        "tiered_end",
        "total_bytes",
    )

    def __init__(self, segment_id: int) -> None:
        self.segment_id = segment_id  # what the next append goes to
        self.segments: list[SegmentStretch] = []  # of what is in no chunk yet, oldest first
        self.start = 0
        self.end = 0
        self.durable_end = 0
        self.total_bytes = 0  # ever appended
        self.start_bytes = 0  # of those, before `start`
        self.tiered_end = 0
        self.compacted_end = 0  # up to here chunks hold less than the log did, and are read in its place
        self.tiered_bytes = 0  # of all ever appended, before `tiered_end`
        self.removed: Removed = NOTHING_REMOVED  # what chunks hold less than was appended
        self.columns: list[SlotColumns] = []  # newest last

    @property
    def size_bytes(self) -> int:
        """Bytes that are stored of the entries from `start` on: less than were appended once chunks are compacted."""
        return self.untiered_bytes + self.tier_bytes

    @property
    def untiered_bytes(self) -> int:
        """Bytes of entries that are in no chunk and not gone."""
        return self.total_bytes - max(self.start_bytes, self.tiered_bytes)

    @property
    def tier_bytes(self) -> int:
        """Bytes that chunks hold of the entries from `start` on."""
        return max(0, self.tiered_bytes - self.start_bytes - self.removed.behind(self.start))

    def bytes_behind(self, end: int, bytes_up_to_end: int) -> int:
        """Bytes stored of the entries from `end` on; `bytes_up_to_end` were appended before. For any thread."""
        return self.total_bytes - bytes_up_to_end - self.removed.behind(end)

    @property
    def durable_bytes(self) -> int:
        """Bytes of all entries that were ever durable."""
        return self.total_bytes - sum(self._lengths_from(self.durable_end))

    @property
    def untiered_from(self) -> tuple[int, int]:
        """The first sequence number that is in no chunk and not gone, and the bytes before it."""
        if self.start >= self.tiered_end:
            return self.start, self.start_bytes
        return self.tiered_end, self.tiered_bytes

    def begin_segment(self, first: int, segment_id: int) -> None:
        """Entries from `first` on are appended to another segment. What is in chunks is forgotten."""
        kept = self.untiered_segments()
        kept.append(SegmentStretch(first, segment_id, self.total_bytes))
        self.segments = kept[-SEGMENTS_MAX:]

    def appended_to(self, segment_id: int) -> int:
        """Bytes that went to a segment since it was opened, if it is the one that was appended to last."""
        newest = self.segments[-1] if self.segments else None
        return self.total_bytes - newest.bytes_before if newest is not None and newest.id == segment_id else 0

    def untiered_segments(self) -> list[SegmentStretch]:
        """The stretches that hold entries which are in no chunk yet, oldest first."""
        done = self.untiered_from[0]
        known = self.segments
        oldest = next((n for n in range(1, len(known)) if known[n].first > done), len(known))
        return known[max(0, oldest - 1) :]

    def segment_at(self, offset: int) -> tuple[int, SegmentStretch | None]:
        """The segment that holds an entry which is in no chunk yet, and what was appended to the next one."""
        known = self.segments
        for n in range(len(known) - 1, -1, -1):
            if known[n].first <= offset or n == 0:
                return known[n].id, known[n + 1] if n + 1 < len(known) else None
        return self.segment_id, None

    def entries_from(self, offset: int, most: int) -> int:
        """The number of entries from `offset` on whose rows are in memory, durable or not; it stops at `most`."""
        return sum(1 for _ in islice(self._lengths_from(offset), most))

    def _lengths_from(self, offset: int) -> Iterator[int]:
        for columns in reversed(self.columns):
            for row in range(len(columns) - 1, -1, -1):
                if columns.base[row] < offset:
                    return
                yield columns.length[row]
