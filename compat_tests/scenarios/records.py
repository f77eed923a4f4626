"""Records go in and come out unchanged: contents, order, offsets, sizes, codecs, timestamps."""

from __future__ import annotations

import functools
import time

from compat_tests.harness.client import LATEST
from compat_tests.harness.records import Produced, Record, Refused
from compat_tests.harness.waiting import until
from compat_tests.scenarios import (
    CODECS,
    INVALID_RECORD,
    INVALID_TIMESTAMP,
    MESSAGE_TOO_LARGE,
    UNKNOWN_TOPIC_OR_PARTITION,
    World,
    assert_log,
    enter_as,
    numbered,
    scenario,
    values,
)

MIB = 1024 * 1024


@scenario()
def keys_and_values(world: World) -> None:
    """Null stays null, empty stays empty, and any byte survives, for keys and for values."""
    topic = world.topic()
    every_byte = bytes(range(256))
    pairs = [
        (b"key", b"value"),
        (None, b"no key"),
        (b"no value", None),
        (b"", b"empty key"),
        (b"empty value", b""),
        (every_byte, every_byte),
        ("ключ".encode(), "значение".encode()),
    ]
    if world.client.can("nothing at all"):
        pairs.append((None, None))
    sent = [Record(key=key, value=value, partition=0) for key, value in pairs]

    outcome = world.client.write(topic, *sent)
    received = world.client.read_all(topic, len(pairs))

    assert outcome == [Produced(0, offset) for offset in range(len(pairs))]
    assert [(r.key, r.value) for r in received] == pairs
    assert_log(received, sent)


@scenario()
def headers(world: World) -> None:
    """Headers come back with names and bytes as sent; a record without any has none."""
    topic = world.topic()
    wanted = (("trace", b"\x00\xff"), ("empty", b""), ("имя", b"utf-8 name"))

    world.client.write(
        topic,
        Record(value=b"with", headers=wanted, partition=0),
        Record(value=b"without", partition=0),
    )
    received = world.client.read_all(topic, 2)

    assert [record.headers for record in received] == [wanted, ()]


@scenario()
def repeated_headers(world: World) -> None:
    """A header's name may come twice: both values come back, in order."""
    topic = world.topic()
    wanted = (("a", b"1"), ("a", b"2"), ("b", b"3"))

    world.client.write(topic, Record(value=b"x", headers=wanted, partition=0))

    assert world.client.read_all(topic, 1)[0].headers == wanted


@scenario("null headers")
def null_headers(world: World) -> None:
    """A header's value may be null, which is not the same as empty."""
    topic = world.topic()
    wanted = (("null", None), ("empty", b""))

    world.client.write(topic, Record(value=b"x", headers=wanted, partition=0))

    assert world.client.read_all(topic, 1)[0].headers == wanted


def compression(codec: str, world: World) -> None:
    """Records that a codec packed come back whole, in several batches, small and large."""
    topic = world.topic()
    sent = numbered(300, size=40) + [
        Record(key=b"k%d" % n, value=b"%06d" % n * 5_000, headers=(("n", b"%d" % n),), partition=0) for n in range(20)
    ]

    world.client.write(topic, *sent, compression=codec)
    received = world.client.read_all(topic, len(sent))

    assert_log(received, sent)
    assert [r.key for r in received] == [r.key for r in sent]
    assert [r.headers for r in received] == [r.headers for r in sent]


for _codec in CODECS:
    enter_as(f"compression {_codec}", functools.partial(compression, _codec))


@scenario()
def acks_all_one_and_none(world: World) -> None:
    """With every kind of acknowledgement, and with none, the records arrive."""
    topic = world.topic()

    acked_by_all = world.client.write(topic, Record(value=b"all", partition=0), acks="all")
    acked_by_one = world.client.write(topic, Record(value=b"one", partition=0), acks=1)
    world.client.write(topic, Record(value=b"none", partition=0), acks=0)

    assert [acked_by_all[0].offset, acked_by_one[0].offset] == [0, 1]
    assert values(world.client.read_all(topic, 3)) == [b"all", b"one", b"none"]


@scenario()
def order_within_each_partition(world: World) -> None:
    """Keyed records over four partitions: one key, one partition; dense offsets; each key in order."""
    topic = world.topic(partitions=4)
    sent = [Record(key=b"key-%d" % (n % 23), value=b"%d" % n) for n in range(2_000)]

    outcome = world.client.write(topic, *sent)
    received = world.client.read_all(topic, len(sent), partitions=4)

    by_place = {(r.partition, r.offset): (r.key, r.value) for r in received}
    assert by_place == {(o.partition, o.offset): (r.key, r.value) for o, r in zip(outcome, sent, strict=True)}
    for partition in {o.partition for o in outcome}:
        own = [r for r in received if r.partition == partition]
        assert [r.offset for r in own] == list(range(len(own)))
        assert [int(r.value or b"") for r in own] == sorted(int(r.value or b"") for r in own)
    for key in {record.key for record in sent}:
        assert len({r.partition for r in received if r.key == key}) == 1


