"""kill -9 of one of two workers before the renames, the checkpoints and the registry's syncs of a life over four
containers: where files are begun, indexed and given up, where the applied state is saved, where names are decided.

`test_worker_writes.py` has the writes of the logs. Here each round fills log files of all four containers, has the log
cut, makes and deletes a topic, and commits a transaction over all of them; the worker that comes to the chosen call is
killed before it, and started again by the supervisor. CI takes a few calls of one kind, others in each run; a soak goes
on with each kind until a round ends before its call, or `KILLS_MAX`.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.faultlayer import SYNC_POINTS, Faults, Tally, read_report
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.settings import SEED, SOAK
from tests.faults.test_worker_writes import PARTITIONS, TOPIC, WAIT_S_MAX, Life
from tests.faults.test_workers import until, workers
from tests.gateway.launching import free_ports

SETTINGS: Final = {**EAGER, "containers": 4, "workers": 2}
BULK: Final = "bulk"
RECORDS: Final = 3  # of each round and partition: more than a log file of 1 MiB
RECORD_BYTES: Final = 400_000
KEPT: Final = 2  # records that the next cut of the log leaves
KILLS: Final = 2
KILLS_MAX: Final = 60
POLL_S: Final = 0.05

KINDS: Final[dict[str, tuple[tuple[str, ...], str, int]]] = {
    "files": (("rename", "unlink"), "*/store/container-*/log/*", 8),
    "checkpoints": (("fsync", "fdatasync", "rename"), "*/store/container-*/metadata*", 8),
    "directories": (("fsync",), "*/store/container-*/log*", 8),
    "registry": (SYNC_POINTS, "*/registry*", 2),
}
"""Which calls, on which paths; and how many of them each round has at least, one of which CI takes."""
RUNS: Final = list(KINDS) if SOAK else [random.Random(SEED).choice(list(KINDS))]


class Bulk:
    """Large records, all acknowledged, which the log gives up again."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._admin = AdminClient({"bootstrap.servers": servers})
        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
        self._offsets: list[dict[int, int]] = [{} for _ in range(PARTITIONS)]  # by number
        self._starts = [0] * PARTITIONS
        self._failed: list[KafkaError] = []
        self.create(BULK, PARTITIONS)

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic; the answer to an earlier try may have been lost with its worker."""

        def step() -> None:
            try:
                self._admin.create_topics([NewTopic(topic, partitions)])[topic].result(WAIT_S_MAX)
            except KafkaException as failed:
                if failed.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        until_done(step)

    def delete(self, topic: str) -> None:
        def step() -> None:
            try:
                self._admin.delete_topics([topic])[topic].result(WAIT_S_MAX)
            except KafkaException as failed:
                if failed.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise

        until_done(step)

    def write(self, number: int) -> None:
        for partition in range(PARTITIONS):
            for piece in range(RECORDS):
                value = f"{number * RECORDS + piece}/".encode().ljust(RECORD_BYTES, b"x")
                self._producer.produce(BULK, value, partition=partition, on_delivery=self._told)
        assert self._producer.flush(WAIT_S_MAX) == 0
        assert not self._failed, self._failed

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(error)
            return
        number = int((message.value() or b"").partition(b"/")[0])
        self._offsets[message.partition() or 0][number] = message.offset() or 0

    def cut(self) -> None:
        """Delete all records but the newest, so that log files go."""
        ends = [max(offsets.values()) + 1 for offsets in self._offsets]
        wanted = [TopicPartition(BULK, number, end - KEPT) for number, end in enumerate(ends)]

        def step() -> None:
            for future in self._admin.delete_records(wanted).values():
                future.result(WAIT_S_MAX)

        until_done(step)
        self._starts = [place.offset for place in wanted]

    def check(self) -> None:
        """What was acknowledged behind the cut is there, once, in order and at its offset."""
        for partition, offsets in enumerate(self._offsets):
            start = self._starts[partition]
            expected = sorted((at, number) for number, at in offsets.items() if at >= start)
            assert self._read(partition, start, len(expected)) == expected

    def _read(self, partition: int, start: int, count: int) -> list[tuple[int, int]]:
        settings = {"group.id": "bulk", "enable.auto.commit": False, "auto.offset.reset": "error"}
        reader = Consumer({"bootstrap.servers": self._servers, **settings})
        reader.assign([TopicPartition(BULK, partition, start)])
        found: list[tuple[int, int]] = []
        deadline = time.monotonic() + WAIT_S_MAX
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records of partition {partition}"
            message = reader.poll(0.2)
            if message is not None and message.error() is None:
                found.append((message.offset() or 0, int((message.value() or b"").partition(b"/")[0])))
        reader.close()
        return found

    def topics(self) -> set[str]:
        return {name for name in self._admin.list_topics(timeout=WAIT_S_MAX).topics if not name.startswith("__")}


def until_done(step: Callable[[], None]) -> None:
    """Try again while workers come and go."""
    deadline = time.monotonic() + WAIT_S_MAX
    while True:
        try:
            step()
            return
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def lived(life: Life, bulk: Bulk, number: int) -> None:
    """A round, in which each kind of call comes."""
    bulk.create(f"passing-{number}", PARTITIONS)
    bulk.write(number)
    life.transact(number)
    bulk.cut()
    bulk.delete(f"passing-{number}")


@pytest.mark.timeout(0 if SOAK else 600)
@pytest.mark.parametrize("kind", RUNS, ids=RUNS if SOAK else ["any"])
def test_a_worker_killed_at_every_sync_point(tmp_path: Path, kind: str) -> None:
    """Whatever its worker was about, what was acknowledged is there, and topics are those that were decided."""
    dice = random.Random(SEED)
    tally, report = Tally(tmp_path / "tally"), tmp_path / "points"
    calls, match, count = KINDS[kind]
    faults = Faults(tmp_path / "data", calls, match, report=report, tally=tmp_path / "tally")
    kills: list[int] = []
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(2)}")
        gateway.start(faults.environment())
        servers = ",".join(gateway.ready["kafka"])
        bulk, life = Bulk(servers), Life(servers)
        bulk.create(TOPIC, PARTITIONS)
        lived(life, bulk, 0)
        for number in range(1, 1 + (KILLS_MAX if SOAK else KILLS)):
            before = workers(gateway)
            at = tally.counted + (number if SOAK else 1 + dice.randrange(count))
            tally.hit_at(at)
            lived(life, bulk, number)
            if tally.counted < at:
                break
            if workers(gateway) != before:  # else its background came to the call before it was chosen
                kills.append(at)
        tally.hit_at(0)
        lived(life, bulk, KILLS_MAX + 1)
        life.check()
        bulk.check()
        until(lambda: bulk.topics() == {TOPIC, BULK}, "all workers know which topics are there")
        life.close()
        assert gateway.stop() == 0
        gateway.start()
        life = again(life, servers)
        life.check()
        bulk.check()
        life.close()
        assert gateway.stop() == 0
    points = [point for point in read_report(report) if point.number in kills]
    met = collections.Counter((point.call, Path(point.path).suffix or Path(point.path).name) for point in points)
    print(f"seed {SEED}: {kind}, killed at {len(kills)}: {dict(met)}; in doubt: {sorted(life.in_doubt)}")
    assert len(kills) >= (KILLS_MAX // 2 if SOAK and kind != "registry" else 1)
    assert not life.in_doubt


def again(life: Life, servers: str) -> Life:
    """The same memories, for the next life of the gateway."""
    other = Life(servers)
    other.committed, other.in_doubt = life.committed, life.in_doubt
    return other
