"""The REST API goes by the same rights as Kafka's clients, as the principal ANONYMOUS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.gateway.forking import serving
from tests.gateway.http.calls import WITHIN_S, call, create_topic, get, until

pytestmark = pytest.mark.slow

AUTHORIZER = ("--set", "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer")
SUPER = ("--set", "super.users=User:ANONYMOUS")
BASE = "/api/v1/streams"


def allow(kafka: str, name: str, *operations: AclOperation, kind: ResourceType = ResourceType.TOPIC) -> None:
    """Give everybody a right."""
    acls = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, "User:*", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_acls(acls).values():
        future.result(WITHIN_S)


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, audit_log: Path) -> Iterator[str]:
    """A gateway on which everybody may describe `seen`, alter `mine`, configure `tuned`, be of the group `readers`, and
    nothing else. That group, and another one, have read of `seen` and `hidden`."""
    directory: Path = tmp_path_factory.mktemp("gateway")
    with serving(directory, "--http", "127.0.0.1:0", *AUTHORIZER, *SUPER) as running:
        kafka = running.ready()["kafka"][0]
        for name in ("seen", "mine", "hidden", "tuned"):
            create_topic(kafka, name, 4)
        allow(kafka, "seen", AclOperation.DESCRIBE)
        allow(kafka, "mine", AclOperation.ALTER)
        allow(kafka, "tuned", AclOperation.ALTER_CONFIGS)
        allow(kafka, "readers", AclOperation.READ, kind=ResourceType.GROUP)
        for group in ("readers", "others"):
            consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
            places = [TopicPartition(name, 0, 0) for name in ("seen", "hidden")]
            consumer.commit(offsets=places, asynchronous=False)
            consumer.close()
    audit = ("--set", f"audit.log={audit_log}")
    with serving(directory, "--http", "127.0.0.1:0", *AUTHORIZER, *audit) as running:
        yield running.ready()["http"]


def test_lists(address: str) -> None:
    """Lists have what may be described, and count nothing else."""
    streams = get(address, BASE)
    assert ([stream["name"] for stream in streams["streams"]], streams["total"]) == (["mine", "seen"], 2)
    topics = get(address, "/api/v1/topics")
    assert ([topic["name"] for topic in topics["topics"]], topics["total"], topics["found"]) == (["mine", "seen"], 2, 2)
    groups = get(address, "/api/v1/groups")
    assert ([group["name"] for group in groups["groups"]], groups["total"]) == (["readers"], 1)
    (readers,) = groups["groups"]
    assert ([topic["topic"] for topic in readers["topics"]], readers["topics_total"]) == (["seen"], 1)
    assert [get(address, f"/api/v1/groups?topic={name}")["found"] for name in ("seen", "hidden")] == [1, 0]
    assert get(address, "/api/v1/events")["events"] == []


@pytest.mark.parametrize("path", ["", "/map"])
def test_a_stream(address: str, path: str) -> None:
    """A stream that may not be described is refused like one that does not exist."""
    assert get(address, f"{BASE}/seen{path}")
    there, absent = (call(address, "GET", f"{BASE}/{name}{path}") for name in ("hidden", "absent"))
    assert there[0] == absent[0] == 403
    assert there[2]["detail"].replace("hidden", "absent") == absent[2]["detail"]
    assert "DESCRIBE" in there[2]["detail"]


def test_changes(address: str, audit_log: Path) -> None:
    """Scaling, moving and sealing need ALTER, and stand in the audit log."""
    split, move = {"split": {"segment": 0}}, {"slot": 0, "container": 0}
    for name in ("seen", "hidden", "absent"):
        assert call(address, "POST", f"{BASE}/{name}/scale", split)[0] == 403
        assert call(address, "POST", f"{BASE}/{name}/move", move)[0] == 403
        assert call(address, "POST", f"{BASE}/{name}/seal")[0] == 403
    assert call(address, "POST", f"{BASE}/mine/scale", split)[0] == 200
    assert get(address, f"{BASE}/mine")["state"] == "open"
    assert call(address, "POST", f"{BASE}/mine/move", move)[0] == 200
    assert call(address, "POST", f"{BASE}/mine/seal")[0] == 200

    def changes() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in audit_log.read_text().splitlines()]
        return [line for line in lines if line["event"].startswith("stream ")]

    until(lambda: len(changes()) == 3)
    scaled, moved, sealed = changes()
    assert (moved["name"], moved["slot"], moved["container"], moved["state"]) == ("mine", 0, 0, "moved")
    assert (scaled["event"], scaled["name"], scaled["sealed"]) == ("stream scaled", "mine", [0])
    assert len(scaled["opened"]) == 2
    assert (sealed["event"], sealed["name"], sealed["principal"]) == ("stream sealed", "mine", "User:ANONYMOUS")


def test_a_configuration(address: str, audit_log: Path) -> None:
    """It is changed with ALTER_CONFIGS, whatever else one may, and the audit log has the names without the values."""
    change = {"set": {"retention.ms": "1234567"}}
    for name in ("seen", "mine", "hidden", "absent"):
        status, _, problem = call(address, "PATCH", f"/api/v1/topics/{name}/configs", change)
        assert (status, "needs ALTER_CONFIGS" in problem["detail"]) == (403, True)
        assert call(address, "GET", f"/api/v1/topics/{name}/configs")[0] == 403
    assert call(address, "PATCH", "/api/v1/topics/tuned/configs", change)[0] == 200

    until(lambda: "configs changed" in audit_log.read_text())
    (line,) = [line for line in audit_log.read_text().splitlines() if "configs changed" in line]
    told = json.loads(line)
    assert (told["name"], told["configs"], told["principal"]) == ("tuned", ["retention.ms"], "User:ANONYMOUS")
    assert "1234567" not in line


def test_groups(address: str) -> None:
    """A group is looked at with DESCRIBE and moved with READ; who may not does not learn whether it exists."""
    for path, right in (("", "DESCRIBE"), ("/history", "DESCRIBE")):
        status, _, problem = call(address, "GET", f"/api/v1/groups/absent{path}")
        assert (status, f"needs {right} on group" in problem["detail"]) == (403, True)
    status, _, problem = call(address, "POST", "/api/v1/groups/absent/offsets", {"to": "latest"})
    assert (status, "needs READ on group" in problem["detail"]) == (403, True)


@pytest.mark.parametrize("partitions", [None, [0], [99]])
def test_offsets_of_a_topic(address: str, partitions: list[int] | None) -> None:
    """Whoever may move a group's offsets learns nothing of a topic that they may not read: not whether there is one,
    nor how many partitions it has."""

    def told(topic: str) -> str:
        move = {"to": "earliest", "topic": topic} | ({} if partitions is None else {"partitions": partitions})
        status, _, problem = call(address, "POST", "/api/v1/groups/readers/offsets", move)
        assert status == 403
        return str(problem["detail"])

    assert told("hidden").replace("hidden", "absent") == told("absent")
    assert "needs READ on topic" in told("absent")


def test_offsets_of_all_topics(address: str) -> None:
    """Of the group's topics those count that may be seen: no refusal names another one."""
    status, _, problem = call(address, "POST", "/api/v1/groups/readers/offsets", {"to": "earliest"})
    assert status == 403
    assert "needs READ on topic 'seen'" in problem["detail"]
    assert "hidden" not in json.dumps(get(address, "/api/v1/groups/readers"))


WHOLE = ["/api/v1/overview", "/api/v1/tier2/chunks", "/api/v1/tier2/chunks/x", "/api/v1/health", "/api/v1/warnings"]


@pytest.mark.parametrize("path", WHOLE)
def test_the_whole(address: str, path: str) -> None:
    """What is about the whole gateway needs DESCRIBE on the cluster; probes and metrics need nothing."""
    assert call(address, "GET", path)[0] == 403
    assert call(address, "GET", "/readyz")[0] == 200
    assert call(address, "GET", "/metrics")[0] == 200


def test_records(address: str) -> None:
    """Reading records needs READ, adding some WRITE; to describe or alter a topic is not enough."""
    for topic in ("seen", "mine", "absent"):
        path = f"/api/v1/topics/{topic}/records?partition=0"
        assert call(address, "GET", path)[0] == 403
        status, _, problem = call(address, "POST", path, {"records": [{"value": "x"}]})
        assert (status, "needs WRITE" in problem["detail"]) == (403, True)
