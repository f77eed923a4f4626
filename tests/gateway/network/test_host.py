"""What connections of a process share: a defect of one is not the others'."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from gateway.metrics.counters import Metrics
from gateway.network.host import Host, ServerLimits
from gateway.network.turns import FairTurns


class Owner:
    """Has answers that are due."""

    def __init__(self, name: str, told: list[str], error: Exception | None = None) -> None:
        self._name, self._told, self._error = name, told, error

    def flush(self) -> None:
        if self._error is not None:
            raise self._error
        self._told.append(f"{self._name} is answered")

    def abort(self) -> None:
        self._told.append(f"{self._name} has ended")


def test_a_defect_in_one_connection_keeps_no_others_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def scenario() -> list[str]:
        host, told = Host(ServerLimits(), Metrics()), list[str]()
        for _ in range(2):
            for owner in (Owner("a", told), Owner("b", told, ValueError("no such buffer")), Owner("c", told)):
                host.flush_soon(owner)
            await asyncio.sleep(0)
        return told

    assert asyncio.run(scenario()) == 2 * ["a is answered", "b has ended", "c is answered"]
    assert caplog.text.count("no such buffer") == 2


def test_a_defect_in_one_request_keeps_nobody_in_line(caplog: pytest.LogCaptureFixture) -> None:
    """Neither those behind it nor other parties, whose turns come in later rounds, too."""
    caplog.set_level(logging.ERROR)

    async def scenario() -> list[str]:
        turns, told = FairTurns(asyncio.get_running_loop()), list[str]()

        def fails() -> bool:
            raise ValueError("no such buffer")

        def goes_on(name: str) -> bool:
            told.append(name)
            return False

        parties = [turns.join(f"127.0.0.{n}", "busy") for n in range(2)]
        for _ in range(2):
            for number, party in enumerate(parties):
                turns.wait(party, fails)
                turns.wait(party, partial(goes_on, f"{number} goes on"))
            for _ in range(20):
                await asyncio.sleep(0)
        return told

    assert asyncio.run(scenario()) == 2 * ["0 goes on", "1 goes on"]
    assert caplog.text.count("ValueError: no such buffer") == 4
