"""Offsets and positions: where a log begins and ends, how to find a place in it, and how its head is cut off."""

from __future__ import annotations

import time

from compat_tests.harness.client import EARLIEST, LATEST, MAX_TIMESTAMP
from compat_tests.harness.records import Record
from compat_tests.scenarios import (
    OFFSET_OUT_OF_RANGE,
    UNKNOWN_TOPIC_OR_PARTITION,
    World,
    assert_log,
    numbered,
    offsets,
    refused,
    scenario,
    values,
)


@scenario()
def begin_and_end_offsets(world: World) -> None:
    """Each partition says where it begins and ends; an empty one begins and ends at 0."""
    topic = world.topic(partitions=3)
    world.client.write(topic, *numbered(7, partition=0), *numbered(3, partition=2))

    begin = world.client.offsets([(topic, p, EARLIEST) for p in range(3)])
    end = world.client.offsets([(topic, p, LATEST) for p in range(3)])

    assert (begin, end) == ([0, 0, 0], [7, 0, 3])


@scenario("assign")
def seeking(world: World) -> None:
    """A seek goes to any offset, the middle of a batch too, and to both ends."""
    topic = world.topic()
    world.client.write(topic, *numbered(100))
    consumer = world.client.reader(topic)
    consumer.take(100)

    consumer.seek(topic, 0, 42)
    from_42 = consumer.take(58)
    consumer.seek(topic, 0, "begin")
    from_begin = consumer.take(100)
    consumer.seek(topic, 0, "end")
    end_position = consumer.position(topic, 0)
    at_end = consumer.poll(300)
    world.client.write(topic, Record(value=b"later", partition=0))
    [later] = consumer.take(1)
    consumer.close()

    assert_log(from_42, numbered(58, start=42), start=42)
    assert_log(from_begin, numbered(100))
    assert (at_end, later.offset) == ([], 100)
    assert end_position in (100, -1001)  # librdkafka knows a position once it has consumed


@scenario()
def seeking_in_a_group(world: World) -> None:
    """A member of a group seeks back and reads again, without a word to the group."""
    topic = world.topic()
    world.client.write(topic, *numbered(50))
    consumer = world.client.consumer(topic, group=world.name("group"))
    consumer.take(50)

    consumer.seek(topic, 0, 20)
    again = consumer.take(30)
    consumer.close()

    assert_log(again, numbered(30, start=20), start=20)


@scenario()
def finding_by_time(world: World) -> None:
    """A time finds the first record at or after it, inside a batch too; later than all finds none."""
    topic = world.topic()
    base = int(time.time() * 1000) - 100_000
    world.client.write(
        topic,
        *(Record(value=b"%d" % n, partition=0, timestamp=base + n * 10) for n in range(50)),
        linger_ms=50,
    )
    world.client.write(topic, Record(value=b"later", partition=0, timestamp=base + 5_000))

    def found(*times: int) -> list[int | None]:
        return [world.client.offset(topic, 0, at) for at in times]

    assert found(base - 1, base, base + 1, base + 250, base + 255) == [0, 0, 1, 25, 26]
    assert found(base + 490, base + 491, base + 5_000) == [49, 50, 50]
    assert found(base + 5_001) == [None]


@scenario()
def reading_from_a_time(world: World) -> None:
    """Find an offset by time, seek there, and read exactly what is not older."""
    topic = world.topic()
    base = int(time.time() * 1000) - 60_000
    world.client.write(
        topic,
        *(Record(value=b"%d" % n, partition=0, timestamp=base + n * 100) for n in range(40)),
    )
    consumer = world.client.reader(topic)
    consumer.take(40)

    offset = world.client.offset(topic, 0, base + 2_550)
    assert offset == 26
    consumer.seek(topic, 0, offset)
    received = consumer.take(14)
    consumer.close()

    assert [r.timestamp for r in received] == [base + n * 100 for n in range(26, 40)]