@scenario()
def many_sends_in_flight(world: World) -> None:
    """Thousands of small records without waiting between them arrive once each, in order."""
    topic = world.topic()
    sent = numbered(5_000)

    outcome = world.client.write(topic, *sent, linger_ms=0)

    assert outcome == [Produced(0, offset) for offset in range(5_000)]
    assert_log(world.client.read_all(topic, 5_000), sent)


@scenario("timestamp types")
def create_time(world: World) -> None:
    """The producer's timestamp comes back to the millisecond, marked as its own."""
    topic = world.topic()
    now = int(time.time() * 1000)
    wanted = [now - 86_400_123, now - 1, now]

    world.client.write(topic, *(Record(value=b"x", partition=0, timestamp=t) for t in wanted))
    received = world.client.read_all(topic, 3)

    assert [r.timestamp for r in received] == wanted
    assert {r.timestamp_type for r in received} == {"create"}


@scenario("timestamp types")
def log_append_time(world: World) -> None:
    """With LogAppendTime the server's clock stands in the record, whatever the producer said."""
    topic = world.topic(configs={"message.timestamp.type": "LogAppendTime"})
    before = int(time.time() * 1000)

    world.client.write(topic, Record(value=b"x", partition=0, timestamp=1_000_000_000_000))
    [received] = world.client.read_all(topic, 1)

    assert before - 1_000 <= received.timestamp <= int(time.time() * 1000) + 1_000
    assert received.timestamp_type == "append"


@scenario()
def timestamps_out_of_bounds(world: World) -> None:
    """A record from further ahead than message.timestamp.after.max.ms is refused; the next one is not."""
    topic = world.topic(configs={"message.timestamp.after.max.ms": "60000"})
    producer = world.client.producer()
    ahead = int(time.time() * 1000) + 3_600_000

    [outcome] = producer.try_send(topic, [Record(value=b"x", partition=0, timestamp=ahead)])
    accepted = producer.send(topic, Record(value=b"y", partition=0))
    producer.close()

    assert isinstance(outcome, Refused)
    assert outcome.code == INVALID_TIMESTAMP
    assert accepted == [Produced(0, 0)]


