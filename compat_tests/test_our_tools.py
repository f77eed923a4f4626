"""`penstock topics`, `produce`, `consume` and the others work with any Kafka: the same commands say the same of both.

With SOAK=1, beside Apache Kafka and beside Penstock, where `tests/gateway/cli/kafka` looks closer in CI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from compat_tests.harness.system import Kafka, Penstock, System
from tests.gateway.cli.kafka.tools import Tools

SETTINGS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
SYSTEMS: dict[str, type[System]] = {"kafka": Kafka, "penstock": Penstock}
KAFKAS_OWN = {"min.insync.replicas"}
"""Configs that Kafka gives every topic of a cluster by itself."""
pytestmark = pytest.mark.skipif(not os.environ.get("SOAK"), reason="a minute, for a soak")


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS.keys())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server of its own, which asks for rights: the tools change them."""
    started: System = request.param(tmp_path_factory.mktemp("server"), SETTINGS)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def tools(server: System, tmp_path: Path) -> Tools:
    return Tools(server.address, tmp_path)


def test_a_topics_life(tools: Tools) -> None:
    """Made, shown, changed, grown, deleted; what is wrong is refused with the broker's own words."""
    tools.say("topics", "create", "life", "-p", "2", "--set", "retention.ms=7d")
    assert "TOPIC_ALREADY_EXISTS" in tools.refuse("topics", "create", "life")
    assert "INVALID_TOPIC" in tools.refuse("topics", "create", "a b")
    tools.say("topics", "alter", "life", "--set", "retention.ms=1h", "--set", "max.message.bytes=2MiB")
    configs = tools.tell("topics", "show", "life")["configs"]
    ours = {name: value for name, value in configs.items() if name not in KAFKAS_OWN}
    assert ours == {"max.message.bytes": str(2 * 1024 * 1024), "retention.ms": "3600000"}
    tools.say("topics", "grow", "life", "-p", "3", "--yes")
    assert [one["partitions"] for one in tools.tell("topics", "list", "life")] == [3]
    tools.say("topics", "delete", "life", "--yes")
    assert "there is no topic 'life'" in tools.refuse("topics", "show", "life")


def test_records(tools: Tools) -> None:
    """Written with keys and headers, found by place, by key, and with a group, whose offsets are moved."""
    tools.say("topics", "create", "orders", "-p", "1")
    tools.say("produce", "orders", "--key-separator", ":", "-H", "from=till", given="a:1\nb:2\na:3\n")
    assert tools.say("consume", "orders", "-k", "a", "--newest", "--format", "{value} {headers}").split()[0] == "3"
    assert tools.say("consume", "orders", "--tail", "2").split() == ["2", "3"]
    assert tools.say("consume", "orders", "--from", "-1h", "-n", "1").split() == ["1"]
    assert tools.say("consume", "orders", "-g", "billing", "-n", "2").split() == ["1", "2"]

    assert [one["lag"] for one in tools.tell("groups", "lag", "billing")] == [1]
    tools.say("groups", "reset", "billing", "--to", "start", "--dry-run")
    assert [one["lag"] for one in tools.tell("groups", "lag", "billing")] == [1]
    tools.say("groups", "reset", "billing", "--to", "start", "--yes")
    assert [one["lag"] for one in tools.tell("groups", "lag", "billing")] == [3]
    assert "billing" in tools.say("groups", "list")
    tools.say("groups", "delete", "billing", "--yes")
    assert "billing" not in tools.say("groups", "list")


def test_an_administrators_work(tools: Tools, tmp_path: Path) -> None:
    """Configs, rights, users, quotas and the cluster itself."""
    tools.say("topics", "create", "admin", "-p", "1")
    tools.say("configs", "alter", "topic", "admin", "--set", "retention.ms=1d")
    changed = tools.tell("configs", "show", "topic", "admin", "--changed")
    assert [one["value"] for one in changed if one["key"] not in KAFKAS_OWN] == ["86400000"]

    right = ("--principal", "User:ann", "--operation", "read", "--resource", "topic:admin")
    tools.say("acls", "add", *right)
    assert [one["principal"] for one in tools.tell("acls", "list")] == ["User:ann"]
    tools.say("acls", "delete", *right, "--yes")
    assert tools.tell("acls", "list") == []

    (tmp_path / "password").write_text("open-sesame\n")
    tools.say("credentials", "add", "ann", "--new-password-file", str(tmp_path / "password"))
    assert "ann" in tools.say("credentials", "list")
    tools.say("quotas", "set", "user=ann", "--set", "producer_byte_rate=1MiB")
    assert "producer_byte_rate" in tools.say("quotas", "list")

    info = tools.tell("cluster", "info")
    assert [f"{one['host']}:{one['port']}" for one in info["brokers"]] == [tools.address]
    assert tools.tell("cluster", "health")["healthy"] is True


