"""aiokafka: asyncio's client, driven step by step behind the same protocols as the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from gateway.bench.clients import Finished, own_names
from gateway.bench.plan import Plan

BATCH: Final = 1000
POLL_S: Final = 0.001


class AiokafkaWriter:
    def __init__(self, plan: Plan, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._topic = plan.topic
        self._outstanding = 0
        settings: dict[str, Any] = {
            "bootstrap_servers": plan.bootstrap,
            "client_id": name,
            "acks": plan.acks if plan.acks == "all" else int(plan.acks),
            "compression_type": None if plan.compression == "none" else plan.compression,
            "enable_idempotence": plan.idempotence or bool(plan.transactions),
            "transactional_id": name if plan.transactions else None,
        }
        self._producer = self._run(_called(AIOKafkaProducer, **settings | own_names(plan)))
        self._run(self._producer.start())

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def send(self, value: bytes, key: bytes | None, finished: Finished) -> None:
        def done(future: asyncio.Future[Any]) -> None:
            self._outstanding -= 1
            finished(future.exception(), None)

        self._outstanding += 1
        self._run(self._producer.send(self._topic, value, key)).add_done_callback(done)

    def poll(self, seconds: float) -> None:
        self._run(asyncio.sleep(min(seconds, POLL_S)))

    def outstanding(self) -> int:
        return self._outstanding

    def begin(self) -> None:
        self._run(self._producer.begin_transaction())

    def commit(self) -> None:
        self._run(self._producer.commit_transaction())


class AiokafkaReader:
    def __init__(self, plan: Plan, partitions: list[int], offsets: Mapping[int, int]) -> None:
        self._loop = asyncio.new_event_loop()
        settings: dict[str, Any] = {
            "bootstrap_servers": plan.bootstrap,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
        }
        self._consumer = self._run(_called(AIOKafkaConsumer, **settings | own_names(plan)))
        self._assigned = [TopicPartition(plan.topic, partition) for partition in partitions]
        self._run(self._consumer.start())
        self._offsets = offsets
        self._run(_called(self._consumer.assign, self._assigned))
        self.rewind()

    def rewind(self) -> None:
        for partition in self._assigned:
            self._run(_called(self._consumer.seek, partition, self._offsets[partition.partition]))

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def take(self, seconds: float) -> list[bytes]:
        polled = self._run(self._consumer.getmany(timeout_ms=int(seconds * 1000), max_records=BATCH))
        return [record.value or b"" for records in polled.values() for record in records]

    def positions(self) -> Mapping[int, int]:
        return {partition.partition: self._run(self._consumer.position(partition)) for partition in self._assigned}


async def _called(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Call a function in the loop, for functions that look for the running loop."""
    return function(*arguments, **settings)


writer = AiokafkaWriter
reader = AiokafkaReader