@scenario()
def a_record_of_a_mebibyte(world: World) -> None:
    """A record just under the limit goes through, and comes out of a fetch that asked for less."""
    topic = world.topic()
    large = bytes(range(256)) * (MIB // 256 - 4)

    producer = world.client.producer(max_request_bytes=2 * MIB)
    producer.send(topic, Record(value=b"before", partition=0))
    producer.send(topic, Record(value=large, partition=0))
    producer.send(topic, Record(value=b"after", partition=0))
    producer.close()
    received = world.client.read_all(topic, 3, max_partition_bytes=10_000)

    assert values(received) == [b"before", large, b"after"]


@scenario()
def a_record_over_the_limit(world: World) -> None:
    """A record over message.max.bytes is refused by number, and the same producer goes on."""
    topic = world.topic()
    producer = world.client.producer(max_request_bytes=8 * MIB)
    producer.send(topic, Record(value=b"before", partition=0))

    [outcome] = producer.try_send(topic, [Record(value=bytes(2 * MIB), partition=0)])
    after = producer.send(topic, Record(value=b"after", partition=0))
    producer.close()

    assert isinstance(outcome, Refused)
    assert outcome.code == MESSAGE_TOO_LARGE
    assert after == [Produced(0, 1)]
    assert values(world.client.read_all(topic, 2)) == [b"before", b"after"]


@scenario()
def a_topics_own_size_limit(world: World) -> None:
    """max.message.bytes of a topic binds that topic alone, from the moment that it is altered."""
    topic, other = world.topic(configs={"max.message.bytes": "20000"}), world.topic()
    producer = world.client.producer(max_request_bytes=8 * MIB)
    record = Record(value=bytes(30_000), partition=0)

    [outcome] = producer.try_send(topic, [record])
    elsewhere = producer.send(other, record)
    world.client.alter_config("topic", topic, {"max.message.bytes": "40000"})
    until(
        lambda: isinstance(producer.try_send(topic, [record])[0], Produced),
        within_s=30,
        what="the raised limit holds",
    )
    producer.close()

    assert isinstance(outcome, Refused)
    assert outcome.code == MESSAGE_TOO_LARGE
    assert elsewhere == [Produced(0, 0)]


@scenario()
def compacted_topics_need_keys(world: World) -> None:
    """A compacted topic refuses a record without a key, and takes tombstones."""
    topic = world.topic(configs={"cleanup.policy": "compact"})
    producer = world.client.producer()

    [outcome] = producer.try_send(topic, [Record(value=b"no key", partition=0)])
    sent = [Record(key=b"k", value=b"v", partition=0), Record(key=b"k", value=None, partition=0)]
    producer.send(topic, *sent)
    producer.close()

    assert isinstance(outcome, Refused)
    assert outcome.code in world.vague(INVALID_RECORD)
    assert_log(world.client.read_all(topic, 2), sent)


@scenario()
def reading_in_small_fetches(world: World) -> None:
    """A reader whose fetches are far smaller than the log gets all of it, in order, once."""
    topic = world.topic(partitions=2)
    sent = [numbered(400, size=5_000, partition=partition) for partition in (0, 1)]
    producer = world.client.producer(linger_ms=0)
    for part in sent:
        for start in range(0, 400, 100):
            producer.send(topic, *part[start : start + 100])
    producer.close()

    received = world.client.read_all(topic, 800, partitions=2, max_partition_bytes=20_000)

    for partition in (0, 1):
        assert_log([r for r in received if r.partition == partition], sent[partition])


@scenario()
def waiting_at_the_tail(world: World) -> None:
    """A long poll at the end of the log ends when a record arrives, long before its time is up."""
    topic = world.topic()
    writer = world.another_process()
    producer = writer.producer(linger_ms=0)
    producer.send(topic, Record(value=b"old", partition=0))
    consumer = world.client.reader(topic, max_wait_ms=9_000)
    consumer.take(1)
    assert consumer.poll(300) == []  # by now a fetch waits at the end

    consumer.begin_poll(9_000)
    started = time.monotonic()
    producer.send(topic, Record(value=b"new", partition=0))
    received = consumer.finish_poll()
    waited = time.monotonic() - started
    consumer.close()

    assert values(received) == [b"new"]
    assert waited < 6


@scenario("assign")
def waiting_for_enough_bytes(world: World) -> None:
    """A fetch with fetch.min.bytes holds back small records until its wait is over."""
    topic = world.topic()
    consumer = world.client.reader(topic, min_bytes=100_000, max_wait_ms=1_500)
    world.client.write(topic, *numbered(5))

    started = time.monotonic()
    received = consumer.take(5)
    consumer.close()

    assert_log(received, numbered(5))
    assert time.monotonic() - started < 20


@scenario()
def a_topic_made_by_its_first_record(world: World) -> None:
    """Producing to an unknown topic creates it with the default number of partitions."""
    topic = world.name("auto")

    [outcome] = world.client.write(topic, Record(value=b"first", key=b"k"))

    assert outcome.offset == 0
    assert world.client.partition_count(topic) == 16
    assert world.client.offset(topic, outcome.partition, LATEST) == 1


@scenario("no auto-create")
def no_topic_made_against_ones_will(world: World) -> None:
    """A consumer that asks for no auto-creation leaves no topic behind."""
    topic = world.name("never")
    try:
        consumer = world.client.consumer(topic, group=world.name("group"), auto_create=False)
        for _ in range(5):
            consumer.poll(200)
        consumer.close()
    except Refused as refusal:  # librdkafka and kafkajs tell their application
        if refusal.code != UNKNOWN_TOPIC_OR_PARTITION:
            raise

    assert topic not in world.client.topics()


@scenario()
def idempotent_producer(world: World) -> None:
    """With idempotence on, each record is there once, in order, over several partitions."""
    topic = world.topic(partitions=3)
    producer = world.client.producer(idempotent=True)
    for start in range(0, 600, 150):
        batch = [Record(value=b"%d" % n, partition=n % 3) for n in range(start, start + 150)]
        producer.send(topic, *batch)
    producer.close()

    received = world.client.read_all(topic, 600, partitions=3)

    for partition in range(3):
        own = [r for r in received if r.partition == partition]
        assert [int(r.value or b"") for r in own] == list(range(partition, 600, 3))
        assert [r.offset for r in own] == list(range(200))


@scenario("assign")
def a_partition_that_is_not_there(world: World) -> None:
    """Sending to partition 7 of a topic with two fails for that record and for no other."""
    topic = world.topic(partitions=2)
    producer = world.client.producer(delivery_timeout_ms=11_000, request_timeout_ms=5_000)

    outcome: object
    try:
        [outcome] = producer.try_send(topic, [Record(value=b"x", partition=7)])
    except Refused as refusal:
        outcome = refusal
    accepted = producer.send(topic, Record(value=b"y", partition=1))
    producer.close()

    assert isinstance(outcome, Refused)
    assert accepted == [Produced(1, 0)]
