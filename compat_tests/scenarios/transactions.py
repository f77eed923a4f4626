"""Transactions: all of it or nothing, in each partition and for the group's offsets too; one producer at a time."""

from __future__ import annotations

import functools
from typing import Final

import pytest

from compat_tests.harness.client import LATEST, Producer
from compat_tests.harness.records import Record, Refused, Stored
from compat_tests.harness.waiting import until
from compat_tests.scenarios import (
    World,
    enter_as,
    numbered,
    offsets,
    scenario,
    values,
)

END: Final = b"the end"
PARTITIONS: Final = 10


def in_transaction(producer: Producer, topic: str, *records: Record, commit: bool = True) -> None:
    producer.begin_transaction()
    producer.send(topic, *records)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def read_to_the_end(
    world: World, topic: str, partitions: int = 1, *, isolation: str = "read_committed"
) -> list[Stored]:
    """Write a last plain record into each partition and read up to it: all that such a consumer is given."""
    last = world.client.write(topic, *(Record(value=END, partition=p) for p in range(partitions)))
    missing = {(produced.partition, produced.offset) for produced in last}
    consumer = world.client.reader(topic, partitions, isolation=isolation)
    received: list[Stored] = []

    def all_read() -> bool:
        received.extend(consumer.poll(200))
        return missing <= {(record.partition, record.offset) for record in received}

    until(all_read, within_s=30, what="the last record of each partition", every_s=0)
    consumer.close()
    return [record for record in received if record.value != END]


@scenario()
def a_commit_is_read_whole(world: World) -> None:
    """Before the commit a read_committed consumer gets nothing of it, in any partition; after it everything."""
    topic = world.topic(partitions=3)
    sent = [Record(value=b"%d" % n, partition=n % 3) for n in range(30)]
    producer = world.client.transactional(world.name("id"))
    producer.begin_transaction()
    producer.send(topic, *sent)

    consumer = world.client.reader(topic, 3, isolation="read_committed")
    uncommitted = world.client.read_all(topic, 30, partitions=3)
    before = consumer.poll(1_000)
    producer.commit_transaction()
    after = consumer.take(30)
    consumer.close()
    producer.close()

    assert before == []
    assert sorted(values(after)) == sorted(values(uncommitted)) == sorted(record.value for record in sent)


@scenario()
def an_abort_is_never_read(world: World) -> None:
    """Only a read_uncommitted consumer sees aborted records; markers take offsets and no consumer sees them."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"))
    in_transaction(producer, topic, *numbered(5))
    in_transaction(producer, topic, *numbered(5, start=5), commit=False)
    in_transaction(producer, topic, *numbered(5, start=10))
    producer.close()

    committed = read_to_the_end(world, topic)
    uncommitted = read_to_the_end(world, topic, isolation="read_uncommitted")

    assert offsets(committed) == [*range(5), *range(12, 17)]
    assert values(committed) == [b"%d" % n for n in (*range(5), *range(10, 15))]
    assert values(uncommitted)[:15] == [b"%d" % n for n in range(15)]
    assert offsets(uncommitted)[:15] == [*range(5), *range(6, 11), *range(12, 17)]


@scenario()
def transactions_over_many_partitions(world: World) -> None:
    """Twenty transactions over ten partitions, every third aborted: each shows the committed ones in order."""
    topic = world.topic(PARTITIONS)
    producer = world.client.transactional(world.name("id"))
    for number in range(20):
        records = [Record(value=b"%d" % number, partition=p) for p in range(PARTITIONS)]
        in_transaction(producer, topic, *records, commit=number % 3 != 2)
    producer.close()

    received = read_to_the_end(world, topic, PARTITIONS)

    expected = [b"%d" % number for number in range(20) if number % 3 != 2]
    for partition in range(PARTITIONS):
        assert [r.value for r in received if r.partition == partition] == expected


def transactions_under_a_codec(codec: str, world: World) -> None:
    """Compressed batches are committed and aborted like any others."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"), compression=codec)
    in_transaction(producer, topic, *numbered(50, size=200), commit=False)
    in_transaction(producer, topic, *numbered(50, start=50, size=200))
    producer.close()

    assert values(read_to_the_end(world, topic)) == [r.value for r in numbered(50, start=50, size=200)]


for name in ("gzip", "zstd"):
    enter_as(f"transactions under {name}", functools.partial(transactions_under_a_codec, name))


