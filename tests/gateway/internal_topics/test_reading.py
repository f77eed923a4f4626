"""Internal topics over the wire: what readers find there, now, after changes, and after a restart."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from core.applied.tables import Put
from core.errors import StorageFailure
from gateway.coordination.homes import Homes
from gateway.groups.classic.messages import GroupRecord
from gateway.groups.persistence import GROUPS_TABLE, encode_group
from gateway.internal_topics import slots, topics
from gateway.internal_topics.messages import InternalRecord, group_record
from gateway.internal_topics.partitions import Partitions
from gateway.internal_topics.topics import BLOCK_OFFSETS, NEXT_KEY, TABLE
from gateway.records.records import Record, build_batch, iter_records
from gateway.wire.message import Message
from tests.core.test_several_containers import failing
from tests.gateway.apis.harness import NOW, Admin, admin_of
from tests.gateway.harness import fetch_body

pytestmark = pytest.mark.slow

TOPIC: Final = "__consumer_offsets"
TRANSACTIONS: Final = "__transaction_state"
FETCH: Final = 1
INVALID_TOPIC: Final = 17
partition_of = Partitions(Homes([0]), 50).of


def commit(admin: Admin, group: str, topic: str, offset: int, partition: int = 0) -> None:
    partitions = [{"partition_index": partition, "committed_offset": offset}]
    answer = admin.ask(
        "OffsetCommit",
        5,
        group_id=group,
        generation_id_or_member_epoch=-1,
        topics=[{"name": topic, "partitions": partitions}],
    )
    assert answer.topics[0].partitions[0].error_code == 0


def fetched(admin: Admin, partition: int, offset: int, topic: str = TOPIC, **options: Any) -> Message:
    answer = admin.run(admin._client.ask(FETCH, 11, fetch_body([(topic, partition, offset)], **options)))
    return answer.responses[0].partitions[0]


def records(admin: Admin, partition: int, offset: int = 0, topic: str = TOPIC) -> list[Record]:
    """All records from an offset on, one answer after another."""
    found: list[Record] = []
    while True:
        part = fetched(admin, partition, offset, topic)
        assert part.error_code == 0
        if not part.records:
            return found
        some = list(iter_records(part.records))
        assert some[0].offset >= offset
        found += some
        offset = found[-1].offset + 1


def offset_of(record: Record) -> tuple[str, int, int | None]:
    """Topic, partition and offset that a record of a committed offset tells."""
    assert record.key is not None
    version, length = struct.unpack_from(">hh", record.key)
    assert version == 1
    (topic_length,) = struct.unpack_from(">h", record.key, 4 + length)
    topic = record.key[6 + length : 6 + length + topic_length].decode()
    (partition,) = struct.unpack_from(">i", record.key, 6 + length + topic_length)
    return topic, partition, None if record.value is None else struct.unpack_from(">hq", record.value)[1]


def listed(admin: Admin, timestamp: int, partition: int, version: int = 7) -> tuple[int, int]:
    asked = {"partition_index": partition, "timestamp": timestamp, "current_leader_epoch": -1}
    answer = admin.ask("ListOffsets", version, replica_id=-1, topics=[{"name": TOPIC, "partitions": [asked]}])
    found = answer.topics[0].partitions[0]
    assert found.error_code == 0
    return found.offset, found.timestamp


def test_rows_and_changes(admin: Admin) -> None:
    """A reader finds the newest offset of each partition, in the group's own partition, then each change."""
    name, group = admin.create(2), "watched"
    where = partition_of(group)
    commit(admin, group, name, 5)
    commit(admin, group, name, 7)
    commit(admin, group, name, 9, partition=1)

    first = records(admin, where)
    assert sorted(offset_of(record) for record in first) == [(name, 0, 7), (name, 1, 9)]

    commit(admin, group, name, 8)
    (change,) = records(admin, where, first[-1].offset + 1)
    assert offset_of(change) == (name, 0, 8)
    again = records(admin, where)
    assert [offset_of(record) for record in again] == [(name, 1, 9), (name, 0, 8)]
    assert again[0].offset in [record.offset for record in first]
    assert again[1].offset == change.offset


def test_waiting_reader(admin: Admin) -> None:
    """A fetch that waits is answered with the next change."""
    name, group = admin.create(), "waited-for"
    where = partition_of(group)
    commit(admin, group, name, 1)
    end = records(admin, where)[-1].offset + 1

    client = admin._client
    waiting = client.send(FETCH, 11, fetch_body([(TOPIC, where, end)], max_wait=8_000))
    committing = {"name": name, "partitions": [{"partition_index": 0, "committed_offset": 2}]}
    other = admin.run(type(client).connect(admin.broker))
    admin.run(other.ask(8, 5, {"group_id": group, "generation_id_or_member_epoch": -1, "topics": [committing]}))
    part = admin.run(client.receive(waiting)).responses[0].partitions[0]
    other.close()

    assert [offset_of(record) for record in iter_records(part.records)] == [(name, 0, 2)]


