"""What may happen to a cluster of three nodes, each by itself: it hurts, waits for what is promised, and mends.

Each returns when the cluster is whole again. A wait that is not over in its bound is an AssertionError.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.faults.cluster.nodes import LEASE_S, NODES, Nodes
from tests.faults.settings import scaled
from tests.tier2.fault_proxy import CutRequest, Fault, LoseAnswer, Refuse, Stall, slow_down

AWAY_S: Final = scaled(4, 60)
"""Of etcd and of MinIO."""
CUT_S: Final = scaled(4, 30)
HOUR_S: Final = 3_600
CONFLICT: Final = Refuse(409, b"<Error><Code>ConditionalRequestConflict</Code><Message>At once.</Message></Error>")
SLOW_S: Final = 2.0
SLOW_SHARE: Final = 0.02  # the 99th percentile is slow


@dataclass
class Hurting:
    """The cluster, and the dice that choose in it."""

    nodes: Nodes
    dice: random.Random

    def one(self) -> int:
        """A node that leads something."""
        return self.dice.choice(sorted(set(self.nodes.leaders(self.dice.choice(NODES)).values()) - {-1}))

    def rest(self, seconds: float) -> None:
        """The fault goes on for so long."""
        time.sleep(seconds)


Scenario = Callable[[Hurting], None]


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
        nodes.until_whole()

    return sleep


def cut_off_from_etcd(how: str) -> Scenario:
    """One node alone: it lets go, others take over, and it comes back by itself. `how`: which way nothing passes."""

    def cut(hurting: Hurting) -> None:
        nodes, victim = hurting.nodes, hurting.one()
        try:
            for link in nodes.nodes[victim].etcd:
                if how == "refused":
                    link.cut()
                else:
                    link.hold(requests=how != "answers", answers=how != "requests")
            nodes.until_led_by_others([victim])
            hurting.rest(scaled(1, 10))
        finally:
            nodes.mend(victim)
        nodes.until_whole()

    return cut


def cut_off_from_the_store(how: str) -> Scenario:
    """One node alone: it acknowledges nothing meanwhile, keeps its containers, and goes on."""

    def cut(hurting: Hurting) -> None:
        nodes, victim, lives = hurting.nodes, hurting.one(), hurting.nodes.lives()
        try:
            link = nodes.nodes[victim].store
            if how == "refused":
                link.cut()
            else:
                link.hold(requests=how != "answers", answers=how != "requests")
            hurting.rest(CUT_S)
            assert nodes.lives() == lives, f"the lease of node {victim} has ended"
        finally:
            nodes.mend(victim)
        nodes.until_whole()

    return cut


def cut_off_from_clients(how: str) -> Scenario:
    """One node alone, from all clients, in one direction or in both."""

    def cut(hurting: Hurting) -> None:
        nodes, victim, lives = hurting.nodes, hurting.one(), hurting.nodes.lives()
        try:
            link = nodes.nodes[victim].clients
            if how == "refused":
                link.cut()
            else:
                link.hold(requests=how != "answers", answers=how != "requests")
            hurting.rest(CUT_S)
            assert nodes.lives() == lives, f"the lease of node {victim} has ended"
        finally:
            nodes.mend(victim)
        nodes.until_whole()

    return cut


def cut_off_from_other_nodes(hurting: Hurting) -> None:
    """Nobody is buried: it lives, and keeps what it has. Transactions over both wait."""
    nodes, victim, lives = hurting.nodes, hurting.one(), hurting.nodes.lives()
    try:
        nodes.nodes[victim].inner.hold()
        hurting.rest(CUT_S)
        assert nodes.lives() == lives, f"the lease of node {victim} has ended"
    finally:
        nodes.mend(victim)
    nodes.until_whole()


def alone(hurting: Hurting) -> None:
    """A node that reaches nobody, and whom nobody reaches, comes back with all that it had on its way."""
    nodes, victim = hurting.nodes, hurting.one()
    try:
        for link in nodes.nodes[victim].links:
            link.hold()
        others = [number for number in NODES if number != victim]
        nodes.until_led_by_others([victim])
        assert all(nodes.leaders(asked) for asked in others)
        hurting.rest(scaled(1, 10))
    finally:
        nodes.mend(victim)
    nodes.until_whole()


def the_leader_of_etcd_is_killed(hurting: Hurting) -> None:
    nodes = hurting.nodes
    leader = nodes.leader_of_etcd()
    leader.stop()
    try:
        hurting.rest(scaled(3, 10))
        nodes.until_whole(LEASE_S)
    finally:
        leader.start()
    nodes.until_whole()


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
    hurting.nodes.until_whole()


def store_is_away(how: str) -> Scenario:
    def away(hurting: Hurting) -> None:
        minio = hurting.nodes.minio
        if how == "stands still":
            minio.pause()
        else:
            minio.kill()
        try:
            hurting.rest(AWAY_S)
        finally:
            if how == "stands still":
                minio.resume()
            else:
                minio.start()
        hurting.nodes.until_whole()

    return away


def store_misbehaves(how: str) -> Scenario:
    """Its answers are slow, 503, 409 or lost, or requests break off, for all nodes."""

    def misbehave(hurting: Hurting) -> None:
        dice = random.Random(hurting.dice.random())  # for the proxy's thread alone

        def choose(line: str) -> Fault | None:
            match how:
                case "slow":
                    return Stall(SLOW_S if dice.random() < SLOW_SHARE else dice.random() / 10)
                case "503":
                    return slow_down() if dice.random() < 0.5 else None
                case _:
                    if dice.random() < 0.6:
                        return None
                    return dice.choice((LoseAnswer(), CutRequest(0.5), CONFLICT if line.startswith("PUT") else None))

        hurting.nodes.misbehave(choose)
        try:
            hurting.rest(CUT_S)
        finally:
            hurting.nodes.behave()
        hurting.nodes.until_whole()

    return misbehave


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
    nodes.until_whole()


def everybody_is_killed(hurting: Hurting) -> None:
    for number in NODES:
        hurting.nodes.kill(number)
    hurting.nodes.start(*NODES)
    hurting.nodes.until_whole()


def a_node_is_stopped(hurting: Hurting) -> None:
    """SIGTERM: it hands over, and ends cleanly."""
    nodes, victim = hurting.nodes, hurting.one()
    running = nodes.nodes[victim].running
    assert running is not None
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, nodes.log_tail()
    nodes.until_led_by_others([victim])
    nodes.start(victim)
    nodes.until_whole()


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
                hurting.rest(scaled(1, 10))
                assert nodes.lives() == lives, "a clock has decided about an owner"
    finally:
        for number in NODES:
            nodes.set_clock(number, 0)
    nodes.until_whole()


IN_CI: Final[dict[str, Scenario]] = {
    "an owner sleeps for 6 s": sleep_of(6),
    "a node loses etcd: answers": cut_off_from_etcd("answers"),
    "a node loses clients: answers": cut_off_from_clients("answers"),
    "a node reaches nobody": alone,
    "the store answers 503": store_misbehaves("503"),
    "clocks jump": clocks_jump,
    "etcd's leader is killed": the_leader_of_etcd_is_killed,
}

HOW: Final = ("both", "requests", "answers", "refused")

IN_SOAK: Final[dict[str, Scenario]] = {
    **{f"an owner sleeps for {seconds} s": sleep_of(seconds) for seconds in (1, 2, 3, 4, 6, 10, 20, 60)},
    **{f"a node loses etcd: {how}": cut_off_from_etcd(how) for how in HOW},
    **{f"a node loses the store: {how}": cut_off_from_the_store(how) for how in HOW},
    **{f"a node loses clients: {how}": cut_off_from_clients(how) for how in HOW},
    "a node loses the other nodes": cut_off_from_other_nodes,
    "a node reaches nobody": alone,
    "etcd's leader is killed": the_leader_of_etcd_is_killed,
    "etcd is away": etcd_is_away,
    "the store stands still": store_is_away("stands still"),
    "the store is gone": store_is_away("is gone"),
    "the store is slow": store_misbehaves("slow"),
    "the store answers 503": store_misbehaves("503"),
    "the store's answers are lost": store_misbehaves("lost"),
    "everything stands still": everything_stands_still,
    "everybody is killed": everybody_is_killed,
    "a node is stopped": a_node_is_stopped,
    "clocks jump": clocks_jump,
}