@scenario()
def transactions_with_nothing_in_them(world: World) -> None:
    """An empty transaction may be committed or aborted, and leaves no trace."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"))
    for commit in (True, False):
        in_transaction(producer, topic, commit=commit)
    in_transaction(producer, topic, *numbered(1))
    producer.close()

    assert offsets(read_to_the_end(world, topic)) == [0]
    assert world.client.offset(topic, 0, LATEST) == 3


@scenario()
def much_that_was_aborted(world: World) -> None:
    """A consumer passes thousands of aborted records, although a fetch may hold nothing that it can use."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"))
    for start in range(0, 3_000, 1_000):
        in_transaction(producer, topic, *numbered(1_000, start=start, size=500), commit=False)
    in_transaction(producer, topic, Record(value=b"at last", partition=0))
    producer.close()

    consumer = world.client.reader(topic, isolation="read_committed", max_partition_bytes=65_536)
    received = consumer.take(1)
    consumer.close()

    assert values(received) == [b"at last"]


@scenario()
def an_open_transaction_holds_back_what_follows(world: World) -> None:
    """Records of others after the beginning of an open transaction wait for its end, then come in the log's order."""
    topic = world.topic()
    held, other = world.client.transactional(world.name("id")), world.client.transactional(world.name("id"))
    world.client.write(topic, Record(value=b"before", partition=0))
    held.begin_transaction()
    held.send(topic, Record(value=b"held", partition=0))
    in_transaction(other, topic, Record(value=b"other", partition=0))
    world.client.write(topic, Record(value=b"plain", partition=0))

    consumer = world.client.reader(topic, isolation="read_committed")
    before = consumer.take(1)
    meanwhile = consumer.poll(1_000)
    held.commit_transaction()
    after = consumer.take(3)
    consumer.close()
    held.close()
    other.close()

    assert values(before) == [b"before"]
    assert meanwhile == []
    assert values(after) == [b"held", b"other", b"plain"]


@scenario("isolated ends")
def where_a_log_ends(world: World) -> None:
    """For a read_committed consumer the log ends where the oldest open transaction begins."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"))
    world.client.write(topic, *numbered(3))
    producer.begin_transaction()
    producer.send(topic, *numbered(4))

    during = world.client.stable_end(topic, 0), world.client.offset(topic, 0, LATEST)
    producer.abort_transaction()
    until(lambda: world.client.stable_end(topic, 0) == 8, within_s=30, what="the marker counts")
    producer.close()

    assert during == (3, 7)
    assert world.client.offset(topic, 0, LATEST) == 8


@scenario()
def offsets_in_a_transaction(world: World) -> None:
    """Consume, transform, produce: the group's offsets move with the records that came of it, or not at all."""
    source, target, group = world.topic(), world.topic(), world.name("group")
    world.client.write(source, *numbered(20))
    consumer = world.client.consumer(source, group=group, isolation="read_committed")
    producer = world.client.transactional(world.name("id"))
    taken = consumer.take(20)

    def step(part: list[Stored]) -> None:
        producer.begin_transaction()
        producer.send(target, *(Record(value=b"<%s>" % (record.value or b""), partition=0) for record in part))
        producer.send_offsets(consumer.member(), {(source, 0): part[-1].offset + 1})

    step(taken[:10])
    producer.commit_transaction()
    until(lambda: world.client.group_offsets(group) == {(source, 0): 10}, within_s=30, what="the offset is committed")
    step(taken[10:])
    producer.abort_transaction()
    after_abort = world.client.group_offsets(group)
    consumer.close()
    producer.close()

    assert after_abort == {(source, 0): 10}
    assert values(read_to_the_end(world, target)) == [b"<%d>" % n for n in range(10)]
    successor = world.client.consumer(source, group=group, isolation="read_committed")
    again = successor.take(10)
    successor.close()
    assert values(again) == [b"%d" % n for n in range(10, 20)]


