"""Things that outlive the server's process: records, sequences, commits, topics; for Penstock after kill -9 too."""

from __future__ import annotations

from compat_tests.harness.client import LATEST
from compat_tests.harness.records import Produced, Record
from compat_tests.harness.waiting import until
from compat_tests.scenarios import World, assert_log, numbered, scenario


@scenario(server=("restart",))
def an_idempotent_producer_outlives_a_restart(world: World) -> None:
    """One idempotent producer writes before and after a restart: each record once, in order, no gap."""
    topic = world.topic()
    producer = world.client.producer(idempotent=True)
    producer.send(topic, *numbered(200))

    world.system.stop()
    world.system.start()
    outcome = producer.send(topic, *numbered(200, start=200))
    producer.close()

    assert outcome == [Produced(0, offset) for offset in range(200, 400)]
    assert_log(world.client.read_all(topic, 400), numbered(400))


@scenario(server=("restart",))
def a_restart_while_records_are_under_way(world: World) -> None:
    """Records sent while the server is away wait and arrive once each, in order."""
    topic = world.topic()
    producer = world.client.producer(idempotent=True)
    producer.send(topic, *numbered(10))

    world.system.stop()
    producer.begin(topic, numbered(50, start=10))
    world.system.start()
    outcome = producer.finish()
    producer.close()

    assert outcome == [Produced(0, offset) for offset in range(10, 60)]
    assert_log(world.client.read_all(topic, 60), numbered(60))


@scenario(server=("kill",))
def an_idempotent_producer_outlives_a_kill(world: World) -> None:
    """kill -9 while records are being written: all that were acknowledged are there once, in order."""
    topic = world.topic()
    producer = world.client.producer(idempotent=True, linger_ms=0)
    sent = numbered(4_000, size=200)
    producer.send(topic, *sent[:100])

    producer.begin(topic, sent[100:])
    world.system.kill()
    world.system.start()
    outcome = producer.finish()
    producer.close()

    assert outcome == [Produced(0, offset) for offset in range(100, 4_000)]
    assert_log(world.client.read_all(topic, 4_000), sent)


@scenario(server=("restart",))
def commits_outlive_a_restart(world: World) -> None:
    """A member reads on through a restart, and the commits of its group and others are there afterwards."""
    topic, group, left = world.topic(partitions=2), world.name("group"), world.name("group")
    world.client.write(topic, *numbered(10, partition=0), *numbered(10, partition=1))
    leaver = world.client.consumer(topic, group=left)
    leaver.take(20)
    leaver.commit({(topic, 0): 4, (topic, 1): 7})
    leaver.close()
    consumer = world.client.consumer(topic, group=group)
    consumer.take(20)
    consumer.commit({(topic, 0): 10, (topic, 1): 10})

    world.system.stop()
    world.system.start()
    world.client.write(topic, *numbered(3, start=10, partition=1))
    later = consumer.take(3, within_s=40)
    until(  # Kafka loads its groups after a start; some libraries show none until then
        lambda: [consumer.committed(topic, p) for p in (0, 1)] == [10, 10],
        within_s=30,
        what="the commits are there",
    )
    consumer.close()

    assert_log(later, numbered(3, start=10), start=10)
    assert world.client.group_offsets(left) == {(topic, 0): 4, (topic, 1): 7}


@scenario(server=("kill",))
def what_was_acknowledged_outlives_a_kill(world: World) -> None:
    """Topics, their configuration, their growth, deleted records and commits are all there after kill -9."""
    topic, group = world.topic(partitions=2, configs={"retention.ms": "77777777"}), world.name("group")
    world.client.write(topic, *numbered(10))
    world.client.delete_records(topic, {0: 3})
    world.client.create_partitions(topic, 4)
    world.client.write(topic, Record(value=b"grown", partition=3))
    consumer = world.client.consumer(topic, group=group)
    consumer.take(8)
    consumer.commit({(topic, 0): 6})
    consumer.close()

    world.system.kill()
    world.system.start()

    assert world.client.partition_count(topic) == 4
    assert world.client.config("topic", topic)["retention.ms"] == "77777777"
    assert world.client.group_offsets(group) == {(topic, 0): 6}
    assert world.client.offset(topic, 3, LATEST) == 1
    received = world.client.read_all(topic, 8, partitions=4)
    assert [r.offset for r in received if r.partition == 0] == [3, 4, 5, 6, 7, 8, 9]
