"""The scaler: takes a container's rates and scales its streams as their policies ask.

`core.scaling.decisions` decides; this looks, asks, and scales. It looks at streams between others' work, and skips a
scale that has become impossible meanwhile.

A segment's age counts from the time when this process first saw it, so after a start nothing scales before the rates
mean something.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.background import Background
from core.scaling.decisions import AtLimit, Decision, SegmentLoad, at_limit, decide
from core.scaling.rates import Rates, slots_of
from core.streams.averages import NOTHING, WATCHED, Averages
from core.streams.keyspace import slot_at_position
from core.streams.live import Stream
from core.streams.policy import ScalingKind
from core.streams.state import Epoch, Segment

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot

logger = logging.getLogger(__name__)

DECIDE_S: Final = 15.0
"""Multiplied by the time factor, as the windows are; but nothing happens more often than `TICK_MIN_S`."""
TICK_MIN_S: Final = 0.05
SLICE_SLOTS: Final = 2000
"""The most slots that one turn of the event loop looks at."""
STREAMS_PER_SLICE: Final = 200
EVENTS_MAX: Final = 1_000
"""The most scale events that are remembered for operators; the streams' epochs remember all."""


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """A scale that happened."""

    time_ms: int
    stream: str
    epoch: int
    kind: str  # split, merge, manual, grown
    reason: str
    sealed: tuple[int, ...]
    opened: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """A stream that would split further and cannot, because one of its segments is a single slot."""

    stream: str
    segment: int
    slot: int
    rate: float  # bytes or events per second, as the policy counts
    reason: str
    advice: str


Scale = Callable[[Stream, Decision], Awaitable[object]]