@scenario("max timestamp")
def finding_the_newest_by_timestamp(world: World) -> None:
    """The largest timestamp is found where it is, which need not be at the end."""
    topic = world.topic()
    base = int(time.time() * 1000) - 60_000
    for shift in (0, 30_000, 10_000):
        world.client.write(topic, Record(value=b"x", partition=0, timestamp=base + shift))

    assert world.client.offset(topic, 0, MAX_TIMESTAMP) == 1


@scenario()
def starting_at_the_end(world: World) -> None:
    """auto.offset.reset=latest: a new group sees what comes after it joined, and nothing before."""
    topic = world.topic()
    world.client.write(topic, *numbered(10))
    consumer = world.client.consumer(topic, group=world.name("group"), reset="latest")
    for _ in range(100):
        if consumer.poll(100) or consumer.assignment():
            break
    consumer.poll(1_000)

    world.client.write(topic, *numbered(5, start=10))
    received = consumer.take(5)
    consumer.close()

    assert_log(received, numbered(5, start=10), start=10)


@scenario("assign")
def falling_out_of_range(world: World) -> None:
    """A position past the end makes the client start over where its reset policy says."""
    topic = world.topic()
    world.client.write(topic, *numbered(10))
    consumer = world.client.reader(topic, reset="earliest")
    consumer.take(10)

    consumer.seek(topic, 0, 5_000)
    again = consumer.take(10)
    consumer.close()

    assert_log(again, numbered(10))


@scenario()
def deleting_records(world: World) -> None:
    """DeleteRecords moves the log's start: earlier records are gone, offsets stay, reading starts there."""
    topic = world.topic(partitions=2)
    world.client.write(topic, *numbered(20, partition=0), *numbered(5, partition=1))

    low = world.client.delete_records(topic, {0: 12})

    assert low == {0: 12}
    assert world.client.offset(topic, 0, EARLIEST) == 12
    assert world.client.offset(topic, 0, LATEST) == 20
    assert world.client.offset(topic, 1, EARLIEST) == 0
    received = world.client.read_all(topic, 13, partitions=2)
    assert offsets([r for r in received if r.partition == 0]) == list(range(12, 20))
    assert offsets([r for r in received if r.partition == 1]) == list(range(5))


@scenario("assign")
def deleting_all_records(world: World) -> None:
    """-1 deletes up to the high watermark; the next record takes the next offset."""
    topic = world.topic()
    world.client.write(topic, *numbered(20))

    low = world.client.delete_records(topic, {0: -1})
    [next_outcome] = world.client.write(topic, Record(value=b"next", partition=0))

    assert low == {0: 20}
    assert next_outcome.offset == 20
    assert values(world.client.read_all(topic, 1)) == [b"next"]


@scenario("assign")
def deleting_more_than_there_is(world: World) -> None:
    """Deleting beyond the end is refused, and nothing is deleted."""
    topic = world.topic()
    world.client.write(topic, *numbered(3))

    with refused(OFFSET_OUT_OF_RANGE):
        world.client.delete_records(topic, {0: 4})

    assert world.client.offset(topic, 0, EARLIEST) == 0


@scenario("assign")
def reading_where_records_were_deleted(world: World) -> None:
    """A reader whose position was deleted under it goes on at the new start."""
    topic = world.topic()
    world.client.write(topic, *numbered(30))
    world.client.delete_records(topic, {0: 25})
    consumer = world.client.reader(topic)

    consumer.take(5)
    consumer.seek(topic, 0, 3)
    received = consumer.take(5)
    consumer.close()

    assert offsets(received) == [25, 26, 27, 28, 29]


@scenario("assign", "max timestamp")
def offsets_of_an_unknown_topic(world: World) -> None:
    """Asking for the offsets of a topic that is not there is refused; librdkafka says so itself."""
    with refused(UNKNOWN_TOPIC_OR_PARTITION, None):
        world.client.offset(world.name("unknown"), 0, LATEST)
