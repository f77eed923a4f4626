"""The topic of a run: made for the run and removed after it, unless it existed before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the module has these names and does not list them
    AdminClient,
    NewTopic,
    OffsetSpec,
)

SECONDS_MAX: Final = 60

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
        """The first and the next offset of each partition."""
        places = [TopicPartition(self._topic, partition) for partition in range(self.partitions())]
        first, following = (
            {
                place.partition: asked.result(SECONDS_MAX).offset
                for place, asked in self._admin.list_offsets(dict.fromkeys(places, spec)).items()
            }
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        return first, following
