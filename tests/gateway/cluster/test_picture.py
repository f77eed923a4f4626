"""What a node sees of its cluster, for people."""

from __future__ import annotations

from gateway.cluster.nodes import Nodes
from gateway.cluster.picture import GONE_S, ContainerSeen, NodeSeen, Picture
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.support import run


def test_nodes_that_live_and_those_that_have_gone() -> None:
    """One that has gone is told of for an hour, unless it comes back."""

    async def scenario() -> None:
        coordinator, now_s = Coordinator(range(3)), [100.0]
        seats = [Seat(coordinator, number) for number in (1, 2)]
        picture = Picture(Nodes(1, lambda _: False), dict, seats[0], lambda: now_s[0])
        claim = await seats[1].claim(2)
        assert claim is not None
        assert picture.is_certain
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2)]
        assert picture.containers()[2] == ContainerSeen(2, 2, claim.epoch, "opening")
        assert picture.containers()[0] == ContainerSeen(0, -1, -1, "nobody")
        coordinator.end(seats[1].life)
        now_s[0] += 60
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2, gone_s=60.0)]
        assert picture.containers()[2].stage == "nobody"
        life = coordinator.begin(2)
        assert picture.nodes() == [NodeSeen(1), NodeSeen(2)]
        coordinator.end(life.life)
        now_s[0] += GONE_S + 1
        assert picture.nodes() == [NodeSeen(1)]

    run(scenario())


def test_processes_of_one_machine_are_seen_by_what_they_tell() -> None:
    picture = Picture(Nodes(1, lambda _: True), lambda: {0: 5}, None, lambda: 0.0)
    assert picture.nodes() == [NodeSeen(1)]
    assert picture.containers() == [ContainerSeen(0, 1, 5, "serving")]
