"""Rights of real clients: ACLs by kafka-acls, and what clients of each kind see without one.

The clients are ANONYMOUS: first a super user, which makes topics and ACLs; after a restart one with these ACLs only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from compat_tests.harness.system import Penstock, java_command
from compat_tests.harness.waiting import until

ACLS: Final = "org.apache.kafka.tools.AclCommand"
CONSOLE_CONSUMER: Final = "org.apache.kafka.tools.consumer.ConsoleConsumer"
AUTHORIZER: Final = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer"}
SUPER: Final = {"super.users": "User:ANONYMOUS"}
WITHIN_S: Final = 30


def run(tool: str, address: str, *arguments: str) -> str:
    """What a tool says, in a JVM of its own."""
    command = [*java_command(tool), "--bootstrap-server", address, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False, text=True)
    return done.stdout + done.stderr


def serving(directory: Path, address: str, **settings: str) -> Penstock:
    server = Penstock(directory, {**AUTHORIZER, **settings})
    server.address = address
    server.start()
    return server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Penstock]:
    """A gateway whose clients have the ACLs that `prepared` made, and no others."""
    directory = tmp_path_factory.mktemp("server")
    server = serving(directory, "", **SUPER)
    try:
        prepared(server.address)
        address = server.address
    finally:
        server.stop()
    server = serving(directory, address)
    yield server
    server.stop()


def prepared(address: str) -> None:
    """Topics, records and ACLs, by an administrator; kafka-acls adds, lists and removes."""
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(name, 1, 1) for name in ("open", "closed")]).values():
        future.result(WITHIN_S)
    producer = Producer({"bootstrap.servers": address})
    for name in ("open", "closed"):
        producer.produce(name, b"value")
    assert producer.flush(WITHIN_S) == 0
    anonymous = ("--allow-principal", "User:ANONYMOUS")
    assert "(principal=User:ANONYMOUS, host=*, operation=WRITE, permissionType=ALLOW)" in run(
        ACLS, address, "--add", *anonymous, "--producer", "--topic", "open"
    )
    run(
        ACLS,
        address,
        "--add",
        *anonymous,
        "--consumer",
        "--topic",
        "open",
        "--group",
        "open-",
        "--resource-pattern-type",
        "prefixed",
    )
    prefixed = ("--resource-pattern-type", "prefixed")
    run(ACLS, address, "--add", *anonymous, "--consumer", "--topic", "open", "--group", "open-", *prefixed)
    run(ACLS, address, "--add", "--deny-principal", "User:ANONYMOUS", "--operation", "Read", "--topic", "other")
    listed = run(ACLS, address, "--list", "--topic", "other")
    assert "(principal=User:ANONYMOUS, host=*, operation=READ, permissionType=DENY)" in listed
    run(ACLS, address, "--remove", "--force", "--topic", "other")
    assert "DENY" not in run(ACLS, address, "--list")


def test_librdkafka(gateway: Penstock) -> None:
    """confluent-kafka writes and reads where it may, and is told that it may not elsewhere."""
    outcomes: dict[str, object] = {}
    producer = Producer({"bootstrap.servers": gateway.address})
    for topic in ("open", "closed", "absent"):
        producer.produce(topic, b"x", on_delivery=lambda error, message: outcomes.update({message.topic(): error}))
    producer.flush(WITHIN_S)
    assert outcomes["open"] is None
    for topic in ("closed", "absent"):
        error = outcomes[topic]
        assert isinstance(error, KafkaError)
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    consumer = Consumer({"bootstrap.servers": gateway.address, "group.id": "open-1", "auto.offset.reset": "earliest"})
    consumer.subscribe(["open"])
    until(lambda: (got := consumer.poll(1)) is not None and not got.error(), within_s=WITHIN_S, what="a record comes")
    consumer.close()
    stranger = Consumer({"bootstrap.servers": gateway.address, "group.id": "strange"})
    stranger.subscribe(["open"])
    until(
        lambda: (
            (got := stranger.poll(1)) is not None
            and got.error() is not None
            and got.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED
        ),
        within_s=WITHIN_S,
        what="the group is denied",
    )
    stranger.close()


def test_kafka_python(gateway: Penstock) -> None:
    """kafka-python raises its own errors about rights."""
    producer = KafkaProducer(bootstrap_servers=gateway.address, max_block_ms=10_000)
    producer.send("open", b"x").get(WITHIN_S)
    with pytest.raises(TopicAuthorizationFailedError):
        producer.send("closed", b"x").get(WITHIN_S)
    producer.close()
    consumer = KafkaConsumer("open", bootstrap_servers=gateway.address, group_id="strange")
    with pytest.raises(GroupAuthorizationFailedError):
        consumer.poll(timeout_ms=WITHIN_S * 1_000)
    consumer.close()


def test_java(gateway: Penstock) -> None:
    """Kafka's console consumer reads what it may and nothing else; kafka-acls ends with Java's error."""
    arguments = ("--from-beginning", "--timeout-ms", "8000", "--max-messages", "1")
    assert "value" in run(CONSOLE_CONSUMER, gateway.address, "--topic", "open", "--group", "open-2", *arguments)
    denied = run(CONSOLE_CONSUMER, gateway.address, "--topic", "closed", "--group", "open-3", *arguments)
    assert "Processed a total of 0 messages" in denied
    assert "value" not in denied
    assert "Cluster authorization failed" in run(ACLS, gateway.address, "--list")


def test_lists_and_changes(gateway: Penstock) -> None:
    """An AdminClient sees the topics that it may see, and changes nothing of others."""
    admin = AdminClient({"bootstrap.servers": gateway.address})
    assert set(admin.list_topics(timeout=WITHIN_S).topics) == {"open"}
    for name in ("closed", "absent"):
        with pytest.raises(KafkaException) as refused:
            admin.delete_topics([name])[name].result(WITHIN_S)
        assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    every = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    with pytest.raises(KafkaException) as refused:
        admin.delete_acls([every])[every].result(WITHIN_S)
    assert refused.value.args[0].code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED


CONFIGS: Final = "kafka.admin.ConfigCommand"
TOPICS: Final = "org.apache.kafka.tools.TopicCommand"


def test_kafka_configs(tmp_path: Path) -> None:
    """kafka-configs sets, describes and removes a quota of bytes, and a producer over it is told to pause."""
    server = serving(tmp_path, "", **SUPER)
    try:
        user = ("--entity-type", "users", "--entity-name", "ANONYMOUS")
        run(CONFIGS, server.address, "--alter", *user, "--add-config", "producer_byte_rate=1000")
        assert "producer_byte_rate=1000.0" in run(CONFIGS, server.address, "--describe", *user)
        throttled: list[float] = []

        def note(event: Any) -> None:
            throttled.append(event.throttle_time)

        producer = Producer({"bootstrap.servers": server.address, "throttle_cb": note})
        producer.produce("quota", bytes(60_000))
        producer.flush(WITHIN_S)
        until(lambda: producer.poll(0.1) == 0 and bool(throttled), within_s=WITHIN_S, what="the client hears of it")
        assert 45 < throttled[0] < 55
        run(CONFIGS, server.address, "--alter", *user, "--delete-config", "producer_byte_rate")
        assert "producer_byte_rate" not in run(CONFIGS, server.address, "--describe", *user)
    finally:
        server.stop()


def test_mutation_quota(tmp_path: Path) -> None:
    """Over the quota of partitions Kafka's own tool hears so; without the quota it makes its topic."""
    server = serving(tmp_path, "", **SUPER)
    try:
        user = ("--entity-type", "users", "--entity-name", "ANONYMOUS")
        run(CONFIGS, server.address, "--alter", *user, "--add-config", "controller_mutation_rate=2")
        assert "controller_mutation_rate=2.0" in run(CONFIGS, server.address, "--describe", *user)
        admin = AdminClient({"bootstrap.servers": server.address})
        admin.create_topics([NewTopic("many", 222, 1)])["many"].result(WITHIN_S)  # 200 are owed: for 100 seconds
        later = ("--create", "--topic", "later", "--partitions", "1")
        assert "The throttling quota has been exceeded." in run(TOPICS, server.address, *later)
        run(CONFIGS, server.address, "--alter", *user, "--delete-config", "controller_mutation_rate")
        assert "Created topic later." in run(TOPICS, server.address, *later)
    finally:
        server.stop()
