"""The last hour of groups' lags and the last minutes of the throughput, sampled whether somebody looks or not.

Keeps: `SAMPLES` samples of `GROUPS_MAX` groups and of `PARTITIONS_MAX` partitions of theirs at most, those that lag
most first; some 4 MB in all. A restart forgets them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from core.clock import Clock
from core.turns import in_turns
from gateway.groups.lag import Lags
from gateway.http.heat import HeatMemory
from gateway.http.rings import Rings
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


class LagMemory:
    """The lags of groups, and of their partitions."""

    def __init__(self, lags: Lags, clock: Clock) -> None:
        self._lags = lags
        self._clock = clock
        self._groups: Rings[str] = Rings(GROUPS_MAX, SAMPLES)
        self._partitions: Rings[tuple[str, str, int]] = Rings(PARTITIONS_MAX, SAMPLES)
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
    heat: HeatMemory


async def remember(memory: Callable[[], Memory | None]) -> None:
    """Sample for ever. There is no memory before clients are served."""
    lags_at = 0
    while True:
        present = memory()
        if present is not None:
            present.totals.sample()
            await present.heat.sample()
            if lags_at == 0:
                await present.lags.sample()
            lags_at = (lags_at + 1) % LAGS_EVERY
        await asyncio.sleep(TOTALS_PERIOD_S)
