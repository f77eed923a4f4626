"""Who asks for leaders while a container changes its node."""

from __future__ import annotations

import asyncio

from gateway.cluster.nodes import NOBODY
from gateway.cluster.vacancies import RECENT_S, WAIT_S, Vacancies
from tests.core.support import run, until


class Leaders:
    """Who leads what."""

    def __init__(self) -> None:
        self.of = {0: 1, 1: 2}

    def leader(self, container_id: int) -> int:
        return self.of[container_id]


def test_whoever_asks_is_answered_when_the_next_leader_is_there() -> None:
    async def scenario() -> None:
        leaders = Leaders()
        vacancies = Vacancies(leaders, (0, 1))
        vacancies.look()
        assert not vacancies
        await asyncio.wait_for(vacancies.filled({0, 1}), 0.1)
        leaders.of[1] = NOBODY
        vacancies.look()
        assert vacancies
        await asyncio.wait_for(vacancies.filled({0}), 0.1)
        waiting = asyncio.create_task(vacancies.filled({0, 1}))
        await asyncio.sleep(0)
        vacancies.look()
        await asyncio.sleep(0)
        assert not waiting.done(), "nothing has changed"
        leaders.of[1] = 3
        vacancies.look()
        await until(waiting.done)
        assert not vacancies

    run(scenario())


def test_nobody_waits_for_long() -> None:
    """Neither for a container whose leader does not come, nor at all for one that has had none for long."""

    async def scenario() -> None:
        leaders, loop = Leaders(), asyncio.get_running_loop()
        leaders.of[0] = NOBODY
        vacancies = Vacancies(leaders, (0, 1))
        vacancies.look()
        began_s = loop.time()
        await vacancies.filled({0})
        assert WAIT_S - 0.01 <= loop.time() - began_s < RECENT_S
        vacancies._since[0] -= RECENT_S
        vacancies.look()
        await asyncio.wait_for(vacancies.filled({0}), WAIT_S / 2)

    run(scenario())


def test_a_gateway_alone_waits_for_nothing() -> None:
    async def scenario() -> None:
        leaders = Leaders()
        leaders.of[0] = NOBODY
        vacancies = Vacancies(leaders)
        vacancies.look()
        assert not vacancies
        await asyncio.wait_for(vacancies.filled({0}), 0.1)

    run(scenario())
