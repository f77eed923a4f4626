"""ListOffsets, OffsetForLeaderEpoch and DeleteRecords: where a partition begins, ends, and what lies where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.records.compression import compress
from gateway.records.record_batch import HEADER, HEADER_BYTES, LOG_APPEND_TIME, NONE, read_header
from gateway.records.records import Record, build_batch, iter_raw_records, seal_batch
from tests.core.support import owner_of
from tests.gateway.apis.harness import NOW, Admin, admin_of

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING = range(-1, -7, -1)
GZIP, LZ4, ZSTD = 1, 3, 4
NOTHING = (0, -1, -1, -1)

Answer = tuple[int, int, int, int]
"""Error code, timestamp, offset, leader epoch."""


def offsets(
    admin: Admin, topic: str, *partitions: tuple[int, int], version: int = 11, epoch: int = -1, **rest: Any
) -> list[Answer]:
    listed = [
        {"partition_index": index, "timestamp": timestamp, "current_leader_epoch": epoch}
        for index, timestamp in partitions
    ]
    request = {"replica_id": -1, "topics": [{"name": topic, "partitions": listed}], **rest}
    (result,) = admin.ask("ListOffsets", version, **request).topics
    return [(p.error_code, p.timestamp, p.offset, p.leader_epoch) for p in result.partitions]


def offset(admin: Admin, topic: str, timestamp: int, version: int = 11, **rest: Any) -> Answer:
    (answer,) = offsets(admin, topic, (0, timestamp), version=version, **rest)
    return answer


def epoch_of(admin: Admin, topic: str) -> int:
    return admin.slot(topic).leader_epoch


def delete(admin: Admin, topic: str, *partitions: tuple[int, int], version: int = 2) -> list[tuple[int, int]]:
    listed = [{"partition_index": index, "offset": before} for index, before in partitions]
    answer = admin.ask("DeleteRecords", version, topics=[{"name": topic, "partitions": listed}], timeout=5_000)
    return [(p.error_code, p.low_watermark) for p in answer.topics[0].partitions]


@pytest.fixture(scope="module")
def three_batches(admin: Admin) -> str:
    """Times that go up and down: 1000 3000 2000 | 4000 4000 3500 | 100, after NOW."""
    name = admin.create()
    admin.produce(name, NOW + 1000, NOW + 3000, NOW + 2000, codec=GZIP)
    admin.produce(name, NOW + 4000, NOW + 4000, NOW + 3500, codec=LZ4)
    admin.produce(name, NOW + 100)
    return name


@pytest.mark.parametrize("version", range(1, 12))
def test_ends(admin: Admin, three_batches: str, version: int) -> None:
    """The first offset and the next one, in every version, with the leader epoch where there is room."""
    epoch = epoch_of(admin, three_batches) if version >= 4 else -1

    assert (0, -1, 7, epoch) == offset(admin, three_batches, LATEST, version)
    assert (0, -1, 0, epoch) == offset(admin, three_batches, EARLIEST, version)


@pytest.mark.parametrize(
    ("after", "timestamp", "expected"),
    [
        (0, 1000, 0),
        (1000, 1000, 0),
        (1001, 3000, 1),
        (2500, 3000, 1),
        (3001, 4000, 3),
        (3600, 4000, 3),
        (4000, 4000, 3),
    ],
)
def test_by_time(admin: Admin, three_batches: str, after: int, timestamp: int, expected: int) -> None:
    """The first record at or after a time, in the order of offsets, inside compressed batches too."""
    answer = (0, NOW + timestamp, expected, epoch_of(admin, three_batches))
    assert answer == offset(admin, three_batches, NOW + after)


def test_by_time_beyond(admin: Admin, three_batches: str) -> None:
    """After the last record there is nothing."""
    assert offset(admin, three_batches, NOW + 4001) == NOTHING


def test_largest_timestamp(admin: Admin, three_batches: str) -> None:
    """The first of the records with the largest timestamp."""
    answer = (0, NOW + 4000, 3, epoch_of(admin, three_batches))
    assert answer == offset(admin, three_batches, MAX_TIMESTAMP)


def test_tiers(admin: Admin, three_batches: str) -> None:
    """Everything is local and nothing tiered."""
    assert (0, -1, 0, epoch_of(admin, three_batches)) == offset(admin, three_batches, EARLIEST_LOCAL)
    assert offset(admin, three_batches, LATEST_TIERED) == NOTHING
    assert offset(admin, three_batches, EARLIEST_PENDING) == NOTHING


@pytest.mark.parametrize(
    ("timestamp", "since"), [(MAX_TIMESTAMP, 7), (EARLIEST_LOCAL, 8), (LATEST_TIERED, 9), (EARLIEST_PENDING, 11)]
)
def test_special_times_have_versions(admin: Admin, three_batches: str, timestamp: int, since: int) -> None:
    """A special time of a later version, or of none, is UNSUPPORTED_VERSION."""
    assert [offset(admin, three_batches, timestamp, version)[0] for version in (since - 1, since)] == [35, 0]
    assert offset(admin, three_batches, -7)[0] == 35


@pytest.mark.parametrize("timestamp", [LATEST, EARLIEST, EARLIEST_LOCAL])
def test_empty(admin: Admin, timestamp: int) -> None:
    """An empty partition begins and ends at 0."""
    name = admin.create()

    assert (0, -1, 0, epoch_of(admin, name)) == offset(admin, name, timestamp)


@pytest.mark.parametrize("timestamp", [MAX_TIMESTAMP, 0, NOW])
def test_nothing_in_an_empty_one(admin: Admin, timestamp: int) -> None:
    """An empty partition has no record at any time."""
    assert offset(admin, admin.create(), timestamp) == NOTHING


def test_isolation(admin: Admin, three_batches: str) -> None:
    """read_committed ends at the last stable offset; another level does not exist."""
    committed = offset(admin, three_batches, LATEST, isolation_level=1)

    assert (0, admin.slot(three_batches).stable_end) == (committed[0], committed[2])
    assert offset(admin, three_batches, LATEST, isolation_level=7)[0] == 42


def test_leader_epochs(admin: Admin, three_batches: str) -> None:
    """A client with another leader epoch is fenced, or told that we do not know it."""
    epoch = epoch_of(admin, three_batches)
    codes = [offset(admin, three_batches, LATEST, epoch=known)[0] for known in (epoch - 1, epoch, epoch + 1)]

    # -1 means that the client knows none
    assert [74 if epoch > 0 else 0, 0, 75] == codes


@pytest.mark.parametrize("timestamp", [LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_PENDING, NOW])
def test_a_container_that_is_not_here(admin: Admin, three_batches: str, timestamp: int) -> None:
    """No bound is told of a partition that another node may have changed: its client asks for the leader (6)."""
    containers = admin.broker.store.containers
    away = containers.pop(0)
    try:
        assert offset(admin, three_batches, timestamp)[0] == 6
    finally:
        containers[0] = away
    assert offset(admin, three_batches, timestamp)[0] == 0


def test_unknown(admin: Admin, three_batches: str) -> None:
    """Unknown topics and partitions; one that is asked for twice is INVALID_REQUEST."""
    assert offsets(admin, "nope", (0, LATEST)) == [(3, -1, -1, -1)]
    assert [a[0] for a in offsets(admin, three_batches, (1, LATEST), (-1, LATEST), (0, LATEST))] == [3, 3, 0]
    assert offsets(admin, three_batches, (0, LATEST), (0, EARLIEST)) == [(42, -1, -1, -1)]


def test_log_append_time(admin: Admin) -> None:
    """With LogAppendTime all records of a batch have the broker's time."""
    name = admin.create(message_timestamp_type="LogAppendTime")
    before = admin.broker.clock.wall_ms()
    admin.produce(name, NOW, NOW + 1, NOW + 2)
    code, timestamp, found, _ = offset(admin, name, MAX_TIMESTAMP)

    assert (code, found) == (0, 0)
    assert timestamp >= before
    assert (0, timestamp, 0) == offset(admin, name, before)[:3]


