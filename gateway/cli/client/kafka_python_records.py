"""Records through kafka-python: writing and reading them.

Keeps: a writer waits for no more than PENDING_MAX acknowledgements; an error of any of them is raised by a later call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from gateway.cli.client.cluster import NewRecord, PartitionId, Record, counted
from gateway.cli.client.kafka_python_errors import refusing, words_of
from gateway.cli.refused import Refused

ROOM_MS: Final = 60_000
"""Longest wait for room among the records that are on their way."""
ACKNOWLEDGED_S: Final = 30.0
"""Longest wait for one acknowledgement."""
PENDING_MAX: Final = 10_000
"""Records whose acknowledgement a writer waits for at a time."""


class KafkaPythonWriter:
    """Satisfies `Writer`."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        """Raises Refused if the topic is not there, before there is anything to lose."""
        self._producer = producer
        self._topic = topic
        self._pending: list[Any] = []
        self._written = 0
        self._check_topic()
        producer.config["max_block_ms"] = ROOM_MS

    @refusing
    def _check_topic(self) -> None:
        """A cluster that makes topics by itself has now made it."""
        try:
            self._producer.partitions_for(self._topic)
        except KafkaTimeoutError as error:
            self.close()
            why = "is not there, and the cluster does not make it by itself: `penstock topics create` does"
            raise Refused(f"topic {self._topic!r} {why}") from error
        except KafkaError:
            self.close()
            raise

    @refusing
    def write(self, record: NewRecord) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._settle()
        try:
            sent = self._producer.send(
                self._topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                partition=record.partition,
                timestamp_ms=record.timestamp_ms,
            )
        except KafkaError as error:
            self._settle()
            raise self._refused(error) from error
        self._pending.append(sent)

    @refusing
    def flush(self) -> None:
        self._settle()

    def _settle(self) -> None:
        self._producer.flush()
        pending, self._pending = self._pending, []
        for one in pending:
            try:
                one.get(timeout=ACKNOWLEDGED_S)
            except KafkaError as error:
                raise self._refused(error) from error
            self._written += 1

    def _refused(self, error: KafkaError) -> Refused:
        """Of the record after those that are written."""
        before = f"; {counted(self._written, 'record')} before it written" if self._written else ""
        return Refused(f"record {self._written + 1}: {words_of(error)}{before}")

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=1)


class KafkaPythonReader:
    """Satisfies `Reader`."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    @refusing
    def poll(self, timeout_ms: int) -> list[Record]:
        found = self._consumer.poll(timeout_ms=timeout_ms)
        return [
            Record(one.topic, one.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
            for records in found.values()
            for one in records
        ]

    @refusing
    def position(self, partition: PartitionId) -> int:
        return int(self._consumer.position(TopicPartition(*partition)))

    @refusing
    def pause(self, partition: PartitionId) -> None:
        self._consumer.pause(TopicPartition(*partition))

    @refusing
    def commit(self, offsets: Mapping[PartitionId, int]) -> None:
        self._consumer.commit(
            {TopicPartition(*one): OffsetAndMetadata(offset, "", -1) for one, offset in offsets.items()}
        )

    def close(self) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.close(autocommit=False, timeout_ms=3_000)
