"""The last hour of groups' lags and the last minutes of the throughput, sampled whether somebody looks or not.

Keeps: `SAMPLES` samples of `GROUPS_MAX` groups and of `PARTITIONS_MAX` partitions of theirs at most, those that lag
most first; some 4 MB in all. A restart forgets them.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Generic, TypeVar

from core.clock import Clock
from core.turns import in_turns
from gateway.groups.lag import Lags
from gateway.metrics.counters import Metrics
from gateway.refusals import Refusal

TOTALS_PERIOD_S: Final = 2.0
TOTALS: Final = 300
LAGS_EVERY: Final = 5
"""Lags are sampled every fifth time."""
PERIOD_S: Final = LAGS_EVERY * TOTALS_PERIOD_S
SAMPLES: Final = 360
GROUPS_MAX: Final = 500
PARTITIONS_MAX: Final = 1_000
UNKNOWN: Final = -1

_K = TypeVar("_K", bound=Hashable)


class Rings(Generic[_K]):
    """A ring of samples for each key. One that has no sample for a whole round is forgotten."""

    def __init__(self, keys_max: int, samples: int = SAMPLES) -> None:
        self._rings: dict[_K, array[int]] = {}
        self._last: dict[_K, int] = {}  # the round of a key's last sample
        self._keys_max = keys_max
        self._samples = samples
        self._round = 0

    def __len__(self) -> int:
        return len(self._rings)

    def add(self, values: Mapping[_K, int]) -> None:
        """One round of samples; of keys beyond the bound, those that are known stay."""
        self._round += 1
        at = self._round % self._samples
        for key in [key for key, last in self._last.items() if self._round - last >= self._samples]:
            del self._rings[key], self._last[key]
        for ring in self._rings.values():
            ring[at] = UNKNOWN
        for key, value in values.items():
            ring_of = self._rings.get(key)
            if ring_of is None:
                if len(self._rings) >= self._keys_max:
                    continue
                ring_of = self._rings[key] = array("q", [UNKNOWN]) * self._samples
            ring_of[at] = value
            self._last[key] = self._round

    def of(self, key: _K) -> list[int | None]:
        """A key's samples, oldest first, from its first known one on."""
        ring = self._rings.get(key)
        if ring is None:
            return []
        at = self._round % self._samples + 1
        values = [None if value == UNKNOWN else value for value in (*ring[at:], *ring[:at])]
        first = next((n for n, value in enumerate(values) if value is not None), len(values))
        return values[first:]


class LagMemory:
    """The lags of groups, and of their partitions."""

    def __init__(self, lags: Lags, clock: Clock) -> None:
        self._lags = lags
        self._clock = clock
        self._groups: Rings[str] = Rings(GROUPS_MAX)
        self._partitions: Rings[tuple[str, str, int]] = Rings(PARTITIONS_MAX)
        self.sampled_ms = 0

    def of_group(self, name: str) -> list[int | None]:
        return self._groups.of(name)

    def of_partition(self, name: str, topic: str, partition: int) -> list[int | None]:
        return self._partitions.of((name, topic, partition))

    async def sample(self) -> None:
        """One round."""
        groups = sorted(await self._lags.refresh(), key=lambda group: -group.lag)[:GROUPS_MAX]
        self._groups.add({group.name: group.lag for group in groups})
        found: dict[tuple[str, str, int], int] = {}
        async for group in in_turns(groups):
            if len(found) >= PARTITIONS_MAX:
                break
            try:
                partitions = await self._lags.of_partitions(group.name)
            except Refusal:  # it has another home by now
                continue
            for one in sorted(partitions, key=lambda one: -one.lag)[: PARTITIONS_MAX - len(found)]:
                found[group.name, one.topic, one.partition] = one.lag
        self._partitions.add(found)
        self.sampled_ms = self._clock.wall_ms()


class TotalsMemory:
    """The bytes and records that came and went, as counters."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=TOTALS + 1)
        self.sampled_ms = 0

    def sample(self) -> None:
        metrics = self._metrics
        self._samples.append((metrics.produced_bytes, metrics.fetched_bytes, metrics.produced_records))
        self.sampled_ms = self._clock.wall_ms()

    def added(self) -> tuple[list[int], list[int], list[int]]:
        """In each period, oldest first: bytes in, bytes out, records in."""
        bytes_in, bytes_out, records_in = (
            [after[at] - before[at] for before, after in pairwise(self._samples)] for at in range(3)
        )
        return bytes_in, bytes_out, records_in


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered."""

    lags: LagMemory
    totals: TotalsMemory


async def remember(memory: Callable[[], Memory | None]) -> None:
    """Sample for ever. There is no memory before clients are served."""
    lags_at = 0
    while True:
        present = memory()
        if present is not None:
            present.totals.sample()
            if lags_at == 0:
                await present.lags.sample()
            lags_at = (lags_at + 1) % LAGS_EVERY
        await asyncio.sleep(TOTALS_PERIOD_S)