@pytest.mark.parametrize("codec", [NONE, ZSTD])
def test_log_append_time_of_what_was_compacted(admin: Admin, codec: int) -> None:
    """A look-up in a batch with one time for all finds the first record still there, not the first that was."""
    name = admin.create()
    slot = admin.slot(name)
    records = [Record(n, NOW, b"k%d" % n, b"v") for n in range(6)]
    for base, left in ((0, records[3:5]), (6, []), (12, records)):
        kept = compact_to(records, left, codec)
        head = read_header(build_batch(records))._replace(
            base_offset=base,
            attributes=LOG_APPEND_TIME | codec,
            max_timestamp=NOW + base,
            record_count=len(left),
            batch_length=HEADER_BYTES - 12 + len(kept),
        )
        whole = bytearray(HEADER.pack(*head)) + kept
        seal_batch(whole)
        owner_of(slot).append(slot, memoryview(whole), 6, NOW + base)
    admin.produce(name, NOW + 100)

    assert offset(admin, name, NOW)[:3] == (0, NOW, 3)
    assert offset(admin, name, NOW + 1)[:3] == (0, NOW + 12, 12)
    delete(admin, name, (0, 4))
    assert offset(admin, name, NOW)[:3] == (0, NOW, 4)
    delete(admin, name, (0, 5))
    assert offset(admin, name, NOW)[:3] == (0, NOW + 12, 12)


