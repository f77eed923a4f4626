"""What nodes do about slots that are to go to containers of other nodes: every row comes to its end, whoever dies."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

import pytest

from core.cluster import wanted_moves
from core.cluster.coordination import Life, Owner, Stage, Wish
from core.cluster.wanted_moves import (
    GIVE_UP_S,
    TRIES_MAX,
    Bring,
    Carry,
    Forget,
    Place,
    Refuse,
    Travels,
    View,
    WantedMove,
)

NODES: Final = (1, 2, 3)
CONTAINERS: Final = 6


class World:
    """Nodes, who owns what, where slots are. Each step takes a second, and everybody sees what was done in the one
    before."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.epoch = 0
        self.lives: dict[int, Life] = {}
        self.travels: dict[int, Travels] = {}
        self.owners: dict[int, Owner] = {}
        self.wishes: dict[int, Wish] = {}
        self.slots: dict[Place, int] = {}
        self.rows: list[WantedMove] = []
        self.done: list[object] = []
        self.refuses: set[Place] = set()
        self.stays: set[Place] = set()
        self.fails_s = -1.0  # carries fail before
        self.cannot_open: set[int] = set()  # nodes that let go of what they are to open
        for node in NODES:
            self.join(node)
        for container in range(CONTAINERS):
            self.give(container, 1 + container % len(NODES))

    def join(self, node: int) -> None:
        self.epoch += 1
        self.lives[node], self.travels[node] = Life(node=node, life=f"{node}-{self.epoch}"), Travels()

    def give(self, container: int, node: int, stage: Stage = Stage.SERVING) -> None:
        self.epoch += 1
        self.owners[container] = Owner(node=node, life=self.lives[node].life, epoch=self.epoch, stage=stage)

    def kill(self, node: int) -> None:
        del self.lives[node], self.travels[node]
        self.owners = {one: owner for one, owner in self.owners.items() if owner.node != node}

    def want(self, place: Place, target: int) -> None:
        if all(one.place != place for one in self.rows) and target in self.owners:
            self.rows.append(WantedMove(place=place, target=target, home=self.owners[target].node))

    def step(self) -> None:
        self.now_s += 1
        self._owners_go_on()
        actions = {}
        for node, travels in self.travels.items():
            standing = {one: wish for one, wish in self.wishes.items() if wish.stands(self.owners.get(one), self.lives)}
            view = View(
                node=node,
                owners=dict(self.owners),
                lives=dict(self.lives),
                wishes=standing,
                moves=list(self.rows),
                where=self.slots.get,
                stays=lambda place: "a group reads it" if place in self.stays else None,
            )
            actions[node] = travels.look(view, self.now_s)
        for node, action in actions.items():
            if action is not None:
                self.done.append(action)
                self._carry_out(node, action)

    def _owners_go_on(self) -> None:
        for container in range(CONTAINERS):
            owner, wish = self.owners.get(container), self.wishes.get(container)
            if owner is None and self.lives:
                self.give(container, self.random.choice(sorted(self.lives.keys() - self.cannot_open)), Stage.OPENING)
            elif owner is not None and owner.stage is Stage.OPENING and owner.node in self.cannot_open:
                del self.owners[container]
            elif owner is not None and owner.stage is Stage.OPENING:
                self.owners[container] = replace(owner, stage=Stage.SERVING)
            elif wish is not None and wish.stands(owner, self.lives):
                self.give(container, wish.node, Stage.OPENING)

    def _carry_out(self, node: int, action: object) -> None:
        travels = self.travels[node]
        match action:
            case Bring(container, to):
                assert container == self.rows[0].target, "another container travels than that of the oldest row"
                owner, life = self.owners.get(container), self.lives.get(to)
                if owner is not None and life is not None and not life.is_draining:
                    self.wishes[container] = Wish(epoch=owner.epoch, node=to, life=life.life)
                travels.asked(container, self.now_s)
            case Carry(move):
                both = self.owners[self.slots[move.place]], self.owners[move.target]
                assert all(owner.node == node and owner.stage is Stage.SERVING for owner in both)
                if move.place in self.refuses:
                    self._row(move, replace(move, why_not="it is damaged"))
                    travels.failed(move, self.now_s)
                elif self.now_s < self.fails_s:
                    travels.failed(move, self.now_s)
                else:
                    self.slots[move.place] = move.target
                    travels.carried()
            case Refuse(move, why):
                self._row(move, replace(move, why_not=why))
                travels.told()
            case Forget(moves):
                self.rows = [one for one in self.rows if one not in moves]
                travels.told()

    def _row(self, move: WantedMove, now: WantedMove) -> None:
        self.rows = [now if one == move else one for one in self.rows]

    def until_done(self, steps: int = 200) -> None:
        for _ in range(steps):
            if not self.rows:
                return
            self.step()
        raise AssertionError(f"not done after {steps} steps: {self.rows}, {self.owners}")


