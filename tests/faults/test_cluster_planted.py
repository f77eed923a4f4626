"""The histories are worth their trust in a cluster, too: with a mistake planted in its nodes, they find what it costs.

Each mistake is one that others have made. A node walks in its sleep: it lost etcd and was paused, others have taken its
containers, and it believes that it has them. What keeps it from acknowledging anything is taken away, one at a time.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from confluent_kafka import KafkaException, Producer

from compat_tests.histories.workload import Workload
from core.log.objects.format import HEADER_SIZE
from tests.faults.client import Connection
from tests.faults.cluster.links import How
from tests.faults.cluster.nodes import NODES, PARTITIONS, PROBE, TAKEOVER_S, Nodes, hurt_by
from tests.faults.cluster.scenarios import Hurting
from tests.faults.settings import SEED, SOAK
from tests.tier2.fault_proxy import Fault, Stall

COSTS: Final = frozenset({"lost", "unseen", "torn", "inconsistent offset", "duplicate", "invented", "send order"})
"""What a mistake may cost. A node that answers reads in its sleep shows old ends, which is none of these."""
SLEEPER: Final = 3
BULK_BYTES: Final = 100_000
BULK_OF_A_PARTITION: Final = 15  # three log files for each container
CUT_WITHIN_S: Final = 60.0
PATIENCE_S: Final = 5.0
CLIENTS_S: Final = 6.0
"""How long clients reach only the sleeper: long enough to be led to it, and to write."""
STALLED_S: Final = 600.0  # longer than others are waited for to have the log
BEHIND: Final = 2
OVERTAKEN_WITHIN_S: Final = 10.0
ANSWERED_S: Final = 1.0
LINES: Final = 1_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0 if SOAK else 480),
    pytest.mark.skipif(not SOAK, reason="the models of tests/core find them at every run"),
]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path) as made:
        yield made


class Stored(NamedTuple):
    """Where a group lies."""

    container: int
    epoch: int
    lsn: int


@dataclass
class Sleepwalk:
    """Node 3 loses etcd and is paused; others take over, write on, and cut the log; it wakes, and goes on, with clients
    that reach no other one for a while."""

    nodes: Nodes

    def __post_init__(self) -> None:
        self.done: dict[str, int] = {}

    def strike(self) -> None:
        nodes, sleeper = self.nodes, self.nodes.nodes[SLEEPER]
        for link in sleeper.etcd:
            link.fail()
        nodes.pause(SLEEPER)
        epochs = self._epochs()
        nodes.until_led_by_others([SLEEPER])
        self._write_on(epochs)
        awake = [number for number in NODES if number != SLEEPER]
        for number in awake:
            nodes.nodes[number].clients.fail(How.REFUSED)
        nodes.resume(SLEEPER)
        Hurting(nodes, random.Random()).rest(CLIENTS_S)
        nodes.kill(SLEEPER)
        for number in NODES:
            nodes.mend(number)
        self.done["sleepwalk"] = 1

    def _write_on(self, epochs: Mapping[int, int]) -> None:
        """Enough for each log of the sleeper to be cut behind the end of its epoch, where the fence is."""
        producer = Producer({"bootstrap.servers": self.nodes.nodes[1].clients.address, "log_level": 0})
        dice = random.Random(SEED)
        for _ in range(BULK_OF_A_PARTITION):
            for partition in range(PARTITIONS):
                producer.produce(PROBE, dice.randbytes(BULK_BYTES), partition=partition)
            producer.flush(30)
        taken = {container: epoch for container, epoch in epochs.items() if self._epochs()[container] > epoch}
        assert taken, "nobody has taken anything over"
        deadline = time.monotonic() + CUT_WITHIN_S
        while left := [one for one in self._groups() if taken.get(one.container) == one.epoch]:
            assert time.monotonic() < deadline, f"logs are not cut: {left[:5]}"
            time.sleep(0.1)

    def _epochs(self) -> dict[int, int]:
        """The newest epoch of each container's log."""
        found: dict[int, int] = {}
        for one in self._groups():
            found[one.container] = max(found.get(one.container, 0), one.epoch)
        return found

    def _groups(self) -> list[Stored]:
        """What the logs have, but fences."""
        named = ((key.split("/")[-3:], size) for key, size in self.nodes.objects("log/").items() if size > HEADER_SIZE)
        return [Stored(int(container), int(epoch), int(lsn)) for (container, epoch, lsn), _ in named]


class Planted(NamedTuple):
    """What is wrong with the node that walks in its sleep, and with all of them; and whether that costs anything."""

    of_the_sleeper: str
    of_all: str
    fence: str
    costs: bool


