"""Kafka's tools for clusters, features and clients' metrics, and what reads Kafka's internal topics."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from compat_tests.harness.client import Client
from compat_tests.harness.records import Record
from compat_tests.harness.system import Penstock, System
from compat_tests.harness.waiting import until
from compat_tests.test_kafka_tools import CONSOLE_CONSUMER, LOG_DIRS, SERVER, TRANSACTIONS, Tools, tools

__all__ = ["tools"]

FEATURES = "org.apache.kafka.tools.FeatureCommand"
QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
CLIENT_METRICS = "org.apache.kafka.tools.ClientMetricsCommand"
FORMATTERS = "org.apache.kafka.tools.consumer"


def objects(text: str) -> list[dict[str, dict[str, dict[str, Any]]]]:
    """JSON objects one after another: the formatters write no line ends."""
    found, at = [], text.find("{")
    while at >= 0:
        one, end = json.JSONDecoder().raw_decode(text, at)
        found.append(one)
        at = text.find("{", end)
    return found


def level(tools: Tools, feature: str) -> str:
    """A feature's level in effect, as kafka-features shows it."""
    described = tools.run(FEATURES, *SERVER, "describe")
    (found,) = re.findall(rf"Feature: {feature}\s.*FinalizedVersionLevel: (\S+)", described)
    return str(found)


def test_features(tools: Tools, java: Client) -> None:
    """kafka-features lowers transactions to their first version, in which they work as well, and raises them again."""
    tools.create()
    assert level(tools, "transaction.version") == "2"
    try:
        tools.run(FEATURES, *SERVER, "downgrade", "--feature", "transaction.version=1")
        assert level(tools, "transaction.version") == "1"
        producer = java.transactional(f"{tools.topic}-id")
        for value in (b"one", b"two"):
            producer.begin_transaction()
            producer.send(tools.topic, Record(value=value, partition=0))
            producer.commit_transaction()
        [active] = tools.table(
            *(TRANSACTIONS, *SERVER, "describe-producers", "--topic", tools.topic, "--partition", "0")
        )
        producer.close()
        assert active["ProducerEpoch"] == "0"  # it does not rise with each transaction
    finally:
        tools.run(FEATURES, *SERVER, "upgrade", "--feature", "transaction.version=2")
    assert level(tools, "transaction.version") == "2"


def test_features_of_groups(tools: Tools) -> None:
    """kafka-features turns streams and share groups off, and on again."""
    features = ("streams.version", "share.version")
    assert [level(tools, feature) for feature in features] == ["1", "1"]
    try:
        tools.run(FEATURES, *SERVER, "downgrade", *(f"--feature={feature}=0" for feature in features))
        assert [level(tools, feature) for feature in features] == ["0", "0"]
    finally:
        tools.run(FEATURES, *SERVER, "upgrade", *(f"--feature={feature}=1" for feature in features))
    assert [level(tools, feature) for feature in features] == ["1", "1"]


def test_quorum(tools: Tools) -> None:
    """kafka-metadata-quorum describes a quorum of one."""
    status = tools.run(QUORUM, *SERVER, "describe", "--status")
    (leader,) = tools.table(QUORUM, *SERVER, "describe", "--replication")

    assert "LeaderId:" in status
    assert (leader["NodeId"], leader["Lag"], leader["Status"]) == ("1", "0", "Leader")


def test_reassignment(tools: Tools, tmp_path: Path) -> None:
    """kafka-reassign-partitions carries out a plan that names the only broker, and finds none under way."""
    tools.create(2)
    plan = tmp_path / "plan.json"
    partitions = [{"topic": tools.topic, "partition": n, "replicas": [1]} for n in range(2)]
    plan.write_text(json.dumps({"version": 1, "partitions": partitions}))

    said = tools.run(REASSIGN, *SERVER, "--execute", "--reassignment-json-file", str(plan))
    assert "Successfully started partition reassignments" in said
    verified = tools.run(REASSIGN, *SERVER, "--verify", "--reassignment-json-file", str(plan))
    assert f"Reassignment of partition {tools.topic}-1 is completed." in verified
    assert "No partition reassignments found." in tools.run(REASSIGN, *SERVER, "--list")


def test_transactions_by_pattern(tools: Tools, java: Client) -> None:
    """kafka-transactions lists the transactional ids that a regular expression matches as a whole."""
    identities = [f"{tools.topic}-{name}" for name in ("east", "west")]
    for identity in identities:
        java.transactional(identity).close()
    listed = tools.table(TRANSACTIONS, *SERVER, "list", "--transactional-id-pattern", f"{tools.topic}-e[a-z]+")

    assert [row["TransactionalId"] for row in listed] == identities[:1]


