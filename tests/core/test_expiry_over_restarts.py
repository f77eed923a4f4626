"""Expiry in the store, over stops, kills and wrong dates: nothing expires early, everything in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.premises import TIME_FILE
from core.store import Store
from core.streams.live import Slot
from core.trusted_time import HOLD_MS
from tests.core.support import append, make, open_store, retention_of, run

pytestmark = pytest.mark.slow

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
DAY_MS = DAY_S * 1_000
YEAR_MS = 365 * DAY_MS
WRITER = 7


@asynccontextmanager
async def life(directory: Path, clock: ManualClock, *, clean: bool = True) -> AsyncIterator[tuple[Store, Slot]]:
    """One run of the store, which has a topic that keeps records for two days."""
    store = await open_store(directory, clock=clock)
    stream = store.streams.get("s") or await make(store, retention_ms=2 * DAY_MS)
    yield store, stream.slot(0)
    await store.close(clean=clean)


async def begin(directory: Path, clock: ManualClock) -> None:
    """A record of now, from an idempotent writer."""
    async with life(directory, clock) as (_, slot):
        await append(slot, b"x", timestamp=clock.wall_ms(), writer=(WRITER, 0, 0))


async def look(store: Store) -> None:
    await retention_of(store).enforce()


def held(slot: Slot) -> tuple[int, bool]:
    """Records, and whether the writer is known."""
    return slot.end - slot.start, WRITER in (slot.writers or {})


@pytest.mark.parametrize(("down_s", "clean"), [(5, False), (2 * HOUR_S, True)])
def test_hourly_restarts(tmp_path: Path, down_s: int, clean: bool) -> None:
    """With a restart every hour, down for seconds or for hours, things still expire, and not earlier."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        began_s = clock.monotonic_s()
        while clock.monotonic_s() - began_s < 2.5 * DAY_S:
            clock.advance(down_s)
            async with life(tmp_path, clock, clean=clean) as (store, slot):
                clock.advance(HOUR_S)
                await look(store)
                old_s = clock.monotonic_s() - began_s
                if old_s <= DAY_S:
                    assert held(slot) == (1, True)
                elif old_s <= 2 * DAY_S:
                    assert held(slot)[0] == 1
        assert held(slot) == (0, False)

    run(scenario())


@pytest.mark.parametrize("jump_ms", [30 * DAY_MS, 73 * YEAR_MS, -53 * YEAR_MS])
def test_wrong_date_at_a_start(tmp_path: Path, jump_ms: int) -> None:
    """A machine that comes up with a wrong date, and has it set right within the hour, loses nothing then or later."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        clock.jump_wall(jump_ms)
        async with life(tmp_path, clock) as (store, slot):
            await look(store)
            clock.advance(0.9 * HOUR_S)
            await look(store)
            assert held(slot) == (1, True)
            clock.jump_wall(-jump_ms)
            await look(store)
            for _ in range(20):
                clock.advance(HOUR_S)
                await look(store)
            assert held(slot) == (1, True)
            clock.advance(DAY_S + 8 * HOUR_S)
            await look(store)
            assert held(slot) == (0, False)

    run(scenario())


@pytest.mark.parametrize("jump_ms", [30 * DAY_MS, -30 * DAY_MS])
def test_jump_while_it_runs(tmp_path: Path, jump_ms: int) -> None:
    """A jump under way, also one that is seen by nobody before the next append, forgets no writer and no record."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        async with life(tmp_path, clock) as (store, slot):
            clock.jump_wall(jump_ms)
            await append(slot, b"y", timestamp=clock.wall_ms(), writer=(WRITER + 1, 0, 0))
            clock.advance(0.5 * HOUR_S)
            await look(store)
            clock.jump_wall(-jump_ms)
            for _ in range(5):
                clock.advance(HOUR_S)
                await look(store)
            assert held(slot) == (2, True)
            assert WRITER + 1 in (slot.writers or {})

    run(scenario())


def test_clock_set_right_after_the_start(tmp_path: Path) -> None:
    """A machine comes up in 1970, is written to, and hears of the right date an hour later: writers stay known."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        clock.advance(DAY_S / 2)
        clock.jump_wall(-53 * YEAR_MS)
        async with life(tmp_path, clock) as (store, slot):
            await append(slot, b"y", timestamp=clock.wall_ms() + 53 * YEAR_MS, writer=(WRITER + 1, 0, 0))
            clock.advance(HOUR_S)
            clock.jump_wall(53 * YEAR_MS)
        async with life(tmp_path, clock) as (store, slot):
            clock.advance(2 * HOUR_S)
            await look(store)
            clock.advance(HOUR_S)
            await look(store)
            assert held(slot) == (2, True)
            assert WRITER + 1 in (slot.writers or {})

    run(scenario())


def test_month_off(tmp_path: Path) -> None:
    """After a month's stop entries that are too old go an hour later, and newer ones stay."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        clock.advance(30 * DAY_S)
        async with life(tmp_path, clock) as (store, slot):
            await append(slot, b"y", timestamp=clock.wall_ms(), writer=(WRITER + 1, 0, 0))
            clock.advance(HOUR_S - 1)
            await look(store)
            assert held(slot) == (2, True)
            clock.advance(1)
            await look(store)
            assert held(slot) == (1, False)
            assert WRITER + 1 in (slot.writers or {})

    run(scenario())


@pytest.mark.parametrize("left", [None, b"", b"not what was written"])
def test_without_what_the_last_run_left(tmp_path: Path, left: bytes | None) -> None:
    """Without the file, or with a damaged one, the newest log file tells a time that has been."""

    async def scenario() -> None:
        clock = ManualClock()
        await begin(tmp_path, clock)
        file = tmp_path / TIME_FILE
        file.unlink() if left is None else file.write_bytes(left)
        clock.advance(30 * DAY_S)
        async with life(tmp_path, clock) as (store, slot):
            await look(store)
            assert held(slot) == (1, True)
            clock.advance(HOLD_MS / 1_000)
            await look(store)
            assert held(slot) == (0, False)

    run(scenario())
