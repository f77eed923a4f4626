"""Kafka's tools about what a broker does not have: they end with Kafka's words, not with a lost connection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compat_tests.harness.client import Client
from compat_tests.harness.system import System
from compat_tests.test_kafka_tools import CONFIGS, CONSOLE_CONSUMER, SERVER, Tools

ACLS = "org.apache.kafka.tools.AclCommand"
QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
FEATURES = "org.apache.kafka.tools.FeatureCommand"
REASSIGN = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"
METRICS = "org.apache.kafka.tools.ClientMetricsCommand"


@pytest.fixture
def tools(java: Client, system: System) -> Tools:
    return Tools(java, system.address)


@pytest.fixture
def classic(tools: Tools, system: System) -> Tools:
    """Tools against a server that has neither the new group protocols nor quotas."""
    if system.name != "penstock":
        pytest.skip("Kafka has what this is about")
    return tools


def test_acls(tools: Tools) -> None:
    """kafka-acls says that there is no authorizer, whatever it is asked to do."""
    grant = ("--add", "--allow-principal", "User:a", "--operation", "Read", "--topic", "t")

    assert "No Authorizer is configured" in tools.run(ACLS, *SERVER, "--list", status=1)
    assert "No Authorizer is configured" in tools.run(ACLS, *SERVER, *grant, status=1)


def test_users(tools: Tools) -> None:
    """kafka-configs describes quotas and credentials of users, of whom none has any."""
    for more in ((), ("--entity-name", "alice")):
        assert "Quota configs" not in tools.run(CONFIGS, *SERVER, "--describe", "--entity-type", "users", *more)


def test_quotas_and_credentials(classic: Tools) -> None:
    """Quotas and credentials of SCRAM are kept."""
    alter = (CONFIGS, *SERVER, "--alter", "--entity-type", "users", "--entity-name", "alice", "--add-config")

    assert "Completed updating config" in classic.run(*alter, "consumer_byte_rate=1000")
    assert "Completed updating config" in classic.run(*alter, "SCRAM-SHA-256=[password=secret]")
    assert "Completed updating config" in classic.run(*alter, "request_percentage=10")
    ip = ("--entity-type", "ips", "--entity-name", "10.0.0.1", "--add-config", "connection_creation_rate=10")
    assert "Completed updating config" in classic.run(CONFIGS, *SERVER, "--alter", *ip)
    assert "connection_creation_rate=10.0" in classic.run(CONFIGS, *SERVER, "--describe", "--entity-type", "ips")


def test_quorum(tools: Tools) -> None:
    """kafka-metadata-quorum shows the one voter, which leads and has everything."""
    status = tools.run(QUORUM, *SERVER, "describe", "--status")
    replication = tools.run(QUORUM, *SERVER, "describe", "--replication").splitlines()

    assert "LeaderId:               1" in status
    assert [line.split()[0] for line in replication[1:] if line.strip()] == ["1"]
    assert replication[1].split()[-1] == "Leader"


def test_features(tools: Tools) -> None:
    """kafka-features tells the levels, and refuses one that this server has not."""
    assert "transaction.version" in tools.run(FEATURES, *SERVER, "describe")
    assert "Could not upgrade" in tools.run(
        FEATURES, *SERVER, "upgrade", "--feature", "transaction.version=9", status=1
    )


def test_reassignments(tools: Tools, tmp_path: Path) -> None:
    """kafka-reassign-partitions finds nothing under way, and leaves a partition where it is."""
    tools.create()
    plan = tmp_path / "plan.json"
    partitions = [{"topic": tools.topic, "partition": 0, "replicas": [1]}]
    plan.write_text(json.dumps({"version": 1, "partitions": partitions}))

    assert "No partition reassignments found." in tools.run(REASSIGN, *SERVER, "--list")
    assert "Successfully started" in tools.run(REASSIGN, *SERVER, "--execute", "--reassignment-json-file", str(plan))
    assert "is completed" in tools.run(REASSIGN, *SERVER, "--verify", "--reassignment-json-file", str(plan))


def test_elections(tools: Tools) -> None:
    """kafka-leader-election hears that the leader leads."""
    tools.create()
    asked = ("--election-type", "preferred", "--topic", tools.topic, "--partition", "0")

    assert "already elected" in tools.run(ELECTION, *SERVER, *asked)


def test_metrics_subscriptions(tools: Tools) -> None:
    """kafka-client-metrics sets, shows, lists and deletes a subscription."""
    name = ("--name", tools.topic)
    tools.run(METRICS, *SERVER, "--alter", *name, "--metrics", "org.apache", "--interval", "60000")

    assert "interval.ms=60000" in tools.run(METRICS, *SERVER, "--describe", *name)
    assert tools.topic in tools.run(METRICS, *SERVER, "--list")
    tools.run(METRICS, *SERVER, "--delete", *name)
    assert tools.topic not in tools.run(METRICS, *SERVER, "--list")


def test_configs_of_groups(tools: Tools) -> None:
    """kafka-configs sets, shows and takes away a config of one group, in the range that the broker sets."""
    group = ("--entity-type", "groups", "--entity-name", tools.group)
    alter = (CONFIGS, *SERVER, "--alter", *group)
    tools.run(*alter, "--add-config", "consumer.session.timeout.ms=50000")

    assert "consumer.session.timeout.ms=50000" in tools.run(CONFIGS, *SERVER, "--describe", *group)
    refused = tools.run(*alter, "--add-config", "consumer.session.timeout.ms=1", status=1)
    assert "must be greater than or equal to group.consumer.min.session.timeout.ms" in refused
    tools.run(*alter, "--delete-config", "consumer.session.timeout.ms")
    assert "50000" not in tools.run(CONFIGS, *SERVER, "--describe", *group)


def test_the_new_consumer_protocol(classic: Tools) -> None:
    """A Java consumer with group.protocol=consumer reads what is there."""
    classic.create()
    classic.produce(["unread"])
    asked = ("--topic", classic.topic, "--command-property", "group.protocol=consumer", "--from-beginning")
    said = classic.run(CONSOLE_CONSUMER, *SERVER, *asked, "--max-messages", "1", "--timeout-ms", "30000")

    assert "unread" in said
