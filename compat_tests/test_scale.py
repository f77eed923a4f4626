"""Many of something: a thousand partitions in one topic, a thousand connections at once."""

from __future__ import annotations

import psutil
import pytest

from compat_tests.harness.client import CLIENTS, LATEST
from compat_tests.harness.records import Record
from compat_tests.scenarios import World

PARTITIONS = 1_000
CONNECTIONS = 1_000


@pytest.mark.parametrize("client_name", CLIENTS)
def test_a_thousand_partitions(world: World) -> None:
    """A topic of 1,000 partitions: made, written to each, found by offsets, read as one group."""
    client, group = world.client, world.name("group")
    topic = world.topic(PARTITIONS)
    sent = [Record(value=b"%d" % p, partition=p) for p in range(PARTITIONS)]

    # Kafka takes a while to lead that many, and kafkajs sends all again meanwhile: hence idempotent.
    outcome = client.write(topic, *sent, idempotent=True)
    consumer = client.consumer(topic, group=group)
    received = consumer.take(PARTITIONS, within_s=60)
    consumer.commit()
    held = consumer.assignment()
    consumer.close()

    assert [(o.partition, o.offset) for o in outcome] == [(p, 0) for p in range(PARTITIONS)]
    assert sorted((r.partition, r.offset, r.value) for r in received) == [(p, 0, b"%d" % p) for p in range(PARTITIONS)]
    assert len(held) == PARTITIONS
    assert client.group_offsets(group) == {(topic, p): 1 for p in range(PARTITIONS)}
    assert client.offset(topic, PARTITIONS - 1, LATEST) == 1


@pytest.mark.parametrize("client_name", ["aiokafka"])
def test_a_thousand_connections(world: World) -> None:
    """1,000 producers at once, each on connections of its own, each heard, and none in the others' way."""
    client = world.client
    topic = world.topic()

    handle = client.agent.call("open_many", within_s=100, count=CONNECTIONS)
    offsets = client.agent.call("send_by_each", handle=handle, topic=topic)
    # An address given from outside has no process of ours to look into.
    if world.system.name != "running":
        connections = psutil.Process(world.system.pid).net_connections(kind="tcp")
        established = [c for c in connections if c.status == psutil.CONN_ESTABLISHED]
        assert len(established) >= CONNECTIONS
    received = client.read_all(topic, CONNECTIONS)
    client.agent.call("close_many", handle=handle)

    assert sorted(offsets) == list(range(CONNECTIONS))
    by_offset = {record.offset: record.value for record in received}
    assert [by_offset[offset] for offset in offsets] == [b"%d" % n for n in range(CONNECTIONS)]
