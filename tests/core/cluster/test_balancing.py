"""Which container moves: never back and forth, never without end, one at a time, with time between."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from core.cluster.balancing import APART_S, BUSY, GAIN, WISH_S, Balancer, Move, Scene, filling, loads_of, next_move
from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.loads import BASE_WEIGHT

WEIGHTS = st.floats(BASE_WEIGHT, 1.0)
SPREAD = st.lists(st.lists(WEIGHTS, max_size=8), min_size=1, max_size=6)


def nodes_of(spread: Iterable[Iterable[float]]) -> dict[int, dict[int, float]]:
    """Nodes from 1 on, with containers from 0 on."""
    container, nodes = 0, dict[int, dict[int, float]]()
    for node, weights in enumerate(spread, 1):
        nodes[node] = {}
        for weight in weights:
            nodes[node][container] = weight
            container += 1
    return nodes


def moved(nodes: Mapping[int, Mapping[int, float]], move: Move) -> dict[int, dict[int, float]]:
    after = {node: dict(containers) for node, containers in nodes.items()}
    after[move.target][move.container] = after[move.source].pop(move.container)
    return after


def squares(nodes: Mapping[int, Mapping[int, float]]) -> float:
    return sum(load**2 for load in loads_of(nodes).values())


@given(SPREAD)
def test_moves_come_to_an_end_and_none_is_undone(spread: list[list[float]]) -> None:
    nodes = nodes_of(spread)
    count = sum(map(len, spread))
    seen: list[dict[int, dict[int, float]]] = []
    while (move := next_move(nodes)) is not None:
        before, most = squares(nodes), loads_of(nodes)[move.source]
        seen.append(nodes)
        nodes = moved(nodes, move)
        assert squares(nodes) < before
        assert nodes not in seen
        assert max(loads_of(nodes)[move.source], loads_of(nodes)[move.target]) <= (1 - GAIN) * most
        assert len(seen) <= 2 * count, "more moves than containers, twice"
    loads = loads_of(nodes)
    busiest = max(loads, key=lambda node: loads[node])
    if len(nodes) > 1 and loads[busiest] > BUSY * sum(loads.values()) / len(loads):
        least = min(loads.values())
        for weight in nodes[busiest].values():
            assert max(loads[busiest] - weight, least + weight) > (1 - GAIN) * loads[busiest] - 1e-9


@given(SPREAD)
def test_a_node_that_joins_is_filled_up_to_the_mean(spread: list[list[float]]) -> None:
    nodes = nodes_of([*spread, []])
    joined = len(nodes)
    mean = sum(loads_of(nodes).values()) / joined
    while (move := filling(nodes, joined)) is not None:
        before = squares(nodes)
        assert move.target == joined
        nodes = moved(nodes, move)
        assert squares(nodes) < before
        assert loads_of(nodes)[joined] <= mean + 1e-9
    for node, containers in nodes.items():
        if loads_of(nodes)[node] > mean and node != joined:
            assert all(weight > mean - loads_of(nodes)[joined] - 1e-9 for weight in containers.values())


def test_one_hot_container_alone_stays_and_leaves_its_node_to_itself() -> None:
    nodes = nodes_of([[0.9, 0.01, 0.01], []])
    while (move := next_move(nodes)) is not None or (move := filling(nodes, 2)) is not None:
        assert move.container != 0
        nodes = moved(nodes, move)
    assert nodes == {1: {0: 0.9}, 2: {1: 0.01, 2: 0.01}}


def test_a_node_beside_one_hot_container_is_filled_by_the_others() -> None:
    """The five of node 2 are below the mean of the three, and yet node 3 should not be without any."""
    nodes = nodes_of([[30.0], [1.0] * 5, []])
    while (move := filling(nodes, 3)) is not None:
        nodes = moved(nodes, move)
    assert [len(containers) for containers in nodes.values()] == [1, 3, 2]


def test_the_others_are_evened_out_beside_one_hot_container() -> None:
    nodes = nodes_of([[30.0], [1.0] * 6, []])
    while (move := next_move(nodes)) is not None:
        nodes = moved(nodes, move)
    assert [len(containers) for containers in nodes.values()] == [1, 3, 3]


@given(st.lists(st.lists(WEIGHTS, min_size=1, max_size=8), min_size=1, max_size=6))
def test_no_node_that_joins_is_left_without_any(spread: list[list[float]]) -> None:
    """Unless no other one has two."""
    nodes = nodes_of([*spread, []])
    joined = len(nodes)
    while (move := filling(nodes, joined)) is not None or (move := next_move(nodes)) is not None:
        nodes = moved(nodes, move)
    assert nodes[joined] or not any(len(containers) > 1 for containers in nodes.values())


def test_what_is_even_enough_stays() -> None:
    assert next_move(nodes_of([[0.4, 0.1], [0.2, 0.1]])) is None, "1.25 times the mean"
    assert next_move(nodes_of([[0.4, 0.11], [0.2, 0.1]])) == Move(1, 1, 2, "node 1 has 1.26 times the mean load")
    assert next_move(nodes_of([[0.51], [0.3]])) is None, "it would be as bad over there"
    assert next_move(nodes_of([[0.4, 0.11], [0.2, 0.1]]), fixed=(0, 1)) is None


# Several looks


class World:
    """A cluster whose moves take a while."""

    def __init__(self, weights: Mapping[int, float], nodes: Iterable[int]) -> None:
        self.weights = dict(weights)
        self.lives = {node: Life(node=node, life=f"{node}-1") for node in nodes}
        self.owners = {one: Owner(node=1, life="1-1", epoch=one + 1, stage=Stage.SERVING) for one in weights}
        self.wishes: dict[int, Wish] = {}
        self.balancer = Balancer()
        self.now_s = 1_000.0
        self.moves: list[tuple[float, Move]] = []

    def look(self) -> Move | None:
        scene = Scene(self.weights.keys(), self.owners, self.lives, dict(self.wishes), self.weights)
        return self.balancer.look(scene, self.now_s)

    def ask(self, move: Move) -> None:
        owner = self.owners[move.container]
        assert owner.node == move.source
        self.moves.append((self.now_s, move))
        self.wishes[move.container] = Wish(epoch=owner.epoch, node=move.target, life=self.lives[move.target].life)

    def fulfil(self) -> None:
        for container, wish in self.wishes.items():
            owner = Owner(node=wish.node, life=wish.life, epoch=self.owners[container].epoch + 100, stage=Stage.SERVING)
            self.owners[container] = owner
        self.wishes.clear()

    def pass_by(self, seconds: int) -> None:
        """A look each second; a move has been made by the second one after it."""
        for _ in range(seconds):
            self.now_s += 1
            move = self.look()
            if self.wishes:
                assert move is None, "one at a time"
                self.fulfil()
            elif move is not None:
                self.ask(move)

    def counts(self) -> dict[int, int]:
        nodes = [owner.node for owner in self.owners.values()]
        return {node: nodes.count(node) for node in self.lives}


def test_an_idle_cluster_is_spread_by_count_at_once() -> None:
    world = World(dict.fromkeys(range(16), BASE_WEIGHT), (1, 2, 3))
    world.pass_by(60)
    assert world.counts() == {1: 6, 2: 5, 3: 5}
    world.lives[4] = Life(node=4, life="4-1")
    world.pass_by(30)
    assert world.counts() == {1: 4, 2: 4, 3: 4, 4: 4}


def test_a_node_beyond_the_mean_gives_one_container_a_minute() -> None:
    world = World(dict.fromkeys(range(8), BASE_WEIGHT), (1, 2))
    world.pass_by(100)
    assert world.counts() == {1: 4, 2: 4}
    world.moves.clear()
    world.weights |= {one: 0.2 for one, owner in world.owners.items() if owner.node == 1}
    world.pass_by(600)
    times = [at for at, _ in world.moves]
    assert len(times) == 2, "two of four heavy ones"
    assert all(later - earlier >= APART_S for earlier, later in itertools.pairwise(times))
    assert len({move.container for _, move in world.moves}) == 2
    world.pass_by(600)
    assert len(world.moves) == 2


@settings(max_examples=50)
@given(st.lists(st.lists(WEIGHTS, min_size=8, max_size=8), min_size=1, max_size=4), st.integers(2, 4))
def test_however_loads_change_moves_are_a_minute_apart(loads: list[list[float]], nodes: int) -> None:
    world = World(dict.fromkeys(range(8), BASE_WEIGHT), range(1, nodes + 1))
    world.pass_by(30)
    filled = len(world.moves)
    for weights in loads:
        world.weights = dict(enumerate(weights))
        world.pass_by(150)
    times = [at for at, _ in world.moves[filled:]]
    assert all(later - earlier >= APART_S for earlier, later in itertools.pairwise(times))


def test_nothing_moves_while_a_container_is_on_its_way() -> None:
    world = World({0: 0.5, 1: 0.5, 2: 0.5}, (1, 2))
    world.look()
    world.now_s += 2 * APART_S
    served = world.owners[2]
    world.owners[2] = replace(served, stage=Stage.OPENING)
    assert world.look() is None
    del world.owners[2]
    assert world.look() is None
    world.owners[2] = served
    world.wishes[1] = Wish(epoch=2, node=2, life="2-1")
    world.now_s += 2
    assert world.look() is None
    world.now_s += WISH_S
    move = world.look()
    assert move is not None, "it has not begun for a minute"
    assert move.container != 1


def test_a_node_without_the_store_is_neither_filled_nor_emptied() -> None:
    """Its containers stand still, so it has the least load. It is filled once it reaches the store."""
    world = World(dict.fromkeys(range(6), BASE_WEIGHT), (1, 2, 3))
    world.pass_by(300)
    assert world.counts() == {1: 2, 2: 2, 3: 2}
    world.weights = {one: {1: 0.4, 2: BASE_WEIGHT, 3: 0.35}[owner.node] for one, owner in world.owners.items()}
    world.lives[2] = replace(world.lives[2], reaches_store=False)
    before = len(world.moves)
    world.pass_by(300)
    assert len(world.moves) == before
    world.lives[2] = replace(world.lives[2], reaches_store=True)
    world.pass_by(300)
    assert world.counts()[2] > 2


def test_a_draining_node_gets_nothing_and_one_that_lives_anew_is_filled_anew() -> None:
    world = World(dict.fromkeys(range(4), BASE_WEIGHT), (1, 2))
    world.lives[2] = replace(world.lives[2], is_draining=True)
    world.pass_by(300)
    assert world.moves == []
    world.lives[2] = Life(node=2, life="2-2")
    world.pass_by(10)
    assert world.counts() == {1: 2, 2: 2}
