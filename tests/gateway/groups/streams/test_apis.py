"""StreamsGroupHeartbeat and StreamsGroupDescribe over the wire: topics are made, groups are shown, rights are asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode

from gateway.groups.streams.statuses import StatusCode
from gateway.security.acls import Acl, Operation, ResourceType
from tests.gateway.forking import serving
from tests.gateway.harness import Client as Wire
from tests.gateway.harness import running_broker
from tests.gateway.security.harness import ADMIN, ALICE, WITH_RIGHTS, acl, come_as
from tests.likeness.asking import Server
from tests.likeness.questions import CLASSIC_AND_CONSUMER, Question

pytestmark = pytest.mark.slow

WITHIN_S = 60.0
API_VERSIONS, HEARTBEAT = 18, 88
MISSING = StatusCode.MISSING_INTERNAL_TOPICS


def info(name: str) -> dict[str, Any]:
    configs = [{"key": "cleanup.policy", "value": "compact"}]
    return {"name": name, "partitions": 0, "replication_factor": 0, "topic_configs": configs}


def subtopology(number: str, **parts: Any) -> dict[str, Any]:
    return {
        "subtopology_id": number,
        "source_topics": [],
        "source_topic_regex": [],
        "state_changelog_topics": [],
        "repartition_sink_topics": [],
        "repartition_source_topics": [],
        "copartition_groups": [],
        **parts,
    }


COUNT = {
    "epoch": 0,
    "subtopologies": [
        subtopology("1", repartition_source_topics=[info("app-mid")], state_changelog_topics=[info("app-log")]),
        subtopology("0", source_topics=["in"], repartition_sink_topics=["app-mid"]),
    ],
}


def heartbeat(epoch: int, **said: Any) -> dict[str, Any]:
    """A request of member m of group g; a joining one says all that it must."""
    values: dict[str, Any] = {
        "group_id": "g",
        "member_id": "m",
        "member_epoch": epoch,
        "endpoint_information_epoch": -1,
        "active_tasks": None,
        "standby_tasks": None,
        "warmup_tasks": None,
        "client_tags": None,
        "task_offsets": None,
        "task_end_offsets": None,
    }
    if epoch == 0:
        none: dict[str, Any] = {"active_tasks": [], "standby_tasks": [], "warmup_tasks": []}
        values |= none | {"rebalance_timeout": 60_000, "process_id": "m", "topology": COUNT}
    return values | said


class Client:
    """Asks one server about one group."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def beat(self, epoch: int, **said: Any) -> dict[str, Any]:
        return self.ask("StreamsGroupHeartbeat", **heartbeat(epoch, **said))

    def describe(self) -> dict[str, Any]:
        (group,) = self.ask("StreamsGroupDescribe", group_ids=["g"], include_authorized_operations=False)["groups"]
        described: dict[str, Any] = group
        return described

    def ask(self, api: str, version: int = 0, **values: Any) -> dict[str, Any]:
        return self._server.ask(Question(api, api, values), version)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    at_once = ("group.streams.initial.rebalance.delay.ms=0", "group.streams.assignment.interval.ms=0")
    settings = ("log.file.bytes=4194304", *at_once)
    with serving(tmp_path, *(word for one in settings for word in ("--set", one))) as gateway:
        yield gateway.ready()["kafka"][0]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("in", 2)])["in"].result(WITHIN_S)
    server = Server(address, own={})
    yield Client(server)
    server.close()


def test_internal_topics_are_made_for_the_member(client: Client, address: str) -> None:
    """The first answer tells that they were missing; the next one has the tasks."""
    joined = client.beat(0)
    assert joined["error_code"] == ErrorCode.none
    assert [status["status_code"] for status in joined["status"]] == [StatusCode.MISSING_INTERNAL_TOPICS]
    topics = AdminClient({"bootstrap.servers": address}).list_topics(timeout=WITHIN_S).topics
    assert {name: len(topics[name].partitions) for name in ("app-mid", "app-log")} == {"app-mid": 2, "app-log": 2}
    answer = client.beat(joined["member_epoch"])
    both = [0, 1]
    assert answer["active_tasks"] == [
        {"subtopology_id": "0", "partitions": both},
        {"subtopology_id": "1", "partitions": both},
    ]
    assert (answer["standby_tasks"], answer["warmup_tasks"]) == ([], [])


def test_a_group_is_shown(client: Client) -> None:
    """With its topology, as large as decided, and its members; the other APIs know its kind."""
    joined = client.beat(0, user_endpoint={"host": "h", "port": 65_535})
    group = client.describe()
    assert (group["error_code"], group["group_epoch"]) == (ErrorCode.none, 2)
    first, second = group["topology"]["subtopologies"]
    assert (first["source_topics"], first["repartition_sink_topics"]) == (["in"], ["app-mid"])
    assert [topic["partitions"] for topic in second["state_changelog_topics"]] == [2]
    (member,) = group["members"]
    assert (member["member_epoch"], member["process_id"]) == (joined["member_epoch"], "m")
    assert member["user_endpoint"] is not None
    (listed,) = client.ask("ListGroups", 5, states_filter=[], types_filter=["Streams"])["groups"]
    assert (listed["group_id"], listed["group_type"], listed["protocol_type"]) == ("g", "streams", "streams")
    (classic,) = client.ask("DescribeGroups", 6, groups=["g"], include_authorized_operations=False)["groups"]
    assert (classic["error_code"], classic["error_message"]) == (
        ErrorCode.group_id_not_found,
        "Group g is not a classic group.",
    )
    assert client.beat(-1)["member_epoch"] == -1
    assert client.describe()["group_state"] == "Empty"
    (deleted,) = client.ask("DeleteGroups", 2, groups_names=["g"])["results"]
    assert deleted["error_code"] == ErrorCode.none
    gone = client.describe()
    assert (gone["error_code"], gone["error_message"]) == (
        ErrorCode.group_id_not_found,
        "Streams group g not found.",
    )


