"""Transactions outlive the server's process: open ones go on, ended ones stay what they are."""

from __future__ import annotations

from compat_tests.harness.records import Record, Stored
from compat_tests.harness.waiting import until
from compat_tests.scenarios import World, numbered, scenario, values
from compat_tests.scenarios.transactions import END, in_transaction, read_to_the_end


@scenario(server=("restart",))
def a_transaction_outlives_a_restart(world: World) -> None:
    """Begun before a restart, continued and committed after it: all of it is read; and an abort stays one."""
    topic = world.topic(partitions=2)
    producer = world.client.transactional(world.name("id"))
    in_transaction(producer, topic, *numbered(3), *numbered(3, partition=1), commit=False)
    in_transaction(producer, topic, *numbered(3, start=3))
    producer.begin_transaction()
    producer.send(topic, *numbered(3, start=6))

    world.system.stop()
    world.system.start()
    producer.send(topic, *numbered(3, start=9), *numbered(3, start=9, partition=1))
    producer.commit_transaction()
    producer.close()

    assert by_partition(read_to_the_end(world, topic, 2)) == [
        [b"%d" % n for n in range(3, 12)],
        [b"%d" % n for n in range(9, 12)],
    ]


@scenario(server=("kill",))
def a_transaction_outlives_a_kill(world: World) -> None:
    """kill -9 inside a transaction: it goes on and commits; the offsets in it move with it."""
    source, target, group = world.topic(), world.topic(partitions=2), world.name("group")
    world.client.write(source, *numbered(10))
    consumer = world.client.consumer(source, group=group)
    consumer.take(10)
    producer = world.client.transactional(world.name("id"))
    in_transaction(producer, target, *numbered(3), commit=False)
    producer.begin_transaction()
    producer.send(target, *numbered(3, start=3))
    producer.send_offsets(consumer.member(), {(source, 0): 6})

    world.system.kill()
    world.system.start()
    held = world.client.group_offsets(group)
    producer.send(target, *numbered(3, start=6, partition=1))
    producer.commit_transaction()
    producer.close()
    consumer.close()

    assert held == {}
    until(lambda: world.client.group_offsets(group) == {(source, 0): 6}, within_s=30, what="the offset is committed")
    assert by_partition(read_to_the_end(world, target, 2)) == [[b"3", b"4", b"5"], [b"6", b"7", b"8"]]


@scenario(server=("kill",))
def a_zombie_stays_fenced_after_a_kill(world: World) -> None:
    """The epoch that fences a producer is as durable as what it keeps out."""
    topic, identity = world.topic(), world.name("id")
    zombie = world.client.transactional(identity)
    zombie.begin_transaction()
    zombie.send(topic, Record(value=b"open", partition=0))
    successor = world.fellow(1).transactional(identity)
    successor.begin_transaction()
    successor.send(topic, Record(value=b"second", partition=0))

    world.system.kill()
    world.system.start()
    successor.commit_transaction()
    outcome = zombie.try_send(topic, [Record(value=b"too late", partition=0)])
    successor.close()

    assert [type(one).__name__ for one in outcome] == ["Refused"]
    assert values(read_to_the_end(world, topic)) == [b"second"]


def by_partition(received: list[Stored]) -> list[list[bytes | None]]:
    return [[r.value for r in received if r.partition == p and r.value != END] for p in (0, 1)]