PLANTED: Final = {
    "none": Planted("", "", "conditional", False),
    "fences deleted": Planted("", "fences", "conditional", True),
    "conditions ignored": Planted("conditions", "", "conditional", True),
    "conditions ignored, with the guard": Planted("conditions", "", "both", False),
    "conditions ignored, guard off": Planted("conditions,guard", "", "both", True),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_is_found(nodes: Nodes, name: str) -> None:
    """The sleeper alone does no harm: its puts meet the fences, or etcd is asked before they are acknowledged. Fences
    that are deleted with the log, and a store that ignores conditions, are found where that guard is off."""
    planted = PLANTED[name]
    for number in NODES:
        mistakes = planted.of_all.split(",")
        if number == SLEEPER:
            mistakes += ["sleepwalker", *planted.of_the_sleeper.split(",")]
        if given := ",".join(filter(None, mistakes)):
            nodes.nodes[number].command = hurt_by("mistake", given)
        nodes.nodes[number].settings["cluster.fence"] = planted.fence
    nodes.begin()
    workload = Workload(nodes.address, SEED, "asleep", lambda topics: Sleepwalk(nodes), patience_s=PATIENCE_S)
    result = workload.run(120, 1)
    found = {anomaly.kind for anomaly in result.anomalies} & COSTS
    print(f"seed {SEED}, {name}: {result}")
    assert result.faults, f"the sleeper did not come to its walk: {result}"
    assert bool(found) == planted.costs, f"seed {SEED}, {result}\n{nodes.log_tail()}"


def test_names_by_sequence_serve_nobody(nodes: Nodes) -> None:
    """A fence takes the name of the group that is to follow it, so the first taker cannot go on: there is no history to
    look into. `tests/core/log/objects` has what the mistake costs where fences have names of their own."""
    for number in NODES:
        nodes.nodes[number].command = hurt_by("mistake", "names")
    nodes.start(*NODES)
    with Connection(nodes.nodes[1].clients.address) as connection:
        connection.create_topic(PROBE, PARTITIONS)
    with pytest.raises(AssertionError, match="-1"):
        nodes.until_led(TAKEOVER_S)
    assert "a container cannot be opened" in nodes.log_tail(1_000)


@dataclass
class KillsAmongPuts:
    """kill -9 of a node, one put of each of whose logs is held up until others have the log, with later ones behind."""

    nodes: Nodes

    def __post_init__(self) -> None:
        self.done = {"kill": 0}
        self._held: dict[str, str] = {}  # by log: the line of the request that is held up
        self._behind: Counter[str] = Counter()  # puts of other groups of that log since
        self.refused = ""  # what a node says of a log that lacks what was stored

    def strike(self) -> None:
        self._held, self._behind = {}, Counter()
        self.nodes.misbehave(self._stalls, [SLEEPER])
        deadline = time.monotonic() + OVERTAKEN_WITHIN_S
        while max(self._behind.values(), default=0) < BEHIND and time.monotonic() < deadline:
            time.sleep(0.1)
        Hurting(self.nodes, random.Random()).rest(ANSWERED_S)
        self.nodes.kill(SLEEPER)
        self.done["kill"] += 1
        self.nodes.behave()
        try:
            self.nodes.until_led_by_others([SLEEPER])
        except AssertionError:
            said = self.nodes.log_tail(LINES).splitlines()
            self.refused = next((line for line in said if "was put when it had been stored" in line), "")
            raise
        self.nodes.start(SLEEPER)
        self.nodes.until_whole()

    def _stalls(self, line: str) -> Fault | None:
        if not line.startswith("PUT") or "/log/" not in line:
            return None
        log = line.rpartition("/log/")[2].partition("/")[0]
        if self._held.setdefault(log, line) == line:  # it may be sent again
            return Stall(STALLED_S)
        self._behind[log] += 1
        return None


@pytest.mark.parametrize("mistake", ["", "order"])
def test_acknowledgements_out_of_order_are_found(nodes: Nodes, mistake: str) -> None:
    """Puts overtake one another, and the node is killed before the slow one is stored: the history lacks it, or who
    takes the log over finds that it is missing, and serves nobody."""
    if mistake:
        for node in nodes.nodes.values():
            node.command = hurt_by("mistake", mistake)
    nodes.begin()
    kills, found, told = KillsAmongPuts(nodes), set[str](), ""
    workload = Workload(nodes.address, SEED, "order", lambda topics: kills, patience_s=PATIENCE_S)
    try:
        result = workload.run(120, 4)
        found, told = {anomaly.kind for anomaly in result.anomalies} & COSTS, str(result)
    except (AssertionError, KafkaException):  # of partitions that nobody serves, there is no end to read to
        if not kills.refused:
            raise
    print(f"seed {SEED}, {mistake or 'none'}: {told or kills.refused}")
    assert kills.done["kill"], told
    assert bool(found or kills.refused) == bool(mistake), f"seed {SEED}, {told}\n{nodes.log_tail()}"
