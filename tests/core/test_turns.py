"""Long work on the event loop gives way to others."""

from __future__ import annotations

import asyncio
import time

import pytest

from core import turns
from core.turns import in_turns, let_go

ITEMS = 20


async def others_run_during(step_s: float) -> int:
    """The number of times that others had the loop while ITEMS steps of this length ran."""
    runs = 0
    done = False

    async def other() -> None:
        nonlocal runs
        while not done:
            runs += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for _ in in_turns(range(ITEMS)):
        until_s = time.monotonic() + step_s
        while time.monotonic() < until_s:
            pass
    done = True
    await task
    return runs


def test_others_run_between_turns() -> None:
    """Steps as long as a turn: others run after each."""
    assert asyncio.run(others_run_during(turns.TURN_S)) >= ITEMS - 1


def test_a_short_work_is_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is done within its turn never gives way."""
    monkeypatch.setattr(turns, "TURN_S", 60.0)
    assert asyncio.run(others_run_during(0.0)) == 0


def test_many_entries_go_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With turns of no length, others run after each entry; what is left at the end is an empty dictionary."""
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    entries = dict.fromkeys(range(ITEMS))
    seen: list[int] = []

    async def scenario() -> None:
        going = asyncio.create_task(let_go(entries))
        while not going.done():
            seen.append(len(entries))
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) >= ITEMS
    assert entries == {}
