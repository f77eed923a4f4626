"""Which node takes, gives away and gets rid of containers."""

from __future__ import annotations

from dataclasses import replace

from core.cluster.coordination import Claim, Life, Owner, Stage, Wish
from core.cluster.ownership import (
    HANDOVERS_MAX,
    PATIENCE_S,
    RETRY_S,
    WARM_S,
    Action,
    Ask,
    Close,
    GiveUp,
    HandOver,
    Open,
    Ownership,
    Phase,
    Prepare,
    StepDown,
    TakeClaim,
    View,
    Warm,
    assigned,
)
from core.log.objects.protocol import Link

CONTAINERS = range(8)


def life(node: int, *, is_draining: bool = False, reaches_store: bool = True) -> Life:
    return Life(node=node, life=f"life of {node}", is_draining=is_draining, reaches_store=reaches_store)


def owner(node: int, epoch: int = 1, stage: Stage = Stage.SERVING) -> Owner:
    return Owner(node=node, life=life(node).life, epoch=epoch, stage=stage)


def claim(container: int, node: int = 1, epoch: int = 1) -> Claim:
    return Claim(container=container, epoch=epoch, life=life(node).life)


def view(owners: dict[int, Owner], *lives: Life, is_fresh: bool = True) -> View:
    return View(1, life(1).life, owners, {one.node: one for one in lives}, is_fresh)


def serving(containers: range = CONTAINERS) -> Ownership:
    """Node 1, alone, which has taken them all."""
    machine = Ownership(CONTAINERS)
    for action in machine.look(view({}, life(1)), 0):
        assert isinstance(action, TakeClaim)
        its = claim(action.container)
        machine.claimed(its.container, its)
        machine.opened(its, [], 0)
        machine.confirmed(its, stands=True)
        assert machine.serves(its, well=True, now_s=0) == []
    assert machine.serving == set(containers)
    return machine


def takes(actions: list[Action]) -> list[int]:
    return [one.container for one in actions if isinstance(one, TakeClaim)]


def downs(actions: list[Action]) -> list[tuple[int, bool]]:
    assert all(isinstance(one, StepDown) for one in actions)
    return [(one.claim.container, one.is_lost) for one in actions if isinstance(one, StepDown)]


def test_the_containers_of_a_dead_node_go_to_all_that_are_left() -> None:
    owners = {0: owner(1), 1: owner(2), 2: owner(3)}
    takers = assigned([3, 4, 5, 6, 7, 8], owners, {node: life(node) for node in (1, 2, 3)})
    assert sorted(takers.values()) == [1, 1, 2, 2, 3, 3]


def test_a_node_that_does_not_reach_the_store_takes_nothing() -> None:
    """However long a container is nobody's: it would keep it from all others. It keeps what it has, and takes again
    once it reaches the store; a container is not wished there."""
    apart, other = life(1, reaches_store=False), life(2)
    assert set(assigned([0, 1, 2], {}, {1: apart, 2: other}).values()) == {2}
    machine = serving()
    owners = {container: owner(1) for container in CONTAINERS if container}
    machine.look(view(owners, life(1)), 0)
    machine.stepped_down(claim(0))
    machine.gave_up(claim(0))
    assert machine.look(view(owners, apart, other), 1) == []
    assert machine.look(view(owners, apart, other), 1 + 2 * PATIENCE_S) == []
    assert machine.serving == set(owners)
    assert machine.look(view(owners, life(1), other), 10) == [], "the other one is to have it"
    assert takes(machine.look(view(owners, life(1), other), 10 + PATIENCE_S)) == [0]
    wish = Wish(epoch=1, node=1, life=life(1).life)
    assert wish.stands(owner(2), {1: life(1), 2: other})
    assert not wish.stands(owner(2), {1: apart, 2: other})


def test_a_node_that_drains_gets_nothing() -> None:
    lives = {1: life(1, is_draining=True), 2: life(2)}
    assert set(assigned([0, 1, 2], {}, lives).values()) == {2}
    assert assigned([0, 1], {}, {1: life(1, is_draining=True)}) == {}


def test_each_node_takes_its_part_at_once_and_the_rest_after_a_while() -> None:
    machine = Ownership(CONTAINERS)
    seen = view({}, life(1), life(2))
    first = machine.look(seen, 0)
    assert len(first) == 4
    assert machine.look(seen, PATIENCE_S - 0.1) == []
    assert len(machine.look(seen, PATIENCE_S)) == 4


def test_a_node_without_a_lease_takes_nothing() -> None:
    machine = Ownership(CONTAINERS)
    assert machine.look(view({}, life(1), is_fresh=False), 0) == []
    assert machine.look(view({}, life(2)), 0) == []


