"""Nodes tell their loads, and one of them asks for moves."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core import balance
from core.balance import Balance
from core.cluster.balancing import APART_S
from core.cluster.coordination import Owner, Stage
from core.cluster.levels import FIRST, Feature
from core.cluster.loads import Totals
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.support import run, until

MIB = 1 << 20


class Node:
    """A node's part in the balance, whose clock the test moves."""

    def __init__(self, coordinator: Coordinator, node: int, *, moves: bool = True) -> None:
        self.coordinator = coordinator
        self.seat = Seat(coordinator, node)
        self.rates: dict[int, int] = {}
        self.done: dict[int, int] = {}
        self.balance = Balance(self.seat, self._totals, moves=moves)

    def _totals(self) -> dict[int, Totals]:
        own = [one for one, owner in self.coordinator.owners.items() if owner.node == self.seat.node]
        for container in own:
            self.done[container] = self.done.get(container, 0) + self.rates.get(container, 0)
        return {one: Totals(self.done[one], 0, 0, 0) for one in own}

    async def step(self, now_s: float) -> None:
        await self.balance._step(now_s)


def serve(coordinator: Coordinator, container: int, seat: Seat) -> None:
    owner = Owner(node=seat.node, life=seat.life, epoch=container + 1, stage=Stage.SERVING)
    coordinator.owners = {**coordinator.owners, container: owner}


def test_who_has_told_for_longest_asks_for_the_busiest_nodes_sake() -> None:
    async def scenario() -> None:
        coordinator = Coordinator(range(4))
        first, second = Node(coordinator, 7), Node(coordinator, 3)
        for container, node in ((0, first), (1, first), (2, second), (3, second)):
            serve(coordinator, container, node.seat)
        second.rates = {2: 1000 * MIB, 3: 900 * MIB}
        for now_s in range(1_000, 1_000 + int(APART_S), 5):
            await first.step(now_s)
            await second.step(now_s)
        assert coordinator.wishes == {}
        for now_s in (1_100, 1_130):
            await second.step(now_s)
        assert coordinator.wishes == {}, "it is not the one who decides"
        await first.step(1_130)
        assert {container: wish.node for container, wish in coordinator.wishes.items()} == {3: 7}
        assert second.balance.weights()[2] > first.balance.weights()[0]
        coordinator.end(first.seat.life)
        assert coordinator.wishes.keys() == {3}
        assert second.seat.wishes() == {}

    run(scenario())


def test_switched_off_it_tells_and_asks_for_nothing() -> None:
    async def scenario() -> None:
        coordinator = Coordinator(range(2))
        node = Node(coordinator, 1, moves=False)
        Seat(coordinator, 2)
        for container in range(2):
            serve(coordinator, container, node.seat)
        for now_s in range(1_000, 1_200, 10):
            await node.step(now_s)
        assert coordinator.loads.keys() == {1}
        assert coordinator.wishes == {}

    run(scenario())


def test_nothing_is_asked_for_before_all_nodes_know_what_a_wish_is() -> None:
    async def scenario() -> None:
        coordinator = Coordinator(range(2))
        coordinator.level = FIRST
        node = Node(coordinator, 1)
        Seat(coordinator, 2)
        for container in range(2):
            serve(coordinator, container, node.seat)
        for now_s in (1_000, 1_002):
            await node.step(now_s)
        assert coordinator.wishes == {}
        coordinator.level = Feature.WISHES
        await node.step(1_003)
        assert coordinator.wishes.keys() == {1}

    run(scenario())


def test_a_coordinator_that_is_away_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(balance, "LOOK_S", 0.01)
    monkeypatch.setattr(balance, "TELL_S", 0.01)
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        coordinator = Coordinator(range(1))
        node = Node(coordinator, 1)
        node.seat.is_away = True
        node.balance.start()
        await until(lambda: "balance of loads will be tried again" in caplog.text)
        node.seat.is_away = False
        await until(lambda: 1 in coordinator.loads)
        await asyncio.wait_for(node.balance.stop(), 5)

    run(scenario())
