"""What connections of a process share: a defect of one is not the others'."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.metrics.counters import Metrics
from gateway.network.host import Host, ServerLimits


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
