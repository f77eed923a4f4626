"""`penstock topics`, `produce`, `consume` and the others work with any Kafka: the same commands say the same of both.

With SOAK=1, beside Apache Kafka and beside Penstock, where `tests/gateway/cli/kafka` looks closer in CI.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
