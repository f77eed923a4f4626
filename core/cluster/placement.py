"""Where new slots go: to the containers with the least load. Pure.

A container's load is the sum of its share of all slots and its share of the bytes that are appended. Slots count from
the moment at which their place is decided, so that many streams that are created together spread, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from core.streams.state import StreamState

RATES_S: Final = 10.0
"""The least time over which bytes are counted."""


class Loads:
    """The loads of some containers. Times are seconds that never go back."""

    def __init__(self) -> None:
        self._slots: defaultdict[int, float] = defaultdict(float)
        self._bytes: Mapping[int, int] = {}  # ever appended, when they were counted last
        self._rates: dict[int, float] = {}  # bytes a second
        self._counted_s = 0.0

    def __repr__(self) -> str:
        return f"<Loads: slots {dict(self._slots)}, bytes/s {self._rates}>"

    def add(self, state: StreamState, times: int = 1) -> None:
        """The slots of a stream have come; with -1, they are gone."""
        for segment in state.current.segments:
            self._slots[state.container_of(segment)] += times * (segment.last - segment.first)

    def expect(self, placement: Sequence[int], slots: int) -> None:
        """So many slots are on their way to these containers; with a negative number, they have arrived or will not."""
        for one in placement:
            self._slots[one] += slots / len(placement)

    def observe(self, appended: Mapping[int, int], now_s: float) -> None:
        """Take the rates from the bytes that were ever appended, by container, if it is time."""
        passed = now_s - self._counted_s
        if self._bytes and passed < RATES_S:
            return
        if self._bytes and passed > 0:
            self._rates = {one: max(0, size - self._bytes.get(one, size)) / passed for one, size in appended.items()}
        self._bytes, self._counted_s = dict(appended), now_s

    def order(self, containers: Collection[int]) -> list[int]:
        """Containers with the least load first."""
        slots = sum(self._slots[one] for one in containers) or 1
        rates = sum(self._rates.get(one, 0.0) for one in containers) or 1.0
        return sorted(containers, key=lambda one: (self._slots[one] / slots + self._rates.get(one, 0.0) / rates, one))

    def place(self, slots: int, containers: Collection[int], *, spread: bool) -> Sequence[int]:
        """The containers for the slots of one stream, run by run: all of them, or the one with the least load."""
        return self.order(containers)[: slots if spread else 1]