def test_a_container_comes_takes_its_slots_and_goes_home() -> None:
    world = World()
    for number in range(3):
        world.slots[7, number] = 0  # at node 1
        world.want((7, number), 4)  # at node 2
    world.until_done()
    assert set(world.slots.values()) == {4}
    assert world.owners[4].node == 2
    kinds = [type(one) for one in world.done]
    assert kinds == [Bring, Carry, Carry, Carry, Bring, Forget]


def test_one_node_has_both() -> None:
    """No container travels."""
    world = World()
    world.slots[7, 0] = 0
    world.want((7, 0), 3)
    world.until_done()
    assert [type(one) for one in world.done] == [Carry, Forget]


def test_a_slot_that_is_refused_leaves_its_reason_and_holds_up_nobody() -> None:
    world = World()
    for number in range(2):
        world.slots[7, number] = 0
        world.want((7, number), 4)
    world.refuses.add((7, 0))
    said: set[str] = set()
    while world.rows:
        said |= {one.why_not for one in world.rows}
        world.step()
    assert said == {"", "it is damaged"}
    assert (world.slots[7, 0], world.slots[7, 1], world.owners[4].node) == (0, 4, 2)


def test_no_container_travels_for_a_slot_that_cannot_leave() -> None:
    world = World()
    world.slots[7, 0] = 0
    world.want((7, 0), 4)
    world.stays.add((7, 0))
    world.until_done()
    assert [type(one) for one in world.done] == [Refuse, Forget]


def test_a_move_that_never_comes_to_its_end_is_refused_after_some_tries() -> None:
    world = World()
    world.slots[7, 0] = 0
    world.want((7, 0), 4)
    world.fails_s = float("inf")
    world.until_done(300)
    assert world.slots[7, 0] == 0
    assert world.owners[4].node == 2
    assert [type(one) for one in world.done].count(Carry) == TRIES_MAX


def test_a_move_whose_source_nobody_serves_is_given_up_some_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wanted_moves, "GIVE_UP_S", 50.0)
    world = World()
    world.slots[7, 0] = 99
    world.want((7, 0), 4)
    world.until_done()
    assert 50 <= world.now_s < 60
    assert GIVE_UP_S > 600


def test_a_target_whose_home_has_gone_stays_where_it_is() -> None:
    world = World()
    world.slots[7, 0] = 0
    world.want((7, 0), 4)
    while world.slots[7, 0] != 4:
        world.step()
    world.lives[2] = replace(world.lives[2], is_draining=True)
    world.until_done()
    assert world.owners[4].node == 1


def test_a_target_whose_home_cannot_open_it_stays_some_day() -> None:
    """Each try costs its clients a pause, and keeps all other containers where they are."""
    world = World()
    world.slots[7, 0] = 0
    world.want((7, 0), 4)
    world.cannot_open.add(2)
    world.until_done(300)
    assert world.slots[7, 0] == 4
    assert world.owners[4].node != 2
    assert 1 < [type(one) for one in world.done].count(Bring) <= 1 + TRIES_MAX * (len(NODES) - 1)


@pytest.mark.parametrize("seed", range(150))
def test_whoever_dies_all_that_is_wanted_comes_to_its_end(seed: int) -> None:
    world = World(seed)
    dice = world.random
    wanted: dict[Place, int] = {}
    for _ in range(80):
        match dice.randrange(12):
            case 0 if len(world.lives) > 1:
                world.kill(dice.choice(sorted(world.lives)))
            case 1 | 2:
                gone = [node for node in NODES if node not in world.lives]
                if gone:
                    world.join(dice.choice(gone))
            case 3 | 4:
                place = dice.randrange(3), dice.randrange(4)
                world.slots.setdefault(place, dice.randrange(CONTAINERS))
                target = dice.randrange(CONTAINERS)
                if all(one.place != place for one in world.rows) and target in world.owners:
                    world.want(place, target)
                    wanted[place] = target
            case 5 if world.slots and not dice.randrange(4):
                place = dice.choice(sorted(world.slots))
                del world.slots[place]
                wanted.pop(place, None)
            case 6:
                world.fails_s = world.now_s + 3
        world.step()
    world.until_done(2_000)
    assert {place: world.slots[place] for place in wanted} == wanted, "a slot was left where it was, without a reason"
