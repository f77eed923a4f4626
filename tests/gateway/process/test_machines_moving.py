"""Partitions that compaction has been at, or that share groups read, move between nodes under real clients."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, ShareConsumer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.gateway.forking import run
from tests.gateway.http.calls import call
from tests.gateway.process.test_machines import (
    LONG_LEASE_S,
    PARTITIONS,
    REST_S,
    Cluster,
    cluster,
    command,
    etcd,
)
from tests.tier2.conftest import bucket, minio

__all__ = ["bucket", "cluster", "etcd", "minio"]

COMPACTING: Final = tuple(
    word
    for key in ("chunk.age.ms=200", "tier2.verify.delay.ms=100", "rewrite.interval.ms=100")
    for word in ("--set", key)
)
COMPACTED: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"}
KEYS: Final = 20
SHARED: Final = 600
GROUP: Final = "sharers"
QUIET_S: Final = 3.0


class Keyed:
    """An idempotent producer of a few keys to the first partition of a topic, and what was acknowledged of it."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 2, "message.timeout.ms": 60_000}
        )
        self.offsets: list[int] = []
        self.last: dict[bytes, bytes] = {}
        self.failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._over.is_set():
                break
            key, value = b"key-%d" % (number % KEYS), b"%d" % number
            self._producer.produce(self._topic, value, key, partition=0, on_delivery=self._delivered)
            self._producer.poll(0.01)
        self._producer.flush(REST_S)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append(str(error))
            return
        key, value, offset = message.key(), message.value(), message.offset()
        assert isinstance(key, bytes)
        assert value is not None
        assert offset is not None
        self.offsets.append(offset)
        self.last[key] = value

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def end_of(consumer: Consumer, topic: str, deadline: float) -> int:
    """The end of a topic's first partition. The client asks its leader once, which may just be another one."""
    while True:
        try:
            return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=REST_S)[1])
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def read_all(bootstrap: str, topic: str) -> list[tuple[int, bytes, bytes]]:
    """Offset, key and value of all records of a topic's first partition, up to its end as it is now."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.partition.eof": True}
    consumer = Consumer({**settings, "enable.auto.commit": False})
    found: list[tuple[int, bytes, bytes]] = []
    deadline = time.monotonic() + REST_S
    try:
        end = end_of(consumer, topic, deadline)
        consumer.assign([TopicPartition(topic, 0, 0)])
        while not found or found[-1][0] < end - 1:
            assert time.monotonic() < deadline, f"{len(found)} read"
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    break
                continue
            offset, key, value = message.offset(), message.key(), message.value()
            assert offset is not None
            assert isinstance(key, bytes)
            assert value is not None
            found.append((offset, key, value))
        return found
    finally:
        consumer.close()


class Sharer:
    """A member of a share group: what it got."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._member = ShareConsumer({"bootstrap.servers": bootstrap, "group.id": GROUP, "log_level": 0})
        self._member.subscribe([topic])
        self.got: list[bytes] = []

    def read(self, within_s: float, count: int = 1 << 30) -> int:
        """Get and accept records until there are so many in all, or time is up; how many there are."""
        deadline = time.monotonic() + within_s
        while len(self.got) < count and time.monotonic() < deadline:
            self.got += [message.value() for message in self._member.poll(0.2) or () if message.error() is None]
        return len(self.got)

    def close(self) -> None:
        self._member.commit_sync()
        self._member.close()


