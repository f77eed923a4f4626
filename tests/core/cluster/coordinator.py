"""A coordinator in memory: what the nodes of a test share, and the seat of each node at it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from core.cluster.coordination import Claim, Coordination, Life, Owner, Stage, Wish
from core.cluster.levels import NEWEST
from core.cluster.loads import Load
from core.cluster.members import Member
from core.errors import CoordinatorAway, CoordinatorRefuses
from core.log.objects.protocol import Link


class Coordinator:
    """All that is decided, in one place. Each call is one transaction."""

    def __init__(self, containers: Sequence[int]) -> None:
        self.containers = containers
        self.epoch = 0
        self.owners: dict[int, Owner] = {}
        self.links: dict[int, Sequence[Link]] = {}
        self.lives: dict[int, Life] = {}
        self.wishes: dict[int, Wish] = {}
        self.loads: dict[int, Mapping[int, Load]] = {}
        self.warmed: dict[int, Wish] = {}
        self.said: dict[int, Mapping[str, Any]] = {}  # by nodes of themselves
        self.members: dict[int, Member] = {}  # nodes that have ended
        self.seats: list[Seat] = []
        self.level = NEWEST
        self._names = itertools.count(1)

    def begin(self, node: int) -> Life:
        life = self.lives[node] = Life(node=node, life=f"{node}-{next(self._names)}")
        self.tell()
        return life

    def end(self, life: str) -> None:
        """A lease ends: all under it is gone, and what it had is known."""
        for one in self.lives.values():
            if one.life == life:
                served = {container: owner.epoch for container, owner in self.owners.items() if owner.life == life}
                told = self.said.get(one.node, {})
                self.members[one.node] = Member(node=one.node, life=life, served=served, told=told)
        self.lives = {node: one for node, one in self.lives.items() if one.life != life}
        self.owners = {container: owner for container, owner in self.owners.items() if owner.life != life}
        self.tell()

    def is_alive(self, life: str) -> bool:
        return any(one.life == life for one in self.lives.values())

    def claim(self, node: int, life: str, container: int) -> Claim | None:
        owner = self.owners.get(container)
        if not self.is_alive(life) or (owner is not None and owner.life != life):
            return None
        if owner is None:
            self.epoch += 1
            owner = Owner(node=node, life=life, epoch=self.epoch, stage=Stage.OPENING)
            self.owners = {**self.owners, container: owner}
            self.wishes.pop(container, None)
            self.tell()
        return Claim(container=container, epoch=owner.epoch, life=life, links=self.links.get(container, ()))

    def confirm(self, claim: Claim, links: Sequence[Link]) -> bool:
        owner = self.owners.get(claim.container)
        if owner is None or owner.epoch != claim.epoch:
            return False
        self.owners = {**self.owners, claim.container: replace(owner, stage=Stage.SERVING)}
        self.links[claim.container] = tuple(links)
        self.tell()
        return True

    def give_up(self, claim: Claim) -> None:
        owner = self.owners.get(claim.container)
        if owner is not None and owner.epoch == claim.epoch:
            self.owners = {one: owner for one, owner in self.owners.items() if one != claim.container}
            self.tell()

    def ask(self, container: int, node: int) -> bool:
        owner, target = self.owners.get(container), self.lives.get(node)
        if owner is None or owner.stage is not Stage.SERVING or target is None:
            return False
        wish = Wish(epoch=owner.epoch, node=node, life=target.life)
        if not wish.stands(owner, self.lives):
            return False
        self.wishes = {**self.wishes, container: wish}
        self.tell()
        return True

    def standing(self) -> Mapping[int, Wish]:
        return {one: wish for one, wish in self.wishes.items() if wish.stands(self.owners.get(one), self.lives)}

    def tell_warm(self, container: int, wish: Wish) -> None:
        self.warmed = {**self.warmed, container: wish}
        self.tell()

    def reserve_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def rise(self, claim: Claim) -> int | None:
        owner = self.owners.get(claim.container)
        if owner is None or owner.epoch != claim.epoch or owner.stage is not Stage.SERVING:
            return None
        self.epoch += 1
        self.owners = {**self.owners, claim.container: replace(owner, risen=self.epoch)}
        self.tell()
        return self.epoch

    def hand_over(self, claim: Claim, wish: Wish, link: Link, *, compares: bool = True) -> bool:
        owner = self.owners.get(claim.container)
        if compares and (owner is None or owner.epoch != claim.epoch):
            return owner is not None and owner.epoch == link.next_epoch
        if not self.is_alive(wish.life):
            return False
        heir = Owner(node=wish.node, life=wish.life, epoch=link.next_epoch, stage=Stage.OPENING)
        self.owners = {**self.owners, claim.container: heir}
        self.links[claim.container] = (*self.links.get(claim.container, ()), link)
        self.wishes.pop(claim.container, None)
        self.tell()
        return True

    def reach(self, node: int, reaches_store: bool) -> None:
        self.lives = {**self.lives, node: replace(self.lives[node], reaches_store=reaches_store)}
        self.tell()

    def drain(self, node: int) -> None:
        self.lives = {**self.lives, node: replace(self.lives[node], is_draining=True)}
        self.tell()

    def tell(self) -> None:
        for seat in self.seats:
            seat.hear()


class Seat(Coordination):
    """One node's way to the coordinator. Its mirror is never late."""

    def __init__(self, coordinator: Coordinator, node: int) -> None:
        self.coordinator = coordinator
        self.is_away = False
        self.refuses = False
        self.is_away_for: set[str] = set()  # calls that get no answer
        self.refused: list[str] = []  # those that got none
        self.is_asleep = False  # its lease has ended, and it has not noticed
        self._life = coordinator.begin(node)
        self._told: list[Callable[[], None]] = []
        coordinator.seats.append(self)

    @property
    def level(self) -> int:
        return self.coordinator.level

    @property
    def node(self) -> int:
        return self._life.node

    @property
    def life(self) -> str:
        return self._life.life

    @property
    def containers(self) -> Sequence[int]:
        return self.coordinator.containers

    def owners(self) -> Mapping[int, Owner]:
        return self.coordinator.owners

    def lives(self) -> Mapping[int, Life]:
        return self.coordinator.lives

    def wishes(self) -> Mapping[int, Wish]:
        return self.coordinator.standing()

    def loads(self) -> Mapping[int, Mapping[int, Load]]:
        return {node: loads for node, loads in self.coordinator.loads.items() if node in self.lives()}

    def warmed(self) -> Mapping[int, Wish]:
        return self.coordinator.warmed

    def on_changed(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def is_fresh(self) -> bool:
        return self.coordinator.is_alive(self.life)

    def hear(self) -> None:
        for told in () if self.is_asleep else self._told:
            told()

    def lose_lease(self) -> None:
        """The node was away for longer than its lease; it begins another life when it is told of that."""
        self.coordinator.end(self.life)

    def begin_anew(self) -> None:
        """Another life of the same node."""
        self._life = self.coordinator.begin(self.node)

    def _reach(self, call: str = "") -> None:
        if call in self.is_away_for:
            self.refused.append(call)
            raise CoordinatorAway("the test has cut off this call")
        if self.is_away:
            raise CoordinatorAway("the test has cut it off")
        if self.refuses:
            raise CoordinatorRefuses("its disk is full")

    async def claim(self, container: int) -> Claim | None:
        self._reach()
        return self.coordinator.claim(self.node, self.life, container)

    async def confirm(self, claim: Claim, links: Sequence[Link]) -> bool:
        self._reach()
        return self.coordinator.confirm(claim, links)

    async def read_epochs(self, expected: Mapping[int, int] = MappingProxyType({})) -> Mapping[int, int]:
        self._reach("read_epochs")
        found = {container: owner.epoch for container, owner in self.coordinator.owners.items()}
        return expected if expected and expected.items() <= found.items() else found

    async def give_up(self, claim: Claim) -> None:
        self._reach()
        self.coordinator.give_up(claim)

    async def ask(self, container: int, node: int) -> bool:
        self._reach("ask")
        return self.coordinator.ask(container, node)

    async def tell_loads(self, loads: Mapping[int, Load]) -> None:
        self._reach()
        self.coordinator.loads[self.node] = loads

    async def tell_troubles(self, troubles: Sequence[str]) -> None:
        self._reach()

    async def tell_warm(self, container: int, wish: Wish) -> None:
        self._reach()
        self.coordinator.tell_warm(container, wish)

    async def reserve_epoch(self) -> int:
        self._reach("reserve_epoch")
        return self.coordinator.reserve_epoch()

    async def rise(self, claim: Claim) -> int | None:
        self._reach("rise")
        return self.coordinator.rise(claim)

    async def hand_over(self, claim: Claim, wish: Wish, link: Link) -> bool:
        self._reach("hand_over")
        return self.coordinator.hand_over(claim, wish, link)

    async def tell_reach(self, reaches_store: bool) -> None:
        self._reach()
        self.coordinator.reach(self.node, reaches_store)

    async def drain(self) -> None:
        self._reach()
        self.coordinator.drain(self.node)

    def nodes(self) -> Mapping[int, Mapping[str, Any]]:
        return {node: said for node, said in self.coordinator.said.items() if node in self.coordinator.lives}

    def members(self) -> Mapping[int, Member]:
        return self.coordinator.members

    async def forget(self, node: int) -> bool:
        return self.coordinator.members.pop(node, None) is not None

    async def tell(self, said: Mapping[str, Any]) -> None:
        self.coordinator.said[self.node] = said
        self.coordinator.tell()

    async def bury(self, life: Life) -> None:
        self._reach()
        self.coordinator.end(life.life)
