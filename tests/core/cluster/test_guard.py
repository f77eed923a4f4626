"""The guard before acknowledgements."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from core.cluster.guard import Guard
from core.errors import CoordinatorAway
from tests.core.support import run, until


class Coordinator:
    """Answers reads when it is let; the answer is what was so when the read began."""

    def __init__(self) -> None:
        self.epochs = {1: 7, 2: 8}
        self.reads = 0
        self.expected: list[Mapping[int, int]] = []
        self.absences = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, expected: Mapping[int, int]) -> Mapping[int, int]:
        self.reads += 1
        self.expected.append(dict(expected))
        if self.absences:
            self.absences -= 1
            raise CoordinatorAway("no answer")
        found = dict(self.epochs)
        await self.gate.wait()
        return found


def test_it_compares_the_epoch() -> None:
    async def scenario() -> None:
        guard = Guard(Coordinator().read)
        assert await guard.is_ours(1, 7)
        assert not await guard.is_ours(1, 6)
        assert not await guard.is_ours(3, 7)
        await guard.close()

    run(scenario())


def test_questions_that_come_during_a_read_share_the_next() -> None:
    """They are not answered by the read under way, which may have begun before a change that came before them."""

    async def scenario() -> None:
        coordinator = Coordinator()
        guard = Guard(coordinator.read)
        coordinator.gate.clear()
        first = asyncio.create_task(guard.is_ours(1, 7))
        await until(lambda: coordinator.reads == 1)
        coordinator.epochs[1] = 9
        later = [asyncio.create_task(guard.is_ours(1, 7)) for _ in range(20)]
        await asyncio.sleep(0)
        coordinator.gate.set()
        assert await first
        assert await asyncio.gather(*later) == [False] * 20
        assert coordinator.reads == 2
        await guard.close()

    run(scenario())


def test_a_read_is_told_what_those_who_share_it_expect() -> None:
    """Of two epochs of one container the newer one: whoever asks for the former is told that it is not."""

    async def scenario() -> None:
        coordinator = Coordinator()
        guard = Guard(coordinator.read)
        asked = [guard.is_ours(*one) for one in ((1, 6), (1, 7), (2, 8), (1, 6))]
        assert await asyncio.gather(*asked) == [False, True, True, False]
        assert coordinator.expected == [{1: 7, 2: 8}]
        assert await guard.is_ours(2, 8)
        assert coordinator.expected[1:] == [{2: 8}]
        await guard.close()

    run(scenario())


def test_it_waits_while_the_coordinator_is_away() -> None:
    async def scenario() -> None:
        coordinator = Coordinator()
        coordinator.absences = 2
        guard = Guard(coordinator.read)
        assert await guard.is_ours(2, 8)
        assert coordinator.reads == 3
        await guard.close()

    run(scenario())


def test_its_end_leaves_nobody_waiting() -> None:
    async def scenario() -> None:
        coordinator = Coordinator()
        coordinator.gate.clear()
        guard = Guard(coordinator.read)
        waiting = [asyncio.create_task(guard.is_ours(1, 7))]
        await until(lambda: coordinator.reads == 1)
        waiting.append(asyncio.create_task(guard.is_ours(1, 7)))
        await asyncio.sleep(0)
        await guard.close()
        for one in waiting:
            with pytest.raises(asyncio.CancelledError):
                await one

    run(scenario())
