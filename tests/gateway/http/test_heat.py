"""The memory of the map's colours: the loads of segments on a grid of time, whatever the wall clock does."""

from __future__ import annotations

from pathlib import Path

from core.clock import ManualClock
from gateway.http.heat import PERIOD_MS, SAMPLES, HeatMemory
from gateway.http.models import HeatHistory
from gateway.metrics.activity import Activity
from tests.core.scaling.test_scaler import load, scaling_store
from tests.core.support import make, run

LOAD = 90
HOUR_MS = 3_600_000


def loads(told: HeatHistory) -> list[bool | None]:
    """The samples of the only segment that is told of: True for the load of the test."""
    (segment,) = told.segments
    return [None if load is None else abs(load - LOAD) <= 2 for load in segment.loads]


def test_what_is_remembered(tmp_path: Path) -> None:
    """One sample a period, gaps where none was taken, nothing of idle streams; a clock that is set forgets no order."""

    async def scenario() -> None:
        clock = ManualClock()
        store, scaler = await scaling_store(tmp_path, clock)
        stream, idle = await make(store, "busy", slots=4), await make(store, "idle")
        memory = HeatMemory(store, Activity(store), clock)

        async def a_minute() -> None:
            await load(clock, scaler, stream, [0, LOAD, 0, 0], 1)
            await memory.sample()
            await memory.sample()  # the same period: it counts once

        assert (await memory.of(stream, 0)).segments == []
        for _ in range(3):
            await a_minute()
        told = await memory.of(stream, 0)
        assert loads(told) == [True, None, None, True, None, None, True]
        assert (told.end_ms, told.policy) == (clock.wall_ms() // PERIOD_MS * PERIOD_MS, "bytes")
        assert loads(await memory.of(stream, clock.wall_ms() - 3 * PERIOD_MS)) == [True, None, None, True]
        assert (await memory.of(idle, 0)).segments == []

        clock.jump_wall(-HOUR_MS)
        await a_minute()
        assert loads(await memory.of(stream, 0))[-2:] == [True, True]

        clock.jump_wall(2 * SAMPLES * PERIOD_MS)
        await a_minute()
        assert loads(await memory.of(stream, 0)) == [True]
        await store.close()

    run(scenario())