def test_one_that_cannot_be_opened_is_left_to_others_for_a_while() -> None:
    machine = Ownership([0])
    assert machine.look(view({}, life(1)), 0) == [TakeClaim(0)]
    assert machine.claimed(0, claim(0)) == [Open(claim(0))]
    assert machine.opened(claim(0), None, 10) == [GiveUp(claim(0))]
    machine.gave_up(claim(0))
    assert machine.look(view({}, life(1)), 10 + RETRY_S - 0.1) == []
    assert machine.look(view({}, life(1)), 10 + RETRY_S) == [TakeClaim(0)]


def test_a_lease_that_ended_takes_all_away_at_once() -> None:
    machine = serving()
    assert downs(machine.look(view({c: owner(1) for c in CONTAINERS}, life(1), is_fresh=False), 1)) == [
        (container, True) for container in CONTAINERS
    ]


def test_a_later_epoch_takes_one_away() -> None:
    machine = serving()
    owners = {container: owner(1) for container in CONTAINERS} | {3: owner(2, epoch=9, stage=Stage.OPENING)}
    assert downs(machine.look(view(owners, life(1), life(2)), 1)) == [(3, True)]


def test_one_that_is_lost_while_it_is_opened_is_closed_when_that_is_done() -> None:
    machine = Ownership([0])
    machine.look(view({}, life(1)), 0)
    machine.claimed(0, claim(0))
    assert machine.look(view({0: owner(2, epoch=2)}, life(1), life(2)), 1) == []
    assert machine.opened(claim(0), [], 2) == [StepDown(claim(0), is_lost=True)]


def test_draining_gives_all_away_and_nothing_is_left() -> None:
    machine = serving()
    machine.drain()
    given = downs(machine.look(view({c: owner(1) for c in CONTAINERS}, life(1)), 1))
    assert given == [(container, False) for container in CONTAINERS]
    for container, _ in given:
        assert machine.stepped_down(claim(container)) == [GiveUp(claim(container))]
        assert not machine.is_rid
        machine.gave_up(claim(container))
    assert machine.is_rid
    assert machine.look(view({}, life(1)), 10) == []


def test_a_container_that_was_let_go_goes_to_the_node_that_a_wish_names() -> None:
    """After a while it may go to anybody."""
    owners = {container: owner(4) for container in CONTAINERS if container != 5}
    lives = {one.node: one for one in (life(1), life(2), life(3))}
    for node, others in ((2, [1, 3]), (3, [1, 2])):
        wishes = {5: Wish(epoch=1, node=node, life=life(node).life)}
        for other in others:
            machine = Ownership(CONTAINERS)
            seen = View(other, life(other).life, owners, lives, True, wishes)
            assert not takes(machine.look(seen, 1.5))
            assert takes(machine.look(seen, 1.5 + PATIENCE_S)) == [5]
        taker = View(node, life(node).life, owners, lives, True, wishes)
        assert takes(Ownership(CONTAINERS).look(taker, 1.5)) == [5]


def test_a_wish_stands_for_one_owner_and_one_life_of_the_other_node() -> None:
    lives = {1: life(1), 2: life(2)}
    wish = Wish(epoch=4, node=2, life=life(2).life)
    assert wish.stands(owner(1, epoch=4), lives)
    assert wish.stands(None, lives)
    assert not wish.stands(owner(1, epoch=5), lives), "somebody has claimed it since"
    assert not wish.stands(owner(2, epoch=4), lives), "it is there"
    assert not wish.stands(owner(1, epoch=4), {1: life(1)})
    assert not wish.stands(owner(1, epoch=4), lives | {2: life(2, is_draining=True)})
    assert not wish.stands(owner(1, epoch=4), lives | {2: Life(node=2, life="the next one")})


def test_heavy_containers_of_a_dead_node_go_to_those_that_do_little() -> None:
    owners = {0: owner(1), 1: owner(2), 2: owner(3)}
    weights = {0: 0.6, 1: 0.1, 2: 0.1, 3: 0.4, 4: 0.3, 5: 0.05}
    takers = assigned([3, 4, 5], owners, {node: life(node) for node in (1, 2, 3)}, weights)
    assert sorted((takers[3], takers[4])) == [2, 3]
    assert takers[5] == takers[4]


def wish(node: int, epoch: int = 1) -> Wish:
    return Wish(epoch=epoch, node=node, life=life(node).life)


def wished(owners: dict[int, Owner], wishes: dict[int, Wish], *, warm: bool, lives: tuple[int, ...] = (1, 2)) -> View:
    return replace(view(owners, *map(life, lives)), wishes=wishes, warmed=wishes if warm else {})