def compact_to(records: list[Record], left: list[Record], codec: int) -> bytes:
    """The bytes of those records that are left, as compaction leaves them."""
    batch = build_batch(records)
    content = bytes(batch[HEADER_BYTES:])
    kept = [
        r
        for r in iter_raw_records(content, len(records), len(records))
        if r.offset_delta in {one.offset for one in left}
    ]
    return compress(codec, b"".join(content[one.start : one.stop] for one in kept))


def test_many_partitions(admin: Admin) -> None:
    """Each partition has its own answer, in the order asked."""
    name = admin.create(100)
    for partition in (3, 50):
        admin.produce(name, *[NOW + partition] * partition, partition=partition)
    answers = offsets(admin, name, *((index, NOW) for index in range(100)))

    found = {index: answer[1:3] for index, answer in enumerate(answers) if answer[2] >= 0}
    assert found == {3: (NOW + 3, 0), 50: (NOW + 50, 0)}


def test_times_from_before_the_start(admin: Admin) -> None:
    """A record that was deleted is not found, though its batch is still there for later ones."""
    name = admin.create()
    admin.produce(name, NOW + 900, NOW + 10, NOW + 20)
    admin.produce(name, NOW + 500)
    delete(admin, name, (0, 1))

    assert offset(admin, name, NOW)[:3] == (0, NOW + 10, 1)
    assert offset(admin, name, NOW + 100)[:3] == (0, NOW + 500, 3)


def test_made_up_largest_timestamp(admin: Admin) -> None:
    """A batch whose header claims a later time than its records have hides nothing behind it."""
    name = admin.create()
    admin.produce(name, NOW, log_append_time=None)
    slot = admin.slot(name)
    batch = build_batch([Record(slot.end, NOW + 1, b"k", b"v")])
    owner_of(slot).append(slot, memoryview(batch), 1, NOW + 1_000_000)
    admin.produce(name, NOW + 50)

    assert offset(admin, name, NOW + 30)[:3] == (0, NOW + 50, 2)


def test_unreadable_batch(admin: Admin) -> None:
    """The first offset of a batch stands for all its records if these are nonsense."""
    name = admin.create()
    batch = bytearray(build_batch([Record(0, NOW, b"k", b"v" * 50)]))
    batch[-40:] = bytes(40)
    batch[61] = 0xFF
    slot = admin.slot(name)
    owner_of(slot).append(slot, memoryview(batch), 1, NOW)

    admin.produce(name, NOW + 9)  # what comes after it waits for it
    assert offset(admin, name, NOW - 5)[:3] == (0, NOW, 0)


def test_large_batch(admin: Admin) -> None:
    """A batch that is opened in a thread is searched like any other."""
    name = admin.create()
    admin.produce(name, *range(NOW, NOW + 20_000))

    assert offset(admin, name, NOW + 19_999)[:3] == (0, NOW + 19_999, 19_999)


# OffsetForLeaderEpoch


def epoch_end(
    admin: Admin, topic: str, epoch: int, *, partition: int = 0, current: int = -1, version: int = 4
) -> Answer:
    asked = {"partition": partition, "current_leader_epoch": current, "leader_epoch": epoch}
    request = {"replica_id": -1, "topics": [{"topic": topic, "partitions": [asked]}]}
    (result,) = admin.ask("OffsetForLeaderEpoch", version, **request).topics[0].partitions
    return (result.error_code, result.partition, result.leader_epoch, result.end_offset)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_end_of_this_epoch(admin: Admin, three_batches: str, version: int) -> None:
    """The current epoch ends where the partition does."""
    epoch = epoch_of(admin, three_batches)

    assert (0, 0, epoch, 7) == epoch_end(admin, three_batches, epoch, version=version)


