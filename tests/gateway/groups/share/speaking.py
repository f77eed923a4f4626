"""A share group over the protocol: members that say exactly what a test has them say, and what they were told."""

from __future__ import annotations

import base64
import time
from typing import Any, Final
from uuid import UUID

from confluent_kafka import Consumer, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.likeness.asking import Server
from tests.likeness.questions import Question

ACCEPT, RELEASE, REJECT, RENEW = 1, 2, 3, 4
WHOLE_BATCHES, RECORD_LIMIT = 0, 1
WITHIN_S: Final = 90.0


def configured(server: Server, **configs: str) -> None:
    """Give the group "g" configs of its own; underscores stand for dots."""
    said = [{"name": key.replace("_", "."), "config_operation": 0, "value": value} for key, value in configs.items()]
    resource = {"resource_type": 32, "resource_name": "g", "configs": said}
    answer = server.ask(Question("configuring a group", "IncrementalAlterConfigs", {"resources": [resource]}), 1)
    assert answer["responses"][0]["error_code"] == 0, answer


def topic(address: str, name: str, partitions: int = 1, **configs: str) -> UUID:
    """Make a topic, and learn its id."""
    admin = AdminClient({"bootstrap.servers": address})
    config = {key.replace("_", "."): value for key, value in configs.items()}
    admin.create_topics([NewTopic(name, partitions, config=config)])[name].result(WITHIN_S)
    described = admin.describe_topics(TopicCollection([name]))[name].result(WITHIN_S)
    return UUID(bytes=base64.urlsafe_b64decode(f"{described.topic_id}=="))


def write(
    address: str, name: str, *values: str, keys: str = "", partition: int = 0, ago_s: int = 0, **options: str
) -> None:
    """Write records to a partition; `keys`: a letter for each record, `ago_s`: their age."""
    producer = Producer({"bootstrap.servers": address, **options})
    written_ms = int((time.time() - ago_s) * 1000)
    for place, value in enumerate(values):
        producer.produce(name, value.encode(), keys[place] if keys else None, partition, timestamp=written_ms)
    assert producer.flush(WITHIN_S) == 0


class Member:
    """A member of the group "g" that says exactly what a test has it say."""

    def __init__(self, server: Server, topic: UUID, name: str = "m") -> None:
        self._server = server
        self.topic = topic
        self._name = name

    def beside(self, name: str) -> Member:
        """Another member, which has joined."""
        other = Member(self._server, self.topic, name)
        assert other.join()["error_code"] == 0
        return other

    def ask(self, api: str, version: int = 1, **said: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._server.said(api, version, {"group_id": "g", **said})
        return answer

    def join(self) -> dict[str, Any]:
        return self.ask("ShareGroupHeartbeat", member_id=self._name, member_epoch=0, subscribed_topic_names=["t"])

    def leave(self) -> dict[str, Any]:
        return self.ask("ShareGroupHeartbeat", member_id=self._name, member_epoch=-1)

    def fetch(
        self, epoch: int, *batches: tuple[int, int, int], most: int = 100, wait_ms: int = 200, mode: int = RECORD_LIMIT
    ) -> dict[str, Any]:
        limits = {"max_wait": wait_ms, "min_bytes": 1, "max_bytes": 1_000_000, "max_records": most, "batch_size": most}
        said = {"member_id": self._name, "share_session_epoch": epoch, "topics": [self._settled(*batches)], **limits}
        return self.ask("ShareFetch", 2, share_acquire_mode=mode, **said)

    def settle(self, epoch: int, *batches: tuple[int, int, int], version: int = 1) -> dict[str, Any]:
        topics = [self._settled(*batches)] if batches else []
        said = {"member_id": self._name, "share_session_epoch": epoch, "topics": topics}
        return self.ask("ShareAcknowledge", version, **said)

    def send_settled(self, epoch: int, *batches: tuple[int, int, int]) -> None:
        """Acknowledge without waiting for the answer."""
        said = {"member_id": self._name, "share_session_epoch": epoch, "topics": [self._settled(*batches)]}
        self._server.send("ShareAcknowledge", 1, {"group_id": "g", **said})

    def _settled(self, *batches: tuple[int, int, int]) -> dict[str, Any]:
        said = [
            {"first_offset": first, "last_offset": last, "acknowledge_types": [how]} for first, last, how in batches
        ]
        return {"topic_id": self.topic, "partitions": [{"partition_index": 0, "acknowledgement_batches": said}]}


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


def records(address: str, name: str, count: int, within_s: float = WITHIN_S) -> list[Any]:
    """The first records of a topic's first partition."""
    reader = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    reader.assign([TopicPartition(name, 0, 0)])
    found = reader.consume(count, within_s)
    reader.close()
    assert all(message.error() is None for message in found)
    return found
