"""kafka-python: all Python, so a measurement shows mostly the client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from gateway.bench.clients import Finished, own_names
from gateway.bench.plan import Plan

BATCH: Final = 1000
POLL_S: Final = 0.001


class KafkaPythonWriter:
    def __init__(self, plan: Plan, name: str) -> None:
        settings: dict[str, Any] = {
            "bootstrap_servers": plan.bootstrap,
            "client_id": name,
            "acks": plan.acks if plan.acks == "all" else int(plan.acks),
            "compression_type": None if plan.compression == "none" else plan.compression,
            "enable_idempotence": plan.idempotence or bool(plan.transactions),
            "transactional_id": name if plan.transactions else None,
        }
        self._producer = KafkaProducer(**(settings | own_names(plan)))
        self._topic = plan.topic
        self._handed_over = 0
        self._finished = 0
        self._producer.partitions_for(plan.topic)
        if plan.transactions:
            self._producer.init_transactions()

    def send(self, value: bytes, key: bytes | None, finished: Finished) -> None:
        self._handed_over += 1

        def done(error: object | None = None) -> None:
            self._finished += 1  # in the client's one sender thread
            finished(error, None)

        future = self._producer.send(self._topic, value, key)
        future.add_callback(lambda _metadata: done())
        future.add_errback(done)

    def poll(self, seconds: float) -> None:
        """Reports come on the client's own thread: here it is enough to wait."""
        time.sleep(min(seconds, POLL_S))

    def outstanding(self) -> int:
        return self._handed_over - self._finished

    def begin(self) -> None:
        self._producer.begin_transaction()

    def commit(self) -> None:
        self._producer.commit_transaction()


class KafkaPythonReader:
    def __init__(self, plan: Plan, partitions: list[int], offsets: Mapping[int, int]) -> None:
        settings: dict[str, Any] = {
            "bootstrap_servers": plan.bootstrap,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
        }
        self._consumer = KafkaConsumer(**(settings | own_names(plan)))
        self._assigned = [TopicPartition(plan.topic, partition) for partition in partitions]
        self._offsets = offsets
        self._consumer.assign(self._assigned)
        self.rewind()

    def rewind(self) -> None:
        for partition in self._assigned:
            self._consumer.seek(partition, self._offsets[partition.partition])

    def take(self, seconds: float) -> list[bytes]:
        polled = self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=BATCH)
        return [record.value for records in polled.values() for record in records]

    def positions(self) -> Mapping[int, int]:
        return {partition.partition: self._consumer.position(partition) for partition in self._assigned}


writer = KafkaPythonWriter
reader = KafkaPythonReader
