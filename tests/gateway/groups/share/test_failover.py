"""What share groups have settled, when nodes go: what is deleted is gone wherever its rows lie, at last."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.broker import Broker
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_key
from tests.core.support import run, until
from tests.gateway.cluster.test_not_shown import FIRST, SECOND, Pair, pair_in
from tests.gateway.cluster.test_transactions import PARTITIONS, Cluster, two_nodes

pytestmark = pytest.mark.slow

DELETE_TOPICS, DELETE_GROUPS = 20, 42


def rows(broker: Broker) -> set[PlaceKey]:
    """What the containers of a node have."""
    tables = (hosted.container.table(PARTITIONS_TABLE) for hosted in broker.store.containers.values())
    return {decode_key(key) for table in tables for key in table.entries}


async def begun(cluster: Cluster, group_id: str, topic: str) -> UUID:
    """A group has begun all partitions of a topic; its id."""
    for broker in cluster.running:
        stream = broker.topics.get(topic)
        assert stream is not None
        for number in range(PARTITIONS):
            slot = stream.slot(number)
            if broker.store.serves(slot.container_id):
                key = PlaceKey(group_id, stream.uuid, number)
                assert await broker.share.partitions.begin_at(key, slot, 0) is ErrorCode.none
    return stream.uuid


async def deleted(pair: Pair, group_id: str) -> int:
    client = await pair.at(FIRST)
    (result,) = (await client.ask(DELETE_GROUPS, 2, {"groups_names": [group_id]})).results
    return int(result.error_code)


def test_a_node_goes_before_it_has_forgotten_a_topic(tmp_path: Path) -> None:
    """The next owner of its containers deletes what it finds of that topic, and nothing else, as a start does."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as cluster:
            await cluster.use("gone")
            gone = await begun(cluster, "g", "gone")
            kept = await begun(cluster, "g", "t")
            first, second = cluster.running
            lost = {key for key in rows(first) if key.topic == gone}
            assert lost
            client, asked = await cluster.at(2), {"topic_names": ["gone"], "timeout_ms": 10_000}
            async with first.share.partitions._deletions._one_at_a_time:  # another deletion takes its time
                answer = await client.ask(DELETE_TOPICS, 5, asked)
                assert [one.error_code for one in answer.responses] == [0]
                await until(lambda: all(broker.topics.get("gone") is None for broker in cluster.running))
                await until(lambda: all(key.topic == kept for key in rows(second)))
                assert lost <= rows(first)
                await cluster.lose(1)
            await until(lambda: rows(second) == {PlaceKey("g", kept, number) for number in range(PARTITIONS)})

    run(scenario())


def test_a_group_stays_while_a_worker_does_not_answer(tmp_path: Path) -> None:
    """It may have rows of the group, with which a later group of the name would begin. The group is deleted when it
    answers again."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            first, group_id = pair.brokers[FIRST], pair.named(FIRST, "g")
            await first.share.coordinators.of(group_id).ensure(group_id)
            await begun(pair, group_id, "t")
            await pair.brokers[SECOND].stop()
            assert await deleted(pair, group_id) == ErrorCode.coordinator_not_available
            assert first.share.coordinators.find(group_id) is not None
            second = await pair.started(SECOND)
            assert rows(second)
            assert await deleted(pair, group_id) == ErrorCode.none
            assert first.share.coordinators.find(group_id) is None
            assert not rows(first) | rows(second)

    run(scenario())


def test_a_group_stays_while_a_container_is_nobodys(tmp_path: Path) -> None:
    """Nobody can tell what lies in it."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            first, group_id = pair.brokers[FIRST], pair.named(FIRST, "g")
            await first.share.coordinators.of(group_id).ensure(group_id)
            await begun(pair, group_id, "t")
            assert first.share.elsewhere.placement() is not None
            first.nodes.went(pair.brokers[SECOND].node_id)
            assert first.share.elsewhere.placement() is None
            assert await deleted(pair, group_id) == ErrorCode.coordinator_not_available
            assert first.share.coordinators.find(group_id) is not None
            assert rows(first)

    run(scenario())


def test_a_group_stays_if_a_container_moves_meanwhile(tmp_path: Path) -> None:
    """What lies in it may have been with a node that was not asked yet, and come to one that had answered."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            first, group_id = pair.brokers[FIRST], pair.named(FIRST, "g")
            await first.share.coordinators.of(group_id).ensure(group_id)
            ask = first.share.elsewhere._all_begun

            async def asked(group: str) -> object:
                answers = await ask(group)
                first.nodes.went(pair.brokers[SECOND].node_id)
                return answers

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(first.share.elsewhere, "_all_begun", asked)
                assert await deleted(pair, group_id) == ErrorCode.coordinator_not_available
            assert first.share.coordinators.find(group_id) is not None

    run(scenario())
