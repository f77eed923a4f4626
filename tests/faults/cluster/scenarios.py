"""What may happen to a cluster of three nodes, each by itself: it hurts, waits for what is promised, and mends.

Each returns when all partitions are led again by nodes that live. A wait that is not over in its bound is an
AssertionError.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from core.cluster import reaching
from tests.faults.cluster.links import How, Link
from tests.faults.cluster.nodes import LEASE_S, NODES, WHOLE_WITHIN_S, Node, Nodes
from tests.faults.settings import SOAK, scaled
from tests.tier2.fault_proxy import CutRequest, Fault, LoseAnswer, Refuse, Stall, slow_down

AWAY_S: Final = scaled(4, 60)
"""Of etcd and of MinIO."""
CUT_S: Final = scaled(4, 30)
GONE_S: Final = scaled(1, 10)
"""How long a node stays cut off after it was replaced."""
JUMPED_S: Final = scaled(1, 20) / 2
HOUR_S: Final = 3_600
CONFLICT: Final = Refuse(409, b"<Error><Code>ConditionalRequestConflict</Code><Message>At once.</Message></Error>")
SLOW_S: Final = 2.0
SLOW_SHARE: Final = 0.02  # the 99th percentile is slow


@dataclass
class Hurting:
    """The cluster, and the dice that choose in it. `until_all_lead`: each ends when every node leads something, which
    takes until the load was told: ten seconds and more."""

    nodes: Nodes
    dice: random.Random
    until_all_lead: bool = SOAK

    def one(self) -> int:
        """A node that leads something."""
        return self.dice.choice(sorted(self.nodes.until_led()))

    def rest(self, seconds: float) -> None:
        """The fault goes on for so long."""
        time.sleep(seconds)

    def until_over(self) -> None:
        """All that is promised for the time after."""
        if self.until_all_lead:
            self.nodes.until_whole()
        else:
            self.nodes.until_led()

    @contextmanager
    def failing(self, victim: int, links: Sequence[Link], how: How) -> Iterator[None]:
        """These ways of a node fail meanwhile."""
        for link in links:
            link.fail(how)
        try:
            yield
        finally:
            self.nodes.mend(victim)


Scenario = Callable[[Hurting], None]
Ways = Callable[[Node], Sequence[Link]]


def sleep_of(seconds: float) -> Scenario:
    """SIGSTOP of an owner, then SIGCONT. Longer than its lease: others take over meanwhile."""

    def sleep(hurting: Hurting) -> None:
        nodes, victim, began_s = hurting.nodes, hurting.one(), time.monotonic()
        nodes.pause(victim)
        try:
            if seconds > LEASE_S:
                nodes.until_led_by_others([victim])
            hurting.rest(max(0.0, began_s + seconds - time.monotonic()))
        finally:
            nodes.resume(victim)
        hurting.until_over()

    return sleep


def replaced(ways: Ways, how: How = How.HELD) -> Scenario:
    """Without these ways a node lets go: others take over, and it comes back by itself, with all that was under way."""

    def cut(hurting: Hurting) -> None:
        nodes, victim = hurting.nodes, hurting.one()
        with hurting.failing(victim, ways(nodes.nodes[victim]), how):
            nodes.until_led_by_others([victim])
            hurting.rest(GONE_S)
        hurting.until_over()

    return cut


def kept(ways: Ways, how: How = How.HELD) -> Scenario:
    """Without these ways a node waits: nobody buries it, it keeps its containers, and goes on."""

    def cut(hurting: Hurting) -> None:
        nodes, victim = hurting.nodes, hurting.one()
        life = nodes.life(victim)
        with hurting.failing(victim, ways(nodes.nodes[victim]), how):
            hurting.rest(CUT_S)
            assert nodes.life(victim) == life, f"without {how} of one way the lease of node {victim} has ended"
        hurting.until_over()

    return cut


def a_death_beside_a_node_without_the_store(hurting: Hurting) -> None:
    """Whoever cannot open a container takes none: all that the dead one had goes to the third."""
    nodes = hurting.nodes
    apart, dead, third = hurting.dice.sample(NODES, 3)
    with hurting.failing(apart, to_the_store(nodes.nodes[apart]), How.HELD):
        hurting.rest(2 * (reaching.LOOK_S + reaching.ANSWER_S))
        had = nodes.led_by(apart, third)
        nodes.kill(dead)
        nodes.until_led_by_others([dead])
        assert nodes.led_by(apart, third) == had, f"node {apart} has taken what it cannot open"
        nodes.start(dead)
    hurting.until_over()


def the_leader_of_etcd_is_killed(hurting: Hurting) -> None:
    """Two members are left: leases go on, and nothing changes hands."""
    nodes, lives = hurting.nodes, hurting.nodes.lives()
    leader = nodes.leader_of_etcd()
    leader.stop()
    try:
        hurting.rest(scaled(3, 10))
        nodes.until_led(LEASE_S)
        assert nodes.lives() == lives, "a lease has ended with etcd's leader"
    finally:
        leader.start()
    hurting.until_over()


def etcd_is_away(hurting: Hurting) -> None:
    """All of it is killed, for longer than leases last, and started again: nodes come back by themselves."""
    for member in hurting.nodes.etcd:
        member.stop()
    try:
        hurting.rest(AWAY_S)
    finally:
        for member in hurting.nodes.etcd:
            member.begin()
        for member in hurting.nodes.etcd:
            member.wait_ready()
    hurting.until_over()


def the_store_stands_still(hurting: Hurting) -> None:
    """It takes connections and answers nothing: nobody loses a container by that."""
    nodes, lives = hurting.nodes, hurting.nodes.lives()
    nodes.minio.pause()
    try:
        hurting.rest(AWAY_S)
        assert nodes.lives() == lives, "a lease has ended with the store"
    finally:
        nodes.minio.resume()
    hurting.until_over()


def the_store_is_gone(hurting: Hurting) -> None:
    """It is killed, and started again."""
    nodes, lives = hurting.nodes, hurting.nodes.lives()
    nodes.minio.kill()
    try:
        hurting.rest(AWAY_S)
        assert nodes.lives() == lives, "a lease has ended with the store"
    finally:
        nodes.minio.start()
    hurting.until_over()


Chooses = Callable[[random.Random, str], Fault | None]


def store_misbehaves(chooses: Chooses) -> Scenario:
    """Some requests of all nodes come to harm, as told by the dice and their first lines."""

    def misbehave(hurting: Hurting) -> None:
        dice = random.Random(hurting.dice.random())  # for the proxy's thread alone
        hurting.nodes.misbehave(lambda line: chooses(dice, line))
        try:
            hurting.rest(CUT_S)
        finally:
            hurting.nodes.behave()
        hurting.until_over()

    return misbehave


def slow(dice: random.Random, line: str) -> Fault:
    return Stall(SLOW_S if dice.random() < SLOW_SHARE else dice.random() / 10)


def busy(dice: random.Random, line: str) -> Fault | None:
    return slow_down() if dice.random() < 0.5 else None


def broken_off(dice: random.Random, line: str) -> Fault | None:
    """Answers are lost, requests break off, puts meet a conflict that has left nothing."""
    if dice.random() < 0.6:
        return None
    return dice.choice((LoseAnswer(), CutRequest(0.5), CONFLICT if line.startswith("PUT") else None))


def everything_stands_still(hurting: Hurting) -> None:
    """As a machine that sleeps: all nodes, etcd and MinIO, for longer than leases last; they wake in any order."""
    nodes = hurting.nodes
    waking: list[Callable[[], object]] = [*(lambda number=number: nodes.resume(number) for number in NODES)]  # type: ignore[misc]
    waking += [member.resume for member in nodes.etcd]
    waking.append(nodes.minio.resume)
    hurting.dice.shuffle(waking)
    for number in NODES:
        nodes.pause(number)
    for member in nodes.etcd:
        member.pause()
    nodes.minio.pause()
    try:
        hurting.rest(scaled(5, 30))
    finally:
        for wake in waking:
            wake()
            time.sleep(hurting.dice.random() / 5)
    hurting.until_over()


def everybody_is_killed(hurting: Hurting) -> None:
    """All are started again at once, while their former leases are still there."""
    for number in NODES:
        hurting.nodes.kill(number)
    hurting.nodes.start(*NODES)
    hurting.until_over()


def a_node_is_stopped(hurting: Hurting) -> None:
    """SIGTERM: it hands over, and ends cleanly."""
    nodes, victim = hurting.nodes, hurting.one()
    running = nodes.nodes[victim].running
    assert running is not None
    running.process.send_signal(signal.SIGTERM)
    nodes.until_ended(victim, WHOLE_WITHIN_S)
    assert running.process.returncode == 0, nodes.log_tail()
    nodes.until_led_by_others([victim])
    nodes.start(victim)
    hurting.until_over()


def clocks_jump(hurting: Hurting) -> None:
    """The wall clock of one node, then of all, by an hour either way: nothing changes hands, and records are taken.

    Timestamps are the clients'. What hangs on the wall clock alone, the store's signatures, is set right by the answer.
    """
    nodes, lives = hurting.nodes, hurting.nodes.lives()
    try:
        for some in ([hurting.one()], list(NODES)):
            for seconds in (HOUR_S, -HOUR_S, 0):
                for number in some:
                    nodes.set_clock(number, seconds)
                hurting.rest(JUMPED_S)
                assert nodes.lives() == lives, "a clock has decided about an owner"
    finally:
        for number in NODES:
            nodes.set_clock(number, 0)
    hurting.until_over()


def to_etcd(node: Node) -> Sequence[Link]:
    return node.etcd


def to_the_store(node: Node) -> Sequence[Link]:
    return [node.store]


def to_clients(node: Node) -> Sequence[Link]:
    return [node.clients]


def to_other_nodes(node: Node) -> Sequence[Link]:
    return [node.inner]


def to_anybody(node: Node) -> Sequence[Link]:
    return node.links


SCENARIOS: Final[dict[str, Scenario]] = {
    **{f"an owner sleeps for {seconds} s": sleep_of(seconds) for seconds in (1, 2, 3, 4, 6, 10, 20, 60)},
    **{f"a node loses etcd: {how}": replaced(to_etcd, how) for how in How},
    **{f"a node loses the store: {how}": kept(to_the_store, how) for how in How},
    **{f"a node loses clients: {how}": kept(to_clients, how) for how in How},
    "a node loses the store, and another one dies": a_death_beside_a_node_without_the_store,
    "a node loses the other nodes": kept(to_other_nodes),
    "a node reaches nobody": replaced(to_anybody),
    "etcd's leader is killed": the_leader_of_etcd_is_killed,
    "etcd is away": etcd_is_away,
    "the store stands still": the_store_stands_still,
    "the store is gone": the_store_is_gone,
    "the store is slow": store_misbehaves(slow),
    "the store answers 503": store_misbehaves(busy),
    "the store's answers are lost": store_misbehaves(broken_off),
    "everything stands still": everything_stands_still,
    "everybody is killed": everybody_is_killed,
    "a node is stopped": a_node_is_stopped,
    "clocks jump": clocks_jump,
}

IN_CI: Final = (
    "a node loses etcd: answers",
    "a node reaches nobody",
    "the store answers 503",
    "clocks jump",
)
"""One after the other, in one history."""
