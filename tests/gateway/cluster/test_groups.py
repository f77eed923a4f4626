"""Groups of every kind move with their containers: a consumer, a share and a streams group at the next broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from gateway.wire.message import Message
from tests.core.support import run, until
from tests.gateway.cluster.test_machines import CONTAINERS, are_loading, machines_in
from tests.gateway.groups.streams.test_apis import heartbeat, subtopology
from tests.gateway.harness import Client, batch

pytestmark = pytest.mark.slow

CONSUMER_HEARTBEAT, SHARE_HEARTBEAT, SHARE_FETCH, SHARE_ACKNOWLEDGE, STREAMS_HEARTBEAT = 68, 76, 78, 79, 88
ACCEPT: Final = 1
TOPOLOGY: Final = {"epoch": 0, "subtopologies": [subtopology("0", source_topics=["t"])]}
BOTH: Final = [0, 1]


async def consumes(client: Client, epoch: int, topic: UUID, group: str = "consumers") -> Message:
    """A whole heartbeat of a consumer group's member, which is told all in turn."""
    owned = [{"topic_id": topic, "partitions": BOTH}] if epoch else []
    said = {"rebalance_timeout": 60_000, "subscribed_topic_names": ["t"], "topic_partitions": owned}
    asked = {"group_id": group, "member_id": "m", "member_epoch": epoch, **said}
    return await client.ask(CONSUMER_HEARTBEAT, 1, asked)


async def streams(client: Client, epoch: int) -> Message:
    """Likewise, of a streams group's."""
    said: dict[str, Any] = {"topology": TOPOLOGY}
    if epoch:
        owned = [{"subtopology_id": "0", "partitions": BOTH}]
        said = {"rebalance_timeout": 60_000, "active_tasks": owned, "standby_tasks": [], "warmup_tasks": []}
    return await client.ask(STREAMS_HEARTBEAT, 0, heartbeat(epoch, group_id="streams", **said))


async def shares(client: Client, epoch: int) -> Message:
    asked = {"group_id": "sharers", "member_id": "m", "member_epoch": epoch, "subscribed_topic_names": ["t"]}
    return await client.ask(SHARE_HEARTBEAT, 1, asked)


async def lent(client: Client, epoch: int, topic: UUID) -> list[tuple[int, int, int]]:
    """What a member of the share group gets."""
    limits = {"max_wait": 500, "min_bytes": 1, "max_bytes": 1_000_000, "max_records": 100, "batch_size": 100}
    place = {"topic_id": topic, "partitions": [{"partition_index": 0, "acknowledgement_batches": []}]}
    asked = {"group_id": "sharers", "member_id": "m", "share_session_epoch": epoch, "topics": [place], **limits}
    answer = await client.ask(SHARE_FETCH, 1, {**asked, "forgotten_topics_data": []})
    assert answer.error_code == ErrorCode.none
    told = [partition for one in answer.responses for partition in one.partitions]
    assert [partition.error_code for partition in told] == [ErrorCode.none] * len(told)
    return [(r.first_offset, r.last_offset, r.delivery_count) for one in told for r in one.acquired_records]


async def accept(client: Client, epoch: int, topic: UUID, first: int, last: int) -> None:
    said = [{"first_offset": first, "last_offset": last, "acknowledge_types": [ACCEPT]}]
    place = {"topic_id": topic, "partitions": [{"partition_index": 0, "acknowledgement_batches": said}]}
    asked = {"group_id": "sharers", "member_id": "m", "share_session_epoch": epoch, "topics": [place]}
    answer = await client.ask(SHARE_ACKNOWLEDGE, 1, asked)
    assert [partition.error_code for one in answer.responses for partition in one.partitions] == [ErrorCode.none]


def test_groups_go_on_at_the_heir(tmp_path: Path) -> None:
    """Members of consumer and streams groups keep their epochs and what they have; what a share group has accepted does
    not come again, and all else does."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([CONTAINERS])
            client = await Client.connect(first)
            await client.create("t", len(BOTH))
            stream = first.topics.get("t")
            assert stream is not None
            topic = stream.uuid
            consumer, streaming = await consumes(client, 0, topic), await streams(client, 0)
            assert [part.partitions for part in consumer.assignment.topic_partitions] == [BOTH]
            assert [part.partitions for part in streaming.active_tasks] == [BOTH]
            assert (await shares(client, 0)).error_code == ErrorCode.none
            assert await lent(client, 0, topic) == []
            for number in range(4):
                assert (await client.produce("t", batch(b"%d" % number))).error_code == 0
            assert await lent(client, 1, topic) == [(0, 3, 1)]
            await accept(client, 2, topic, 0, 1)

            second = await machines.join()
            assert first.standing._membership is not None
            await first.standing._membership.drain(20)
            await until(lambda: len(second.store.containers) == CONTAINERS and not are_loading(second))
            refused = [
                await consumes(client, consumer.member_epoch, topic),
                await streams(client, streaming.member_epoch),
                await shares(client, 1),
            ]
            assert [answer.error_code for answer in refused] == [ErrorCode.not_coordinator] * 3

            other = await Client.connect(second)
            again = await consumes(other, consumer.member_epoch, topic)
            assert (again.error_code, again.member_epoch) == (ErrorCode.none, consumer.member_epoch)
            assert [part.partitions for part in again.assignment.topic_partitions] == [BOTH]
            told = await streams(other, streaming.member_epoch)
            assert (told.error_code, told.member_epoch) == (ErrorCode.none, streaming.member_epoch)
            assert [part.partitions for part in told.active_tasks] == [BOTH]
            assert (await shares(other, 1)).error_code == ErrorCode.unknown_member_id
            assert (await shares(other, 0)).error_code == ErrorCode.none
            assert await lent(other, 0, topic) == [(2, 3, 1)]

    run(scenario())