REFUSED = [
    ({"instance_id": "i"}, ErrorCode.invalid_request, "Static membership is not yet supported."),
    ({"task_offsets": []}, ErrorCode.invalid_request, "TaskOffsets are not supported yet."),
    ({"task_end_offsets": []}, ErrorCode.invalid_request, "TaskEndOffsets are not supported yet."),
    (
        {"warmup_tasks": [{"subtopology_id": "0", "partitions": [0]}]},
        ErrorCode.invalid_request,
        "WarmupTasks are not supported yet.",
    ),
    ({"standby_tasks": None}, ErrorCode.invalid_request, "If one task-type is non-null, all must be non-null."),
    ({"group_id": " "}, ErrorCode.invalid_request, "GroupId can't be empty."),
    ({"process_id": "p" * 300}, ErrorCode.invalid_request, "An id, a rack or a host has more than 256 characters."),
    (
        {"topology": {"epoch": 0, "subtopologies": [subtopology("0", source_topic_regex=["a.*"])]}},
        ErrorCode.invalid_request,
        "Regular expressions for source topics are not supported yet.",
    ),
    (
        {"topology": {"epoch": 0, "subtopologies": [subtopology("0", source_topics=["__consumer_offsets"])]}},
        ErrorCode.streams_invalid_topology,
        "Use of Kafka internal topics __consumer_offsets in a Kafka Streams topology is prohibited.",
    ),
    (
        {"topology": {"epoch": 0, "subtopologies": [subtopology("0", source_topics=["a b"])]}},
        ErrorCode.streams_invalid_topology,
        "Topic names a b are not valid topic names.",
    ),
    (
        {
            "topology": {
                "epoch": 0,
                "subtopologies": [
                    subtopology(
                        "0",
                        source_topics=["in"],
                        copartition_groups=[
                            {"source_topics": [7], "source_topic_regex": [], "repartition_source_topics": []}
                        ],
                    )
                ],
            }
        },
        ErrorCode.streams_invalid_topology,
        "A copartition group names topic 7 of 1.",
    ),
]


def test_what_is_not_served_is_refused(client: Client) -> None:
    """In Kafka's words, and no group is made."""
    for said, code, why in REFUSED:
        answer = client.beat(0, **said)
        assert (answer["error_code"], answer["error_message"]) == (code, why)
    assert client.describe()["error_code"] == ErrorCode.group_id_not_found


def test_lowered_feature(client: Client) -> None:
    """At streams.version 0 members are refused, and groups are not shown."""
    assert client.beat(0)["error_code"] == ErrorCode.none
    assert client._server.ask(CLASSIC_AND_CONSUMER, 1)["error_code"] == ErrorCode.none
    assert client.beat(0)["error_code"] == ErrorCode.unsupported_version
    assert client.describe()["error_code"] == ErrorCode.unsupported_version


def test_another_worker_keeps_the_group(tmp_path: Path) -> None:
    """Of two workers one has the group; the other says so of every request, and makes no group of that name."""
    with serving(tmp_path, "--set", "workers=2", "--set", "containers=2", "--set", "log.file.bytes=4194304") as gateway:
        addresses = gateway.ready()["kafka"]
        admin = AdminClient({"bootstrap.servers": addresses[0]})
        admin.create_topics([NewTopic("in", 2)])["in"].result(WITHIN_S)
        servers = [Server(address, own={}) for address in addresses]
        clients = [Client(server) for server in servers]
        joined = [client.beat(0)["error_code"] for client in clients]
        shown = [client.describe()["error_code"] for client in clients]
        alive = [client.beat(1)["error_code"] for client in clients]
        for server in servers:
            server.close()

    assert sorted(joined) == sorted(shown) == sorted(alive) == [ErrorCode.none, ErrorCode.not_coordinator]
    assert joined == shown == alive


def test_rights(tmp_path: Path) -> None:
    """A member needs READ for the group and DESCRIBE for every topic; internal topics are made with its CREATE."""

    async def test() -> None:
        async with running_broker(tmp_path, *WITH_RIGHTS) as broker:
            assert broker.authorizer is not None
            admin, alice = [await Wire.connect(broker) for _ in range(2)]
            for wire, principal in ((admin, ADMIN), (alice, ALICE)):
                await wire.ask(API_VERSIONS, 0, {})
                come_as(broker, wire._writer.get_extra_info("sockname")[1], principal)
            await admin.create("in", 2)

            async def joined() -> Any:
                return await alice.ask(HEARTBEAT, 0, heartbeat(0))

            async def allow(made: Acl) -> None:
                assert broker.authorizer is not None
                assert await broker.authorizer.create([made]) == [None]

            assert (await joined()).error_code == ErrorCode.group_authorization_failed
            await allow(acl("g", Operation.READ, type=ResourceType.GROUP))
            assert (await joined()).error_code == ErrorCode.topic_authorization_failed
            for name in ("in", "app-mid", "app-log"):
                await allow(acl(name, Operation.DESCRIBE))
            (status,) = [one for one in (await joined()).status if one.status_code == MISSING]
            assert status.status_detail == (
                "Internal topics are missing: app-log, app-mid; Unauthorized to CREATE on topics app-mid, app-log."
            )
            assert broker.topics.get("app-log") is None
            for name in ("app-mid", "app-log"):
                await allow(acl(name, Operation.CREATE))
            await joined()
            assert broker.topics.get("app-log") is not None
            assert [one for one in (await joined()).status if one.status_code == MISSING] == []

    uvloop.run(test())
