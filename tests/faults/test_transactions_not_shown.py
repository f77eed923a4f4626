"""kill -9 between the outcome of a transaction and its markers, of a worker that does not show the topic afterwards.

A worker shows a topic when each of its containers has what was decided about it. Here the disk of one of them has no
room for configurations that were decided while the worker stood still. Both of its containers have a part of the
transaction.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient

from tests.faults.client import UNKNOWN_TOPIC, Connection, Disconnected, Produced, Refused
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.test_workers import asked, until, workers
from tests.faults.transactional import TransactionalProducer, read_committed
from tests.gateway.launching import free_ports

TOPIC: Final = "t"
CONTAINERS: Final = 4
WAIT_S: Final = 60.0
NAMES_MAX: Final = 100
NOT_COORDINATOR: Final = 16
ALTER_CONFIGS: Final = (44, 1)
A_TOPIC: Final = 2
SET: Final = 0
LISTS: Final = ("leader.replication.throttled.replicas", "follower.replication.throttled.replicas")
"""Configurations without an effect, as long as a string may be."""
A_LIST: Final = ",".join(f"{number}:1" for number in range(100_000, 103_600))
OTHERS: Final = [f"other-{number}" for number in range(45)]
"""Older topics: what is decided about them is logged first."""
assert len(OTHERS) * len(LISTS) * len(A_LIST) > EAGER["log.file.bytes"] * 9 / 4, "two files have no room for all"  # type: ignore[operator]

DISK_BYTES: Final = 64 << 20
LEFT_BYTES: Final = 900 << 10
"""Room for what RocksDB writes at a start. A start cuts the log's file before, and so has room for one file more."""

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES, mounted for this test."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "penstock-test", str(mount)]
    subprocess.run(command, check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


class Routed(Connection):
    """A connection to a coordinator. What is produced goes to the partition's leader."""

    def __init__(self, coordinator: str, leaders: dict[int, str]) -> None:
        super().__init__(coordinator)
        self._leaders = leaders
        self._produced: list[Produced] = []

    def send_produce(
        self, topic: str, partition: int, records: bytes, acks: int = -1, transactional_id: str | None = None
    ) -> None:
        with Connection(self._leaders[partition]) as leader:
            leader.send_produce(topic, partition, records, acks, transactional_id)
            self._produced.append(leader.receive_produced())

    def receive_produced(self) -> Produced:
        return self._produced.pop(0)


class Place:
    """A gateway of two workers, and who leads what: that stays over a kill."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.first, self.second = gateway.ready["kafka"]
        with Connection(self.first) as connection:
            for topic in (*OTHERS, TOPIC):
                connection.create_topic(topic, CONTAINERS)
        found = AdminClient({"bootstrap.servers": self.first, "log_level": 0}).list_topics(TOPIC, WAIT_S)
        led = {number: found.brokers[one.leader] for number, one in found.topics[TOPIC].partitions.items()}
        self.leaders = {number: f"{broker.host}:{broker.port}" for number, broker in led.items()}
        assert sorted(self.leaders.values()) == sorted([self.first, self.second] * (CONTAINERS // 2))

    def connect(self) -> Routed:
        return Routed(self.first, self.leaders)

    def transactional_id(self) -> str:
        """One whose coordinator the first worker has."""
        for number in range(NAMES_MAX):
            with self.connect() as connection:
                try:
                    TransactionalProducer(connection, f"x{number}")
                except Refused as refused:
                    if refused.code != NOT_COORDINATOR:
                        raise
                else:
                    return f"x{number}"
        raise AssertionError("the first worker has no coordinator")

    def configure(self) -> None:
        """Decide more, at the first worker, than fits into two files of a log."""
        configs = [{"name": name, "config_operation": SET, "value": A_LIST} for name in LISTS]
        resources = [
            {"resource_type": A_TOPIC, "resource_name": topic, "configs": configs} for topic in (*OTHERS, TOPIC)
        ]
        answer = asked(self.first, *ALTER_CONFIGS, {"resources": resources})
        assert {one.error_code for one in answer.responses} == {0}

    def is_shown(self) -> bool | None:
        """Whether the second worker shows the topic; None while it does not serve."""
        partition = next(number for number, leader in self.leaders.items() if leader == self.second)
        try:
            with Connection(self.second) as connection:
                connection.list_offset(TOPIC, partition, -1)
        except Disconnected:
            return None
        except Refused as refused:
            if refused.code != UNKNOWN_TOPIC:
                raise
            return False
        return True

    def committed(self) -> list[list[bytes]]:
        """What readers of committed records find in each partition."""
        found = []
        for number in range(CONTAINERS):
            with Connection(self.leaders[number]) as connection:
                found.append([value for _, value in read_committed(connection, TOPIC, number)])
        return found


def write(producer: TransactionalProducer, value: bytes) -> None:
    for number in range(CONTAINERS):
        producer.produce(TOPIC, number, [value])


def test_markers_for_a_topic_that_is_not_shown(tmp_path: Path, small_disk: Path) -> None:
    """The transaction ends in every partition. Readers of committed records find it when the topic is shown, and the
    next transaction behind it."""
    data = tmp_path / "gateway" / "data"
    disks = [data, tmp_path / "second", tmp_path / "third", small_disk / "fourth"]
    settings = {**EAGER, "containers": CONTAINERS, "workers": 2, "data.dirs": ",".join(map(str, disks))}
    with Gateway(tmp_path / "gateway", settings) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(2)}")
        gateway.start()
        place = Place(gateway)
        name = place.transactional_id()
        until(lambda: list(small_disk.glob("**/*.prepared")), "a start of the full disk's log has its file")
        victim = workers(gateway)[1]
        with place.connect() as connection:
            producer = TransactionalProducer(connection, name)
            write(producer, b"a")
            with held_until_killed(victim):
                fill(small_disk)
                place.configure()
                producer.end(commit=True)
            until(lambda: place.is_shown() is False, "it serves again, without the topic")

            producer = TransactionalProducer(connection, name)  # the transaction of the one before is over
            assert place.is_shown() is False
            (small_disk / "balloon").unlink()
            until(place.is_shown, "there is room, and the topic is shown")
            assert place.committed() == [[b"a"]] * CONTAINERS
            write(producer, b"b")
            producer.end(commit=True)
        until(lambda: place.committed() == [[b"a", b"b"]] * CONTAINERS, "the next one is read")


@contextmanager
def held_until_killed(pid: int) -> Iterator[None]:
    """A process that hears nothing any more, of configurations and of markers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


def fill(disk: Path) -> None:
    """Leave LEFT_BYTES."""
    about = os.statvfs(disk)
    (disk / "balloon").write_bytes(bytes(about.f_bavail * about.f_frsize - LEFT_BYTES))