class Moves:
    """A topic's first partition, moved from node to node by the command."""

    def __init__(self, machines: Cluster, topic: str) -> None:
        self._machines, self._topic = machines, topic
        self._http = machines.nodes[1].ready()["http"]
        self._admin = AdminClient({"bootstrap.servers": machines.addresses[2]})

    def leader(self, number: int = 0) -> int:
        found = self._admin.list_topics(self._topic, timeout=REST_S).topics[self._topic]
        leader: int = found.partitions[number].leader
        return leader

    def over(self) -> None:
        """To a container of the other node; it goes home with the partition."""
        _, _, shown = call(self._http, "GET", f"/api/v1/streams/{self._topic}", None)
        of = {slot: one["container"] for one in shown["epochs"][-1]["segments"] for slot in one["slots"]}
        node = 3 - self.leader()
        container = next(of[number] for number in range(1, PARTITIONS) if self.leader(number) == node)
        done = run("streams", "move", self._topic, "0", "--to", str(container), "--url", f"http://{self._http}")
        assert done.returncode == 0, done.stderr
        deadline = time.monotonic() + REST_S
        while self.leader() != node:
            assert time.monotonic() < deadline, self.leader()
            time.sleep(0.05)


@pytest.fixture
def machines(cluster: Cluster) -> Cluster:
    """Two nodes that lead some partitions of each topic."""
    for node in (1, 2):
        own = ("--set", "cluster.rebalance=off", "--http", "127.0.0.1:0", *COMPACTING)
        cluster.start(node, LONG_LEASE_S, *own)
    for container in (0, 2, 4):
        command("move", str(container), "2", cluster=cluster)
    return cluster


def bootstrap_of(machines: Cluster) -> str:
    return ",".join(machines.addresses.values())


def make_topic(machines: Cluster, name: str, config: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": machines.addresses[1]})
    admin.create_topics([NewTopic(name, PARTITIONS, config=config)])[name].result(REST_S)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_compacted_partition_goes_to_another_node_and_back(machines: Cluster) -> None:
    """It is written, compacted and moved at a time: no write fails, offsets rise, and the last value of each key is
    there, on each node and at the end."""
    make_topic(machines, "t", COMPACTED)
    machines.until_led_by(1, {1, 2})
    bootstrap, moves = bootstrap_of(machines), Moves(machines, "t")
    keyed = Keyed(bootstrap, "t")
    try:
        for _ in range(2):
            written = len(keyed.offsets)
            deadline = time.monotonic() + REST_S
            while len(found := read_all(bootstrap, "t")) > len(keyed.offsets) // 2 or len(keyed.offsets) < written + 99:
                assert time.monotonic() < deadline, f"{len(found)} of {len(keyed.offsets)} are left"
                time.sleep(0.1)
            moves.over()
    finally:
        keyed.end()
    found = read_all(bootstrap, "t")
    offsets = [offset for offset, _, _ in found]
    assert not keyed.failed
    assert keyed.offsets == sorted(set(keyed.offsets))
    assert offsets == sorted(set(offsets))
    assert len(found) < len(keyed.offsets)
    assert {key: value for _, key, value in found} == keyed.last


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_partition_that_a_share_group_reads_goes_to_another_node(machines: Cluster, tmp_path: Path) -> None:
    """Its members get each record, those that were written before, between and behind the moves; what they have
    accepted comes to nobody again."""
    make_topic(machines, "t", {})
    machines.until_led_by(1, {1, 2})
    bootstrap, moves = bootstrap_of(machines), Moves(machines, "t")
    said = [ConfigEntry("share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET)]
    group = ConfigResource(ResourceType.GROUP, GROUP, incremental_configs=said)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([group])[group].result(REST_S)
    producer, written = Producer({"bootstrap.servers": bootstrap}), list[bytes]()

    def write() -> None:
        some = [b"%d" % (len(written) + number) for number in range(SHARED)]
        for value in some:
            producer.produce("t", value, partition=0)
        assert producer.flush(REST_S) == 0
        written.extend(some)

    write()
    sharer = Sharer(bootstrap, "t")
    assert sharer.read(REST_S, SHARED) >= SHARED
    for _ in range(2):
        write()
        moves.over()
        assert sharer.read(REST_S, len(written)) >= len(written)
    sharer.read(QUIET_S)
    sharer.close()
    assert set(sharer.got) == set(written)
    after = Sharer(bootstrap, "t")
    assert after.read(QUIET_S, 1) == 0
    after.close()
