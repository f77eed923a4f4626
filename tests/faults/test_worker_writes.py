"""kill -9 of one of two workers before a write of its logs, in the life of transactions over the containers of both.

Partitions, coordinator and group lie in four containers of two processes, and so do the steps of an end: the outcome,
the markers, the offsets, the complete row. Each transaction is killed one write later than the one before, until one
comes to its end unkilled; the supervisor starts the worker again, and the client, librdkafka's, goes on as if nothing
was. CI takes every STRIDE-th write, from another one in each run; a soak takes all.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.faultlayer import Faults, Tally, read_report
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.settings import SEED, SOAK
from tests.gateway.launching import free_ports

SETTINGS: Final = {**EAGER, "containers": 4, "workers": 2}
TOPIC: Final = "spread"
PARTITIONS: Final = 4
STRIDE: Final = 1 if SOAK else 7
WRITES_MAX: Final = 200
WAIT_S_MAX: Final = 60.0
KILLS_MIN: Final = 15 if SOAK else 2
CONTAINERS_MIN: Final = 4 if SOAK else 1


class Life:
    """Transactions of one client, and what may be there of them."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._source = Consumer({"bootstrap.servers": servers, "group.id": "copied"})
        self.committed: list[int] = []
        self.in_doubt: set[int] = set()

    def transact(self, number: int) -> None:
        """Write the number to all partitions and commit it as an offset, under an id of its own; then abort another.

        Where a step fails for good, so does the transaction; whether it was committed is then for its readers to say.
        """
        producer = Producer({"bootstrap.servers": self._servers, "transactional.id": f"copy-{number}"})
        patiently(lambda: producer.init_transactions(WAIT_S_MAX))
        try:
            self._write(producer, number)
            offsets = [TopicPartition(TOPIC, 0, number + 1)]
            group = self._source.consumer_group_metadata()
            patiently(lambda: producer.send_offsets_to_transaction(offsets, group, WAIT_S_MAX))
            patiently(lambda: producer.commit_transaction(WAIT_S_MAX))
            self.committed.append(number)
        except KafkaException as failed:
            if failed.args[0].txn_requires_abort():
                patiently(lambda: producer.abort_transaction(WAIT_S_MAX))
                return
            self.in_doubt.add(number)
            return
        self._write(producer, -1)
        patiently(lambda: producer.abort_transaction(WAIT_S_MAX))

    def _write(self, producer: Producer, number: int) -> None:
        producer.begin_transaction()
        for partition in range(PARTITIONS):
            producer.produce(TOPIC, str(number), partition=partition)
        producer.flush(WAIT_S_MAX)

    def check(self) -> None:
        """Each partition has every committed number once, in order, and no aborted one; the group is at the last."""
        found = [list(self._read(partition)) for partition in range(PARTITIONS)]
        assert found == [found[0]] * PARTITIONS
        assert found[0] == sorted(set(found[0]))
        assert set(self.committed) <= set(found[0]) <= set(self.committed) | self.in_doubt
        (offset,) = self._source.committed([TopicPartition(TOPIC, 0)], WAIT_S_MAX)
        assert offset.offset == found[0][-1] + 1

    def _read(self, partition: int) -> Iterator[int]:
        settings = {"isolation.level": "read_committed", "enable.partition.eof": False, "enable.auto.commit": False}
        reader = Consumer({"bootstrap.servers": self._servers, "group.id": "reader", **settings})
        place = TopicPartition(TOPIC, partition, 0)
        _, end = reader.get_watermark_offsets(place, WAIT_S_MAX)  # for read_committed the last stable offset
        reader.assign([place])
        deadline = time.monotonic() + WAIT_S_MAX
        while True:
            assert time.monotonic() < deadline, f"partition {partition} is not read to its end"
            message = reader.poll(0.2)
            if message is not None and message.error() is None:
                yield int(message.value() or b"")
            (position,) = reader.position([place])
            if position.offset >= end:
                break
        reader.close()

    def close(self) -> None:
        self._source.close()


def patiently(step: Callable[[], object]) -> None:
    """Take a step of a transaction again as often as the client says that it may."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            step()
            return
        except KafkaException as failed:
            if not failed.args[0].retriable() or time.monotonic() > deadline:
                raise


@pytest.mark.timeout(0 if SOAK else 600)
def test_a_worker_killed_at_every_write(tmp_path: Path) -> None:
    """Whichever step of a transaction meets the end of its worker, it ends everywhere or nowhere; the next goes on."""
    tally = Tally(tmp_path / "tally")
    report = tmp_path / "points"
    faults = Faults(tmp_path / "data", ("fdatasync",), "*/log/*.log", report=report, tally=tmp_path / "tally")
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(2)}")
        gateway.start(faults.environment())
        servers = ",".join(gateway.ready["kafka"])
        admin = AdminClient({"bootstrap.servers": servers})
        admin.create_topics([NewTopic(TOPIC, PARTITIONS)])[TOPIC].result(WAIT_S_MAX)
        life = Life(servers)
        life.transact(0)
        kills: list[int] = []
        for number, write in enumerate(writes(), start=1):
            at = tally.counted + write
            tally.hit_at(at)
            life.transact(number)
            if tally.counted < at:
                break
            kills.append(at)
        tally.hit_at(0)
        life.transact(WRITES_MAX)
        life.check()
        life.close()
        assert gateway.stop() == 0
    hit = [Path(point.path).parts for point in read_report(report) if point.number in kills]
    containers = collections.Counter(part for parts in hit for part in parts if part.startswith("container-"))
    print(f"seed {SEED}: killed at {len(kills)} writes of {dict(containers)}; in doubt: {sorted(life.in_doubt)}")
    assert len(kills) >= KILLS_MIN
    assert len(containers) >= CONTAINERS_MIN
    assert not life.in_doubt


def writes() -> Iterator[int]:
    first = 1 if SOAK else 1 + random.Random(SEED).randrange(STRIDE)
    return iter(range(first, WRITES_MAX, STRIDE))