class Scaler:
    """The scaler of one container. `events`: newest last. `limits`: as of the last look."""

    def __init__(self, container: Container, scale: Scale) -> None:
        self._container = container
        self._scale = scale
        self._factor = container.config.scaler_time_factor
        self.rates = Rates(self._factor)
        self.events: deque[ScaleEvent] = deque(maxlen=EVENTS_MAX)
        self.counts: Counter[str] = Counter()  # scales since the start, by kind
        self._limits: dict[int, Sequence[Limit]] = {}
        self._seen: dict[int, dict[int, float]] = {}  # stream id: active segment: since when, monotonic s
        sample_s = container.config.scaler_sample_ms / 1000
        self._pause_s = min(sample_s, max(TICK_MIN_S, DECIDE_S * self._factor))
        self._decide_s = max(self._pause_s, DECIDE_S * self._factor)
        self._decide_at = 0.0  # monotonic s
        self._sampled_lsn = -1  # what the log's next one was at the last sample
        self._grew: set[int] = set()  # streams whose slots may have averages
        self._background = Background("scaling", container.id, self._step, retry_s=self._pause_s, first_s=self._pause_s)

    def __repr__(self) -> str:
        return f"<Scaler {self._container.id}: {dict(self.counts)}>"

    @property
    def limits(self) -> list[Limit]:
        return [limit for limits in self._limits.values() for limit in limits]

    def start(self) -> None:
        self.begin()
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    def age_of(self, stream: Stream, segment: Segment) -> float:
        """The time since an active segment was first seen here, s; 0 for one that was not looked at yet."""
        since = self._seen.get(stream.id, {}).get(segment.number)
        return 0.0 if since is None else self._container.clock.monotonic_s() - since

    def record(self, event: ScaleEvent) -> None:
        """Note a scale that has happened, by hand or by itself."""
        self.events.append(event)
        self.counts[event.kind] += 1

    def begin(self) -> None:
        """Begin to count rates."""
        slots = (slot for stream in self._container.streams.values() for slot in stream.slots_in(self._container.id))
        self.rates.begin(slots, self._container.clock.monotonic_s())
        self._grew.clear()

    async def _step(self) -> float:
        await self.sample()
        now = self._container.clock.monotonic_s()
        if now >= self._decide_at:
            self._decide_at = now + self._decide_s
            await self.scale_once()
        return self._pause_s

    async def sample(self) -> None:
        """Take the rates of all slots, if the log has grown: a look at 100,000 of them takes a tenth of a second."""
        self.rates.step(self._container.clock.monotonic_s())
        next_lsn = self._container.log.next_lsn
        if next_lsn == self._sampled_lsn:
            return
        self._sampled_lsn = next_lsn  # what is appended during this look is seen at the next one
        looked_at = 0
        for stream in list(self._container.streams.values()):
            slots = list(stream.slots_in(self._container.id))
            for begin in range(0, len(slots), SLICE_SLOTS):
                some = slots[begin : begin + SLICE_SLOTS] if len(slots) > SLICE_SLOTS else slots
                if self.rates.sample(some):
                    self._grew.add(stream.id)
                looked_at += len(some)
                if looked_at >= SLICE_SLOTS:
                    looked_at = 0
                    await asyncio.sleep(0)

    async def scale_once(self) -> int:
        """Do for each stream the scale that it needs most; returns how many were done. Raises StoreError."""
        done = 0
        streams = self._container.streams
        for gone in [stream_id for stream_id in self._seen if stream_id not in streams]:
            del self._seen[gone]
            self._limits.pop(gone, None)
        self._grew &= streams.keys()
        looked_at = 0
        for stream in list(streams.values()):
            decision = await self._look_at(stream)
            is_whole = stream.id in self._grew or len(stream.state.current.segments) > 1  # that it was looked at
            looked_at += SLICE_SLOTS // STREAMS_PER_SLICE + (stream.slot_count if is_whole else 0)
            if looked_at >= SLICE_SLOTS:
                looked_at = 0
                await asyncio.sleep(0)
            if decision is not None:
                try:
                    await self._scale(stream, decision)
                    done += 1
                except ValueError as error:
                    logger.info("a scale came too late", extra={"stream": stream.name, "reason": str(error)})
        return done

    async def _look_at(self, stream: Stream) -> Decision | None:
        """The scale that a stream needs. If the stream changes during a long look, the scale is refused later."""
        is_idle = self._is_idle(stream)
        policy, epoch = stream.policy.scaling, stream.state.current
        self._limits.pop(stream.id, None)
        ages = self._ages(stream, epoch)
        segments = self._own(stream, epoch)
        is_done = policy.kind is ScalingKind.FIXED or (
            len(segments) == 1 and segments[0].last - segments[0].first > 1 and is_idle
        )
        if stream.deleted or stream.is_sealed or (is_done and len(epoch.segments) >= policy.min_segments):
            return None
        averages_of = self.rates.events_of if policy.kind is ScalingKind.EVENTS else self.rates.bytes_of
        loads: list[SegmentLoad] = []
        for segment in segments:
            total = await self._total(list(slots_of(stream, segment)), by_events=policy.kind is ScalingKind.EVENTS)
            loads.append(SegmentLoad(segment, ages[segment.number] / self._factor, total))
        if limits := at_limit(policy, loads, self._factor):
            self._limits[stream.id] = [_limit(stream, limit) for limit in limits]

        def slot_rates(segment: Segment) -> Sequence[float]:
            return [
                0.0 if slot is None else max(averages_of(slot)[WATCHED + 1 :]) for slot in slots_of(stream, segment)
            ]

        return decide(policy, epoch, loads, slot_rates, self._factor)

    async def _total(self, slots: Sequence[Slot | None], *, by_events: bool) -> Averages:
        if len(slots) <= SLICE_SLOTS:
            return self.rates.total(slots, by_events=by_events)
        sums = NOTHING
        for begin in range(0, len(slots), SLICE_SLOTS):
            some = self.rates.total(slots[begin : begin + SLICE_SLOTS], by_events=by_events)
            sums = tuple(map(float.__add__, sums, some))
            await asyncio.sleep(0)
        return sums

    def _own(self, stream: Stream, epoch: Epoch) -> Sequence[Segment]:
        """The active segments of a stream that lie in this container."""
        if not stream.state.is_elsewhere:
            return epoch.segments if stream.state.container == self._container.id else ()
        return [one for one in epoch.segments if stream.state.container_of(one) == self._container.id]

    def _is_idle(self, stream: Stream) -> bool:
        """Whether nothing of it came lately. Slots of streams that have not grown are not looked at: they are many."""
        if stream.id not in self._grew:
            return True
        self.rates.forget(stream.slots_in(self._container.id))
        if any(slot.rate is not None for slot in stream.slots_in(self._container.id)):
            return False
        self._grew.discard(stream.id)
        return True

    def _ages(self, stream: Stream, epoch: Epoch) -> dict[int, float]:
        """The time since each active segment was first seen, s."""
        now = self._container.clock.monotonic_s()
        before = self._seen.get(stream.id, {})
        seen = self._seen[stream.id] = {segment.number: before.get(segment.number, now) for segment in epoch.segments}
        return {number: now - since for number, since in seen.items()}


def _limit(stream: Stream, limit: AtLimit) -> Limit:
    slot = slot_at_position(limit.segment.first, stream.slot_count)
    advice = (
        "A slot is the smallest piece of the key space: it does not split. Give its keys more variety, give the "
        "stream more slots (a topic more partitions), or raise penstock.scaling.target.rate."
    )
    return Limit(stream.name, limit.segment.number, slot, limit.rate, limit.why, advice)