def test_unknown_epochs(admin: Admin, three_batches: str) -> None:
    """A future epoch, or an invalid one, has no end."""
    epoch = epoch_of(admin, three_batches)

    assert epoch_end(admin, three_batches, epoch + 1) == (0, 0, -1, -1)
    assert epoch_end(admin, three_batches, -1) == (0, 0, -1, -1)


def test_epoch_refused(admin: Admin, three_batches: str) -> None:
    """A client from another epoch, and one that asks for a missing partition, gets the error."""
    epoch = epoch_of(admin, three_batches)

    assert epoch_end(admin, three_batches, epoch, current=epoch + 1)[0] == 75
    assert epoch_end(admin, three_batches, epoch, partition=9)[0] == 3
    assert epoch_end(admin, "nope", epoch)[0] == 3


def test_epoch_of_an_empty_partition(admin: Admin) -> None:
    """A partition that was never written ends at 0 in this epoch: nobody lost anything."""
    name = admin.create()
    epoch = epoch_of(admin, name)

    assert (0, 0, epoch, 0) == epoch_end(admin, name, epoch)


def test_earlier_epochs(tmp_path: Path) -> None:
    """An earlier epoch ended where the next one began to write, and offsets keep their epochs."""
    with admin_of(tmp_path) as admin:
        name = admin.create()
        admin.produce(name, NOW, NOW)
        first = epoch_of(admin, name)
        for hosted in admin.broker.store.containers.values():
            hosted.container.epoch += 1  # as an unclean start does
        admin.produce(name, NOW)

        assert (0, 0, first, 2) == epoch_end(admin, name, first)
        assert offset(admin, name, LATEST, epoch=first)[0] == 74
        epochs = [offset(admin, name, at)[3] for at in (EARLIEST, LATEST)]
        assert [first, first + 1] == epochs


# DeleteRecords


@pytest.mark.parametrize("version", [0, 1, 2])
def test_deleted(admin: Admin, version: int) -> None:
    """Records before an offset go; the answer is the new log start; going back changes nothing."""
    name = admin.create()
    admin.produce(name, NOW, NOW, NOW)

    assert delete(admin, name, (0, 2), version=version) == [(0, 2)]
    assert delete(admin, name, (0, 1), version=version) == [(0, 2)]
    assert offset(admin, name, EARLIEST)[2] == 2


def test_deleted_up_to_the_end(admin: Admin) -> None:
    """-1 means the high watermark."""
    name = admin.create()
    admin.produce(name, NOW, NOW, NOW)

    assert delete(admin, name, (0, -1)) == [(0, 3)]
    assert offset(admin, name, MAX_TIMESTAMP) == NOTHING


@pytest.mark.parametrize("before", [4, -2])
def test_delete_out_of_range(admin: Admin, before: int) -> None:
    """Beyond the high watermark, or below 0, is OFFSET_OUT_OF_RANGE."""
    name = admin.create()
    admin.produce(name, NOW, NOW, NOW)

    assert delete(admin, name, (0, before)) == [(1, -1)]


def test_delete_of_what_is_not_there(admin: Admin) -> None:
    """Unknown topics and partitions get errors of their own."""
    name = admin.create()

    assert delete(admin, "nope", (0, 0)) == [(3, -1)]
    assert delete(admin, name, (9, 0), (0, 0)) == [(3, -1), (0, 0)]


@pytest.mark.parametrize(("policy", "answer"), [("compact", (44, -1)), ("compact,delete", (0, 1)), ("", (0, 1))])
def test_delete_by_policy(admin: Admin, policy: str, answer: tuple[int, int]) -> None:
    """A topic that is only compacted is POLICY_VIOLATION."""
    name = admin.create(cleanup_policy=policy)
    admin.produce(name, NOW)

    assert [answer] == delete(admin, name, (0, 1))


def test_deletion_survives_a_restart(tmp_path: Path) -> None:
    """A log start stays where it was moved."""
    with admin_of(tmp_path) as admin:
        name = admin.create()
        admin.produce(name, NOW, NOW, NOW)
        delete(admin, name, (0, 2))
        admin.restart()

        assert [offset(admin, name, at)[2] for at in (EARLIEST, LATEST)] == [2, 3]
