"""The topic of a run: made for the run and removed after it, unless it existed before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the module has these names and does not list them
    AdminClient,
    NewTopic,
    OffsetSpec,
)

SECONDS_MAX: Final = 60
POLL_SECONDS: Final = 0.1

# What a broker says that has told of a partition's leader and does not lead it yet: of a new topic, or in a failover.
_NOT_YET: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)

Offsets = dict[int, int]


class TopicTrouble(Exception):
    """The server or the topic does not fit the run."""


class Topics:
    """One topic on one server."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._bootstrap = bootstrap
        self._topic = topic

    def partitions(self) -> int:
        """The number of partitions; 0 if there is no such topic."""
        try:
            known = self._admin.list_topics(timeout=SECONDS_MAX // 4).topics.get(self._topic)
        except KafkaException as error:
            raise TopicTrouble(f"{self._bootstrap} does not answer: {error.args[0].str()}") from error
        return 0 if known is None or known.error is not None else len(known.partitions)

    @contextlib.contextmanager
    def present(self, partitions: int, *, keep: bool) -> Iterator[int]:
        """The topic, with its existing partitions, else with the plan's number of partitions."""
        if there := self.partitions():
            yield there
            return
        try:
            self._admin.create_topics([NewTopic(self._topic, partitions, 1)])[self._topic].result(SECONDS_MAX)
        except KafkaException as error:
            raise TopicTrouble(f"topic {self._topic} cannot be created: {error.args[0].str()}") from error
        try:
            yield partitions
        finally:
            if not keep:
                self._admin.delete_topics([self._topic])[self._topic].result(SECONDS_MAX)

    def offsets(self) -> tuple[Offsets, Offsets]:
        """The first and the next offset of each partition, once all have leaders. Raises TopicTrouble."""
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                return self._offsets(OffsetSpec.earliest()), self._offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                    message = f"the offsets of topic {self._topic} cannot be read: {error.args[0].str()}"
                    raise TopicTrouble(message) from error
            time.sleep(POLL_SECONDS)

    def _offsets(self, spec: OffsetSpec) -> Offsets:
        places = [TopicPartition(self._topic, partition) for partition in range(self.partitions())]
        if not places:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        asked = self._admin.list_offsets(dict.fromkeys(places, spec))
        return {place.partition: answer.result(SECONDS_MAX).offset for place, answer in asked.items()}
