"""How fast slots grow: exponentially weighted averages over several windows. The append path knows nothing of them.

A sample compares the totals of each slot (`Slot.total_bytes`, `Slot.end`) with those of the last sample. A slot that
got nothing costs one comparison; its averages fade when they are read.

Averages begin at zero, and are corrected for the short time over which they have been taken. So an even rate is read
correctly from the first sample on.

**Invariant**: the average of a sum is the sum of the averages. So a segment's rates are the sums of its slots' rates,
and a cut does not begin them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from core.streams.averages import FADED, NOTHING, TWENTY, WATCHED, WINDOWS_S, Averages, Rate, SlotRate
from core.streams.keyspace import slots_in_key_order
from core.streams.live import Slot, Stream
from core.streams.state import Segment


class Rates:
    """The averages of one container's slots. `factor` multiplies all windows; times are seconds that never go back."""

    def __init__(self, factor: float = 1.0) -> None:
        self._taus = [window * factor for window in WINDOWS_S]
        self._begun: float | None = None
        self._now = 0.0
        self._step = 0.0
        self._weights: list[float] = list(NOTHING)
        self._corrections: list[float] = list(NOTHING)

    def begin(self, slots: Iterable[Slot], now: float) -> None:
        """Begin here: the totals of slots up to now do not count."""
        self._begun = self._now = now
        for slot in slots:
            slot.sampled_bytes, slot.sampled_end, slot.rate = slot.total_bytes, slot.end, None

    def step(self, now: float) -> None:
        """Begin the next sample: `sample` follows for every slot."""
        assert self._begun is not None, "begin comes first"
        self._step = now - self._now
        self._now = now
        self._weights = [1 - math.exp(-self._step / tau) for tau in self._taus]
        age = now - self._begun
        self._corrections = [1 / (1 - math.exp(-age / tau)) if age > 0 else 0.0 for tau in self._taus]

    def sample(self, slots: Iterable[Slot]) -> bool:
        """Take in the growth of these slots since the last sample; returns whether any has grown."""
        if self._step <= 0:
            return False
        grown = False
        for slot in slots:
            if slot.total_bytes != slot.sampled_bytes:
                grown = True
                self._sample(slot)
        return grown

    def _sample(self, slot: Slot) -> None:
        size, count = slot.total_bytes - slot.sampled_bytes, slot.end - slot.sampled_end
        slot.sampled_bytes, slot.sampled_end = slot.total_bytes, slot.end
        rate = slot.rate
        if rate is None:
            rate = slot.rate = SlotRate(self._now)
        # Nothing came before this step; its own entries came evenly.
        bytes_s, events_s = size / self._step, count / self._step
        if (idle := self._now - self._step - rate.at) > 0:
            rate.bytes, rate.events = self._faded(rate.bytes, idle), self._faded(rate.events, idle)
        # Written out: thousands of slots are sampled in one turn, and a loop over windows takes twice the time.
        v, w, x, y, z = self._weights
        a, b, c, d, e = rate.bytes
        rate.bytes = [
            a + (bytes_s - a) * v,
            b + (bytes_s - b) * w,
            c + (bytes_s - c) * x,
            d + (bytes_s - d) * y,
            e + (bytes_s - e) * z,
        ]
        a, b, c, d, e = rate.events
        rate.events = [
            a + (events_s - a) * v,
            b + (events_s - b) * w,
            c + (events_s - c) * x,
            d + (events_s - d) * y,
            e + (events_s - e) * z,
        ]
        rate.at = self._now

    def _faded(self, averages: list[float], idle: float) -> list[float]:
        return [average * math.exp(-idle / tau) for average, tau in zip(averages, self._taus, strict=True)]

    def forget(self, slots: Iterable[Slot]) -> None:
        """Drop the averages of slots that got nothing for a long time."""
        faded = self._now - FADED * self._taus[TWENTY] / WINDOWS_S[TWENTY]
        for slot in slots:
            if slot.rate is not None and slot.rate.at < faded:
                slot.rate = None

    # Reading

    def of_slot(self, slot: Slot) -> Rate:
        return Rate(self.bytes_of(slot)[WATCHED], self.events_of(slot)[WATCHED])

    def of_segment(self, stream: Stream, segment: Segment) -> Rate:
        """The rates of an active segment: the sums of its slots' rates."""
        return self._watched(slots_of(stream, segment))

    def of_slots(self, slots: Iterable[Slot]) -> Rate:
        return self._watched(slots)

    def _watched(self, slots: Iterable[Slot | None]) -> Rate:
        # One pass for one window: a look at ten thousand slots holds up the loop for milliseconds.
        bytes_s = events_s = 0.0
        now, tau = self._now, self._taus[WATCHED]
        for slot in slots:
            if slot is not None and (rate := slot.rate) is not None:
                left = 1.0 if rate.at == now else math.exp((rate.at - now) / tau)
                bytes_s += rate.bytes[WATCHED] * left
                events_s += rate.events[WATCHED] * left
        correction = self._corrections[WATCHED]
        return Rate(bytes_s * correction, events_s * correction)

    def total(self, slots: Iterable[Slot | None], *, by_events: bool) -> Averages:
        """All windows of the sum."""
        sums = list(NOTHING)
        for slot in slots:
            if slot is not None and (rate := slot.rate) is not None:
                averages = rate.events if by_events else rate.bytes
                if (idle := self._now - rate.at) > 0:
                    averages = self._faded(averages, idle)
                sums = list(map(float.__add__, sums, averages))
        return tuple(map(float.__mul__, sums, self._corrections))

    def bytes_of(self, slot: Slot) -> Averages:
        """All windows."""
        return NOTHING if slot.rate is None else self._read(slot.rate.bytes, slot.rate.at)

    def events_of(self, slot: Slot) -> Averages:
        """All windows."""
        return NOTHING if slot.rate is None else self._read(slot.rate.events, slot.rate.at)

    def _read(self, averages: list[float], at: float) -> Averages:
        idle = self._now - at
        faded = averages if idle <= 0 else self._faded(averages, idle)
        return tuple(map(float.__mul__, faded, self._corrections))


def slots_of(stream: Stream, segment: Segment) -> Iterator[Slot | None]:
    """An active segment's slots in key order; None for a slot that memory lacks because it was never written."""
    return map(stream.known_slot, _key_order(stream.slot_count)[segment.first : segment.last])


@lru_cache(maxsize=64)
def _key_order(slots: int) -> Sequence[int]:
    return slots_in_key_order(slots)
