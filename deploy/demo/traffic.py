"""The clients of the demo: a producer, a consumer at the tail, and one that reads from the beginning.

Real clients (librdkafka), each in a thread of its own, which ends soon after its stop.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from typing import Final

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from deploy.demo.doors import Doors
from deploy.demo.servers import undisturbed

TOPIC: Final = "demo"
GROUP: Final = "demo"
NO_GROUP: Final = "unused"
"""Who reads alone must name a group, too."""
PARTITIONS: Final = 8
VALUE_BYTES: Final = 1_000
TIDE_S: Final = 50.0
"""Time from one high tide to the next: long enough for segments to split, and to merge again."""
LOW_PER_S: Final = 100
HIGH_PER_S: Final = 3_000
TARGET_BYTES_PER_S: Final = 400_000
"""Target rate of one segment: at high tide the topic has seven times as much."""
TURN_S: Final = 0.05
POLL_S: Final = 0.2
BATCH: Final = 500
PAUSE_S: Final = 5.0
ANSWER_S_MAX: Final = 30.0
QUIET: Final[dict[str, str | int]] = {"log_level": 0}


def create_topic(address: str, doors: Doors) -> None:
    """With ACLs, if there are any, that let the clients write it, and read it."""
    admin = AdminClient({"bootstrap.servers": address, **QUIET, **doors.admin})
    scaling = {"penstock.scaling.policy": "bytes", "penstock.scaling.target.rate": str(TARGET_BYTES_PER_S)}
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1, config=scaling)])[TOPIC].result(ANSWER_S_MAX)
    doors.let_in(admin, TOPIC, GROUP, NO_GROUP)


def records_by(seconds: float) -> int:
    """Records that were due by then: their rate rises and falls like a tide, and begins to rise."""
    mean, swing = (HIGH_PER_S + LOW_PER_S) / 2, (HIGH_PER_S - LOW_PER_S) / 2
    turn = TIDE_S / math.tau
    return int(mean * seconds - swing * turn * math.sin(seconds / turn))


class Worker(threading.Thread):
    """A client in a thread; `error` is the exception that ended it."""

    def __init__(self, address: str, doors: Doors) -> None:
        super().__init__(daemon=True)
        self.connection: dict[str, str | int] = {"bootstrap.servers": address, **QUIET, **doors.client}
        self.records = 0
        self.ending = threading.Event()
        self.error: Exception | None = None

    def start(self) -> None:
        with undisturbed():  # Ctrl-C in here would leave a thread that has begun and cannot be joined
            super().start()

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.error = error

    def work(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.ending.set()
        if self.ident is not None:
            self.join(ANSWER_S_MAX)


class Producer(Worker):
    """Sends the records that are due, with random keys."""

    def work(self) -> None:
        producer = confluent_kafka.Producer({"linger.ms": 20, **self.connection})
        began, made = time.monotonic(), 0
        while not self.ending.wait(TURN_S):
            due = records_by(time.monotonic() - began)
            for _ in range(due - made):
                # Half of a value is the same in all records, as in real ones.
                value = secrets.token_bytes(VALUE_BYTES // 2) + bytes(VALUE_BYTES // 2)
                producer.produce(TOPIC, value, key=secrets.token_bytes(4), on_delivery=self._delivered)
            made = max(made, due)
            producer.poll(0)
        producer.flush(ANSWER_S_MAX)

    def _delivered(self, error: confluent_kafka.KafkaError | None, _: confluent_kafka.Message) -> None:
        if error is None:
            self.records += 1
        else:
            self.error = confluent_kafka.KafkaException(error)


class TailReader(Worker):
    """A member of a group; it reads new records."""

    def work(self) -> None:
        consumer = confluent_kafka.Consumer({"group.id": GROUP, "auto.offset.reset": "earliest", **self.connection})
        consumer.subscribe([TOPIC])
        try:
            while not self.ending.is_set():
                self.records += len(consumer.consume(BATCH, POLL_S))
        finally:
            consumer.close()


class FromTheBeginning(Worker):
    """Reads all records, from the beginning to the end, again and again with pauses."""

    def __init__(self, address: str, doors: Doors) -> None:
        super().__init__(address, doors)
        self.rounds = 0
        self.position = 0  # records read in this round

    def work(self) -> None:
        while not self.ending.is_set():
            self._once()
            self.ending.wait(PAUSE_S)

    def _once(self) -> None:
        consumer = confluent_kafka.Consumer(
            {
                "group.id": NO_GROUP,
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                **self.connection,
            }
        )
        try:
            places = [
                confluent_kafka.TopicPartition(TOPIC, p, confluent_kafka.OFFSET_BEGINNING) for p in range(PARTITIONS)
            ]
            ends = [consumer.get_watermark_offsets(place, timeout=ANSWER_S_MAX)[1] for place in places]
            left, self.position = sum(ends), 0
            consumer.assign(places)
            while left > self.position and not self.ending.is_set():
                taken = consumer.consume(BATCH, POLL_S)
                self.position += sum(self._is_before(one, ends) for one in taken)
                self.records += len(taken)
            self.rounds += not self.ending.is_set()
        finally:
            consumer.close()

    @staticmethod
    def _is_before(message: confluent_kafka.Message, ends: list[int]) -> bool:
        """A record that was there when the round began."""
        partition, offset = message.partition(), message.offset()
        return message.error() is None and partition is not None and offset is not None and offset < ends[partition]