@scenario("stable offsets")
def offsets_that_a_transaction_holds(world: World) -> None:
    """A read_committed consumer that asks for offsets waits while a transaction is about to change them."""
    source, group = world.topic(), world.name("group")
    world.client.write(source, *numbered(10))
    consumer = world.client.consumer(source, group=group)
    consumer.take(10)
    consumer.commit({(source, 0): 3})
    producer = world.client.transactional(world.name("id"))
    producer.begin_transaction()
    producer.send_offsets(consumer.member(), {(source, 0): 7})

    seen = world.client.group_offsets(group)
    patient = world.fellow(1).consumer(assign=[(source, 0)], group=group, isolation="read_committed")
    patient.begin_committed(source, 0)
    producer.commit_transaction()
    waited_for = patient.finish_committed()
    for each in (patient, consumer, producer):
        each.close()

    assert seen == {(source, 0): 3}
    assert waited_for == 7


@scenario("member fencing")
def a_member_that_lost_its_place(world: World) -> None:
    """Offsets of a member that is no longer in its group are refused, and with them the transaction ends unseen."""
    source, target, group = world.topic(), world.topic(), world.name("group")
    world.client.write(source, *numbered(5))
    consumer = world.client.consumer(source, group=group)
    producer = world.client.transactional(world.name("id"))
    consumer.take(5)
    producer.begin_transaction()
    producer.send(target, *numbered(5))
    stale = consumer.member()
    consumer.close()
    successor = world.fellow(1).consumer(source, group=group)
    again = successor.take(5)
    with pytest.raises(Refused):
        producer.send_offsets(stale, {(source, 0): 5})
    producer.abort_transaction()
    producer.close()
    successor.close()

    assert values(again) == [b"%d" % n for n in range(5)]
    assert world.client.group_offsets(group) == {}
    assert read_to_the_end(world, target) == []


@scenario("tells producers apart")
def producers_side_by_side(world: World) -> None:
    """Transactions of several producers in one partition end each for itself."""
    topic = world.topic()
    producers = [world.client.transactional(world.name("id")) for _ in range(4)]
    for round_number in range(5):
        for number, producer in enumerate(producers):
            producer.begin_transaction()
            producer.send(topic, Record(value=b"%d-%d a" % (number, round_number), partition=0))
        for number, producer in enumerate(producers):
            producer.send(topic, Record(value=b"%d-%d b" % (number, round_number), partition=0))
        for number, producer in enumerate(reversed(producers)):
            if number % 2:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
    for producer in producers:
        producer.close()

    received = values(read_to_the_end(world, topic))

    expected = [b"%d-%d %s" % (n, r, part) for r in range(5) for part in (b"a", b"b") for n in (0, 2)]
    assert received == expected


@scenario("transaction admin")
def what_admins_see_of_transactions(world: World) -> None:
    """Transactional ids with their states, and the producers of a partition with what they have open."""
    topic, identity = world.topic(partitions=2), world.name("id")
    world.client.write(topic, *numbered(3))
    producer = world.client.transactional(identity, transaction_timeout_ms=45_000)
    states = [world.client.transactions()[identity]]
    producer.begin_transaction()
    producer.send(topic, *numbered(4))

    described = world.client.describe_transaction(identity)
    states.append(world.client.transactions()[identity])
    [active] = [p for p in world.client.producers_of(topic, 0) if p["start"] is not None]
    producer.commit_transaction()
    until(lambda: world.client.transactions()[identity] == "CompleteCommit", within_s=30, what="the commit is complete")
    ended = world.client.producers_of(topic, 0)
    producer.close()

    assert states == ["Empty", "Ongoing"]
    assert (described["state"], described["timeout_ms"]) == ("Ongoing", 45_000)
    assert described["partitions"] == [[topic, 0]]
    assert (active["producer_id"], active["epoch"]) == (described["producer_id"], described["epoch"])
    assert (active["start"], active["sequence"]) == (3, 3)
    assert [p["start"] for p in ended if p["producer_id"] == active["producer_id"]] == [None]


@scenario("transaction admin")
def aborting_by_hand(world: World) -> None:
    """An admin ends what a producer has open in one partition, without the coordinator."""
    topic = world.topic()
    producer = world.client.transactional(world.name("id"))
    producer.begin_transaction()
    producer.send(topic, Record(value=b"hangs", partition=0))
    world.client.write(topic, Record(value=b"waits", partition=0))
    [hanging] = [p for p in world.client.producers_of(topic, 0) if p["start"] is not None]

    world.client.abort_open_transaction(topic, 0, hanging)
    received = world.client.read_all(topic, 1, isolation="read_committed")

    assert values(received) == [b"waits"]
    assert [p["start"] for p in world.client.producers_of(topic, 0) if p["start"] is not None] == []
    producer.close()
