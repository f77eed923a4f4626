"""Turns a person's request into a scale: the segments to seal and the cuts. Pure.

Keeps: a cut lies between two slots of its segment; no merge leaves fewer than `min_segments` segments, which the scaler
would undo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from core.errors import StreamSealed
from core.streams.keyspace import position_of_slot
from core.streams.live import Stream
from core.streams.state import Segment, numbers
from gateway.http.models import ScaleRequest, Split
from gateway.metrics.activity import Activity


@dataclass(frozen=True, slots=True)
class Planned:
    """The arguments of `Store.scale_stream`."""

    sealed: tuple[int, ...]
    cuts: tuple[int, ...]
    reason: str


def plan(stream: Stream, wanted: ScaleRequest, activity: Activity) -> Planned:
    """Raises StreamSealed, ValueError for an impossible request."""
    if stream.is_sealed:
        raise StreamSealed(stream.name)
    if wanted.split is not None:
        return _split(stream, wanted.split, activity)
    return _merge(stream, tuple(wanted.merge or ()))


def _merge(stream: Stream, merged: tuple[int, ...]) -> Planned:
    if len(set(merged)) != len(merged):
        raise ValueError("a segment is named twice")
    stream.state.current.segments_of(merged)
    active = len(stream.state.current.segments)
    least = min(stream.policy.scaling.min_segments, stream.slot_count)
    if active - len(merged) + 1 < least:
        raise ValueError(
            f"the stream keeps at least {least} segments, and has {active}: lower penstock.scaling.min.segments first"
        )
    return Planned(merged, (), f"segments {numbers(merged)} merged by hand")


def _split(stream: Stream, split: Split, activity: Activity) -> Planned:
    epoch = stream.state.current
    segment = epoch.segment(split.segment)
    if segment.last - segment.first < 2:
        raise ValueError(
            f"segment {segment.number} has one slot, and a slot is never cut: give the topic more partitions"
        )
    cuts = tuple(sorted({_position(slot, segment, epoch.slots) for slot in split.at}))
    if not cuts:
        cuts = (segment.first + halving(activity.slot_loads(stream, segment)),)
    return Planned((segment.number,), cuts, f"segment {segment.number} split by hand")


def _position(slot: int, segment: Segment, slots: int) -> int:
    if not 0 <= slot < slots:
        raise ValueError(f"there is no slot {slot}: the stream has {slots}")
    position = position_of_slot(slot, slots)
    if not segment.first <= position < segment.last:
        raise ValueError(f"slot {slot} is not in segment {segment.number}")
    if position == segment.first:
        raise ValueError(f"slot {slot} is where segment {segment.number} begins: there is nothing to cut off before it")
    return position


def halving(loads: Sequence[float]) -> int:
    """The number of slots before the cut that best halves the load; without any load, the cut is in the middle."""
    if not any(loads):
        return len(loads) // 2
    sums = list(accumulate(loads))
    return min(
        range(1, len(loads)), key=lambda count: (abs(2 * sums[count - 1] - sums[-1]), abs(2 * count - len(loads)))
    )
