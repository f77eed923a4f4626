"""All topics of this process as rows, to be searched and sorted.

Keeps: the rows are counted in turns, at most every `AGE_S_MAX` and in a fifth of the time, whatever the number of
requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from core.clock import Clock
from core.store import Store
from core.streams.live import Stream
from core.turns import Turn
from gateway.http.sorting import BY_NAME, in_order
from gateway.http.topic_models import TopicRow
from gateway.http.views import status_of
from gateway.kafka_configs.topic_config import config_of
from gateway.metrics.activity import Activity, StreamBytes, active_segments

AGE_S_MAX: Final = 1.0
REST: Final = 4
"""The rest between two counts, as a multiple of the time of the last one."""


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
                self._rows = await in_order(rows, BY_NAME)
                now_s = self.clock.monotonic_s()
                self._fresh_until_s = now_s + max(AGE_S_MAX, REST * (now_s - began_s))
            return self._rows

    async def _row(self, stream: Stream, turn: Turn) -> TopicRow:
        counted = await StreamBytes.counted(stream.written_slots(), turn)
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
