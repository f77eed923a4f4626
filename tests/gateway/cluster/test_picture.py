"""What a node sees of its cluster, for people."""

from __future__ import annotations

from dataclasses import replace

from core.clock import ManualClock
from gateway.cluster.nodes import Nodes
from gateway.cluster.picture import ContainerSeen, NodeSeen, Picture
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.support import run


def test_nodes_that_live_and_those_that_have_gone() -> None:
    """One that has gone is told of, with what it had, until it is back or forgotten."""

    async def scenario() -> None:
        coordinator, clock = Coordinator(range(3)), ManualClock()
        seats = [Seat(coordinator, number) for number in (1, 2)]
        picture = Picture(Nodes(1, lambda _: False), dict, seats[0], clock.wall_ms)
        claim = await seats[1].claim(2)
        assert claim is not None
        assert picture.is_certain
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2)]
        assert picture.containers()[2] == ContainerSeen(2, 2, claim.epoch, "opening")
        assert picture.containers()[0] == ContainerSeen(0, -1, -1, "nobody")
        coordinator.end(seats[1].life)
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2, end="gone", served=(2,))]
        ended = replace(coordinator.members[2], ended_ms=clock.wall_ms() - 60_000)
        coordinator.members[2] = ended
        assert picture.nodes()[1] == NodeSeen(2, end="gone", ended_s=60.0, served=(2,))
        coordinator.members[2] = replace(ended, has_left=True, ended_ms=clock.wall_ms() + 60_000)
        assert picture.nodes()[1] == NodeSeen(2, end="stopped", ended_s=0.0, served=(2,)), "another clock is ahead"
        assert picture.containers()[2].stage == "nobody"
        life = coordinator.begin(2)
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2)]
        coordinator.end(life.life)
        assert await seats[0].forget(2)
        assert picture.nodes() == [NodeSeen(1)]

    run(scenario())


def test_the_node_that_looks_has_not_ended_though_it_has_lost_its_lease() -> None:
    """It would be told of twice to clients that ask for fenced brokers, too, and could be forgotten while it runs."""

    async def scenario() -> None:
        coordinator = Coordinator(range(3))
        seats = [Seat(coordinator, number) for number in (1, 2)]
        picture = Picture(Nodes(1, lambda _: False), dict, seats[0], ManualClock().wall_ms)
        coordinator.end(seats[0].life)
        assert coordinator.members.keys() == {1}
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2)]
        assert not picture.is_certain

    run(scenario())


def test_processes_of_one_machine_are_seen_by_what_they_tell() -> None:
    picture = Picture(Nodes(1, lambda _: True), lambda: {0: 5}, None, lambda: 0)
    assert picture.nodes() == [NodeSeen(1)]
    assert picture.containers() == [ContainerSeen(0, 1, 5, "serving")]
