"""`penstock serve --cluster`: nodes over a real etcd and MinIO, killed, paused and stopped."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.forking import forked, run
from tests.gateway.harness import Client, batch, values
from tests.gateway.http.calls import call
from tests.gateway.launching import Running
from tests.patience import Patience
from tests.tier2.conftest import bucket, minio
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

__all__ = ["bucket", "minio"]

CONTAINERS: Final = 6
PARTITIONS: Final = 6
LEASE_S: Final = 3.0
LONG_LEASE_S: Final = 60.0
"""Longer than any wait for others to go on."""
FAILOVER_S: Final = 10.0
"""The bound on the time in which others go on; lengthened by what they wait for a processor (`tests.patience`)."""
LOAD_S: Final = 2.0
WAITING_MAX: Final = 500
NOT_LEADER: Final = 6
REST_S: Final = 90.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


class Cluster:
    """Nodes as processes, each with a data directory of its own."""

    def __init__(self, directory: Path, etcd: EtcdServer, minio: MinioServer, bucket: str) -> None:
        self._directory = directory
        self.name = f"etcd://{etcd.endpoint}/{bucket}"
        self._settings = (
            *("--cluster", self.name),
            *("--tier2", f"s3://{bucket}/a/prefix", "--tier2-endpoint", minio.endpoint),
            *("--http", "off"),
            *("--set", f"cluster.containers={CONTAINERS}"),
            *("--set", "log.file.bytes=1MiB", "--set", "log.max.bytes=64MiB", "--set", "checkpoint.interval.ms=500"),
        )
        self.nodes: dict[int, Running] = {}
        self.addresses: dict[int, str] = {}

    def start(self, node: int, lease_s: float = LEASE_S, *more: str) -> None:
        """A node that was started before has the same port again."""
        own = ("--node-id", str(node), "--set", f"cluster.lease.ms={int(lease_s * 1000)}", *more)
        own += ("--listen", self.addresses.get(node, "127.0.0.1:0"))
        running = Running(self._directory / f"node-{node}", *self._settings, *own, start=forked)
        self.nodes[node] = running
        self.addresses[node] = running.ready()["kafka"][0].rpartition("//")[2]

    def leaders(self, asked: int) -> dict[int, int]:
        """The leader of each partition, as one node tells it."""
        found = AdminClient({"bootstrap.servers": self.addresses[asked]}).list_topics("t", timeout=REST_S).topics["t"]
        return {number: partition.leader for number, partition in found.partitions.items()}

    def until_led_by(self, asked: int, nodes: set[int], within_s: float = REST_S) -> dict[int, int]:
        """Once just these nodes lead all partitions."""
        deadline = time.monotonic() + within_s
        while set((found := self.leaders(asked)).values()) != nodes:
            assert time.monotonic() < deadline, f"led by {found}\n{self.nodes[asked].err.read_text()[-5000:]}"
            time.sleep(0.05)
        return found

    def make_topic(self, node: int, name: str = "t") -> None:
        admin = AdminClient({"bootstrap.servers": self.addresses[node]})
        admin.create_topics([NewTopic(name, PARTITIONS)])[name].result(REST_S)

    def kill(self, node: int) -> None:
        self.nodes[node].process.send_signal(signal.SIGKILL)
        self.nodes[node].process.wait()

    def patience(self, within_s: float) -> Patience:
        """For something that the nodes do, or a client in this process."""
        nodes = self.nodes.values()
        return Patience(
            within_s, lambda: [os.getpid(), *(one.process.pid for one in nodes if one.process.poll() is None)]
        )

    def end(self) -> None:
        for running in self.nodes.values():
            if running.process.poll() is None:
                running.process.kill()
                running.process.wait()


@pytest.fixture
def cluster(
    tmp_path: Path, etcd: EtcdServer, minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)
    with ExitStack() as undo:
        made = Cluster(tmp_path, etcd, minio, bucket)
        undo.callback(made.end)
        yield made


class Load:
    """An idempotent producer to all partitions, and what was acknowledged of it."""

    def __init__(self, addresses: Mapping[int, str]) -> None:
        self.acknowledged: defaultdict[int, list[int]] = defaultdict(list)
        self.acknowledged_at: dict[int, float] = {}  # the newest of each partition
        self.failed: list[str] = []
        self._over = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": ",".join(addresses.values()),
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.timeout.ms": 60_000,
            }
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for value in itertools.count():
            if self._over.is_set():
                break
            while len(self._producer) >= WAITING_MAX and not self._over.is_set():
                self._producer.poll(0.01)
            self._producer.produce("t", b"%d" % value, partition=value % PARTITIONS, on_delivery=self._delivered)
            self._producer.poll(0.002)  # more would only take the processor from the nodes
        self._producer.flush(REST_S)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        partition, value = message.partition(), message.value()
        assert partition is not None
        assert value is not None
        if error is not None:
            self.failed.append(str(error))
            return
        self.acknowledged[partition].append(int(value))
        self.acknowledged_at[partition] = time.monotonic()

    def until_all_go_on(self, after_s: float, patience: Patience) -> None:
        """Return once each partition has acknowledged something that was answered after a moment."""
        while len(late := [at for at in self.acknowledged_at.values() if at > after_s]) < PARTITIONS:
            assert not patience.is_over(), f"only {len(late)} partitions go on after {patience}"
            time.sleep(0.01)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def read_partition(address: str, partition: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False})
    try:
        where = TopicPartition("t", partition, 0)
        _, end = consumer.get_watermark_offsets(where, timeout=REST_S)
        consumer.assign([where])
        found: list[int] = []
        while len(found) < end:
            message = consumer.poll(REST_S)
            assert message is not None, f"{len(found)} read, the end is at offset {end}"
            assert message.error() is None, message.error()
            value = message.value()
            assert value is not None
            found.append(int(value))
        return found
    finally:
        consumer.close()


@pytest.mark.slow
def test_a_killed_node_is_replaced_by_the_others(cluster: Cluster) -> None:
    """Under an idempotent producer: all partitions go on in time; nothing is lost, doubled or out of order. The others
    do not wait for the lease, which is long."""
    cluster.start(1, LONG_LEASE_S)
    cluster.make_topic(1)
    cluster.start(2, LONG_LEASE_S)
    cluster.start(3, LONG_LEASE_S)
    told = cluster.until_led_by(2, {1, 2, 3})
    assert cluster.until_led_by(3, {1, 2, 3}) == told
    load = Load(cluster.addresses)
    try:
        load.until_all_go_on(time.monotonic(), cluster.patience(REST_S))
        threading.Event().wait(LOAD_S)
        cluster.kill(1)
        load.until_all_go_on(time.monotonic() + 0.2, cluster.patience(FAILOVER_S))
        cluster.until_led_by(2, {2, 3})
        threading.Event().wait(LOAD_S)
    finally:
        load.end()
    assert not load.failed
    for partition in range(PARTITIONS):
        assert read_partition(cluster.addresses[3], partition) == load.acknowledged[partition]


@pytest.mark.slow
def test_a_paused_owner_acknowledges_nothing(cluster: Cluster) -> None:
    """What it finds in its sockets when it wakes is answered with an error, and is in nobody's log."""
    cluster.start(1)
    cluster.make_topic(1)
    cluster.start(2)
    told = cluster.until_led_by(1, {1, 2})
    partition = next(partition for partition, node in told.items() if node == 1)

    async def scenario() -> None:
        host, _, port = cluster.addresses[1].rpartition(":")
        client = Client(*await asyncio.open_connection(host, int(port)))
        assert (await client.produce("t", batch(b"before"), partition=partition)).error_code == 0
        cluster.nodes[1].process.send_signal(signal.SIGSTOP)
        late = asyncio.create_task(client.produce("t", batch(b"late"), partition=partition))
        await asyncio.to_thread(cluster.until_led_by, 2, {2})
        cluster.nodes[1].process.send_signal(signal.SIGCONT)
        assert (await late).error_code == NOT_LEADER
        (answer,) = (await client.fetch(("t", partition, 0))).responses[0].partitions
        assert answer.error_code == NOT_LEADER
        host, _, port = cluster.addresses[2].rpartition(":")
        other = Client(*await asyncio.open_connection(host, int(port)))
        (answer,) = (await other.fetch(("t", partition, 0))).responses[0].partitions
        assert [value for _, value in values(answer.records)] == [b"before"]

    asyncio.run(scenario())
    cluster.until_led_by(1, {1, 2})  # it lives on, and is filled again


