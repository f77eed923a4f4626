"""What a person asks for, as a scale: which segments to seal, where to cut. Pure.

Keeps: a cut lies between two slots of the segment that is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from core.keyspace import position_of_slot
from core.stream import SegmentRun, Stream
from gateway.http.activity import Activity
from gateway.http.models import ScaleRequest, Split


@dataclass(frozen=True, slots=True)
class Planned:
    """The arguments of `Store.scale_stream`."""

    sealed: tuple[int, ...]
    cuts: tuple[int, ...]
    reason: str


def plan(stream: Stream, wanted: ScaleRequest, activity: Activity) -> Planned:
    """Raises ValueError for what cannot be done."""
    if wanted.split is not None:
        return _split(stream, wanted.split, activity)
    merged = tuple(wanted.merge or ())
    if len(set(merged)) != len(merged):
        raise ValueError("a segment is named twice")
    return Planned(merged, (), f"segments {', '.join(map(str, merged))} merged by hand")


def _split(stream: Stream, split: Split, activity: Activity) -> Planned:
    epoch = stream.state.current
    run = epoch.run(split.segment)
    if run.last - run.first < 2:
        raise ValueError(f"segment {run.number} has one slot, and a slot is never cut: give the topic more partitions")
    cuts = tuple(sorted({_position(slot, run, epoch.slots) for slot in split.at}))
    if not cuts:
        cuts = (run.first + halving(activity.slot_loads(stream, run)),)
    return Planned((run.number,), cuts, f"segment {run.number} split by hand")


def _position(slot: int, run: SegmentRun, slots: int) -> int:
    if not 0 <= slot < slots:
        raise ValueError(f"there is no slot {slot}: the stream has {slots}")
    position = position_of_slot(slot, slots)
    if not run.first <= position < run.last:
        raise ValueError(f"slot {slot} is not in segment {run.number}")
    if position == run.first:
        raise ValueError(f"slot {slot} is where segment {run.number} begins: there is nothing to cut off before it")
    return position


def halving(loads: Sequence[float]) -> int:
    """After how many slots to cut, so that both sides get as much as can be; without any load in the middle."""
    if not any(loads):
        return len(loads) // 2
    sums = list(accumulate(loads))
    return min(
        range(1, len(loads)), key=lambda count: (abs(2 * sums[count - 1] - sums[-1]), abs(2 * count - len(loads)))
    )
