"""The clients: one that writes to each partition in turn, and one that reads all of them.

Records of a partition are numbered, so that the reader knows of each one that it misses. Both measure silence: the
longest time in which a partition gave no sign of life.
"""

from __future__ import annotations

import time
from typing import Final

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from deploy.demo.doors import Doors
from deploy.demo.traffic import ANSWER_S_MAX, QUIET, Worker

TOPIC: Final = "demo"
GROUP: Final = "demo"
PARTITIONS: Final = 6
PER_S: Final = 120
"""Records a second, all partitions together: each hears of something every 50 ms."""
TURN_S: Final = 0.02
POLL_S: Final = 0.1
BATCH: Final = 500


def create_topic(address: str, doors: Doors) -> None:
    """With ACLs, if there are any, that let the clients write it, and read it in their group."""
    admin = AdminClient({"bootstrap.servers": address, **QUIET, **doors.admin})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(ANSWER_S_MAX)
    doors.let_in(admin, TOPIC, GROUP)


class Leaders:
    """Which node leads which partition, as a client is told."""

    def __init__(self, address: str, doors: Doors) -> None:
        self._admin = AdminClient({"bootstrap.servers": address, **QUIET, **doors.client})
        self._last: dict[int, int] = {}

    def look(self) -> dict[int, int]:
        """By partition; what was told before if nobody answers at once. -1 is nobody."""
        try:
            found = self._admin.list_topics(TOPIC, timeout=1.0).topics[TOPIC].partitions
        except confluent_kafka.KafkaException:
            return self._last
        self._last = {number: partition.leader for number, partition in sorted(found.items())}
        return self._last


class Silence:
    """The longest time between two signs of life of one partition, since it was last asked to forget."""

    def __init__(self) -> None:
        self._heard = dict.fromkeys(range(PARTITIONS), time.monotonic())
        self._since: set[int] = set()
        self.longest_s = 0.0

    def heard(self, partition: int) -> None:
        now = time.monotonic()
        self.longest_s = max(self.longest_s, now - self._heard[partition])
        self._heard[partition] = now
        self._since.add(partition)

    def heard_of(self) -> int:
        """Partitions that have given a sign since."""
        return len(self._since)

    def now_s(self) -> float:
        """The silence of the partition that has been silent longest."""
        return time.monotonic() - min(self._heard.values())

    def forget(self) -> None:
        """What was before does not count; silence counts from now."""
        self._heard = dict.fromkeys(range(PARTITIONS), time.monotonic())
        self._since = set()
        self.longest_s = 0.0


class Writer(Worker):
    """An idempotent producer with a steady rate; `records` are acknowledged."""

    def __init__(self, address: str, doors: Doors) -> None:
        super().__init__(address, doors)
        self.silence = Silence()

    def work(self) -> None:
        producer = confluent_kafka.Producer({"enable.idempotence": True, "linger.ms": 5, **self.connection})
        began, made = time.monotonic(), 0
        while not self.ending.wait(TURN_S):
            for number in range(made, int((time.monotonic() - began) * PER_S)):
                value = b"%d" % (number // PARTITIONS)
                producer.produce(TOPIC, value, partition=number % PARTITIONS, on_delivery=self._delivered)
                made = number + 1
            producer.poll(0)
        producer.flush(ANSWER_S_MAX)

    def _delivered(self, error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
        partition = message.partition()
        if error is not None or partition is None:
            self.error = confluent_kafka.KafkaException(error)
            return
        self.records += 1
        self.silence.heard(partition)


class Reader(Worker):
    """A member of a group that reads all partitions. `records` were read, each counted once."""

    def __init__(self, address: str, doors: Doors) -> None:
        super().__init__(address, doors)
        self.silence = Silence()
        self.again = 0  # records that came twice
        self.missed = 0
        self._next = dict.fromkeys(range(PARTITIONS), 0)

    def work(self) -> None:
        consumer = confluent_kafka.Consumer({"group.id": GROUP, "auto.offset.reset": "earliest", **self.connection})
        consumer.subscribe([TOPIC])
        try:
            while not self.ending.is_set():
                for message in consumer.consume(BATCH, POLL_S):
                    self._take(message)
        finally:
            consumer.close()

    def _take(self, message: confluent_kafka.Message) -> None:
        partition, value = message.partition(), message.value()
        if message.error() is not None or partition is None or value is None:
            return  # it is told of a node that went, and goes on by itself
        self.silence.heard(partition)
        number, due = int(value), self._next[partition]
        if number < due:
            self.again += 1
            return
        self.missed += number - due
        self.records += 1
        self._next[partition] = number + 1