def test_log_dirs_of_all(tools: Tools) -> None:
    """kafka-log-dirs describes the broker's one directory with all partitions of a topic."""
    tools.create(3)
    wanted = [f"{tools.topic}-{n}" for n in range(3)]

    def described() -> list[str]:
        said = tools.run(LOG_DIRS, *SERVER, "--describe", "--topic-list", tools.topic, "--broker-list", "1")
        (broker,) = json.loads(said.splitlines()[-1])["brokers"]
        (directory,) = broker["logDirs"]
        return sorted(each["partition"] for each in directory["partitions"])

    until(lambda: described() == wanted, within_s=30, what="all partitions are described")


def test_committed_offsets_by_formatter(tools: Tools) -> None:
    """A console consumer with Kafka's formatters reads a group and its offsets from the internal topic."""
    tools.create()
    tools.produce([f"line {n}" for n in range(7)])
    tools.consume(7, "--group", tools.group)

    def read(formatter: str) -> list[dict[str, dict[str, dict[str, Any]]]]:
        lines = tools.run(
            *(CONSOLE_CONSUMER, *SERVER, "--topic", "__consumer_offsets", "--from-beginning", "--timeout-ms", "5000"),
            *("--formatter", f"{FORMATTERS}.{formatter}"),
        )
        return objects(lines)

    offsets = [row for row in read("OffsetsMessageFormatter") if row["key"]["data"]["group"] == tools.group]
    assert (offsets[-1]["key"]["data"]["topic"], offsets[-1]["key"]["data"]["partition"]) == (tools.topic, 0)
    assert offsets[-1]["value"]["data"]["offset"] == 7
    groups = [row for row in read("GroupMetadataMessageFormatter") if row["key"]["data"]["group"] == tools.group]
    assert groups[-1]["value"]["data"]["protocolType"] == "consumer"


def test_transactions_by_formatter(tools: Tools, java: Client) -> None:
    """The same for transactional ids."""
    tools.create()
    identity = f"{tools.topic}-id"
    producer = java.transactional(identity)
    producer.begin_transaction()
    producer.send(tools.topic, Record(value=b"x", partition=0))
    lines = tools.run(
        *(CONSOLE_CONSUMER, *SERVER, "--topic", "__transaction_state", "--from-beginning", "--timeout-ms", "5000"),
        *("--formatter", f"{FORMATTERS}.TransactionLogMessageFormatter"),
    )
    producer.abort_transaction()
    producer.close()
    last = [row for row in objects(lines) if row["key"]["data"]["transactionalId"] == identity][-1]

    assert last["value"]["data"]["transactionPartitions"] == [{"topic": tools.topic, "partitionIds": [0]}]
    assert last["value"]["data"]["transactionStatus"] == 1


@pytest.fixture
def exposed(system: System) -> Penstock:
    if not isinstance(system, Penstock):
        pytest.skip("this server has no receiver of metrics")
    return system


def shown(server: Penstock) -> str:
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_clients_push_metrics(exposed: Penstock, tools: Tools, java: Client) -> None:
    """Metrics that kafka-client-metrics subscribes to are pushed by Java's and librdkafka's clients and shown."""
    tools.create()
    named = ("--name", tools.topic)
    tools.run(
        *(CLIENT_METRICS, *SERVER, "--alter", *named, "--metrics", "org.apache.kafka.producer."),
        *("--interval", "500"),
    )
    assert tools.topic in tools.run(CLIENT_METRICS, *SERVER, "--list")
    assert "interval.ms=500" in tools.run(CLIENT_METRICS, *SERVER, "--describe", *named)

    librdkafka = Producer({"bootstrap.servers": exposed.address, "client.id": f"{tools.topic}-c"})
    librdkafka.produce(tools.topic, b"from C")
    librdkafka.flush(15)
    javas = java.producer()
    javas.send(tools.topic, Record(value=b"from Java"))
    for label in (f'client_id="{tools.topic}-c"', 'client_software_name="apache-kafka-java"'):

        def is_shown(label: str = label) -> bool:
            librdkafka.poll(0)
            return any(
                line.startswith("penstock_client_producer_") and label in line for line in shown(exposed).splitlines()
            )

        until(is_shown, within_s=30, what=f"metrics with {label} are shown")
    javas.close()

    tools.run(CLIENT_METRICS, *SERVER, "--delete", *named)
    assert tools.topic not in tools.run(CLIENT_METRICS, *SERVER, "--list")
