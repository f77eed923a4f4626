"""Two brokers over one object store: clients see who leads what, and lose nothing when a node goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from core.cluster.coordination import Stage
from core.cluster.levels import Feature
from core.cluster.sqlite_registry import SqliteRegistry
from gateway.broker import Broker
from gateway.cluster.authority import Authority
from gateway.cluster.seat import Seat
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.coordination.homes import Homes
from gateway.data_directory import DataDirectory
from gateway.disks import wanted_of
from gateway.dispatch.context import RequestContext
from gateway.groups.persistence import NO_TOPIC_ID, OFFSETS_TABLE, CommittedOffset, decode_offset
from gateway.internal_topics.partitions import Partitions
from gateway.network.binding import bind_all
from gateway.topics.topics import CONSUMER_OFFSETS
from gateway.wire.message import Message
from tests.core.cluster.coordinator import Coordinator
from tests.core.cluster.coordinator import Seat as Chair
from tests.core.support import run, until
from tests.gateway.harness import SETTINGS, Client, batch, values

pytestmark = pytest.mark.slow

CONTAINERS: Final = 4
OFFSET_COMMIT, OFFSET_FETCH, DELETE_TOPICS = 8, 9, 20
GROUPS_PARTITION: Final = Partitions(Homes(range(CONTAINERS)), 50).of("g")
METADATA, FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, DESCRIBE_QUORUM = 3, 10, 11, 12, 55
DESCRIBE_CLUSTER, UNREGISTER = 60, 64
NOT_LEADER, NOT_COORDINATOR, POLICY_VIOLATION, NOT_REGISTERED = 6, 16, 44, 102


class Machines:
    """Brokers, each with a data directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.coordinator = Coordinator(range(CONTAINERS))
        self.authority = Authority.make()
        self.brokers: list[Broker] = []
        self.chairs: list[Chair] = []
        self._data: list[DataDirectory] = []

    async def join(self) -> Broker:
        number = len(self.brokers) + 1
        home = self.directory / f"machine-{number}"
        config = load(
            environ={},
            assignments=[
                *SETTINGS,
                f"data.dir={home}",
                f"node.id={number}",
                "cluster.listen=127.0.0.1:0",
                "transaction.abort.timed.out.transaction.cleanup.interval.ms=3600000",  # no look helps out
                "group.streams.initial.rebalance.delay.ms=0",
                "log.store=object",
                f"tier2=file:{self.directory / 'bucket'}",
            ],
        )
        data = DataDirectory.acquire(home, "0.1.0", wanted_of(config))
        chair = Chair(self.coordinator, number)
        registry = await SqliteRegistry.open(self.directory / "registry")
        seat = Seat(
            registry=registry,
            coordination=chair,
            cluster_id=data.cluster_id,
            leave=registry.close,
            authority=self.authority,
            forget=chair.forget,
        )
        broker = Broker(config, data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None, seat=seat)
        await broker.open_long_term()
        await broker.start()
        self.brokers.append(broker)
        self.chairs.append(chair)
        self._data.append(data)
        return broker

    async def at_rest(self, shares: list[int]) -> None:
        """Until each broker serves as many containers as its share, and what lies in them, and all know of it."""
        serving = [broker for broker, share in zip(self.brokers, shares, strict=True) if share]
        await until(lambda: [len(one.store.containers) for one in self.brokers] == shares)
        await until(lambda: {owner.stage for owner in self.coordinator.owners.values()} == {Stage.SERVING})
        await until(lambda: not any(are_loading(one) for one in serving))
        await until(lambda: all(len(one.nodes.others) == len(serving) - 1 for one in serving))
        await until(lambda: all(self._knows_leaders(one) for one in serving))

    def _knows_leaders(self, broker: Broker) -> bool:
        """Whether clients that ask it hear for each container of the node that serves it."""
        owners = {container: one.node_id for one in self.brokers for container in one.store.containers}
        return all(broker.nodes.leader(container) == owners.get(container) for container in range(CONTAINERS))

    async def stop(self) -> None:
        for broker, chair, data in zip(self.brokers, self.chairs, self._data, strict=True):
            self.coordinator.lives = {chair.node: self.coordinator.lives.get(chair.node, chair._life)}
            if broker.phase == "serving":
                await broker.stop()
            data.release()


