"""A gateway of several workers: real clients, workers that are killed, and directories that go from one to several."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from core.cluster.following import LOOK_S
from gateway.wire.codec import response_codec
from gateway.wire.message import Message
from tests.faults.gateway_process import EAGER, Gateway
from tests.gateway.harness import batch, fetch_body
from tests.gateway.launching import free_ports
from tests.gateway.network.harness import request
from tests.gateway.telemetry.test_series import otlp_of
from tests.patience import Patience

DEADLINE_S = 60
CHANGES = 20
PARTITIONS = 8


def settings(workers: int, containers: int = 4) -> dict[str, object]:
    return {**EAGER, "workers": workers, "containers": containers, "group.initial.rebalance.delay.ms": 0}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path, settings(2)) as begun:
        yield started(begun)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """For tests that hurt nothing, and have topics, groups and ids of their own."""
    with Gateway(tmp_path_factory.mktemp("shared"), settings(2)) as begun:
        yield started(begun)


def started(gateway: Gateway) -> Gateway:
    gateway.listen(f"127.0.0.1:{free_ports(4)}")
    gateway.http = "127.0.0.1:0"
    gateway.start()
    return gateway


def servers(gateway: Gateway) -> list[str]:
    return list(gateway.ready["kafka"])


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def create(gateway: Gateway, topic: str, server: int = 0) -> None:
    admin = AdminClient({"bootstrap.servers": servers(gateway)[server]})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(DEADLINE_S)


def write(gateway: Gateway, topic: str, first: int, count: int) -> None:
    """Numbers, acknowledged; number n goes to partition n mod 8."""
    failed: list[KafkaError] = []

    def told(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer({"bootstrap.servers": servers(gateway)[0], "enable.idempotence": True})
    for number in range(first, first + count):
        producer.produce(topic, str(number), partition=number % PARTITIONS, on_delivery=told)
    assert producer.flush(DEADLINE_S) == 0
    assert not failed


def read(gateway: Gateway, topic: str, count: int, *, isolation: str = "read_committed") -> list[int]:
    """All numbers of a topic, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers(gateway)[-1],
            "group.id": f"reader-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[tuple[int, int, int]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records"
        for message in consumer.consume(500, 0.2):
            assert message.error() is None
            found.append((message.partition() or 0, message.offset() or 0, int(message.value() or b"")))
    consumer.close()
    return [number for _, _, number in sorted(found)]


def expected(count: int) -> list[int]:
    return [number for partition in range(PARTITIONS) for number in range(partition, count, PARTITIONS)]


def test_any_worker_leads_to_the_others(shared: Gateway) -> None:
    """A topic made at one worker is written and read through any: its partitions lie on both, each in order."""
    create(shared, "led", server=1)
    write(shared, "led", 0, 400)
    assert read(shared, "led", 400) == expected(400)
    metadata = AdminClient({"bootstrap.servers": servers(shared)[0]}).list_topics("led", DEADLINE_S)
    assert sorted(metadata.brokers) == [100, 101]
    assert {partition.leader for partition in metadata.topics["led"].partitions.values()} == {100, 101}


def test_a_killed_worker(gateway: Gateway) -> None:
    """kill -9 of each worker in turn, while a producer writes: nothing acknowledged is lost, doubled or out of order,
    and the other worker is the same process all the while."""
    create(gateway, "orders")
    written = 0
    for victim in (0, 1, 0):
        before = workers(gateway)
        os.kill(before[victim], signal.SIGKILL)
        write(gateway, "orders", written, 400)
        written += 400
        until(lambda before=before, victim=victim: is_back(gateway, before, victim), "the worker is back")  # type: ignore[misc]
        assert workers(gateway)[1 - victim] == before[1 - victim]
    assert read(gateway, "orders", written) == expected(written)


def workers(gateway: Gateway) -> list[int]:
    """The processes of the workers, in their order."""
    found = []
    for child in psutil.Process(gateway.pid).children():
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:  # it ended since, or waits for the supervisor to take its exit code
            continue
        if "worker" in words:
            found.append((words[-1], child.pid))
    return [pid for _, pid in sorted(found, key=lambda one: one[0].partition('"worker": ')[2])]


