"""What nodes of two machines ask of one another about groups: how far they have come, and how far behind they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.support import run
from tests.gateway.cluster.test_transactions import PARTITIONS, two_nodes
from tests.gateway.harness import batch

pytestmark = pytest.mark.slow

OFFSET_COMMIT = 8


def test_groups_of_the_other_node_count(tmp_path: Path) -> None:
    """Retention waits for them, and a group's lag has the partitions of both nodes."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as cluster:
            groups = [cluster.named(node, "g") for node in (1, 2)]
            for partition in range(PARTITIONS):
                for _ in range(3):
                    leader = await cluster.leader(partition)
                    assert (await leader.produce("t", batch(b"a"), partition=partition)).error_code == 0
            for group, offset in zip(groups, (1, 2), strict=True):
                partitions = [{"partition_index": each, "committed_offset": offset} for each in range(PARTITIONS)]
                topics = [{"name": "t", "partitions": partitions}]
                asked = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "topics": topics}
                answer = await (await cluster.coordinator(group)).ask(OFFSET_COMMIT, 5, asked)
                assert {one.error_code for one in answer.topics[0].partitions} == {0}

            for broker in cluster.brokers.values():
                stream = broker.topics.get("t")
                assert stream is not None
                slots = [stream.slot(partition) for partition in range(PARTITIONS)]
                assert await broker._consumed(slots, groups) == [1] * PARTITIONS
                assert await broker._consumed(slots, groups[1:]) == [2] * PARTITIONS
                assert await broker._consumed(slots, [*groups, "another"]) == [None] * PARTITIONS
                (lag,) = await broker._observers._tell().lags.refresh()
                own = groups[broker.node_id - 1]
                assert (lag.name, lag.lag) == (own, PARTITIONS * (2 if own == groups[0] else 1))

    run(scenario())
