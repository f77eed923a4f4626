"""Topics and their configuration: made, looked at, altered, grown, deleted, and made again."""

from __future__ import annotations

from compat_tests.harness.client import EARLIEST, LATEST
from compat_tests.harness.records import Produced, Record
from compat_tests.harness.waiting import until
from compat_tests.scenarios import (
    INVALID_CONFIG,
    INVALID_PARTITIONS,
    INVALID_TOPIC,
    TOPIC_ALREADY_EXISTS,
    UNKNOWN_TOPIC_OR_PARTITION,
    World,
    assert_log,
    numbered,
    refused,
    scenario,
)

KAFKA_DEFAULTS = {
    "compression.type": "producer",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "index.interval.bytes": "4096",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "preallocate": "false",
    "retention.bytes": "-1",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
}


@scenario()
def creating_a_topic(world: World) -> None:
    """A created topic is listed with its partitions; creating it again is refused."""
    topic = world.topic(partitions=3)

    assert topic in world.client.topics()
    assert world.client.partition_count(topic) == 3
    with refused(TOPIC_ALREADY_EXISTS):
        world.client.create_topic(topic, 3)


@scenario()
def a_topic_with_a_bad_name(world: World) -> None:
    """A name that Kafka does not allow is refused."""
    with refused(INVALID_TOPIC):
        world.client.create_topic("no spaces allowed", 1)


@scenario("assign")
def a_topic_without_partitions(world: World) -> None:
    """Zero partitions are refused."""
    with refused(INVALID_PARTITIONS):
        world.client.create_topic(world.name("none"), 0)


@scenario("default counts")
def a_topic_with_defaults(world: World) -> None:
    """-1 partitions and -1 replicas mean the server's defaults."""
    topic = world.name("defaults")

    world.client.create_topic(topic, -1, replication=-1)

    world.await_partitions(topic, 16)


@scenario()
def only_validating(world: World) -> None:
    """validate_only checks everything and creates nothing."""
    topic = world.name("validated")

    world.client.create_topic(topic, 3, validate_only=True)
    with refused(INVALID_CONFIG):
        world.client.create_topic(topic, 3, {"retention.ms": "soon"}, validate_only=True)

    assert topic not in world.client.topics()


@scenario()
def a_topic_with_configuration(world: World) -> None:
    """Configs that a topic was created with are described as set; the rest shows Kafka's defaults."""
    wanted = {"retention.ms": "123456", "cleanup.policy": "compact", "segment.bytes": "2097152"}
    topic = world.topic(configs=wanted)

    described = world.client.config("topic", topic)

    assert described.items() >= wanted.items()
    assert described.items() >= KAFKA_DEFAULTS.items()
    if world.client.can("config sources"):
        # Kafka 4 sets min.insync.replicas for a whole cluster when it formats it.
        assert world.client.keys_set("topic", topic) - {"min.insync.replicas"} == set(wanted)


@scenario()
def a_topic_with_bad_configuration(world: World) -> None:
    """An unknown key, or a value that it cannot have, is refused and creates nothing."""
    topic = world.name("badly")

    with refused(INVALID_CONFIG):
        world.client.create_topic(topic, 1, {"retention.ms": "a while"})
    with refused(INVALID_CONFIG):
        world.client.create_topic(topic, 1, {"no.such.key": "1"})

    assert topic not in world.client.topics()


@scenario()
def altering_a_topic(world: World) -> None:
    """A value that is set shows; taken back, the default shows again."""
    topic = world.topic()

    world.client.alter_config("topic", topic, {"retention.ms": "98765"})
    until(
        lambda: world.client.config("topic", topic)["retention.ms"] == "98765",
        within_s=30,
        what="the new value shows",
    )
    world.client.alter_config("topic", topic, {"retention.ms": None})
    until(
        lambda: world.client.config("topic", topic)["retention.ms"] == "604800000",
        within_s=30,
        what="the default shows again",
    )


@scenario("incremental configs")
def altering_one_key_leaves_the_others(world: World) -> None:
    """An incremental change touches the key it names."""
    topic = world.topic(configs={"retention.bytes": "1000000", "retention.ms": "50000"})

    world.client.alter_config("topic", topic, {"retention.ms": "60000"})

    until(
        lambda: world.client.config("topic", topic)["retention.ms"] == "60000",
        within_s=30,
        what="the new value shows",
    )
    assert world.client.config("topic", topic)["retention.bytes"] == "1000000"


