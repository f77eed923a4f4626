"""Which chunk is right for which stretch of a slot, when only the chunks are left to ask. Pure.

Chunks of a bucket overlap: a merged or compacted chunk lies there beside its inputs until they are deleted.

**Invariants**

- The newest chunk, by (epoch, sequence), is right for everything that it covers.
- Leader epochs do not fall with rising sequence numbers. A chunk that would make them fall was made by a store that had
  been replaced already, so it is refused.
- Behind the tiered end that the snapshot knows, a slot ends at its first gap. Several chunks of a slot are on their way
  at a time, so one behind a gap may have arrived before its predecessor, and was never committed.
- Adopted runs cover [first of the oldest, end of the newest) without a gap. If nothing is left of a stretch, the run
  before it covers it too: readers go on behind it, and no sequence number is given twice.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.tiering.rows import RunRow
from core.tiering.snapshots.format import SlotSnapshot


class Claims:
    """The ranges of one slot that chunks have claimed: disjoint and in order, neighbours joined."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def claim(self, first: int, end: int) -> list[tuple[int, int]]:
        """Take [first, end); returns the parts of it that were free."""
        low = bisect_left(self._ends, first)  # the first range that touches it
        high = bisect_right(self._firsts, end)  # behind the last one that does
        free: list[tuple[int, int]] = []
        position = first
        for taken_first, taken_end in zip(self._firsts[low:high], self._ends[low:high], strict=True):
            if position < taken_first:
                free.append((position, taken_first))
            position = max(position, taken_end)
        if position < end:
            free.append((position, end))
        if low < high:
            first, end = min(first, self._firsts[low]), max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]
        return free


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledSlot:
    """A slot as it can be read from here on, and its parts that cannot be read."""

    start: int
    end: int
    start_bytes: int
    total_bytes: int
    epochs: tuple[tuple[int, int], ...]
    rows: tuple[RunRow, ...]
    refused: tuple[RunRow, ...]
    behind: tuple[RunRow, ...]  # left out, because something before them is missing
    lost: tuple[tuple[int, int], ...]  # was in long-term storage, and is gone
    untiered: int  # sequence numbers that the snapshot knows, and that had not got there


def settle(known: SlotSnapshot | None, found: Sequence[RunRow]) -> SettledSlot:
    """The slot that has these runs, in order and without overlaps; `known` is its state in the last snapshot."""
    start = known.start if known is not None else 0
    accepted, refused = _accepted(found)
    rows, behind = _without_gap(known, [row for row in accepted if row.end > start])
    lost: list[tuple[int, int]] = []
    if rows and rows[0].first > start:
        if known is not None:
            lost.append((start, rows[0].first))
        start = rows[0].first
    for number, row in enumerate(rows[:-1]):
        if row.end < rows[number + 1].first:
            lost.append((row.end, rows[number + 1].first))
            rows[number] = replace(row, end=rows[number + 1].first)
    if not rows and known is not None and known.tiered_end > start:  # nothing is left; its numbers are not given again
        lost.append((start, known.tiered_end))
        start = known.tiered_end
    end = rows[-1].end if rows else start
    untiered = 0
    if known is not None:
        if known.tiered_end > end:
            lost.append((end, known.tiered_end))
        untiered = max(0, known.durable_end - max(end, known.tiered_end))
    total = 0
    for number, row in enumerate(rows):
        rows[number] = replace(row, bytes_before=total)
        total += row.appended
    return SettledSlot(
        start=start,
        end=end,
        start_bytes=share(rows[0].appended, rows[0].first, rows[0].end, start) if rows else 0,
        total_bytes=total,
        epochs=_epochs(known, rows, end),
        rows=tuple(rows),
        refused=tuple(refused),
        behind=tuple(behind),
        lost=tuple(lost),
        untiered=untiered,
    )


def share(size: int, first: int, end: int, offset: int) -> int:
    """About the bytes of [first, end) that lie before `offset`; the whole has `size`."""
    return size * (offset - first) // (end - first)


def _without_gap(known: SlotSnapshot | None, rows: list[RunRow]) -> tuple[list[RunRow], list[RunRow]]:
    """The runs to keep, and the runs behind the first gap after the known tiered end."""
    if known is None:
        return rows, []
    position = max(known.start, known.tiered_end)
    for number, row in enumerate(rows):
        if row.first > position:
            return rows[:number], rows[number:]
        position = max(position, row.end)
    return rows, []


def _accepted(found: Sequence[RunRow]) -> tuple[list[RunRow], list[RunRow]]:
    accepted: list[RunRow] = []
    refused: list[RunRow] = []
    newest = -1
    for row in found:
        if row.leader_epoch < newest:
            refused.append(row)
        else:
            newest = row.leader_epoch
            accepted.append(row)
    return accepted, refused


def _epochs(known: SlotSnapshot | None, rows: Sequence[RunRow], end: int) -> tuple[tuple[int, int], ...]:
    """The leader epochs that the snapshot knew, and those of the runs behind it."""
    epochs = [epoch for epoch in (known.epochs if known is not None else ()) if epoch[1] < end]
    for row in rows:
        if not epochs or row.leader_epoch > epochs[-1][0]:
            epochs.append((row.leader_epoch, max(row.first, epochs[-1][1] + 1) if epochs else row.first))
    return tuple(epochs)