def is_back(gateway: Gateway, before: list[int], *victims: int) -> bool:
    """Whether other processes are in these ones' places."""
    now = workers(gateway)
    return len(now) == 2 and all(now[victim] != before[victim] for victim in victims)


def test_transactions_over_workers(shared: Gateway) -> None:
    """Transactions over partitions of both workers, and offsets of a group: committed ones are read whole, aborted ones
    not at all, whichever worker coordinates."""
    create(shared, "transacted")
    create(shared, "source")
    committed = 0
    for n in range(6):  # several ids, so that both workers coordinate some
        producer = Producer({"bootstrap.servers": servers(shared)[0], "transactional.id": f"id-{n}"})
        producer.init_transactions(DEADLINE_S)
        for commits in (True, False, True):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.produce("transacted", str(committed if commits else -1), partition=partition)
            if commits:
                consumer = Consumer({"bootstrap.servers": servers(shared)[1], "group.id": f"group-{n}"})
                offsets = [TopicPartition("source", 3, committed + 1)]
                producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), DEADLINE_S)
                producer.commit_transaction(DEADLINE_S)
                (offset,) = consumer.committed([TopicPartition("source", 3)], DEADLINE_S)
                assert offset.offset == committed + 1
                consumer.close()
                committed += 1
            else:
                producer.flush(DEADLINE_S)
                producer.abort_transaction(DEADLINE_S)
    numbers = read(shared, "transacted", committed * PARTITIONS)
    assert sorted(numbers) == sorted(list(range(committed)) * PARTITIONS)