def test_following(tools: Tools) -> None:
    """Records of several partitions in the order of their times; the newest of all; a template's; of JSON."""
    tools.say("topics", "create", "ticks", "-p", "3", "--set", "retention.ms=-1")  # the records are of 2023
    for partition in range(3):
        stamped = [json.dumps({"value": str(n), "timestamp": 1_700_000_000_000 + n}) for n in range(partition, 12, 3)]
        tools.say("produce", "ticks", "--records", "--partition", str(partition), given="\n".join(stamped))
    assert tools.say("consume", "ticks", "--follow", "--from", "start", "-n", "12").split() == [
        str(n) for n in range(12)
    ]
    assert tools.say("consume", "ticks", "--tail", "4").split() == ["8", "9", "10", "11"]
    assert tools.say("consume", "ticks", "--from", "@1700000000009").split() == ["9", "10", "11"]

    tools.say("topics", "create", "made", "-p", "1")
    template = ("--template", '{"n": {{seq}}}', "--key-template", "k{{seq}}", "--seed", "1", "-n", "5")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        tools.say("produce", "made", *template, "--compression", codec, "--rate", "1000")
    assert len(tools.say("consume", "made").splitlines()) == 25
    copied = tools.say("consume", "made", "--json")
    tools.say("topics", "create", "copy", "-p", "1")
    assert tools.tell("produce", "copy", "--records", given=copied)["records"] == 25
    assert tools.say("consume", "copy", "--format", "{key}={value}") == tools.say(
        "consume", "made", "--format", "{key}={value}"
    )


def test_configs_of_every_kind(tools: Tools) -> None:
    """Of brokers, groups and clients' metrics: changed, shown, taken back, and what is wrong in the broker's words."""
    (broker,) = tools.tell("cluster", "info")["brokers"]
    node = str(broker["id"])
    rehearsed = tools.tell("configs", "alter", "broker", node, "--set", "log.cleaner.threads=2", "--dry-run")
    assert rehearsed["changed"] is False
    assert len(tools.tell("configs", "show", "broker", node)) > 100
    for kind, name, key, value in (
        ("group", "g", "consumer.session.timeout.ms", "50000"),
        ("client-metrics", "slow", "interval.ms", "60000"),
    ):
        tools.say("configs", "alter", kind, name, "--set", f"{key}={value}")
        changed = {one["key"]: one["value"] for one in tools.tell("configs", "show", kind, name, "--changed")}
        assert changed[key] == value
        tools.say("configs", "alter", kind, name, "--unset", key)
    assert "nknown" in tools.refuse("configs", "alter", "group", "g", "--set", "no.such.key=1")
    assert "there is no topic 'none'" in tools.refuse("configs", "show", "topic", "none")

    tools.say("topics", "create", "one", "other", "-p", "1")
    tools.say("configs", "alter", "topic", "other", "--set", "retention.ms=1d")
    compared = tools.run("configs", "diff", "topic", "one", "--with", tools.address, "--with-name", "other", "--json")
    assert (compared.returncode, [one["key"] for one in json.loads(compared.stdout)]) == (1, ["retention.ms"])


def test_what_is_taken_back(tools: Tools, tmp_path: Path) -> None:
    """Quotas one by one, a user's password, rights by a filter; nothing without a yes."""
    tools.say("quotas", "set", "user=bob", "client-id=app", "--set", "producer_byte_rate=1MiB")
    tools.say("quotas", "set", "client-id", "--set", "consumer_byte_rate=2MiB", "--set", "request_percentage=50")
    assert "say --yes" in tools.run("quotas", "delete", "client-id").stderr
    tools.say("quotas", "delete", "client-id", "--quota", "request_percentage", "--yes")
    assert "request_percentage" not in tools.say("quotas", "list")
    tools.say("quotas", "delete", "client-id", "--yes")
    tools.say("quotas", "delete", "user=bob", "client-id=app", "--yes")

    (tmp_path / "password").write_text("open-sesame\n")
    for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
        tools.say(
            "credentials", "add", "bob", "--new-password-file", str(tmp_path / "password"), "--mechanism", mechanism
        )
    (bob,) = [one for one in tools.tell("credentials", "list") if one["user"] == "bob"]
    assert bob["mechanisms"].keys() == {"SCRAM-SHA-256", "SCRAM-SHA-512"}
    tools.say("credentials", "delete", "bob", "--mechanism", "SCRAM-SHA-256", "--yes")

    for operation in ("read", "write", "two_phase_commit"):
        resource = "transactional_id:t" if operation == "two_phase_commit" else "topic:t"
        tools.say("acls", "add", "--principal", "User:bob", "--operation", operation, "--resource", resource)
    assert len(tools.tell("acls", "list", "--principal", "User:bob")) == 3
    assert len(tools.tell("acls", "delete", "--principal", "User:bob", "--yes")) == 3
    assert (
        "INVALID"
        in tools.refuse("acls", "add", "--principal", "bob", "--operation", "read", "--resource", "topic:t").upper()
    )


def test_groups_with_members(tools: Tools) -> None:
    """Members are shown with their partitions, whether a client or the broker assigns; no reset meanwhile."""
    tools.say("topics", "create", "work", "-p", "2")
    tools.say("produce", "work", given="1\n2\n3\n")
    for protocol in ("classic", "consumer"):
        settings = {"group.protocol": protocol, "client.id": f"till-{protocol}", "auto.offset.reset": "earliest"}
        member = Consumer({"bootstrap.servers": tools.address, "group.id": protocol, **settings})
        member.subscribe(["work"])
        assert member.poll(30) is not None
        shown = tools.tell("groups", "show", protocol)
        assert [(one["client"], len(one["partitions"])) for one in shown["members"]] == [(f"till-{protocol}", 2)]
        assert shown["kind"].lower() == protocol
        assert (
            "members must stop"
            in tools.run("groups", "reset", protocol, "--topic", "work", "--to", "end", "--yes").stderr
        )
        member.close()