@scenario()
def altering_badly(world: World) -> None:
    """A value that the key cannot have is refused, and the old one stays."""
    topic = world.topic()

    with refused(INVALID_CONFIG):
        world.client.alter_config("topic", topic, {"retention.ms": "-2"})

    assert world.client.config("topic", topic)["retention.ms"] == "604800000"


@scenario()
def looking_at_the_broker(world: World) -> None:
    """The broker describes its own configuration."""
    described = world.client.config("broker", "1")

    assert described["num.partitions"] == "16"
    assert described["message.max.bytes"] == "1048588"
    assert described["group.initial.rebalance.delay.ms"] == "0"


@scenario()
def growing_a_topic(world: World) -> None:
    """More partitions: earlier records keep their place, and the new partitions take records."""
    topic = world.topic(partitions=2)
    world.client.write(topic, *numbered(10, partition=0), *numbered(10, partition=1))

    world.client.create_partitions(topic, 5)
    world.await_partitions(topic, 5)
    outcome = world.client.write(topic, *(Record(value=b"new", partition=p) for p in range(5)))
    received = world.fellow(1).read_all(topic, 25, partitions=5)

    assert outcome == [Produced(p, o) for p, o in ((0, 10), (1, 10), (2, 0), (3, 0), (4, 0))]
    for partition in (0, 1):
        own = [r for r in received if r.partition == partition]
        assert_log(own[:10], numbered(10))


@scenario("assign")
def shrinking_a_topic(world: World) -> None:
    """Fewer partitions, or as many as there are, are refused."""
    topic = world.topic(partitions=3)

    for total in (2, 3):
        with refused(INVALID_PARTITIONS):
            world.client.create_partitions(topic, total)

    assert world.client.partition_count(topic) == 3


@scenario()
def a_group_sees_its_topic_grow(world: World) -> None:
    """A member takes up partitions that were added while it was reading."""
    topic = world.topic(partitions=1)
    consumer = world.client.consumer(topic, group=world.name("group"), metadata_ms=300)
    until(lambda: consumer.poll(100) or consumer.assignment(), within_s=30, what="the member reads")

    world.client.create_partitions(topic, 3)
    world.await_partitions(topic, 3)

    def all_three() -> bool:
        consumer.poll(100)
        return len(consumer.assignment()) == 3

    until(all_three, within_s=20, what="the member has all three", every_s=0)
    world.client.write(topic, Record(value=b"new", partition=2))
    [received] = consumer.take(1)
    consumer.close()

    assert (received.partition, received.offset) == (2, 0)


@scenario()
def deleting_a_topic(world: World) -> None:
    """A deleted topic is listed no more; deleting it again is refused."""
    topic = world.topic(partitions=2)
    world.client.write(topic, *numbered(5))

    world.client.delete_topic(topic)

    until(lambda: topic not in world.client.topics(), within_s=30, what="the topic is gone")
    with refused(UNKNOWN_TOPIC_OR_PARTITION):
        world.client.delete_topic(topic)


@scenario()
def recreating_a_topic(world: World) -> None:
    """A topic deleted and created again is a new one: empty, from offset 0, with its own partitions."""
    topic = world.topic(partitions=3)
    world.client.write(topic, *numbered(5), *numbered(5, partition=2))
    world.client.delete_topic(topic)
    until(lambda: topic not in world.client.topics(), within_s=30, what="the topic is gone")

    world.client.create_topic(topic, 1)
    world.await_partitions(topic, 1)
    fresh = world.another_process()
    empty = fresh.offsets([(topic, 0, EARLIEST), (topic, 0, LATEST)])
    outcome = fresh.write(topic, *numbered(2, start=100))

    assert empty == [0, 0]
    assert outcome == [Produced(0, 0), Produced(0, 1)]
    assert_log(fresh.read_all(topic, 2), numbered(2, start=100))


@scenario()
def a_producer_outlives_its_topic(world: World) -> None:
    """A producer that has written to a topic goes on when it was deleted and created again."""
    topic = world.topic()
    producer = world.client.producer()
    producer.send(topic, *numbered(5))
    world.client.delete_topic(topic)
    until(lambda: topic not in world.client.topics(), within_s=30, what="the topic is gone")
    world.client.create_topic(topic, 1)
    world.await_partitions(topic, 1)

    until(
        lambda: isinstance(producer.try_send(topic, [Record(value=b"again", partition=0)])[0], Produced),
        within_s=30,
        what="the producer goes on",
    )
    producer.close()

    end = world.client.offset(topic, 0, LATEST)
    assert end is not None
    assert end >= 1
