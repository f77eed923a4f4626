"""Share groups over the protocol: sessions, acknowledgements that are refused, groups as a whole, the feature."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic
from kio.schema.errors import ErrorCode

from tests.gateway.launching import serving
from tests.likeness.asking import Server
from tests.likeness.questions import CLASSIC_AND_CONSUMER, Question

pytestmark = pytest.mark.slow

ACCEPT: Final = 1
WITHIN_S: Final = 30.0
EARLIEST: Final = Question(
    "beginning early",
    "IncrementalAlterConfigs",
    {
        "resources": [
            {
                "resource_type": 32,
                "resource_name": "g",
                "configs": [{"name": "share.auto.offset.reset", "config_operation": 0, "value": "earliest"}],
            }
        ]
    },
)


class Member:
    """A member of the group "g" that says exactly what a test has it say."""

    def __init__(self, server: Server, topic: UUID, name: str = "m") -> None:
        self._server = server
        self._topic = topic
        self._name = name

    def ask(self, api: str, version: int = 1, **said: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._server.said(api, version, {"group_id": "g", **said})
        return answer

    def join(self) -> dict[str, Any]:
        return self.ask("ShareGroupHeartbeat", member_id=self._name, member_epoch=0, subscribed_topic_names=["t"])

    def leave(self) -> dict[str, Any]:
        return self.ask("ShareGroupHeartbeat", member_id=self._name, member_epoch=-1)

    def fetch(self, epoch: int, *batches: tuple[int, int, int], most: int = 100) -> dict[str, Any]:
        limits = {"max_wait": 200, "min_bytes": 1, "max_bytes": 1_000_000, "max_records": most, "batch_size": most}
        topics = [self._settled(*batches)]
        return self.ask("ShareFetch", member_id=self._name, share_session_epoch=epoch, topics=topics, **limits)

    def settle(self, epoch: int, *batches: tuple[int, int, int]) -> dict[str, Any]:
        topics = [self._settled(*batches)] if batches else []
        return self.ask("ShareAcknowledge", member_id=self._name, share_session_epoch=epoch, topics=topics)

    def _settled(self, *batches: tuple[int, int, int]) -> dict[str, Any]:
        said = [
            {"first_offset": first, "last_offset": last, "acknowledge_types": [how]} for first, last, how in batches
        ]
        return {"topic_id": self._topic, "partitions": [{"partition_index": 0, "acknowledgement_batches": said}]}


def acquired(answer: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [
        (one["first_offset"], one["last_offset"], one["delivery_count"])
        for topic in answer["responses"]
        for partition in topic["partitions"]
        for one in partition["acquired_records"]
    ]


def refused(answer: dict[str, Any], what: str = "error_code") -> int:
    (topic,) = answer["responses"]
    (partition,) = topic["partitions"]
    code: int = partition[what]
    return code


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path, "--set", "log.file.bytes=4194304") as gateway:
        yield gateway.ready()["kafka"][0]


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    asked = Server(address, own={})
    yield asked
    asked.close()


@pytest.fixture
def member(server: Server, address: str) -> Member:
    """A member that has joined; the topic has ten records."""
    client = {"bootstrap.servers": address}
    admin = AdminClient(client)
    admin.create_topics([NewTopic("t", 1)])["t"].result(WITHIN_S)
    producer = Producer(client)
    for number in range(10):
        producer.produce("t", str(number).encode())
    assert producer.flush(WITHIN_S) == 0
    assert server.ask(EARLIEST, 1)["responses"][0]["error_code"] == 0
    described = admin.describe_topics(TopicCollection(["t"]))["t"].result(WITHIN_S)
    made = Member(server, UUID(bytes=base64.urlsafe_b64decode(f"{described.topic_id}==")))
    assert made.join()["error_code"] == 0
    return made


def test_a_session(member: Member) -> None:
    """Records are lent once; what is settled in a fetch, or between, is settled for good."""
    assert acquired(member.fetch(0, most=4)) == [(0, 3, 1)]
    assert acquired(member.fetch(1, (0, 3, ACCEPT), most=4)) == [(4, 7, 1)]
    assert refused(member.settle(2, (4, 5, ACCEPT))) == ErrorCode.none
    assert acquired(member.fetch(3)) == [(8, 9, 1)]
    assert member.settle(-1)["error_code"] == ErrorCode.none
    assert acquired(member.fetch(0)) == [(6, 9, 2)], "the end of a session gave them back"


def test_what_a_session_refuses(member: Member) -> None:
    """Sessions have an order; a member settles only what it holds, and all of it or nothing."""
    assert member.fetch(5)["error_code"] == ErrorCode.share_session_not_found
    member.fetch(0, most=4)
    assert member.fetch(7)["error_code"] == ErrorCode.invalid_share_session_epoch
    assert member.settle(0)["error_code"] == ErrorCode.invalid_share_session_epoch
    assert member.fetch(0, (0, 1, ACCEPT))["error_code"] == ErrorCode.invalid_request
    assert refused(member.settle(1, (0, 1, ACCEPT), (3, 4, ACCEPT))) == ErrorCode.invalid_record_state
    assert refused(member.settle(2, (0, 1, 9))) == ErrorCode.invalid_request
    assert refused(member.settle(3, (0, 1, 4))) == ErrorCode.invalid_request, "renewals came with version 2"
    assert refused(member.settle(4, (0, 3, ACCEPT))) == ErrorCode.none
    assert refused(member.fetch(5, (0, 3, ACCEPT)), "acknowledge_error_code") == ErrorCode.invalid_record_state


def test_a_group_as_a_whole(member: Member) -> None:
    """Only a group without members can be deleted, or begin anew; its id is no other protocol's."""
    gone = {"groups_names": ["g"]}
    assert member.ask("DeleteGroups", 2, **gone)["results"][0]["error_code"] == ErrorCode.non_empty_group
    assert member.ask("DeleteShareGroupOffsets", 0)["error_code"] == ErrorCode.non_empty_group
    joining = {"session_timeout": 10_000, "rebalance_timeout": 10_000, "protocol_type": "consumer"}
    protocols = [{"name": "range", "metadata": b""}]
    answer = member.ask("JoinGroup", 4, **joining, protocols=protocols, member_id="")
    assert answer["error_code"] == ErrorCode.inconsistent_group_protocol

    assert member.leave()["error_code"] == ErrorCode.none
    assert member.ask("DeleteGroups", 2, **gone)["results"][0]["error_code"] == ErrorCode.none
    assert member.ask("DeleteShareGroupOffsets", 0)["error_code"] == ErrorCode.group_id_not_found
    assert member.ask("ShareGroupDescribe", 1, group_ids=["g"])["groups"][0]["error_code"] == (
        ErrorCode.group_id_not_found
    )


def test_lowered_feature(server: Server, member: Member) -> None:
    """At share.version 0 members are refused."""
    assert server.ask(CLASSIC_AND_CONSUMER, 1)["error_code"] == ErrorCode.none
    assert member.join()["error_code"] == ErrorCode.unsupported_version
    assert member.fetch(0)["error_code"] == ErrorCode.unsupported_version
