"""A broker of four containers: what clients see of it, and what a failure of one takes away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.errors import StorageFailure
from core.streams.live import Stream
from gateway.records.records import Record, build_batch
from tests.core.test_several_containers import failing
from tests.gateway.apis.harness import Admin, admin_of

pytestmark = pytest.mark.slow

FOUR = ("containers=4",)
KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS, LOG_DIR_NOT_FOUND = 56, 19, 57


def places_of(stream: Stream) -> list[int]:
    return [stream.slot(number).container_id for number in range(stream.slot_count)]


def partitions(admin: Admin, topic: str, version: int = 12) -> list[tuple[int, int]]:
    """Index and leader epoch of each partition, as Metadata lists them."""
    (told,) = admin.ask(
        "Metadata", version, topics=[{"name": topic, "topic_id": None}], allow_auto_topic_creation=False
    ).topics
    return [(p.partition_index, p.leader_epoch) for p in told.partitions]


def raise_epoch(admin: Admin, container: int) -> None:
    """The next start finds that this container alone was not stopped cleanly."""
    with failing(container), pytest.raises(StorageFailure):
        admin.run(admin.broker.store.containers[container].container.update())
    admin.restart()


def test_records_of_every_partition(tmp_path: Path) -> None:
    """Partitions spread over the containers take and keep records, in both placements, also after a growth."""
    with admin_of(tmp_path, *FOUR) as admin:
        spread = admin.create(8)
        one = admin.create(8, **{"penstock.placement": "one"})
        assert Counter(places_of(admin.stream(spread))) == Counter({0: 2, 1: 2, 2: 2, 3: 2})
        assert len(set(places_of(admin.stream(one)))) == 1
        admin.ask("CreatePartitions", 3, topics=[{"name": spread, "count": 11, "assignments": None}], timeout_ms=1000)
        for partition in range(11):
            admin.produce(spread, 1, 2, partition=partition)
        for partition in range(8):
            admin.produce(one, 1, partition=partition)
        admin.restart()
        assert [admin.stream(spread).slot(n).durable_end for n in range(11)] == [2] * 11
        assert [admin.stream(one).slot(n).durable_end for n in range(8)] == [1] * 8


@pytest.mark.parametrize("version", [7, 9, 12, 13])
def test_leader_epochs_go_by_container(tmp_path: Path, version: int) -> None:
    """A container that was not stopped cleanly raises the epoch of its own partitions, in every answer that has one."""
    with admin_of(tmp_path, *FOUR) as admin:
        topic = admin.create(10)
        assert partitions(admin, topic, version) == [(index, 0) for index in range(10)]
        raise_epoch(admin, 2)
        places = places_of(admin.stream(topic))
        expected = [(index, int(place == 2)) for index, place in enumerate(places)]
        assert partitions(admin, topic, version) == expected
        described = admin.ask(
            "DescribeTopicPartitions", 0, topics=[{"name": topic}], response_partition_limit=100, cursor=None
        )
        assert [(p.partition_index, p.leader_epoch) for p in described.topics[0].partitions] == expected
        listed = admin.ask("ListOffsets", 5, **_latest(topic, range(10)))
        assert [(p.partition_index, p.leader_epoch) for p in listed.topics[0].partitions] == [
            (index, -1 if p.offset < 0 else epoch)
            for (index, epoch), p in zip(expected, listed.topics[0].partitions, strict=True)
        ]


def _latest(topic: str, indexes: range) -> dict[str, Any]:
    asked = [{"partition_index": index, "current_leader_epoch": -1, "timestamp": -1} for index in indexes]
    return {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": asked}]}


def test_a_failed_container_answers_for_its_partitions(tmp_path: Path) -> None:
    """Its partitions refuse writes with KAFKA_STORAGE_ERROR and are still read; all others go on, and so does the
    process, which names the container."""
    with admin_of(tmp_path, *FOUR) as admin:
        topic = admin.create(8)
        stream = admin.stream(topic)
        for partition in range(8):
            admin.produce(topic, 1, partition=partition)
        lost = 1
        with failing(lost), pytest.raises(StorageFailure):
            admin.run(admin.broker.store.containers[lost].container.update())
        for partition, place in enumerate(places_of(stream)):
            code = admin.run(admin._client.produce(topic, _batch(), partition=partition)).error_code
            assert code == (KAFKA_STORAGE_ERROR if place == lost else 0)
        assert admin.broker.ready
        assert [one for one in admin.broker.concerns if "container 1 takes nothing more" in one]
        later = admin.create(8)
        assert lost not in places_of(admin.stream(later))
        admin.restart()
        for partition in range(8):
            admin.produce(topic, 3, partition=partition)


def _batch() -> bytes:
    return build_batch([Record(0, 2, b"k", b"v")], 0)


def test_directories_of_partitions(tmp_path: Path) -> None:
    """DescribeLogDirs lists each directory with its own partitions, and a partition does not move to another."""
    disks = [tmp_path / "a", tmp_path / "b"]
    settings = ("containers=4", f"data.dirs={disks[0]},{disks[1]}")
    with admin_of(disks[0], *settings) as admin:
        topic = admin.create(8)
        for partition in range(8):
            admin.produce(topic, 1, partition=partition)
        results = admin.ask("DescribeLogDirs", 4, topics=None).results
        assert [result.log_dir for result in results] == [str(disk) for disk in disks]
        places = places_of(admin.stream(topic))
        for number, result in enumerate(results):
            found = [p.partition_index for p in result.topics[0].partitions if p.partition_size]
            assert found == [index for index, place in enumerate(places) if place % 2 == number]
        for number, disk in enumerate(disks):
            dirs = [{"path": str(disk), "topics": [{"name": topic, "partitions": list(range(8))}]}]
            (moved,) = admin.ask("AlterReplicaLogDirs", 2, dirs=dirs).results
            assert [p.error_code for p in moved.partitions] == [
                0 if place % 2 == number else LOG_DIR_NOT_FOUND for place in places
            ]
