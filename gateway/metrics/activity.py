"""The present activity of the streams, from the containers' scalers: rates, recent scales, limits.

Keeps: this module reads memory, on the event loop, and changes nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from core.errors import NotHosted
from core.scaling.rates import Rates, slots_of
from core.scaling.scaler import Limit, ScaleEvent
from core.store import Store
from core.streams.averages import Rate
from core.streams.live import Slot, Stream
from core.streams.state import Segment
from core.turns import Turn


@dataclass(frozen=True, slots=True)
class SegmentLoad:
    """A segment's bytes and rates."""

    bytes: int
    bytes_s: float = 0.0
    events_s: float = 0.0


NOTHING: Final = SegmentLoad(0)
IDLE: Final = Rate(0.0, 0.0)
SLOTS_AT_ONCE: Final = 1_000
"""Slots that are counted before other work runs."""
LIMITS_TOLD: Final = 5
"""Hot segments of a stream that are listed one by one."""


class TierBytes(NamedTuple):
    """Bytes by tier. Bytes that are both in a chunk and in the log count as chunk bytes."""

    log: int
    chunks: int


@dataclass(frozen=True, slots=True)
class StreamBytes:
    """Cumulative counters of a stream, or of its slots in a container."""

    bytes: int
    events: int
    tiers: TierBytes

    @classmethod
    def of(cls, stream: Stream) -> StreamBytes:
        return cls._sum(stream.written_slots())

    @classmethod
    async def counted(cls, found: Iterable[Slot], turn: Turn) -> StreamBytes:
        """Of these slots, in turns: a stream may have a hundred thousand."""
        slots = iter(list(found))
        total = cls._sum(islice(slots, SLOTS_AT_ONCE))
        await turn.breathe()
        while some := list(islice(slots, SLOTS_AT_ONCE)):
            more = cls._sum(some)
            tiers = TierBytes(total.tiers.log + more.tiers.log, total.tiers.chunks + more.tiers.chunks)
            total = cls(total.bytes + more.bytes, total.events + more.events, tiers)
            await turn.breathe()
        return total

    @classmethod
    def _sum(cls, slots: Iterable[Slot]) -> StreamBytes:
        appended = events = log = chunks = 0
        for slot in slots:
            appended += slot.total_bytes
            events += slot.end
            chunks += slot.tier_bytes
            log += slot.untiered_bytes
        return cls(appended, events, TierBytes(log, chunks))


def active_segments(stream: Stream) -> int:
    return 0 if stream.is_sealed else len(stream.state.current.segments)


class _Loads(dict[int, SegmentLoad]):
    """The present load by segment; zero for an unknown segment."""

    def __missing__(self, segment: int) -> SegmentLoad:
        return NOTHING


@dataclass(frozen=True, slots=True)
class Activity:
    """All containers' scalers."""

    store: Store

    def stream_rate(self, stream: Stream) -> Rate:
        """The rates of a stream's slots, as far as their containers are here: nobody takes the others' rates."""
        found = [
            hosted.scaler.rates.of_slots(stream.slots_in(hosted.id))
            for hosted in self.store.containers.values()
            if stream.id in hosted.container.streams
        ]
        return Rate(sum(rate.bytes_s for rate in found), sum(rate.events_s for rate in found)) if found else IDLE

    def segments_here(self, stream: Stream) -> int:
        """How many active segments lie in containers that are here: over all nodes each counts once."""
        if stream.is_sealed:
            return 0
        state, here = stream.state, self.store.containers
        return sum(state.container_of(segment) in here for segment in state.current.segments)

    def rates_here(self, stream: Stream) -> Iterator[tuple[int, Rate]]:
        """The active segments whose containers are here, by number, with their rates; none of an idle stream."""
        if stream.is_sealed or self.stream_rate(stream) == IDLE:
            return
        for segment in stream.state.current.segments:
            if (rates := self._rates_of(stream, segment)) is not None:
                yield segment.number, rates.of_segment(stream, segment)

    def _rates_of(self, stream: Stream, segment: Segment) -> Rates | None:
        """None for a segment whose container is not here."""
        try:
            return self.store.scaler_of(stream, segment).rates
        except NotHosted:
            return None

    def loads(self, stream: Stream) -> Mapping[int, SegmentLoad]:
        """All segments with known load, by number."""
        loads = _Loads(
            (number, SegmentLoad(size)) for epoch in stream.state.epochs for number, size in epoch.sealed_bytes
        )
        loads.update(self.active_loads(stream))
        return loads

    def active_loads(self, stream: Stream) -> dict[int, SegmentLoad]:
        """The segments of the newest epoch, by number."""
        loads = {}
        for segment in stream.state.current.segments:
            rates = self._rates_of(stream, segment)
            rate = IDLE if stream.is_sealed or rates is None else rates.of_segment(stream, segment)
            loads[segment.number] = SegmentLoad(stream.segment_bytes(segment), rate.bytes_s, rate.events_s)
        return loads

    def slot_loads(self, stream: Stream, segment: Segment) -> list[float]:
        """Bytes a second of each slot of an active segment, in key order."""
        rates = self._rates_of(stream, segment)
        return [
            0.0 if slot is None or rates is None else rates.of_slot(slot).bytes_s for slot in slots_of(stream, segment)
        ]

    def limits_of(self, stream: Stream) -> list[str]:
        """Sentences about hot segments that cannot be split, the hottest first; the last gives the remedy."""
        found = sorted((limit for limit in self.limits() if limit.stream == stream.name), key=lambda limit: -limit.rate)
        told = [f"{which_limit(limit)}." for limit in found[:LIMITS_TOLD]]
        if len(found) > LIMITS_TOLD:
            told.append(f"So are {len(found) - LIMITS_TOLD} more segments.")
        return [*told, found[0].advice] if found else []

    def limits(self) -> list[Limit]:
        return [limit for hosted in self.store.containers.values() for limit in hosted.scaler.limits]

    def events(self, most: int) -> list[ScaleEvent]:
        """Recent scales, newest first."""
        newest_first = (reversed(hosted.scaler.events) for hosted in self.store.containers.values())
        return list(islice(heapq.merge(*newest_first, key=lambda event: event.time_ms, reverse=True), most))

    def counts(self) -> Counter[str]:
        """Scales by kind, since the containers were opened that are here."""
        return sum((hosted.scaler.counts for hosted in self.store.containers.values()), Counter())


def which_limit(limit: Limit) -> str:
    return f"Segment {limit.segment} (slot {limit.slot} alone) is at its limit: {limit.reason}"


def told_limit(limit: Limit) -> str:
    return f"{which_limit(limit)}. {limit.advice}"
