"""confluent-kafka: librdkafka, compiled. The default: it costs the measured machine the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from gateway.bench.clients import Finished
from gateway.bench.plan import Plan

FULL_WAIT_S: Final = 0.05
TRANSACTION_SECONDS_MAX: Final = 60
BATCH: Final = 1000


class ConfluentWriter:
    def __init__(self, plan: Plan, name: str) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": plan.bootstrap,
            "client.id": name,
            "acks": plan.acks,
            "compression.type": plan.compression,
            "enable.idempotence": plan.idempotence or bool(plan.transactions),
        }
        if plan.transactions:
            settings["transactional.id"] = name
        self._producer = Producer(settings | plan.settings)
        self._topic = plan.topic
        self._producer.list_topics(plan.topic, timeout=TRANSACTION_SECONDS_MAX)
        if plan.transactions:
            self._producer.init_transactions(TRANSACTION_SECONDS_MAX)

    def send(self, value: bytes, key: bytes | None, finished: Finished) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=finished)
                return
            except BufferError:
                self._producer.poll(FULL_WAIT_S)
            except KafkaException as refused:  # refused by the client itself, for example as too large
                finished(refused.args[0], None)
                return

    def poll(self, seconds: float) -> None:
        self._producer.poll(seconds)

    def outstanding(self) -> int:
        return len(self._producer)

    def begin(self) -> None:
        self._producer.begin_transaction()

    def commit(self) -> None:
        self._producer.commit_transaction(TRANSACTION_SECONDS_MAX)


class ConfluentReader:
    def __init__(self, plan: Plan, partitions: list[int], offsets: Mapping[int, int]) -> None:
        settings: dict[str, Any] = {
            "bootstrap.servers": plan.bootstrap,
            "group.id": "penstock-bench",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,  # the only sign of the end if the last entry is a transaction's marker
        }
        self._consumer = Consumer(settings | plan.settings)
        self._starts = {partition: offsets[partition] for partition in partitions}
        self._topic = plan.topic
        self._positions: dict[int, int] = {}
        self.rewind()

    def rewind(self) -> None:
        self._positions = dict(self._starts)
        self._consumer.assign([TopicPartition(self._topic, *start) for start in self._starts.items()])

    def take(self, seconds: float) -> list[bytes]:
        first = self._consumer.poll(seconds)
        if first is None:
            return []
        # Never wait for a full batch: the call would hold back available records.
        messages = [first, *self._consumer.consume(BATCH, 0)]
        values = []
        for message in messages:
            error = message.error()
            if error is None:
                values.append(message.value() or b"")
                self._reach(message, 1)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._reach(message, 0)
            elif not error.retriable():
                raise KafkaException(error)
        return values

    def _reach(self, message: Message, beyond: int) -> None:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        self._positions[partition] = max(self._positions[partition], offset + beyond)

    def positions(self) -> Mapping[int, int]:
        return self._positions


writer = ConfluentWriter
reader = ConfluentReader