def test_groups_live_with_their_worker(gateway: Gateway) -> None:
    """Groups of both workers are found through any, share partitions of both, and keep their offsets over a kill."""
    create(gateway, "orders")
    write(gateway, "orders", 0, 80)
    for n in range(4):
        consumer = Consumer(
            {"bootstrap.servers": servers(gateway)[n % 2], "group.id": f"g-{n}", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe(["orders"])
        found = 0
        deadline = time.monotonic() + DEADLINE_S
        while found < 80:
            assert time.monotonic() < deadline, f"{found} of 80 records"
            found += sum(message.error() is None for message in consumer.consume(100, 0.2))
        consumer.commit(asynchronous=False)
        consumer.close()
    before = workers(gateway)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: is_back(gateway, before, 0, 1) and is_ready(gateway), "both workers are back")
    for n in range(4):
        consumer = Consumer({"bootstrap.servers": servers(gateway)[0], "group.id": f"g-{n}"})
        assert _committed(consumer) == [10] * PARTITIONS
        consumer.close()


def _committed(consumer: Consumer) -> list[int]:
    """The committed offsets of all partitions."""
    asked = [TopicPartition("orders", partition) for partition in range(PARTITIONS)]
    return [found.offset for found in consumer.committed(asked, DEADLINE_S)]


def test_from_one_to_several_and_back(tmp_path: Path) -> None:
    """A directory that one process made is served by two workers, then by four, then by one again: topics, records and
    users stay."""
    with Gateway(tmp_path, settings(1)) as gateway:
        penstock("users", "add", "alice", "--password-file", "-", "--data-dir", str(gateway.data), given="secret")
        gateway.listen(f"127.0.0.1:{free_ports(4)}")
        for starts, count in enumerate((1, 2, 4, 1)):
            gateway.settings["workers"] = count
            gateway.start()
            if not starts:
                create(gateway, "orders")
            else:
                assert read(gateway, "orders", starts * 80) == expected(starts * 80)
            assert len(servers(gateway)) == count
            write(gateway, "orders", starts * 80, 80)
            gateway.stop()
            assert users(gateway) == ["alice"]
        assert (gateway.data / "registry.db").exists()


def penstock(*arguments: str, given: str = "") -> str:
    """What a command prints."""
    command = [str(Path(sys.executable).parent / "penstock"), *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=True, text=True, timeout=DEADLINE_S).stdout


def users(gateway: Gateway) -> list[str]:
    """The users that a stopped gateway's directory knows."""
    told = json.loads(penstock("users", "list", "--json", "--data-dir", str(gateway.data)))
    return [row["user"] for row in told]


def test_the_supervisor_is_killed(gateway: Gateway) -> None:
    """kill -9 of the supervisor ends the workers too, and the next start has everything that was acknowledged."""
    create(gateway, "orders")
    write(gateway, "orders", 0, 80)
    pids = workers(gateway)
    gateway.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers have ended")
    gateway.start()
    assert read(gateway, "orders", 80) == expected(80)


def test_more_workers_than_containers(tmp_path: Path) -> None:
    """More workers than a directory has containers are refused by name, with what is allowed."""
    with Gateway(tmp_path, settings(4, containers=2)) as gateway:
        gateway.launch()
        assert gateway.process is not None
        assert gateway.process.wait(DEADLINE_S) == 2
        assert "workers = 4" in gateway.output.read_text()
        gateway.process = None


def test_the_wrong_worker_names_the_right_one(shared: Gateway) -> None:
    """A Produce or a Fetch that comes to the wrong worker is refused with the leader's id and address (KIP-951), and
    changes nothing."""
    create(shared, "refused")
    write(shared, "refused", 0, 8)
    admin = AdminClient({"bootstrap.servers": servers(shared)[0]})
    partitions = admin.list_topics("refused", DEADLINE_S).topics["refused"].partitions
    elsewhere = next(number for number, partition in partitions.items() if partition.leader == 101)
    records = {"index": elsewhere, "records": bytes(batch(b"x"))}
    values = {"acks": -1, "timeout": 1000, "topic_data": [{"name": "refused", "partition_data": [records]}]}
    answer = asked(servers(shared)[0], 0, 12, values)
    (refused,) = answer.responses[0].partition_responses
    assert refused.error_code == 6
    assert refused.current_leader.leader_id == 101
    assert [f"{node.host}:{node.port}" for node in answer.node_endpoints] == [servers(shared)[1]]

    wanted = {"topics": [{"name": "refused", "topic_id": None}], "allow_auto_topic_creation": False}
    (known,) = asked(servers(shared)[0], 3, 12, {**wanted, "include_topic_authorized_operations": False}).topics
    body = fetch_body([("refused", elsewhere, 0)], ids={"refused": known.topic_id})
    answer = asked(servers(shared)[0], 1, 16, body)
    (refused,) = answer.responses[0].partitions
    assert (refused.error_code, refused.current_leader.leader_id) == (6, 101)
    assert [f"{node.host}:{node.port}" for node in answer.node_endpoints] == [servers(shared)[1]]
    assert read(shared, "refused", 8) == expected(8)


def asked(server: str, key: int, version: int, values: dict[str, Any]) -> Message:
    """The answer to one request."""
    host, _, port = server.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
        connection.sendall(request(key, version, values))
        with connection.makefile("rb") as answers:
            (size,) = struct.unpack(">i", answers.read(4))
            body = answers.read(size)
    codec = response_codec(key, version)
    return codec.decode(body, 4 + codec.flexible)


def test_the_console_shows_the_whole(gateway: Gateway) -> None:
    """The REST API adds up what the workers have, and metrics tell each sample's worker."""
    create(gateway, "orders")
    write(gateway, "orders", 0, 80)
    (stream,) = get(gateway, "/api/v1/streams")["streams"]
    assert stream["appended_events"] == 80
    assert get(gateway, "/readyz")["status"] == "serving"
    assert get(gateway, "/api/v1/overview")["produced_records"] == 80
    with urllib.request.urlopen(f"http://{gateway.ready['http']}/metrics", timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    assert 'penstock_topics{worker="0"} 1' in text
    assert 'penstock_topics{worker="1"} 1' in text


def test_no_stale_epochs(gateway: Gateway) -> None:
    """A client that lived through a worker's kill, and learned of the leaders meanwhile, is not refused afterwards."""
    create(gateway, "orders")
    admin = AdminClient({"bootstrap.servers": servers(gateway)[0]})
    wanted = {TopicPartition("orders", n): OffsetSpec.latest() for n in range(PARTITIONS)}
    write(gateway, "orders", 0, 40)
    assert {told.result(DEADLINE_S).offset for told in admin.list_offsets(wanted).values()} == {5}
    before = workers(gateway)
    os.kill(before[1], signal.SIGKILL)
    while not (is_back(gateway, before, 1) and is_ready(gateway)):
        admin.list_topics("orders", DEADLINE_S)
    write(gateway, "orders", 40, 40)
    assert {told.result(DEADLINE_S).offset for told in admin.list_offsets(wanted).values()} == {10}


GROUPS = ("billing", "audit", "search", "mail", "stock")


def commit(gateway: Gateway, group: str, topic: str, offset: int) -> None:
    """Commit the same offset for all partitions."""
    consumer = Consumer({"bootstrap.servers": servers(gateway)[0], "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, n, offset) for n in range(PARTITIONS)], asynchronous=False)
    consumer.close()


def test_lag_over_workers(gateway: Gateway) -> None:
    """A group's lag counts the partitions of all workers, whichever of them has the group; also after one is killed."""
    create(gateway, "orders")
    write(gateway, "orders", 0, 80)
    for group in GROUPS:
        commit(gateway, group, "orders", 4)

    def lags() -> dict[str, int]:
        return {group["name"]: group["lag"] for group in get(gateway, "/api/v1/groups")["groups"]}

    until(lambda: lags() == dict.fromkeys(GROUPS, 80 - 4 * PARTITIONS), "all groups' lag is counted")
    before = workers(gateway)
    os.kill(before[1], signal.SIGKILL)
    until(lambda: is_back(gateway, before, 1) and is_ready(gateway), "the worker is back")
    write(gateway, "orders", 80, 8)
    until(lambda: lags() == dict.fromkeys(GROUPS, 88 - 4 * PARTITIONS), "the lag of after the kill is counted")


def test_internal_topics_over_workers(gateway: Gateway) -> None:
    """A consumer of all of __consumer_offsets is told of both workers' groups, each by its own coordinator; and goes on
    over a kill of either, at higher offsets, with every commit since."""
    create(gateway, "orders")
    watcher = Consumer({"bootstrap.servers": servers(gateway)[0], "group.id": "watcher", "enable.auto.commit": False})
    topics = watcher.list_topics(timeout=DEADLINE_S).topics
    assert {"__consumer_offsets", "__transaction_state"} <= topics.keys()
    partitions = topics["__consumer_offsets"].partitions
    assert len(partitions) == 50
    assert {partition.leader for partition in partitions.values()} == {100, 101}
    watcher.assign([TopicPartition("__consumer_offsets", number, 0) for number in partitions])

    admin = AdminClient({"bootstrap.servers": servers(gateway)[0]})
    ends: dict[int, int] = {}
    for offset, victim in ((3, 0), (4, 1), (5, None)):
        for group in GROUPS:
            commit(gateway, group, "orders", offset)
        told: dict[str, set[int]] = {}
        deadline = time.monotonic() + DEADLINE_S
        while told != {group: set(range(PARTITIONS)) for group in GROUPS}:
            assert time.monotonic() < deadline, told
            message = watcher.poll(0.2)
            if message is None or message.error() is not None:
                continue
            where, at, key, value = message.partition(), message.offset(), message.key(), message.value()
            assert at > ends.get(where, -1)
            ends[where] = at
            if key[:2] == b"\x00\x01" and value is not None and struct.unpack_from(">hq", value)[1] == offset:
                (length,) = struct.unpack_from(">h", key, 2)
                told.setdefault(key[4 : 4 + length].decode(), set()).add(*struct.unpack(">i", key[-4:]))
                coordinator = admin.describe_consumer_groups([key[4 : 4 + length].decode()])
                (described,) = (future.result(DEADLINE_S) for future in coordinator.values())
                assert described.coordinator.id == partitions[where].leader
        if victim is not None:
            before = workers(gateway)
            os.kill(before[victim], signal.SIGKILL)
            until(
                lambda before=before, victim=victim: is_back(gateway, before, victim) and is_ready(gateway),
                "it is back",
            )  # type: ignore[misc]
    watcher.close()


INCREMENTAL_ALTER_CONFIGS, GET_TELEMETRY_SUBSCRIPTIONS, PUSH_TELEMETRY = 44, 71, 72
CLIENT_METRICS = 16


def test_telemetry_over_workers(gateway: Gateway) -> None:
    """A subscription that one worker was told of holds at all. A client that asked one may push to another, and the
    metrics of the whole show its series with the worker that has it."""
    config = {"name": "metrics", "config_operation": 0, "value": "org.apache.kafka.producer.queue"}
    resource = {"resource_type": CLIENT_METRICS, "resource_name": "queues", "configs": [config]}
    asked(servers(gateway)[0], INCREMENTAL_ALTER_CONFIGS, 1, {"resources": [resource]})

    def subscription(server: int) -> Message:
        return asked(servers(gateway)[server], GET_TELEMETRY_SUBSCRIPTIONS, 0, {})

    for server in (0, 1):
        until(lambda server=server: subscription(server).requested_metrics, "the worker knows the subscription")  # type: ignore[misc]
    mine = subscription(0)
    metrics = otlp_of({"name": "org.apache.kafka.producer.queue.time", "value": 2.5})
    pushed = {
        "client_instance_id": mine.client_instance_id,
        "subscription_id": mine.subscription_id,
        "metrics": metrics,
    }
    assert asked(servers(gateway)[1], PUSH_TELEMETRY, 0, pushed).error_code == 0
    with urllib.request.urlopen(f"http://{gateway.ready['http']}/metrics", timeout=DEADLINE_S) as answer:
        (line,) = [one for one in answer.read().decode().splitlines() if one.startswith("penstock_client_producer_")]
    assert line.endswith("} 2.5")
    assert 'worker="1"' in line
    assert urlsafe_b64encode(mine.client_instance_id.bytes).decode().rstrip("=") in line


def test_retention_by_consumption_over_workers(shared: Gateway) -> None:
    """Records leave once all named groups have committed them, though the groups live on other workers; not before."""
    admin = AdminClient({"bootstrap.servers": servers(shared)[0]})
    config = {"penstock.retention.groups": ",".join(GROUPS), "retention.ms": "-1"}
    admin.create_topics([NewTopic("consumed", PARTITIONS, 1, config=config)])["consumed"].result(DEADLINE_S)
    write(shared, "consumed", 0, 80)
    for group in GROUPS[:-1]:
        commit(shared, group, "consumed", 10)
    consumer = Consumer({"bootstrap.servers": servers(shared)[0], "group.id": "looks"})

    def starts() -> set[int]:
        partitions = (TopicPartition("consumed", n) for n in range(PARTITIONS))
        return {consumer.get_watermark_offsets(one, DEADLINE_S)[0] for one in partitions}

    time.sleep(1)  # several looks of retention, each after 200 ms
    assert starts() == {0}
    commit(shared, GROUPS[-1], "consumed", 10)
    until(lambda: starts() == {10}, "all of it has left")
    consumer.close()


def is_ready(gateway: Gateway) -> bool:
    try:
        return bool(get(gateway, "/readyz")["status"] == "serving")
    except urllib.error.HTTPError:
        return False


def get(gateway: Gateway, path: str) -> Any:
    with urllib.request.urlopen(f"http://{gateway.ready['http']}{path}", timeout=DEADLINE_S) as answer:
        return json.load(answer)


def test_changes_are_pushed(shared: Gateway) -> None:
    """What one worker decides the other knows soon: it is told, and does not wait for its next look, a second later."""
    other = AdminClient({"bootstrap.servers": servers(shared)[1]})
    bound_s, waited_s = CHANGES * LOOK_S / 4, 0.0
    for n in range(CHANGES):
        topic = f"topic-{n}"
        create(shared, topic)
        begun_s, patience = time.monotonic(), Patience(bound_s, lambda: [os.getpid(), shared.pid, *workers(shared)])
        until(lambda topic=topic: topic in other.list_topics(timeout=DEADLINE_S).topics, "the other worker knows it")  # type: ignore[misc]
        waited_s += max(0.0, time.monotonic() - begun_s - patience.lengthened_s())
    assert waited_s < bound_s