def are_loading(broker: Broker) -> bool:
    """Whether groups or transactions of a container that it has are not served yet."""
    return any(kind.are_loading for kind in (broker.groups, broker.share.coordinators, broker.transactions))


@asynccontextmanager
async def machines_in(directory: Path) -> AsyncIterator[Machines]:
    """Containers change hands at once, and not one a second."""
    machines = Machines(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.cluster.balancing.FILL_APART_S", 0.0)
        try:
            yield machines
        finally:
            await machines.stop()


async def metadata(client: Client, topic: str) -> Message:
    asked = {"topics": [{"name": topic, "topic_id": None}], "allow_auto_topic_creation": False}
    return await client.ask(METADATA, 12, asked)


async def leaders(client: Client, topic: str) -> dict[int, int]:
    answer = await metadata(client, topic)
    return {p.partition_index: p.leader_id for p in answer.topics[0].partitions}


def test_any_node_names_the_owners_and_the_joining_one_is_filled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([4])
            client = await Client.connect(first)
            await client.create("t", 8)
            for partition in range(8):
                assert (await client.produce("t", batch(b"%d" % partition), partition=partition)).error_code == 0
            second = await machines.join()
            await machines.at_rest([2, 2])
            other = await Client.connect(second)
            told = await leaders(client, "t")
            assert sorted(told.values()) == [1] * 4 + [2] * 4
            assert await leaders(other, "t") == told
            quorum = {"topics": [{"topic_name": "__cluster_metadata", "partitions": [{"partition_index": 0}]}]}
            assert (await other.ask(DESCRIBE_QUORUM, 2, quorum)).topics[0].partitions[0].error_code == 0
            assert sorted(broker.node_id for broker in (await metadata(other, "t")).brokers) == [1, 2]
            for partition, node in told.items():
                here, there = (client, other) if node == 1 else (other, client)
                assert (await there.produce("t", batch(b"x"), partition=partition)).error_code == NOT_LEADER
                assert (await here.produce("t", batch(b"y"), partition=partition)).error_code == 0
                assert [value for _, value in await records(here, partition)] == [b"%d" % partition, b"y"]

    run(scenario())


async def records(client: Client, partition: int) -> list[tuple[int, bytes | None]]:
    """All of a partition: an answer ends where one source of records does."""
    found: list[tuple[int, bytes | None]] = []
    while True:
        answer = await client.fetch(("t", partition, len(found)))
        (one,) = answer.responses[0].partitions
        assert one.error_code == 0
        found += values(one.records)
        if len(found) == one.high_watermark:
            return found


def test_a_node_that_lost_its_lease_answers_nothing_and_the_other_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting fetches and members of groups are told to look for the new owner; offsets and records are there. No
    storage has failed, so nothing is logged that an operator should mend."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([4])
            client, waiting = await Client.connect(first), await Client.connect(first)
            await client.create("t", 4)
            for partition in range(4):
                assert (await client.produce("t", batch(b"a"), partition=partition)).error_code == 0
            member = await joined(client)
            second = await machines.join()
            await machines.at_rest([2, 2])
            told = await leaders(client, "t")
            kept = next(partition for partition, node in told.items() if node == 1)
            fetching = asyncio.create_task(waiting.fetch(("t", kept, 1), max_wait=20_000))
            await asyncio.sleep(0.1)
            machines.coordinator.end(machines.chairs[0].life)
            (answer,) = (await fetching).responses[0].partitions
            assert answer.error_code == NOT_LEADER
            assert (await client.produce("t", batch(b"x"), partition=kept)).error_code == NOT_LEADER
            assert (await heartbeat(client, member)).error_code == NOT_COORDINATOR
            await until(lambda: len(second.store.containers) == CONTAINERS)
            other = await Client.connect(second)
            await until(lambda: not second.groups.are_loading)
            assert set((await leaders(other, "t")).values()) == {2}
            found = await other.ask(FIND_COORDINATOR, 2, {"key": "g", "key_type": 0})
            assert (found.error_code, found.node_id) == (0, 2)
            assert (await heartbeat(other, member)).error_code == 0
            for partition in range(4):
                assert await records(other, partition) == [(0, b"a")]

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    ended = [record for record in caplog.records if record.message.startswith("a coordinator ends")]
    assert {"our claim, epoch" in record.reason for record in ended} == {True}  # type: ignore[attr-defined]


async def brokers(client: Client, *, fenced: bool) -> list[tuple[int, bool]]:
    """The ids that DescribeCluster tells, and whether they are fenced."""
    asked = {"include_cluster_authorized_operations": False, "endpoint_type": 1, "include_fenced_brokers": fenced}
    return [(one.broker_id, one.is_fenced) for one in (await client.ask(DESCRIBE_CLUSTER, 2, asked)).brokers]


def test_a_broker_that_has_gone_is_fenced_until_it_is_unregistered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's request has the cluster forget it, and the audit log hears of that. One that runs, or is not known, is
    left as it is."""
    heard: list[tuple[str, Any]] = []
    monkeypatch.setattr(RequestContext, "tell", lambda self, event, **facts: heard.append((event, facts)))

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            client = await Client.connect(await machines.join())
            await machines.at_rest([4])
            life = machines.coordinator.begin(2)
            for broker, code in ((2, POLICY_VIOLATION), (1, POLICY_VIOLATION), (3, NOT_REGISTERED)):
                assert (await client.ask(UNREGISTER, 0, {"broker_id": broker})).error_code == code
            (name,) = machines.coordinator.said[1]["listeners"]
            told = {"listeners": {name: ["gone.example", 9092]}, "containers": {}, "inner": ""}
            machines.coordinator.said[2] = told
            machines.coordinator.end(life.life)
            assert machines.coordinator.members.keys() == {2}
            assert await brokers(client, fenced=True) == [(1, False), (2, True)]
            assert await brokers(client, fenced=False) == [(1, False)]
            for code in (0, NOT_REGISTERED):
                assert (await client.ask(UNREGISTER, 0, {"broker_id": 2})).error_code == code
            assert not machines.coordinator.members
            assert await brokers(client, fenced=True) == [(1, False)]
            assert heard == [("broker forgotten", {"broker": 2})]

    run(scenario())


async def joined(client: Client) -> tuple[str, int]:
    asked: dict[str, Any] = {
        "group_id": "g",
        "session_timeout": 30_000,
        "rebalance_timeout": 30_000,
        "member_id": "",
        "protocol_type": "consumer",
        "protocols": [{"name": "p", "metadata": b""}],
    }
    answer = await client.ask(JOIN_GROUP, 3, asked)
    assert answer.error_code == 0
    assignments = [{"member_id": answer.member_id, "assignment": b"all"}]
    synced = {
        "group_id": "g",
        "generation_id": answer.generation_id,
        "member_id": answer.member_id,
        "assignments": assignments,
    }
    assert (await client.ask(14, 2, synced)).error_code == 0
    return answer.member_id, answer.generation_id


async def heartbeat(client: Client, member: tuple[str, int]) -> Message:
    asked = {"group_id": "g", "generation_id": member[1], "member_id": member[0]}
    return await client.ask(HEARTBEAT, 2, asked)


def test_a_node_that_does_not_know_that_it_was_replaced_says_nothing_of_offsets(tmp_path: Path) -> None:
    """It slept, and has closed nothing yet. What it knew ends before what its successor has acknowledged: a consumer
    that hears of an offset out of range, or of a log that was cut, would begin anew."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([4])
            client = await Client.connect(first)
            await client.create("t", 1)
            await machines.join()
            await machines.at_rest([2, 2])
            leader = (await leaders(client, "t"))[0] - 1
            sleeper, chair = machines.brokers[leader], machines.chairs[leader]
            late, next_one = await Client.connect(sleeper), await Client.connect(machines.brokers[1 - leader])
            membership = sleeper.standing._membership
            assert membership is not None
            assert membership._looking is not None
            membership._looking.cancel()
            chair.is_asleep = True
            machines.coordinator.end(chair.life)
            await until(lambda: len(machines.brokers[1 - leader].store.containers) == CONTAINERS)
            for _ in range(3):
                assert (await next_one.produce("t", batch(b"a"))).error_code == 0

            assert len(sleeper.store.containers) == CONTAINERS // 2
            assert [await answered(late, *asked) for asked in ABOUT_OFFSETS] == [NOT_LEADER] * len(ABOUT_OFFSETS)
            assert (await late.fetch(("t", 0, 3))).responses[0].partitions[0].error_code == NOT_LEADER
            chair.is_asleep = False
            membership._looking = asyncio.create_task(membership._look_for_ever())

    run(scenario())


ABOUT_OFFSETS: Final[list[tuple[int, int, dict[str, Any]]]] = [
    (2, 4, {"name": "t", "partitions": [{"partition_index": 0, "current_leader_epoch": -1, "timestamp": -1}]}),
    (21, 0, {"name": "t", "partitions": [{"partition_index": 0, "offset": 3}]}),
    (23, 2, {"topic": "t", "partitions": [{"partition": 0, "current_leader_epoch": -1, "leader_epoch": 0}]}),
    (61, 0, {"name": "t", "partition_indexes": [0]}),
]
"""ListOffsets, DeleteRecords, OffsetForLeaderEpoch, DescribeProducers: key, version, topic."""


async def answered(client: Client, key: int, version: int, topic: dict[str, Any]) -> int:
    """The error code that the partition gets."""
    rest = {2: {"replica_id": -1, "isolation_level": 0}, 21: {"timeout": 1_000}}.get(key, {})
    (found,) = (await client.ask(key, version, {"topics": [topic], **rest})).topics
    return found.partitions[0].error_code  # type: ignore[no-any-return]


def test_internal_topics_follow_a_container_that_goes_and_comes_again(tmp_path: Path) -> None:
    """Each owner tells the newest offsets of the group, behind all that an earlier one has told, and each change."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([4])
            client = await Client.connect(first)
            await client.create("t", 1)
            await committed(client, 1)
            told = await internal(client)
            second = await machines.join()
            await machines.at_rest([2, 2])
            other = await Client.connect(second)
            for broker in (first, second):
                await broker.standing.balance.stop()  # type: ignore[union-attr]
            here, there = (0, 1) if first.groups.is_here("g") else (1, 0)
            assert (await fetched_internal((client, other)[there])).error_code == NOT_LEADER

            for owner, left, newest in ((there, here, 2), (here, there, 3)):
                asking = (client, other)[owner]
                waiting = asyncio.create_task(fetched_internal((client, other)[left], told[-1][0] + 1, max_wait=20_000))
                await asyncio.sleep(0.1)
                machines.coordinator.end(machines.chairs[left].life)
                assert (await waiting).error_code == NOT_LEADER
                await until(lambda owner=owner: len(machines.brokers[owner].store.containers) == CONTAINERS)  # type: ignore[misc]
                await until(lambda owner=owner: not machines.brokers[owner].groups.are_loading)  # type: ignore[misc]
                await committed(asking, newest)
                again = await internal(asking)
                assert again[0][0] > told[-1][0]
                assert len(again) == 1
                await committed(asking, newest + 10)
                changes = await internal(asking, again[-1][0] + 1)
                assert len(changes) == 1
                told = again + changes
                machines.chairs[left].begin_anew()

    run(scenario())


async def committed(client: Client, offset: int) -> None:
    partitions = [{"partition_index": 0, "committed_offset": offset}]
    topics = [{"name": "t", "partitions": partitions}]
    asked = {"group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "topics": topics}
    assert (await client.ask(OFFSET_COMMIT, 5, asked)).topics[0].partitions[0].error_code == 0


async def fetched_internal(client: Client, offset: int = 0, **options: Any) -> Message:
    answer = await client.fetch((CONSUMER_OFFSETS, GROUPS_PARTITION, offset), **options)
    return answer.responses[0].partitions[0]  # type: ignore[no-any-return]


async def internal(client: Client, offset: int = 0) -> list[tuple[int, bytes | None]]:
    """What is told from an offset on of the partition that has group g."""
    answer = await fetched_internal(client, offset)
    assert answer.error_code == 0
    return values(answer.records)


def test_a_node_that_stops_hands_its_containers_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([4])
            client = await Client.connect(first)
            await client.create("t", 4)
            second = await machines.join()
            await machines.at_rest([2, 2])
            other = await Client.connect(second)
            for partition, node in (await leaders(client, "t")).items():
                owner = client if node == 1 else other
                assert (await owner.produce("t", batch(b"a"), partition=partition)).error_code == 0
            await first.stop()
            await until(lambda: len(second.store.containers) == CONTAINERS)
            for partition in range(4):
                assert await records(other, partition) == [(0, b"a")]

    run(scenario())


async def fetched_offset(client: Client) -> int:
    topics = [{"name": "t", "partition_indexes": [0]}]
    answer = await client.ask(OFFSET_FETCH, 5, {"group_id": "g", "topics": topics})
    assert answer.error_code == 0
    return answer.topics[0].partitions[0].committed_offset  # type: ignore[no-any-return]


def stored_offsets(broker: Broker) -> list[CommittedOffset]:
    containers = [hosted.container for hosted in broker.store.containers.values()]
    return [decode_offset(value) for one in containers for _, value in one.table(OFFSETS_TABLE).items()]


def test_offsets_name_their_topic_once_all_nodes_can_read_that(tmp_path: Path) -> None:
    """Until the upgrade is finished they are stored as older nodes store them, and both are read."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            machines.coordinator.level = Feature.STREAM_IDS - 1
            first = await machines.join()
            await machines.at_rest([4])
            client = await Client.connect(first)
            await client.create("t", 1)
            await committed(client, 5)
            assert [(one.offset, one.topic_id) for one in stored_offsets(first)] == [(5, NO_TOPIC_ID)]
            machines.coordinator.level = Feature.STREAM_IDS
            assert await fetched_offset(client) == 5
            await committed(client, 6)
            stream = first.topics.get("t")
            assert stream is not None
            assert [(one.offset, one.topic_id) for one in stored_offsets(first)] == [(6, stream.uuid.bytes)]
            assert await fetched_offset(client) == 6

    run(scenario())


def test_another_node_makes_a_topic_anew(tmp_path: Path) -> None:
    """The node that keeps a group's offsets tells none of the old topic once it knows of the new one, and keeps what is
    committed to that."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            brokers = [await machines.join() for _ in range(2)]
            await machines.at_rest([2, 2])
            (keeper,) = (one for one in brokers if one.groups.is_here("g"))
            (other,) = (one for one in brokers if one is not keeper)
            asking, changing = await Client.connect(keeper), await Client.connect(other)
            await changing.create("t", 1)
            await until(lambda: keeper.topics.get("t"))
            await committed(asking, 5)
            old = other.topics.get("t")
            assert old is not None
            deleted = await changing.ask(DELETE_TOPICS, 5, {"topic_names": ["t"], "timeout": 10_000})
            assert deleted.responses[0].error_code == 0
            await changing.create("t", 1)
            new = other.topics.get("t")
            assert new is not None
            await until(lambda: keeper.topics.get("t") is not None and keeper.topics.by_uuid(old.uuid) is None)
            assert await fetched_offset(asking) == -1
            await committed(asking, 6)
            await keeper.groups.of("g").offsets.finish()
            assert await fetched_offset(asking) == 6
            assert [(one.offset, one.topic_id) for one in stored_offsets(keeper)] == [(6, new.uuid.bytes)]

    run(scenario())
