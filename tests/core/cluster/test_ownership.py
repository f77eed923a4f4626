"""Random schedules over the ownership of a container: nodes that sleep, leases that end, late views, late puts.

Containers are handed over as well, and whoever takes part may die, sleep or be deposed at each step.

Whatever happens, a later owner finds every group that was acknowledged, and no two nodes serve at once. The store may
ignore conditions, or remove fences, as long as the guard is asked. Each mistake that is planted must be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.cluster.coordination import Claim, Life, Owner
from core.cluster.ownership import (
    PATIENCE_S,
    RETRY_S,
    WARM_S,
    Action,
    Ask,
    Close,
    Confirm,
    GiveUp,
    HandOver,
    Open,
    Ownership,
    Prepare,
    Serve,
    StepDown,
    TakeClaim,
    View,
    Warm,
)
from core.cluster.ownership import Phase as At
from core.log.objects.protocol import (
    GENESIS,
    Fence,
    FindCheckpoint,
    Group,
    Link,
    LogObject,
    Outcome,
    Overtaken,
    Owned,
    Place,
    PutFence,
    Read,
    Takeover,
    Window,
    outcome,
)
from tests.core.cluster.coordinator import Coordinator

pytestmark = pytest.mark.slow

NODES = 3
STEPS_MAX = 300
NUMBER = st.integers(0, 5)
NODE = st.integers(0, NODES - 1)


class Store:
    """An object store, with the checkpoints of one container."""

    ignores_conditions: ClassVar[bool] = False
    removes_fences: ClassVar[bool] = False

    def __init__(self) -> None:
        self.objects: dict[Place, LogObject] = {}
        self.checkpoints: list[Place] = []
        self.below: dict[int, str] = {}  # first LSN -> token, of all groups that checkpoints hold

    def put_new(self, found: LogObject) -> bool:
        if self.ignores_conditions:
            self.objects[found.place] = found
        return self.objects.setdefault(found.place, found) is found

    def newest(self) -> Place:
        return max(self.checkpoints, key=lambda place: (place.lsn, place.epoch), default=GENESIS)

    def remove_below(self, lsn: int) -> None:
        for place in [p for p, one in self.objects.items() if p.lsn < lsn]:
            if self.removes_fences or isinstance(self.objects[place], Group):
                del self.objects[place]


class Ignoring(Store):
    ignores_conditions = True


class Forgetful(Store):
    removes_fences = True


@dataclass(eq=False)
class Put:
    """A put on its way: sent, answered, guarded, told."""

    group: Group
    stored: bool | None = None  # the store's answer
    is_ours: bool | None = None  # the guard's


@dataclass
class Node:
    """One node: the machine under test, and what it has on its way."""

    life: Life
    ownership: Ownership
    owners: dict[int, Owner] = field(default_factory=dict)  # its mirror
    lives: dict[int, Life] = field(default_factory=dict)
    actions: list[Action] = field(default_factory=list)
    takeover: Takeover | None = None
    owned: Owned | None = None
    window: Window | None = None
    epoch: int = 0
    puts: list[Put] = field(default_factory=list)
    waiting: list[Group] = field(default_factory=list)  # sent, not acknowledged
    known: list[Group] = field(default_factory=list)
    checkpoint: int = 0
    takes_groups: bool = False  # no hand-over has stopped it
    fence: Fence | None = None  # given up, and on its way yet


class LooksOnce(Takeover):
    """Does not look at the checkpoint again after its fence: the confirmation must do for it."""

    def _walk_to(self, place: Place) -> None:
        super()._walk_to(place)
        if self._fenced is not None:
            self._wanted = Owned(self._at, tuple(self._groups), tuple(self._links))


class Schedules(RuleBasedStateMachine):
    """One container, several nodes, each of which may believe that it is the owner."""

    store_class: ClassVar[type[Store]] = Store
    takeover_class: ClassVar[type[Takeover]] = Takeover
    guards: ClassVar[bool] = True
    confirms: ClassVar[bool] = True
    believes_links: ClassVar[bool] = True
    stops_appends: ClassVar[bool] = True
    settles: ClassVar[bool] = True
    fences: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.store = self.store_class()
        self.coordinator = Coordinator([0])
        self.tokens = itertools.count(1)
        self.now_s = 0.0
        self.acknowledged: dict[int, str] = {}  # first LSN -> token
        self.nodes = [Node(self.coordinator.begin(number), Ownership([0])) for number in range(NODES)]
        for number in range(NODES):
            self.a_node_sees_and_looks(number)
        for number in range(NODES):
            self.a_node_acts(number, STEPS_MAX)

    def token(self) -> str:
        return f"{next(self.tokens):032x}"

    def is_fresh(self, node: Node) -> bool:
        return self.coordinator.is_alive(node.life.life)

    def see(self, node: Node) -> None:
        node.owners, node.lives = dict(self.coordinator.owners), dict(self.coordinator.lives)

    def look(self, node: Node) -> None:
        wishes = {one: w for one, w in self.coordinator.wishes.items() if w.stands(node.owners.get(one), node.lives)}
        view = View(
            node.life.node,
            node.life.life,
            node.owners,
            node.lives,
            self.is_fresh(node),
            wishes,
            self.coordinator.warmed,
        )
        node.actions += node.ownership.look(view, self.now_s)

    # Actions

    def act(self, node: Node) -> None:
        """One step of the first action."""
        ownership, coordinator = node.ownership, self.coordinator
        match node.actions[0]:
            case TakeClaim(container):
                claim = coordinator.claim(node.life.node, node.life.life, container)
                self.see(node)
                self.done(node, ownership.claimed(container, claim))
            case Open(claim):
                self.walk(node, claim)
            case Confirm(claim, links):
                stands = coordinator.confirm(claim, links) or not self.confirms
                self.see(node)
                self.done(node, ownership.confirmed(claim, stands=stands))
            case Serve(claim):
                assert node.owned is not None
                node.window = Window(node.owned.place, 4)
                node.epoch, node.known, node.checkpoint = claim.epoch, list(node.owned.groups), 0
                node.takes_groups = True
                self.done(node, ownership.serves(claim, well=True, now_s=self.now_s))
            case Warm(container, wish):
                coordinator.tell_warm(container, wish)
                self.done(node, [])
            case Ask(claim, heir):
                coordinator.ask(claim.container, heir)
                self.done(node, ownership.asked(claim))
            case Prepare(claim):
                self.done(node, ownership.prepared(claim, coordinator.reserve_epoch(), self.now_s))
            case Close(claim, next_epoch):
                self.close(node, claim, next_epoch)
            case HandOver(claim, wish, link):
                coordinator.hand_over(claim, wish, link, compares=self.compares)
                self.see(node)
                self.done(node, ownership.handed_over(claim))
            case StepDown(claim, _):
                node.window = None
                node.waiting.clear()
                node.puts = [put for put in node.puts if put.stored is None]  # they may arrive yet
                self.done(node, ownership.stepped_down(claim))
            case GiveUp(claim):
                coordinator.give_up(claim)
                self.see(node)
                ownership.gave_up(claim)
                self.done(node, [])

    def close(self, node: Node, claim: Claim, next_epoch: int) -> None:
        """Stop; wait for what is on its way; fence."""
        window = node.window
        assert window is not None
        if self.stops_appends:
            node.takes_groups = False
        if window.is_deposed:
            self.done(node, node.ownership.closed(claim, None))
            return
        if self.settles and node.waiting:
            return
        place = Place(node.epoch, window.stored_lsn + 1)
        fence = Fence(place, next_epoch, self.token())
        link: Link | None = Link(place.epoch, place.lsn, next_epoch)
        if self.fences and not self.store.put_new(fence) and self.store.objects[place] != fence:
            link = None
        self.done(node, node.ownership.closed(claim, link))

    @rule(number=NODE, is_sent=st.booleans())
    def a_log_does_not_end(self, number: int, is_sent: bool) -> None:
        """For too long: the container is let go of, and the fence may come late."""
        node = self.nodes[number]
        match node.actions:
            case [Close(claim, next_epoch), *_]:
                assert node.window is not None
                if is_sent and not node.waiting:
                    node.fence = Fence(Place(node.epoch, node.window.stored_lsn + 1), next_epoch, self.token())
                self.done(node, node.ownership.closed(claim, None))

    @rule(number=NODE)
    def a_late_fence_comes(self, number: int) -> None:
        node = self.nodes[number]
        if node.fence is not None:
            self.store.put_new(node.fence)
            node.fence = None

    @rule(number=NODE)
    def no_epoch_is_reserved(self, number: int) -> None:
        """The coordinator does not answer until the lease is not certainly there."""
        node = self.nodes[number]
        match node.actions:
            case [Prepare(claim), *_]:
                self.done(node, node.ownership.prepared(claim, None, self.now_s))

    def done(self, node: Node, following: Sequence[Action]) -> None:
        node.actions[:1] = following

    def walk(self, node: Node, claim: Claim) -> None:
        if node.takeover is None:
            links = claim.links if self.believes_links else ()
            node.takeover = self.takeover_class(self.token(), claim.epoch, links)
        match node.takeover.wanted:
            case FindCheckpoint():
                node.takeover.found_checkpoint(self.store.newest())
            case Read(place):
                node.takeover.has_read(self.store.objects.get(place))
            case PutFence(fence):
                self.store.put_new(fence)
                node.takeover.has_put()
            case Owned(_, _, links) as owned:
                node.takeover, node.owned = None, owned
                self.done(node, node.ownership.opened(claim, links, self.now_s))
            case Overtaken():
                node.takeover = None
                self.done(node, node.ownership.opened(claim, None, self.now_s))

    # Rules: nodes and leases

    @rule(number=NODE, steps=st.integers(1, 6))
    def a_node_acts(self, number: int, steps: int) -> None:
        node = self.nodes[number]
        for _ in range(steps):
            if node.actions:
                self.act(node)

    @rule(number=NODE)
    def a_node_looks(self, number: int) -> None:
        """By what it saw before."""
        self.look(self.nodes[number])

    @rule(number=NODE)
    def a_node_sees_and_looks(self, number: int) -> None:
        self.see(self.nodes[number])
        self.look(self.nodes[number])

    @rule(number=NODE)
    def a_lease_ends(self, number: int) -> None:
        self.coordinator.end(self.nodes[number].life.life)

    @rule(number=NODE)
    def a_node_lives_again(self, number: int) -> None:
        node = self.nodes[number]
        if not self.is_fresh(node):
            node.life = self.coordinator.begin(number)

    @rule(number=NODE, other=NODE)
    def another_takes_over(self, number: int, other: int) -> None:
        """A whole failover, while the first node sleeps."""
        if number == other:
            return
        self.a_lease_ends(number)
        self.a_node_lives_again(other)
        self.now_s += PATIENCE_S + RETRY_S
        for _ in range(3):
            self.a_node_sees_and_looks(other)
            self.a_node_acts(other, STEPS_MAX)
            self.now_s += PATIENCE_S

    @rule(number=NODE, other=NODE, steps=st.integers(0, 8), wakes=st.booleans())
    def one_sleeps_while_all_goes_on(self, number: int, other: int, steps: int, wakes: bool) -> None:
        """An owner with a put on its way, or a taker on its walk; the log is cut behind what it knows."""
        if steps:
            for node in range(NODES):
                self.groups_are_acknowledged(node)
                self.a_lease_ends(node)
            self.a_node_lives_again(number)
            self.time_passes(RETRY_S + PATIENCE_S)
            for _ in range(3):
                self.a_node_sees_and_looks(number)
                self.a_node_acts(number, steps)
                self.time_passes(PATIENCE_S)
        self.a_group_is_sent(number, 1)
        self.another_takes_over(number, other)
        for _ in range(3):
            self.groups_are_acknowledged(other)
        self.a_checkpoint_is_stored(other, 4, True)
        if wakes:
            self.a_node_acts(number, STEPS_MAX)
            self.groups_are_acknowledged(number)

    # Rules: hand-overs

    @rule(number=NODE)
    def somebody_wishes(self, number: int) -> None:
        self.coordinator.ask(0, number)

    @rule(number=NODE)
    def a_node_drains(self, number: int) -> None:
        node = self.nodes[number]
        if self.is_fresh(node) and len(self.coordinator.lives) > 1:
            self.coordinator.drain(number)
            node.ownership.drain()

    @rule(
        number=NODE,
        heir=st.integers(1, NODES - 1),
        before=st.integers(0, 3),
        steps=st.integers(0, 5),
        dies=st.sampled_from(("", "owner", "heir")),
        taken=st.booleans(),
        ends=st.sampled_from((True, True, False)),
    )
    def one_is_handed_over(
        self, number: int, heir: int, before: int, steps: int, dies: str, taken: bool, ends: bool
    ) -> None:
        """The owner gets so far; then one of them dies, or a third takes over; and the rest of it follows."""
        owners = [n for n in range(NODES) if self.nodes[n].window is not None and self.is_fresh(self.nodes[n])]
        owner = owners[0] if owners else number
        other, third = (owner + heir) % NODES, (owner - heir) % NODES
        for _ in range(before):
            self.a_group_is_sent(owner, 1)
        self.a_put_arrives(owner, 1, True)
        self.a_node_lives_again(other)
        self.a_node_sees_and_looks(owner)
        self.somebody_wishes(other)
        for _ in range(2):
            self.a_node_sees_and_looks(owner)
            self.a_node_acts(owner, 1)
            self.time_passes(WARM_S)
        self.a_node_sees_and_looks(owner)
        if not ends:
            self.groups_are_acknowledged(owner)
            self.a_log_does_not_end(owner, True)
        self.a_node_acts(owner, steps)
        self.a_group_is_sent(owner, 1)
        if dies:
            self.a_lease_ends(owner if dies == "owner" else other)
        if taken:
            self.another_takes_over(owner, third)
            for _ in range(2):
                self.groups_are_acknowledged(third)
        self.a_late_fence_comes(owner)
        for _ in range(4):
            self.a_put_arrives(owner, 0, True)
            self.the_guard_reads(owner, 0)
            self.an_outcome_is_told(owner, 0)
            self.a_node_acts(owner, 1)
        for node in (other, owner):
            for _ in range(2):
                self.a_node_sees_and_looks(node)
                self.a_node_acts(node, STEPS_MAX)
            self.groups_are_acknowledged(node)

    @rule(number=NODE)
    def a_node_finds_its_log_taken(self, number: int) -> None:
        node = self.nodes[number]
        if node.window is not None and node.window.is_deposed:
            claim = Claim(container=0, epoch=node.epoch, life=node.life.life, links=())
            node.actions += node.ownership.lost(claim, self.now_s)

    @rule(seconds=st.sampled_from((0.1, PATIENCE_S, RETRY_S)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    # Rules: groups

    @rule(number=NODE, size=st.integers(1, 2))
    def a_group_is_sent(self, number: int, size: int) -> None:
        node = self.nodes[number]
        if node.window is not None and node.window.is_open and node.takes_groups:
            before = node.waiting[-1].last_lsn if node.waiting else node.window.stored_lsn
            group = node.window.begin(before + size, self.token())
            node.puts.append(Put(group))
            node.waiting.append(group)

    @rule(number=NODE, which=NUMBER, is_answered=st.sampled_from((True, True, False)))
    def a_put_arrives(self, number: int, which: int, is_answered: bool) -> None:
        """Also one of an epoch that the node has left behind. Without an answer it is sent again."""
        node = self.nodes[number]
        sent = [put for put in node.puts if put.stored is None]
        if not sent:
            return
        put = sent[which % len(sent)]
        stored = self.store.put_new(put.group)
        if put.group not in node.waiting:
            node.puts.remove(put)
        elif is_answered:
            at = self.store.objects.get(put.group.place)
            put.stored = stored or outcome(at, put.group.token) is Outcome.STORED

    @rule(number=NODE, which=NUMBER)
    def the_guard_reads(self, number: int, which: int) -> None:
        node = self.nodes[number]
        answered = [put for put in node.puts if put.stored is not None and put.is_ours is None]
        if answered:
            owner = self.coordinator.owners.get(0)
            put = answered[which % len(answered)]
            put.is_ours = not self.guards or (owner is not None and owner.epoch == node.epoch)

    @rule(number=NODE, which=NUMBER)
    def an_outcome_is_told(self, number: int, which: int) -> None:
        node = self.nodes[number]
        guarded = [put for put in node.puts if put.is_ours is not None]
        if guarded and node.window is not None:
            put = guarded[which % len(guarded)]
            node.puts.remove(put)
            is_stored = put.stored and put.is_ours
            self.tell(node, node.window, put.group, Outcome.STORED if is_stored else Outcome.DEPOSED)

    @rule(number=NODE)
    def groups_are_acknowledged(self, number: int) -> None:
        """Sent, stored, guarded and told without a pause."""
        self.a_group_is_sent(number, 1)
        for _ in range(4):
            self.a_put_arrives(number, 0, True)
            self.the_guard_reads(number, 0)
            self.an_outcome_is_told(number, 0)

    def tell(self, node: Node, window: Window, group: Group, what: Outcome) -> None:
        stored = window.ended(group, what)
        while stored is not None and node.waiting and node.waiting[0].last_lsn <= stored:
            done = node.waiting.pop(0)
            assert done.place.lsn not in self.acknowledged, f"LSN {done.place.lsn} is acknowledged twice"
            self.acknowledged[done.place.lsn] = done.token
            node.known.append(done)

    @rule(number=NODE, count=st.integers(1, 4), is_cut=st.booleans())
    def a_checkpoint_is_stored(self, number: int, count: int, is_cut: bool) -> None:
        node = self.nodes[number]
        if node.window is None or not node.known:
            return
        held, node.known = node.known[:count], node.known[count:]
        for group in held:
            self.store.below[group.place.lsn] = group.token
        self.store.checkpoints.append(Place(held[-1].place.epoch, held[-1].last_lsn + 1))
        node.checkpoint = held[-1].last_lsn + 1
        if is_cut:
            self.store.remove_below(node.checkpoint)

    # What must be so

    @invariant()
    def one_serves(self) -> None:
        serving = [n for n in self.nodes if n.ownership.phase(0) is At.SERVING and self.is_fresh(n)]
        serving = [n for n in serving if n.life.life == self.claimed_life(n)]
        assert len(serving) <= 1, f"{len(serving)} nodes serve at once"

    def claimed_life(self, node: Node) -> str:
        claim = node.ownership._containers[0].claim
        assert claim is not None
        return claim.life

    def teardown(self) -> None:
        self.coordinator.owners = {}
        last = Node(self.coordinator.begin(NODES), Ownership([0]))
        self.nodes.append(last)
        for node in self.nodes[:-1]:
            self.coordinator.end(node.life.life)
        self.see(last)
        self.look(last)
        self.a_node_acts(NODES, STEPS_MAX)
        assert last.window is not None, f"a takeover does not end: {last.actions}"
        found = self.store.below | {group.place.lsn: group.token for group in last.known}
        missing = {lsn for lsn, token in self.acknowledged.items() if found.get(lsn) != token}
        assert not missing, f"acknowledged, and lost: {missing}"
        group = last.window.begin(last.window.stored_lsn + 1, self.token())
        assert self.store.put_new(group), f"the only owner cannot go on: {self.store.objects.get(group.place)}"


def searched(examples: int, **changed: object) -> None:
    run_state_machine_as_test(
        type("Changed", (Schedules,), changed),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.generate,),
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"guards": False},  # cluster.fence = conditional
        {"store_class": Ignoring},  # cluster.fence = verify
        {"store_class": Forgetful},
        {"takeover_class": LooksOnce},
        {"takeover_class": LooksOnce, "guards": False},
    ],
    ids=["both", "conditional", "verify", "fences removed", "one look", "conditional, one look"],
)
def test_no_schedule_loses_or_doubles_what_was_acknowledged(changed: dict[str, object]) -> None:
    """One of the two guards is enough, and so is one of the two looks behind a fence."""
    searched(80, **changed)


@pytest.mark.parametrize(
    "planted",
    [
        {"guards": False, "store_class": Forgetful},
        {"guards": False, "store_class": Ignoring},
        {"guards": False, "confirms": False, "takeover_class": LooksOnce},  # model variant C0
        {"believes_links": False, "store_class": Ignoring},
        {"settles": False, "stops_appends": False, "fences": False, "guards": False},
        {"settles": False, "store_class": Ignoring},
        {"compares": False, "store_class": Ignoring},
    ],
    ids=[
        "fences removed",
        "conditions ignored",
        "not confirmed",
        "links not believed",
        "handed over while it is written",
        "handed over before it is settled",
        "handed over without a claim",
    ],
)
def test_a_planted_mistake_is_found(planted: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match=r"lost|twice|cannot go on|serve at once"):
        searched(5000, **planted)
