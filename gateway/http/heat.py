"""The loads of segments in the last six hours, as their topics' policies count them: the colours of the map.

Keeps: `SAMPLES` samples of `SEGMENTS_MAX` segments, those that are nearest to a split first; some 4 MB in all. Samples
lie on a grid of `PERIOD_MS` by the wall clock, so those of several processes lie beside each other. A restart forgets
them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple

from core.clock import Clock
from core.store import Store
from core.streams.live import Stream
from core.streams.policy import ScalingKind
from core.turns import Turn, in_turns
from gateway.http.models import HeatHistory, SegmentHeat
from gateway.http.rings import Rings
from gateway.http.views import MAP_SEGMENTS_MAX, lifetimes
from gateway.metrics.activity import Activity

PERIOD_MS: Final = 20_000
SAMPLES: Final = 1_080
SEGMENTS_MAX: Final = 500


class _Counted(NamedTuple):
    """A segment, and what its load counts: another policy begins another ring."""

    stream: int
    segment: int
    by_events: bool


@dataclass(slots=True)
class HeatMemory:
    """The memory. `sample` is called more often than once in a period."""

    store: Store
    activity: Activity
    clock: Clock
    _rings: Rings[_Counted] = field(default_factory=lambda: Rings(SEGMENTS_MAX, SAMPLES))
    _period: int | None = None  # that of the last sample, on the grid

    async def sample(self) -> None:
        """One round, once in a period."""
        period = self.clock.wall_ms() // PERIOD_MS
        if period == self._period:
            return
        loads = await self._loads()
        missed = 0 if self._period is None else period - self._period - 1  # below 0: the clock was set back
        async for _ in in_turns(range(min(missed, SAMPLES))):
            self._rings.add({})
        self._rings.add(loads)
        self._period = period

    async def _loads(self) -> dict[_Counted, int]:
        """The present loads, per second, of the segments that have the most, as parts of their targets."""
        found: list[tuple[float, _Counted, int]] = []
        turn = Turn()
        for stream in list(self.store.streams):
            await turn.breathe()
            policy = stream.policy.scaling
            by_events = policy.kind is ScalingKind.EVENTS
            for number, rate in self.activity.rates_here(stream):
                await turn.breathe()
                load = rate.events_s if by_events else rate.bytes_s
                if load >= 1:
                    found.append((load / max(policy.target_rate, 1), _Counted(stream.id, number, by_events), int(load)))
        return {counted: load for _, counted, load in heapq.nlargest(SEGMENTS_MAX, found)}

    async def of(self, stream: Stream, since_ms: int) -> HeatHistory:
        """The segments that were active at some time since `since_ms`, without those of which nothing is known."""
        policy, end_ms = stream.policy.scaling, (self._period or 0) * PERIOD_MS
        by_events = policy.kind is ScalingKind.EVENTS
        wanted = max(0, (end_ms - since_ms) // PERIOD_MS + 1)
        segments: list[SegmentHeat] = []
        async for life in in_turns(islice(lifetimes(stream.state, since_ms), MAP_SEGMENTS_MAX)):
            known = self._rings.of(_Counted(stream.id, life.segment.number, by_events))
            loads = known[max(0, len(known) - wanted) :]
            if any(load is not None for load in loads):
                segments.append(SegmentHeat.model_construct(id=life.segment.number, loads=loads))
        segments.sort(key=attrgetter("id"))
        return HeatHistory(
            name=stream.name, policy=policy.kind.value, period_ms=PERIOD_MS, end_ms=end_ms, segments=segments
        )
