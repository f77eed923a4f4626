"""All topics of this process as rows, to be searched and sorted.

Keeps: the rows are counted in turns, at most every `AGE_S_MAX` and in a fifth of the time, whatever the number of
requests. Sorting goes in pieces of `PIECE` rows, so that no step holds the loop, nor the interpreter, for long.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.clock import Clock
from core.store import Store
from core.streams.live import Stream
from core.turns import Turn
from gateway.http.topic_models import TopicRow
from gateway.http.views import status_of
from gateway.kafka_configs.topic_config import config_of
from gateway.metrics.activity import Activity, StreamBytes, active_segments

AGE_S_MAX: Final = 1.0
REST: Final = 4
"""The rest between two counts, as a multiple of the time of the last one."""
PIECE: Final = 5_000

ORDERS: Final[Mapping[str, Callable[[TopicRow], Any]]] = {
    "name": lambda row: row.name,
    "partitions": lambda row: (row.partitions, row.name),
    "segments": lambda row: (row.segments, row.name),
    "bytes": lambda row: (row.bytes, row.name),
    "rate_bytes": lambda row: (row.rate_bytes, row.name),
    "rate_events": lambda row: (row.rate_events, row.name),
    "retention_ms": lambda row: (row.retention_ms if row.retention_ms >= 0 else float("inf"), row.name),
    "groups": lambda row: (row.groups, row.name),
}


@dataclass(slots=True)
class TopicTable:
    """The rows of the last count."""

    store: Store
    activity: Activity
    clock: Clock
    _rows: list[TopicRow] = field(default_factory=list)
    _fresh_until_s: float = float("-inf")
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def rows(self) -> Sequence[TopicRow]:
        """Every topic's, by name, without its groups."""
        async with self._counting:
            began_s = self.clock.monotonic_s()
            if began_s >= self._fresh_until_s:
                turn, rows = Turn(), []
                for stream in list(self.store.streams):
                    rows.append(await self._row(stream, turn))
                    await turn.breathe()
                self._rows = await in_order(rows, "name", descending=False)
                now_s = self.clock.monotonic_s()
                self._fresh_until_s = now_s + max(AGE_S_MAX, REST * (now_s - began_s))
            return self._rows

    async def _row(self, stream: Stream, turn: Turn) -> TopicRow:
        counted = await StreamBytes.counted(stream, turn)
        config, rate = config_of(stream), self.activity.stream_rate(stream)
        return TopicRow.model_construct(
            name=stream.name,
            state=status_of(stream.state),
            partitions=stream.slot_count,
            segments=active_segments(stream),
            bytes=counted.tiers.log + counted.tiers.chunks,
            rate_bytes=rate.bytes_s,
            rate_events=rate.events_s,
            retention_ms=config.retention_ms if config.delete else -1,
            retention_bytes=config.retention_bytes if config.delete else -1,
            compacted=config.compact,
            groups=0,
        )


async def in_order(rows: Sequence[TopicRow], order: str, *, descending: bool) -> list[TopicRow]:
    """The rows, sorted by one of `ORDERS`."""
    key = ORDERS[order]
    if len(rows) <= PIECE:
        return sorted(rows, key=key, reverse=descending)

    def merged() -> list[TopicRow]:
        pieces: Iterable[list[TopicRow]] = (
            sorted(rows[first : first + PIECE], key=key, reverse=descending) for first in range(0, len(rows), PIECE)
        )
        return list(heapq.merge(*pieces, key=key, reverse=descending))

    return await asyncio.to_thread(merged)