def handed_over(machine: Ownership, container: int, owners: dict[int, Owner], now_s: float) -> float:
    """All steps from the wish for node 2 on, one after the other; returns when."""
    its, wishes = claim(container), {container: wish(2)}
    if machine.phase(container) is Phase.ASKING:
        assert machine.asked(its) == []
    assert machine.look(wished(owners, wishes, warm=False), now_s) == [Prepare(its)]
    assert machine.look(wished(owners, wishes, warm=True), now_s) == []
    assert machine.prepared(its, 9, now_s) == []
    assert machine.look(wished(owners, wishes, warm=False), now_s + WARM_S - 0.1) == []
    assert container in machine.serving
    assert machine.look(wished(owners, wishes, warm=True), now_s) == [Close(its, 9)]
    assert container not in machine.serving
    link = Link(its.epoch, 77, 9)
    assert machine.closed(its, link) == [HandOver(its, wish(2), link)]
    assert machine.handed_over(its) == [StepDown(its, is_lost=True)]
    assert machine.stepped_down(its) == [GiveUp(its)]
    machine.gave_up(its)
    return now_s


def test_a_cold_heir_is_waited_for_so_long() -> None:
    machine = serving()
    owners, wishes = {container: owner(1) for container in CONTAINERS}, {3: wish(2)}
    assert machine.look(wished(owners, wishes, warm=False), 0) == [Prepare(claim(3))]
    machine.prepared(claim(3), 9, 1)
    assert machine.look(wished(owners, wishes, warm=False), 1 + WARM_S - 0.1) == []
    assert machine.look(wished(owners, wishes, warm=False), 1 + WARM_S) == [Close(claim(3), 9)]


def test_an_heir_that_ends_before_the_log_is_closed_changes_nothing() -> None:
    """The container is served on; and another wish is prepared anew."""
    machine = serving()
    owners = {container: owner(1) for container in CONTAINERS}
    machine.look(wished(owners, {3: wish(2)}, warm=False), 0)
    machine.prepared(claim(3), 9, 1)
    assert machine.look(wished(owners, {}, warm=False, lives=(1,)), 1 + WARM_S) == []
    assert machine.serving == set(CONTAINERS)
    assert machine.look(wished(owners, {3: wish(3)}, warm=False, lives=(1, 3)), 20) == [Prepare(claim(3))]


def test_one_that_is_lost_while_it_is_handed_over_waits_for_nothing() -> None:
    machine = serving()
    owners, taken = {container: owner(1) for container in CONTAINERS}, owner(2, epoch=5, stage=Stage.OPENING)
    machine.look(wished(owners, {3: wish(2)}, warm=False), 0)
    assert machine.look(view(owners | {3: taken}, life(1), life(2)), 1) == []
    assert machine.prepared(claim(3), 9, 1) == [StepDown(claim(3), is_lost=True)]
    machine.look(wished(owners, {2: wish(2)}, warm=False), 0)
    machine.prepared(claim(2), 10, 1)
    assert machine.look(wished(owners, {2: wish(2)}, warm=True), 2) == [Close(claim(2), 10)]
    assert machine.closed(claim(2), None) == [StepDown(claim(2), is_lost=True)]


def test_an_heir_reads_ahead_once_and_opens_what_it_is_given() -> None:
    machine = Ownership(CONTAINERS)
    owners, wishes = {container: owner(2) for container in CONTAINERS}, {3: wish(1)}
    assert machine.look(wished(owners, wishes, warm=False), 0) == [Warm(3, wish(1))]
    assert machine.look(wished(owners, wishes, warm=False), 1) == []
    owners[3] = owner(1, epoch=9, stage=Stage.OPENING)
    assert machine.look(wished(owners, {}, warm=False), 2) == [TakeClaim(3)]
    assert machine.look(wished(owners, {}, warm=False), 2) == []
    assert machine.claimed(3, claim(3, epoch=9)) == [Open(claim(3, epoch=9))]


def test_a_node_that_drains_asks_for_heirs_of_some_at_a_time() -> None:
    """All others get their part, and it opens nothing more; alone it lets go of them."""
    machine = serving()
    machine.drain()
    owners = {container: owner(1) for container in CONTAINERS}
    lives = (life(1, is_draining=True), life(2), life(3))
    asked = [one for one in machine.look(view(owners, *lives), 0) if isinstance(one, Ask)]
    assert len(asked) == HANDOVERS_MAX
    assert {one.node for one in asked} == {2, 3}
    assert machine.look(view(owners, *lives), 0) == []
    for one in asked:
        machine.asked(one.claim)
        handed_over(machine, one.claim.container, owners, 1)
        owners[one.claim.container] = owner(one.node, epoch=9)
        machine.look(view(owners, *lives), 2)
        break
    assert len([c for c in CONTAINERS if machine.phase(c) is Phase.ASKING]) == HANDOVERS_MAX
    assert len(downs(machine.look(view(owners, lives[0]), 3))) == len(CONTAINERS) - 1 - HANDOVERS_MAX


def test_a_node_that_drains_lets_go_while_a_node_of_an_older_release_may_be_there() -> None:
    """Such a node would never open a claim that it has not asked for."""
    machine = serving()
    machine.drain()
    owners = {container: owner(1) for container in CONTAINERS}
    seen = replace(view(owners, life(1, is_draining=True), life(2)), has_wishes=False)
    assert downs(machine.look(seen, 0)) == [(container, False) for container in CONTAINERS]
