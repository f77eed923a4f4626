"""Questions about share groups (KIP-932), in the order of a life: members join, fetch, settle what they hold, leave."""

from __future__ import annotations

import base64
from typing import Any, Final
from uuid import UUID

from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from compat_tests.harness.waiting import until
from tests.likeness.asking import Server
from tests.likeness.questions import SOME_ID, Question

SHARES: Final = "share groups"
WITHIN_S: Final = 60.0
ACCEPT, RELEASE, REJECT = 1, 2, 3
FIRST: Final = range(1, 2)
SECOND: Final = range(2, 3)
LIMITED: Final = 1
"""The acquire mode in which a fetch gives no more records than were asked for."""


def prepared(server: Server, address: str) -> UUID:
    """The id of the topic "known", of ten records in one batch, which the group "s" shall read from its start; another
    group has read it, so that all that a broker makes for its first share group is made."""
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("known", 1)])["known"].result(WITHIN_S)
    described = admin.describe_topics(TopicCollection(["known"]))["known"].result(WITHIN_S)
    topic = UUID(bytes=base64.urlsafe_b64decode(f"{described.topic_id}=="))
    for group in ("s", "first"):
        config = {"name": "share.auto.offset.reset", "config_operation": 0, "value": "earliest"}
        resource = {"resource_type": 32, "resource_name": group, "configs": [config]}
        server.said("IncrementalAlterConfigs", 1, {"resources": [resource]})
    producer = Producer({"bootstrap.servers": address, "linger.ms": 500})
    for number in range(10):
        producer.produce("known", str(number))
    assert producer.flush(WITHIN_S) == 0

    def is_read() -> bool:
        """Kafka makes its topics of groups when it is first asked for one, and takes a while."""
        server.said("FindCoordinator", 4, {"key_type": 0, "coordinator_keys": ["first", "s"]})
        server.ask(_beat("joining", 0, group_id="first", subscribed_topic_names=["known"]), 1)
        fetched = server.ask(_fetch("reading", topic, 0, group_id="first"), 2)
        return any(one["acquired_records"] for told in fetched["responses"] for one in told["partitions"])

    until(is_read, within_s=WITHIN_S, what="a share group reads", every_s=0.5)
    return topic


def _beat(name: str, epoch: int, **said: Any) -> Question:
    body = {"group_id": "s", "member_id": "m", "member_epoch": epoch, **said}
    return Question(name, "ShareGroupHeartbeat", body, FIRST)


def _settled(topic: UUID, batches: tuple[tuple[int, int, int], ...]) -> dict[str, Any]:
    said = [{"first_offset": first, "last_offset": last, "acknowledge_types": [how]} for first, last, how in batches]
    return {"topic_id": topic, "partitions": [{"partition_index": 0, "acknowledgement_batches": said}]}


def _fetch(
    name: str, topic: UUID, epoch: int, *batches: tuple[int, int, int], versions: range = SECOND, **said: Any
) -> Question:
    limits = {"max_wait": 5_000, "min_bytes": 1, "max_bytes": 1_000_000, "max_records": 4, "batch_size": 4}
    body = {"group_id": "s", "member_id": "m", "share_session_epoch": epoch, "topics": [_settled(topic, batches)]}
    mode = {"share_acquire_mode": LIMITED} if versions == SECOND else {}
    return Question(name, "ShareFetch", body | limits | mode | said, versions, ("records",))


def _settle(name: str, topic: UUID, epoch: int, *batches: tuple[int, int, int], versions: range = SECOND) -> Question:
    topics = [_settled(topic, batches)] if batches else []
    body = {"group_id": "s", "member_id": "m", "share_session_epoch": epoch, "topics": topics}
    return Question(name, "ShareAcknowledge", body, versions)


def questions(topic: UUID) -> list[Question]:
    """All of them, of the topic "known"."""
    offsets = {"groups": [{"group_id": "s", "topics": [{"topic_name": "known", "partitions": [0]}]}]}
    start = [{"topic_name": "known", "partitions": [{"partition_index": 0, "start_offset": 0}]}]
    return [
        _beat("a heartbeat to no group", 1),
        _beat("joining without a member id", 0, member_id="", subscribed_topic_names=["known"]),
        _beat("joining without topics", 0),
        _beat("an epoch that means nothing", -2),
        Question("no such group", "ShareGroupDescribe", {"group_ids": ["s"]}, FIRST),
        _beat("the first member", 0, subscribed_topic_names=["known"]),
        _beat("an epoch ahead", 9),
        _beat("a stranger", 1, member_id="x"),
        _beat("a stranger's leaving", -1, member_id="x"),
        _fetch("a fetch without a session", topic, 1),
        _fetch("a fetch of no member", topic, 0, member_id=""),
        _fetch("a first fetch that settles", topic, 0, (0, 1, ACCEPT)),
        _settle("settling without a session", topic, 1, (0, 1, ACCEPT)),
        _settle("settling to begin a session", topic, 0, (0, 1, ACCEPT)),
        _fetch("a first fetch", topic, 0),
        _fetch("an epoch too far", topic, 7),
        _settle("records of nobody", topic, 1, (0, 1, ACCEPT), (8, 9, ACCEPT)),
        _settle("records in no order", topic, 2, (2, 3, ACCEPT), (0, 1, ACCEPT)),
        _settle("a type that is none", topic, 3, (0, 1, 9)),
        _settle("accepting", topic, 4, (0, 1, ACCEPT)),
        _settle("accepting again", topic, 5, (0, 1, ACCEPT)),
        _settle("rejecting", topic, 6, (2, 2, REJECT)),
        _fetch("releasing with a fetch", topic, 7, (3, 3, RELEASE)),
        _fetch("a topic that is none", SOME_ID, 8, max_wait=100),
        Question("a group's offsets", "DescribeShareGroupOffsets", offsets, some=("start_offset", "lag")),
        Question("offsets of a living group", "AlterShareGroupOffsets", {"group_id": "s", "topics": start}),
        Question(
            "a living group's topic", "DeleteShareGroupOffsets", {"group_id": "s", "topics": [{"topic_name": "known"}]}
        ),
        _settle("the end of the session", topic, -1),
        _settle("after its end", topic, 9),
        _beat("leaving", -1),
        _beat("leaving again", -1),
        Question("offsets of no group", "AlterShareGroupOffsets", {"group_id": "none", "topics": start}),
        Question(
            "a topic of no group", "DeleteShareGroupOffsets", {"group_id": "none", "topics": [{"topic_name": "known"}]}
        ),
        Question("a group is deleted", "DeleteGroups", {"groups_names": ["s"]}, range(2, 3)),
    ]
