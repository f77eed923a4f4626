"""Group offsets and transactional ids expire by the store's one clock: over restarts, and whatever the date does."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.clock import ManualClock
from tests.gateway.transactions.services import Services, run, serving

pytestmark = pytest.mark.slow

DAY_S = 86_400
YEAR_MS = 365 * DAY_S * 1_000


async def begin(services: Services) -> None:
    """A committed offset, and an id that nobody uses, both stored."""
    await services.create("t")
    who = await services.init("x")
    await services.write(who, "t", b"a")
    await services.commit_offset(who, 7)
    await services.end(who)


async def look(services: Services) -> tuple[bool, bool]:
    """The result of a sweep: whether the offset and the id are still there."""
    await services.groups.sweep()
    await services.groups._journal.settle()
    await services.transactions.forget_unused()
    return services.offset() is not None, services.transactions.get("x") is not None


def test_hourly_restarts(tmp_path: Path) -> None:
    """Both go a week after their last use though the process never lives for more than an hour, and not earlier."""

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock) as services:
            await begin(services)
        for number in range(1, 8):
            for _ in range(3):
                clock.advance(DAY_S / 3 - 3_600)
                async with serving(tmp_path, clock=clock) as services:
                    clock.advance(3_600)
                    left = await look(services)
            assert left == ((True, True) if number < 7 else (False, False))

    run(scenario())


@pytest.mark.parametrize("jump_ms", [20 * DAY_S * 1_000, 73 * YEAR_MS, -53 * YEAR_MS])
@pytest.mark.parametrize("restart", [False, True])
def test_wrong_date(tmp_path: Path, jump_ms: int, restart: bool) -> None:
    """A date that is wrong for less than an hour costs neither, nor what is committed meanwhile; both go later."""

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock) as services:
            await begin(services)
            if not restart:
                clock.jump_wall(jump_ms)
                assert await look(services) == (True, True)
        if restart:
            clock.jump_wall(jump_ms)
        async with serving(tmp_path, clock=clock) as services:
            assert await look(services) == (True, True)
            again = await services.init("x")
            await services.commit_offset(again, 8)
            await services.end(again)
            clock.advance(3_000)
            clock.jump_wall(-jump_ms)
            assert await look(services) == (True, True)
            clock.advance(5 * DAY_S)
            assert await look(services) == (True, True)
            clock.advance(2 * DAY_S)
            assert await look(services) == (False, False)

    run(scenario())


@pytest.mark.parametrize("jump_ms", [YEAR_MS, -YEAR_MS])
def test_transaction_under_way(tmp_path: Path, jump_ms: int) -> None:
    """A date that is wrong after a restart ends no transaction before its time, and keeps none open beyond it."""

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock) as services:
            await services.create("t")
            who = await services.init("x", timeout_ms=60_000)
            await services.write(who, "t", b"a")
            clock.advance(30)
        clock.jump_wall(jump_ms)
        async with serving(tmp_path, clock=clock) as services:
            await services.transactions.abort_overdue()
            assert services.known().is_ongoing
            clock.advance(61)
            await services.transactions.abort_overdue()
            assert not services.known().is_ongoing

    run(scenario())
