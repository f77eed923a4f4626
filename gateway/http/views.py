"""Streams in the REST API, made from their immutable states and from counters read on the event loop.

Keeps: a long history is sent piece by piece and never holds up the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from core.streams.keyspace import slots_in_key_order
from core.streams.live import Stream
from core.streams.state import Epoch, Segment, StreamState
from gateway.http.models import (
    EpochView,
    MapSegment,
    Scaling,
    SegmentView,
    StreamMap,
    StreamStatus,
    StreamSummary,
    StreamView,
    Tiers,
)
from gateway.metrics.activity import Activity, SegmentLoad, StreamBytes, active_segments

MAP_SEGMENTS_MAX: Final = 5_000
"""Most rectangles in one answer: some 600 KB."""
EPOCHS_AT_ONCE: Final = 20
"""Epochs that are made into JSON before other work runs."""


def status_of(state: StreamState) -> StreamStatus:
    return "sealed" if state.is_sealed else "open"


def scaling_of(stream: Stream) -> Scaling:
    policy = stream.policy.scaling
    return Scaling(
        policy=policy.kind.value,
        target_rate=policy.target_rate,
        factor=policy.factor,
        min_segments=policy.min_segments,
    )


def summary(stream: Stream, activity: Activity) -> StreamSummary:
    """A stream in a list."""
    counted = StreamBytes.of(stream)
    rate = activity.stream_rate(stream)
    return StreamSummary(
        name=stream.name,
        state=status_of(stream.state),
        slots=stream.slot_count,
        epoch=stream.state.current.epoch,
        segments=active_segments(stream),
        appended_bytes=counted.bytes,
        appended_events=counted.events,
        tiers=Tiers(log=counted.tiers.log, chunks=counted.tiers.chunks),
        rate_bytes=rate.bytes_s,
        rate_events=rate.events_s,
    )


async def told(stream: Stream, activity: Activity, epochs_max: int | None) -> AsyncIterator[bytes]:
    """A stream as JSON, `StreamView`, in pieces: its newest `epochs_max` epochs, or all."""
    state = stream.state
    loads = activity.loads(stream)
    head = StreamView(
        **summary(stream, activity).model_dump(),
        created_ms=stream.created_ms,
        sealed_ms=state.sealed_ms,
        scaling=scaling_of(stream),
        limits=activity.limits_of(stream),
        epochs=[],
    )
    yield head.model_dump_json().removesuffix("]}").encode()
    epochs = iter(state.epochs if epochs_max is None else state.epochs[-epochs_max:])
    before = b""
    while some := list(islice(epochs, EPOCHS_AT_ONCE)):
        yield before + await asyncio.to_thread(_epochs_json, state, some, loads)
        before = b","
    yield b"]}"


def _epochs_json(state: StreamState, epochs: list[Epoch], loads: Mapping[int, SegmentLoad]) -> bytes:
    return b",".join(epoch_view(state, epoch, loads).model_dump_json().encode() for epoch in epochs)


def epoch_view(state: StreamState, epoch: Epoch, loads: Mapping[int, SegmentLoad]) -> EpochView:
    """One epoch; a segment's state is its present state."""
    order = _key_order(epoch.slots)
    active = {segment.number for segment in state.current.segments} if not state.is_sealed else set()
    segments = []
    for segment in epoch.segments:
        load = loads[segment.number]
        bounds = epoch.key_range(segment)
        segments.append(
            SegmentView.model_construct(
                id=segment.number,
                slots=order[segment.first : segment.last],
                key_range=(float(bounds.low), float(bounds.high)),
                state="active" if segment.number in active else "sealed",
                bytes=load.bytes,
                rate_bytes=load.bytes_s,
                rate_events=load.events_s,
            )
        )
    return EpochView.model_construct(
        epoch=epoch.epoch, started_ms=epoch.started_ms, reason=epoch.reason, segments=segments
    )


def stream_map(
    stream: Stream, activity: Activity, since_ms: int, now_ms: int, leader: Callable[[int], int | None]
) -> StreamMap:
    """The segments that were active at some time since `since_ms`; `leader` gives the node that serves a container."""
    state = stream.state
    loads = activity.loads(stream)
    segments: list[MapSegment] = []
    lives = lifetimes(state, since_ms)
    for life in islice(lives, MAP_SEGMENTS_MAX):
        load = loads[life.segment.number]
        bounds = life.epoch.key_range(life.segment)
        segments.append(
            MapSegment.model_construct(
                id=life.segment.number,
                key_range=(float(bounds.low), float(bounds.high)),
                slots=life.segment.last - life.segment.first,
                container=(container := state.container_of(life.segment)),
                node=leader(container) if life.sealed_ms is None else None,
                opened_ms=life.opened_ms,
                sealed_ms=life.sealed_ms,
                bytes=load.bytes,
                rate_bytes=load.bytes_s,
                rate_events=load.events_s,
            )
        )
    return StreamMap(
        name=stream.name,
        state=status_of(state),
        sealed_ms=state.sealed_ms,
        time_ms=now_ms,
        slots=state.slots,
        epoch=state.current.epoch,
        truncated=next(lives, None) is not None,
        scaling=scaling_of(stream),
        limits=activity.limits_of(stream),
        segments=segments,
    )


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The time in which a segment was active; `epoch` is the epoch that opened it."""

    segment: Segment
    epoch: Epoch
    opened_ms: int
    sealed_ms: int | None


def lifetimes(state: StreamState, since_ms: int) -> Iterator[Lifetime]:
    """Segments that were active at some time since `since_ms`, the last opened first."""
    wanted: dict[int, int | None] = dict.fromkeys(
        (segment.number for segment in state.current.segments), state.sealed_ms
    )
    after: Epoch | None = None
    for epoch in reversed(state.epochs):
        if after is not None and after.started_ms > since_ms:
            for number in _sealed_by(epoch, after):
                wanted[number] = after.started_ms
        for segment in epoch.opened:
            if segment.number in wanted:
                yield Lifetime(segment, epoch, epoch.started_ms, wanted.pop(segment.number))
        if not wanted and epoch.started_ms <= since_ms:
            return
        after = epoch


def _sealed_by(before: Epoch, after: Epoch) -> Iterator[int]:
    if after.sealed_bytes:
        return (number for number, _ in after.sealed_bytes)
    going_on = {segment.number for segment in after.segments}
    return (segment.number for segment in before.segments if segment.number not in going_on)


@lru_cache(maxsize=64)
def _key_order(slots: int) -> list[int]:
    return slots_in_key_order(slots)