@pytest.mark.slow
def test_a_stopped_node_hands_over(cluster: Cluster) -> None:
    """SIGTERM: the producer hears of nothing, and the process ends cleanly."""
    cluster.start(1)
    cluster.make_topic(1)
    cluster.start(2)
    cluster.until_led_by(1, {1, 2})
    load = Load(cluster.addresses)
    try:
        load.until_all_go_on(time.monotonic(), cluster.patience(REST_S))
        assert cluster.nodes[1].terminate() == 0
        load.until_all_go_on(time.monotonic(), cluster.patience(FAILOVER_S))
        assert set(cluster.leaders(2).values()) == {2}
    finally:
        load.end()
    assert not load.failed
    for partition in range(PARTITIONS):
        assert read_partition(cluster.addresses[2], partition) == load.acknowledged[partition]


class Group:
    """A member of a consumer group that reads all the time, and what it saw of its group."""

    def __init__(self, address: str) -> None:
        self.found: defaultdict[int, list[int]] = defaultdict(list)
        self.rebalances = 0
        self.lost = 0
        self.errors: list[str] = []
        self._over = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": "readers",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 200,
                "session.timeout.ms": 45_000,  # no rebalance for a machine that is busy
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._consumer.subscribe(["t"], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        while not self._over.is_set():
            message = self._consumer.poll(0.05)
            if message is None:
                continue
            if (error := message.error()) is not None:
                self.errors.append(str(error))
                continue
            partition, value = message.partition(), message.value()
            assert partition is not None
            assert value is not None
            self.found[partition].append(int(value))
        self._consumer.close()

    def _assigned(self, *_: object) -> None:
        self.rebalances += 1

    def _revoked(self, *_: object) -> None:
        if not self._over.is_set():
            self.rebalances += 1

    def _lost(self, *_: object) -> None:
        self.lost += 1

    def until_read(self, wanted: Mapping[int, list[int]]) -> None:
        deadline = time.monotonic() + REST_S
        while any(len(self.found[partition]) < len(values) for partition, values in wanted.items()):
            assert time.monotonic() < deadline, "not all is read"
            time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_containers_move_to_and_fro_and_a_node_is_emptied(cluster: Cluster) -> None:
    """By commands, under an idempotent producer and a group: the producer hears of no error, the group is not
    rebalanced, and each record is read once and in order. So it is when a partition goes to a container of the other
    node, and to one of its own. The emptied node lives on, and gets nothing back."""
    for node in (1, 2):
        cluster.start(node, LONG_LEASE_S, "--set", "cluster.rebalance=off", "--http", "127.0.0.1:0")
    for container in (0, 2, 4):
        command("move", str(container), "2", cluster=cluster)
    cluster.make_topic(1)
    cluster.until_led_by(1, {1, 2})
    load, group = Load(cluster.addresses), Group(",".join(cluster.addresses.values()))
    try:
        load.until_all_go_on(time.monotonic(), cluster.patience(REST_S))
        for container in (0, 1):
            here = 2 - container % 2
            for node in (3 - here, here):
                command("move", str(container), str(node), cluster=cluster)
        url = f"http://{cluster.nodes[1].ready()['http']}"
        _, _, shown = call(url.removeprefix("http://"), "GET", "/api/v1/streams/t", None)
        of = {slot: one["container"] for one in shown["epochs"][-1]["segments"] for slot in one["slots"]}
        owners = cluster.leaders(1)
        for number, node in ((0, 3 - owners[0]), (0, owners[0]), (1, owners[1])):
            container = next(of[slot] for slot, owner in owners.items() if owner == node and slot != number)
            done = run("streams", "move", "t", str(number), "--to", str(container), "--url", url)
            assert done.returncode == 0, done.stderr
            deadline = time.monotonic() + REST_S
            while cluster.leaders(2)[number] != node:  # it goes home with what it came for
                assert time.monotonic() < deadline, cluster.leaders(2)
                time.sleep(0.05)
        load.until_all_go_on(time.monotonic(), cluster.patience(REST_S))
        command("drain", "2", "--yes", cluster=cluster)
        assert set(cluster.until_led_by(1, {1}).values()) == {1}
        load.until_all_go_on(time.monotonic(), cluster.patience(REST_S))
        assert set(cluster.until_led_by(2, {1}).values()) == {1}
    finally:
        load.end()
        try:
            group.until_read(load.acknowledged)
        finally:
            group.end()
    assert not load.failed
    assert (group.rebalances, group.lost, group.errors) == (1, 0, [])
    for partition in range(PARTITIONS):
        assert group.found[partition] == load.acknowledged[partition]


def command(*arguments: str, cluster: Cluster) -> str:
    """Run a command about the cluster, which must go well."""
    done = run("cluster", *arguments, "--cluster", cluster.name)
    assert done.returncode == 0, done.stderr
    return done.stdout