def test_deleted_group(admin: Admin) -> None:
    """The offsets of a deleted group become tombstones, and so does the group itself."""
    name, group = admin.create(), "deleted"
    where = partition_of(group)
    commit(admin, group, name, 3)
    end = records(admin, where)[-1].offset + 1
    assert admin.ask("DeleteGroups", 2, groups_names=[group]).results[0].error_code == 0

    offset, group_itself = records(admin, where, end)
    assert offset_of(offset) == (name, 0, None)
    assert (group_itself.key, group_itself.value) == (b"\x00\x02\x00\x07deleted", None)


def test_restart(tmp_path: Path) -> None:
    """After a restart, clean or not, a reader that goes on misses no change, and offsets are higher than before."""
    group = "restarted"
    where = partition_of(group)
    with admin_of(tmp_path) as admin:
        name = admin.create()
        commit(admin, group, name, 1)
        before = records(admin, where)[-1].offset
        admin.restart()

        (after,) = records(admin, where, before + 1)
        assert offset_of(after) == (name, 0, 1)
        assert after.offset > before
        epoch = admin.ask(
            "OffsetForLeaderEpoch",
            3,
            replica_id=-1,
            topics=[
                {"topic": TOPIC, "partitions": [{"partition": where, "current_leader_epoch": -1, "leader_epoch": 0}]}
            ],
        )
        assert epoch.topics[0].partitions[0].end_offset > before


def test_several_containers(tmp_path: Path) -> None:
    """Each container's groups are told in its own partitions, which have its epoch; a reader that goes on after a
    restart misses none."""
    groups = [f"group-{n}" for n in range(40)]
    dealt = Partitions(Homes(range(4)), 50)
    with admin_of(tmp_path, "containers=4") as admin:
        name = admin.create()
        for number, group in enumerate(groups):
            commit(admin, group, name, number)
        told = {where: records(admin, where) for where in range(50)}
        assert sum(map(len, told.values())) == len(groups)
        for group in groups:
            assert group.encode() in b" ".join(record.key or b"" for record in told[dealt.of(group)])
        with failing(2), pytest.raises(StorageFailure):
            admin.run(admin.broker.store.containers[2].container.update())
        admin.restart()

        (described,) = admin.ask("Metadata", 12, topics=[{"name": TOPIC}]).topics
        epochs = {partition.partition_index: partition.leader_epoch for partition in described.partitions}
        assert epochs == {where: int(dealt.container_of(where) == 2) for where in range(50)}
        for where, some in told.items():
            end = some[-1].offset + 1 if some else 0
            assert [record.key for record in records(admin, where, end)] == [record.key for record in some]


def test_a_block_of_an_earlier_release(tmp_path: Path) -> None:
    """Where all containers had one number of blocks, no partition begins below it."""
    group = next(f"group-{n}" for n in range(100) if Homes(range(2)).of(f"group-{n}") == 1)
    with admin_of(tmp_path, "containers=2") as admin:
        name = admin.create()
        admin.run(admin.broker.store.registry.change_settings(TABLE, lambda _: {NEXT_KEY: b"\x00\x00\x00\x07"}))
        admin.restart()
        commit(admin, group, name, 1)
        (record,) = records(admin, Partitions(Homes(range(2)), 50).of(group))
        assert record.offset >= 7 * BLOCK_OFFSETS


def test_offsets_by_time(admin: Admin) -> None:
    """Earliest, latest and a time are offsets of records, as in any topic."""
    name, group = admin.create(), "timed"
    where = partition_of(group)
    commit(admin, group, name, 1)
    found = records(admin, where)

    assert listed(admin, -2, where)[0] == found[0].offset
    assert listed(admin, -1, where)[0] == found[-1].offset + 1
    assert listed(admin, -3, where) == max(((r.offset, r.timestamp) for r in found), key=lambda pair: pair[1])
    assert listed(admin, found[0].timestamp, where) == (found[0].offset, found[0].timestamp)
    assert listed(admin, found[-1].timestamp + 10**9, where) == (-1, -1)


