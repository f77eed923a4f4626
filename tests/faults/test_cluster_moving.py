"""Slots that move between nodes of a cluster, over a real etcd and MinIO, under transactional and idempotent producers,
copiers and groups; and kill -9 of the node that carries a move out, at each of its steps.

Nothing acknowledged is lost, doubled, reordered or torn; each move ends, and each slot lies in one container.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import confluent_kafka
import pytest

from compat_tests.histories.workload import Workload
from tests.faults.client import Connection
from tests.faults.cluster import hasty_node
from tests.faults.cluster.hurt_node import OF_A_MOVER
from tests.faults.cluster.moving import Moving, Progress, Wanted
from tests.faults.cluster.nodes import PATIENT_LEASE_MS, POLL_S, PROBE, REST_S_MAX, WHOLE_WITHIN_S, Nodes, hurt_by
from tests.faults.settings import SEED, SOAK, scaled

RUN_S_MAX: Final = 300.0
MOVES: Final = scaled(2, 8)
STEPS_IN_CI: Final = ("state there", "decided")
VICTIM: Final = 3
HOT: Final = "hot"
HOT_PARTITIONS: Final = 4
HOT_BYTES: Final = 512
IN_FLIGHT: Final = 200
AFTERWARDS: Final = 100
"""Records for each partition once two nodes lead some."""
SPREADS_WITHIN_S: Final = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if SOAK else 600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        for node in nodes.nodes.values():
            node.settings["cluster.lease.ms"] = PATIENT_LEASE_MS
        nodes.begin()
        yield nodes


class Strikes:
    """What happens to the topics of a workload, some times."""

    def __init__(self, happen: Callable[[Collection[str]], None], topics: Collection[str]) -> None:
        self._happen, self._topics = happen, topics
        self.done: dict[str, int] = {"moves": 0}

    def strike(self) -> None:
        self._happen(self._topics)
        self.done["moves"] += 1


def check(nodes: Nodes, name: str, happen: Callable[[Collection[str]], None], times: int, directory: Path) -> None:
    workload = Workload(
        nodes.address,
        f"{SEED}/{name}",
        name,
        lambda topics: Strikes(happen, topics),
        patience_s=WHOLE_WITHIN_S,
        pause_s_max=REST_S_MAX,
    )
    result = workload.run(RUN_S_MAX, times)
    print(f"seed {SEED}: {len(result.history.events)} events, {result}")
    if not result.is_clean:
        result.write_to(directory)
        nodes.keep_logs(directory)
    assert result.is_clean, f"{name}, seed {SEED}, all of it: {directory}\n{result}\n{nodes.log_tail()}"


def test_slots_move_between_nodes(cluster: Nodes, tmp_path: Path) -> None:
    moving = Moving(cluster, random.Random(SEED))

    def move(topics: Collection[str]) -> None:
        wanted = moving.want(topics)
        moving.until_ended()
        assert wanted is None or moving.containers(wanted.stream)[wanted.slot] == wanted.target, cluster.log_tail()

    cluster.heal()
    check(cluster, "moves", move, MOVES, tmp_path)


@pytest.mark.parametrize("step", sorted(OF_A_MOVER) if SOAK else STEPS_IN_CI)
def test_a_kill_at_a_step_of_a_move(cluster: Nodes, step: str, tmp_path: Path) -> None:
    """Whoever takes over from the node that dies finds the slot whole, in one container, and ends the move."""
    armed, dice = tmp_path / "armed", random.Random(f"{SEED}/{step}")
    moving = Moving(cluster, dice)
    cluster.heal()
    cluster.kill(VICTIM)
    cluster.nodes[VICTIM].command = hurt_by("step", step, str(armed))
    cluster.start(VICTIM)
    cluster.until_whole()

    def happen(topics: Collection[str]) -> None:
        armed.touch()
        wanted = until_it_dies(moving, topics)
        cluster.until_led_by_others([VICTIM])
        moving.until_ended()
        assert moving.containers(wanted.stream)[wanted.slot] == wanted.target, cluster.log_tail()
        cluster.heal()

    check(cluster, "".join(letter if letter.isalnum() else "-" for letter in step), happen, 1, tmp_path)


def until_it_dies(moving: Moving, topics: Collection[str]) -> Wanted:
    """Want slots of the victim elsewhere until it has come to its step; the last one that was wanted.

    A busy victim may lose its claims before it comes to that: then another node carries the move out, and the victim is
    to get another one.
    """
    wanted: Wanted | None = None
    progress = Progress(moving)
    while wanted is None or not moving.nodes.nodes[VICTIM].has_ended:
        assert wanted is not None or not moving.nodes.nodes[VICTIM].has_ended, "it has ended before anything was wanted"
        rows = progress.look()
        if wanted is None or wanted.key not in rows:
            wanted = moving.want(topics, VICTIM) or moving.want([PROBE], VICTIM) or wanted
        time.sleep(POLL_S)
    return wanted


def test_a_hot_topic_spreads_over_nodes(cluster: Nodes) -> None:
    """All of it begins in one container, so on one node: some of its partitions go to another one by themselves, and
    are written and read there. Nobody is told anything but whom to ask."""
    cluster.heal()
    for node in cluster.nodes.values():
        cluster.kill(node.id)
        node.command = hasty_node.command()
    cluster.start(*cluster.nodes)
    cluster.until_whole()
    with Connection(cluster.nodes[1].clients.address) as connection:
        connection.create_topic(HOT, HOT_PARTITIONS, {"penstock.placement": "one"})
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.address, "enable.idempotence": True})
    acknowledged: dict[int, list[bytes]] = {number: [] for number in range(HOT_PARTITIONS)}

    def told(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
        assert error is None, error
        acknowledged[message.partition()].append(message.key())

    sent, led_by, patience = 0, set[int](), cluster.patience(SPREADS_WITHIN_S)
    spread_at: int | None = None
    while spread_at is None or sent < spread_at + AFTERWARDS:
        assert not patience.is_over(), f"after {patience} {HOT} is led by {led_by}\n{cluster.log_tail()}"
        for number in acknowledged:
            producer.produce(HOT, os.urandom(HOT_BYTES), b"%d" % sent, partition=number, on_delivery=told)
        sent += 1
        while len(producer) > IN_FLIGHT:
            producer.poll(0.05)
        if spread_at is None and sent % 20 == 0:
            led_by = {leader for (topic, _), leader in cluster.leaders(1).items() if topic == HOT}
            spread_at = sent if len(led_by - {-1}) > 1 else None
    assert producer.flush(WHOLE_WITHIN_S) == 0
    expected = [b"%d" % n for n in range(sent)]
    assert acknowledged == dict.fromkeys(range(HOT_PARTITIONS), expected)
    assert read_keys(cluster, sent) == acknowledged


def read_keys(cluster: Nodes, each: int) -> dict[int, list[bytes]]:
    """The keys of the hot topic's records, by partition, in their order."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": cluster.address, "group.id": "reads-it-all", "enable.auto.commit": False}
    )
    found: dict[int, list[bytes]] = {number: [] for number in range(HOT_PARTITIONS)}
    consumer.assign([confluent_kafka.TopicPartition(HOT, number, 0) for number in found])
    patience = cluster.patience(WHOLE_WITHIN_S)
    while sum(map(len, found.values())) < HOT_PARTITIONS * each:
        assert not patience.is_over(), {number: len(keys) for number, keys in found.items()}
        for message in consumer.consume(1_000, 1.0):
            assert message.error() is None, message.error()
            found[message.partition()].append(message.key())
    consumer.close()
    return found
