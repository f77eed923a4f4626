"""Transactions over two nodes of a cluster, over a real etcd and MinIO, with kill -9 in the middle of them.

A copy, exactly once: a transactional producer writes what it has read, with the offsets of its group. Partitions,
group and coordinator lie in six containers, three at each node. The node that is killed has the coordinator, or leads
partitions and perhaps has the group.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.settings import SEED, SOAK, scaled
from tests.gateway.process.test_machines import PARTITIONS, REST_S, Cluster, cluster, etcd
from tests.tier2.conftest import bucket, minio

__all__ = ["bucket", "cluster", "etcd", "minio"]

COPIER: Final = "copier"  # the group, and the transactional id
SOURCE, COPY = "t", "copy"
KILLS: Final = scaled(1, 60)
AT_ONCE: Final = 20
COPIED_BETWEEN: Final = 50
AHEAD_MAX: Final = 100
STUCK_S: Final = 20.0
WITHIN_S: Final = 60.0
PAUSE_S: Final = 0.015

pytestmark = pytest.mark.timeout(0 if SOAK else 480)


class Thread:
    """Something that goes on until it is over; what it raises is raised by `end`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    @property
    def servers(self) -> str:
        return ",".join(self.cluster.addresses.values())

    def live(self) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self.live()
        except BaseException as failure:
            self._failure = failure


class Copier(Thread):
    """Copies in transactions. After an error it begins anew, which aborts what was open, and goes by the group.

    librdkafka's `send_offsets_to_transaction` may wait for ever, whatever its time-out, for a coordinator that is gone
    (its issues 5456 and 5511). A life that does nothing for `STUCK_S` is left alone: the next one fences it.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.copied = 0
        self._moved_s = 0.0

    def live(self) -> None:
        while not self.over.is_set():
            self._moved_s = time.monotonic()
            life = threading.Thread(target=self._until_it_fails, daemon=True)
            life.start()
            while life.is_alive() and time.monotonic() < self._moved_s + STUCK_S:
                life.join(0.1)

    def _until_it_fails(self) -> None:
        try:
            self._one_life()
        except KafkaException as error:
            print(f"{time.monotonic():.1f} a life ends: {error}")

    def _one_life(self) -> None:
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": COPIER, "linger.ms": 0})
        producer.init_transactions(REST_S)
        with consuming(self.servers) as consumer:
            places = [TopicPartition(SOURCE, number) for number in range(PARTITIONS)]
            known = consumer.committed(places, timeout=REST_S)
            consumer.assign([TopicPartition(SOURCE, one.partition, max(one.offset, 0)) for one in known])
            self.copied = sum(max(one.offset, 0) for one in known)  # a commit that failed may have been one
            while not self.over.is_set():
                self._moved_s = time.monotonic()
                read = [one for one in consumer.consume(AT_ONCE, timeout=0.1) if one.error() is None]
                if not read:
                    continue
                producer.begin_transaction()
                for one in read:
                    producer.produce(COPY, one.value(), partition=one.partition() or 0)
                reached = {one.partition(): TopicPartition(SOURCE, one.partition(), one.offset() + 1) for one in read}
                producer.send_offsets_to_transaction(list(reached.values()), consumer.consumer_group_metadata(), REST_S)
                producer.commit_transaction(REST_S)
                self.copied += len(read)


class Source(Thread):
    """Writes numbers, each once: what is acknowledged is to be copied. It waits for a copier that is far behind."""

    def __init__(self, cluster: Cluster, copier: Copier) -> None:
        super().__init__(cluster)
        self._copier = copier
        self.acknowledged = 0
        self.failed: list[str] = []

    def live(self) -> None:
        producer = Producer({"bootstrap.servers": self.servers, "enable.idempotence": True, "linger.ms": 2})
        for value in itertools.count():
            while self.acknowledged > self._copier.copied + AHEAD_MAX and not self.over.is_set():
                producer.poll(PAUSE_S)
            if self.over.wait(PAUSE_S):
                break
            producer.produce(SOURCE, b"%d" % value, partition=value % PARTITIONS, on_delivery=self._delivered)
            producer.poll(0)
        producer.flush(WITHIN_S)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.failed.append(str(error))


@contextmanager
def consuming(servers: str) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": COPIER,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def read_all(servers: str, topic: str, partition: int) -> list[int]:
    """What a reader of committed records finds until nothing more comes."""
    with consuming(servers) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0)])
        found: list[int] = []
        while (message := consumer.poll(REST_S)) is not None:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                return found
            value = message.value()
            assert error is None, error
            assert value is not None
            found.append(int(value))
        raise AssertionError(f"{topic}-{partition} has no end behind {len(found)} records")


def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def coordinating(cluster: Cluster, asked: int) -> int:
    """The node that has the transaction's coordinator, and with it the group of the same name."""
    admin = AdminClient({"bootstrap.servers": cluster.addresses[asked]})
    described = admin.describe_consumer_groups([COPIER], request_timeout=REST_S)[COPIER].result()
    return int(described.coordinator.id)


def test_a_copy_exactly_once(cluster: Cluster) -> None:
    """What was written is in the copy once, in its order, and the group has come to its end, whoever was killed."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    cluster.start(1)
    for topic in (SOURCE, COPY):
        cluster.make_topic(1, topic)
    cluster.start(2)
    cluster.until_led_by(1, {1, 2})
    copier = Copier(cluster)
    source = Source(cluster, copier)
    try:
        source.begin()
        copier.begin()
        for _ in range(KILLS):
            seen = copier.copied
            until(lambda seen=seen: copier.copied > seen + COPIED_BETWEEN, lambda: f"{copier.copied} copied")  # type: ignore[misc]
            coordinator = coordinating(cluster, dice.choice((1, 2)))
            victim = dice.choice((coordinator, 3 - coordinator))
            print(f"{time.monotonic():.1f} node {victim} is killed, the coordinator is at {coordinator}")
            time.sleep(dice.random() / 5)
            cluster.kill(victim)
            cluster.start(victim)
            print(f"{time.monotonic():.1f} it serves again")
            cluster.until_led_by(3 - victim, {1, 2})
            print(f"{time.monotonic():.1f} it leads again, {copier.copied} of {source.acknowledged} are copied")
        source.end()
        until(lambda: copier.copied >= source.acknowledged, lambda: f"{copier.copied} of {source.acknowledged} copied")
    finally:
        source.over.set()
        copier.end()
    assert not source.failed
    written = [read_all(source.servers, SOURCE, partition) for partition in range(PARTITIONS)]
    for partition, numbers in enumerate(written):
        assert read_all(source.servers, COPY, partition) == numbers
        assert numbers == sorted(set(numbers))
    with consuming(source.servers) as consumer:
        reached = consumer.committed([TopicPartition(SOURCE, number) for number in range(PARTITIONS)], timeout=REST_S)
        assert [one.offset for one in reached] == [len(numbers) for numbers in written]