def test_idle_view(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that nobody reads is dropped, and a reader that comes back is told everything at higher offsets."""
    name, group = admin.create(), "idle"
    where = partition_of(group)
    commit(admin, group, name, 1)
    before = records(admin, where)[-1].offset
    stream = admin.broker.internal_topics.find(TOPIC)
    assert stream is not None
    slot = stream.slot(where)
    assert isinstance(slot, slots.InternalSlot)

    monkeypatch.setattr(slots, "IDLE_S", -1.0)
    commit(admin, group, name, 2)
    assert not slot.is_viewed
    monkeypatch.setattr(slots, "IDLE_S", 600.0)

    assert (name, 0, 2) in [offset_of(record) for record in records(admin, where, before + 1)]


def test_shown_as_internal(admin: Admin) -> None:
    """Both topics are shown as internal, by name always, in a list once there is something in them."""
    name = admin.create()
    commit(admin, "any", name, 1)

    (by_name,) = admin.ask("Metadata", 12, topics=[{"name": TOPIC}]).topics
    assert (by_name.error_code, by_name.is_internal, len(by_name.partitions)) == (0, True, 50)
    (by_id,) = admin.ask("Metadata", 12, topics=[{"topic_id": by_name.topic_id, "name": None}]).topics
    assert by_id.name == TOPIC
    assert TOPIC in [topic.name for topic in admin.ask("Metadata", 12, topics=None).topics]
    (other,) = admin.ask(
        "DescribeTopicPartitions", 0, topics=[{"name": TRANSACTIONS}], response_partition_limit=100
    ).topics
    assert (other.error_code, other.is_internal, len(other.partitions)) == (0, True, 50)
    (described,) = admin.ask("DescribeConfigs", 4, resources=[{"resource_type": 2, "resource_name": TOPIC}]).results
    assert {c.name: c.value for c in described.configs}["cleanup.policy"] == "compact"


def test_not_writable(admin: Admin) -> None:
    """Nobody produces to an internal topic, creates it, grows it, configures it, deletes it or its records."""
    produced = admin.run(admin._client.produce(TOPIC, build_batch([Record(0, NOW, b"k", b"v")])))
    assert produced.error_code == INVALID_TOPIC
    created = admin.ask("CreateTopics", 5, topics=[{"name": TOPIC, "num_partitions": 1, "replication_factor": 1}])
    assert created.topics[0].error_code == 36
    grown = admin.ask("CreatePartitions", 3, topics=[{"name": TOPIC, "count": 60, "assignments": None}])
    assert grown.results[0].error_code == INVALID_TOPIC
    deleted = admin.ask("DeleteTopics", 6, topics=[{"name": TOPIC, "topic_id": None}])
    assert deleted.responses[0].error_code == INVALID_TOPIC
    config = {"name": "retention.ms", "config_operation": 0, "value": "1"}
    resource = {"resource_type": 2, "resource_name": TOPIC, "configs": [config]}
    assert admin.ask("IncrementalAlterConfigs", 1, resources=[resource]).responses[0].error_code == INVALID_TOPIC
    partitions = [{"partition_index": 0, "offset": -1}]
    cut = admin.ask("DeleteRecords", 2, topics=[{"name": TOPIC, "partitions": partitions}], timeout=1_000)
    assert cut.topics[0].partitions[0].error_code == INVALID_TOPIC


def test_transactions(admin: Admin) -> None:
    """A transactional id is a record of __transaction_state, with its newest state."""
    identity = admin.ask("InitProducerId", 3, transactional_id="told", transaction_timeout=10_000)
    (record,) = records(admin, partition_of("told"), topic=TRANSACTIONS)

    assert record.key == b"\x00\x00\x00\x04told"
    assert record.value is not None
    assert struct.unpack_from(">hqh", record.value) == (0, identity.producer_id, identity.producer_epoch)


def test_many_rows(admin: Admin) -> None:
    """Thousands of offsets come in several answers, each once."""
    name, group = admin.create(1_200), "many"
    where = partition_of(group)
    partitions = [{"partition_index": n, "committed_offset": n} for n in range(1_200)]
    admin.ask(
        "OffsetCommit",
        5,
        group_id=group,
        generation_id_or_member_epoch=-1,
        topics=[{"name": name, "partitions": partitions}],
    )

    found = [offset_of(record) for record in records(admin, where)]
    assert sorted(found) == [(name, n, n) for n in range(1_200)]


def test_a_large_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record is made in a thread; what came before it, and comes behind it, is told in order."""
    group = "large"
    threads: list[bool] = []

    def made(row: bytes, value: bytes | None) -> InternalRecord:
        threads.append(threading.current_thread() is threading.main_thread())
        return group_record(row, value)

    monkeypatch.setattr(topics, "GROUP_BYTES_AT_ONCE", 0)
    monkeypatch.setattr(topics, "group_record", made)
    stored = GroupRecord(
        generation=4, state_since_ms=1_000, protocol_type="consumer", protocol_name=None, leader=None, members=()
    )
    with admin_of(tmp_path) as admin:
        name = admin.create()
        commit(admin, group, name, 1)
        admin.run(admin.broker.store.home.update(Put(GROUPS_TABLE, group.encode(), encode_group(stored))))
        commit(admin, group, name, 2, partition=0)

        found = records(admin, partition_of(group))

        told = group_record(group.encode(), encode_group(stored))
        assert [record.key for record in found].count(told.key) == 1
        assert next(record.value for record in found if record.key == told.key) == told.value
        assert (name, 0, 2) in [offset_of(record) for record in found if record.key != told.key]
        assert threads == [False]
