"""Transactions over containers of two nodes: all of one is read, or nothing, whichever node goes in the middle."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.broker import Broker
from gateway.cluster.authority import Authority
from gateway.coordination.homes import Homes
from gateway.records.record_batch import read_header
from gateway.transactions.transaction import NOBODY, Identity
from gateway.wire.message import Message
from tests.core.support import run, tries, until
from tests.gateway.cluster.test_machines import CONTAINERS, Machines, are_loading, leaders, machines_in
from tests.gateway.harness import Client, batch, produce_body, split, values

pytestmark = pytest.mark.slow

INIT_PRODUCER, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
PRODUCE, OFFSET_FETCH = 0, 9
READ_COMMITTED: Final = 1
UNSTABLE_OFFSET_COMMIT: Final = 88
AGAIN: Final = {14, 15, 16, 6, 19, 51}  # a client asks again, of whom leads then
PARTITIONS: Final = 4
NEWEST, OLDER = "newest", "older"


class Cluster:
    """Two nodes that serve two containers each, topic t, and a name of each kind whose home is a given node's."""

    def __init__(self, running: list[Broker]) -> None:
        self.running = running
        self.clients: dict[int, Client] = {}
        self.topic = "t"

    @property
    def brokers(self) -> dict[int, Broker]:
        return {broker.node_id: broker for broker in self.running}

    def owner(self, container_id: int) -> int:
        (owner,) = (node for node, broker in self.brokers.items() if broker.store.serves(container_id))
        return owner

    def named(self, node: int, prefix: str) -> str:
        """A name whose coordinator is at that node."""
        homes, names = Homes(range(CONTAINERS)), (f"{prefix}{number}" for number in itertools.count())
        return next(name for name in names if self.owner(homes.of(name)) == node)

    async def at(self, node: int) -> Client:
        if node not in self.clients:
            self.clients[node] = await Client.connect(self.brokers[node])
        return self.clients[node]

    async def leader(self, partition: int) -> Client:
        stream = self.running[0].topics.get(self.topic)
        assert stream is not None
        container_id = stream.state.container_of_slot(partition)
        assert container_id is not None
        return await self.at(self.owner(container_id))

    async def coordinator(self, name: str) -> Client:
        return await self.at(self.owner(Homes(range(CONTAINERS)).of(name)))

    async def committed(self, partition: int) -> list[bytes | None]:
        """What a reader of committed records finds, but what was aborted."""
        answer = await (await self.leader(partition)).fetch((self.topic, partition, 0), isolation_level=READ_COMMITTED)
        (found,) = answer.responses[0].partitions
        assert found.error_code == 0
        aborted = {one.producer_id for one in found.aborted_transactions or ()}
        written = [one for one in split(found.records) if not read_header(one).is_control]
        return [] if aborted else [value for one in written for _, value in values(one)]

    async def until_read(self, *expected: list[bytes | None]) -> None:
        """Until the partitions, from 0 on, show just that to a reader of committed records."""
        async for _ in tries():
            found = [await self.committed(partition) for partition in range(len(expected))]
            if found == list(expected):
                return
        raise AssertionError(f"read is {found}, and not {expected}")

    async def until_offset(self, group: str, expected: int) -> None:
        async for _ in tries():
            if (found := await self.offset(group)) == (0, expected):
                return
        raise AssertionError(f"the offset is {found}, and not {expected}")

    async def offset(self, group: str) -> tuple[int, int]:
        """Error and stable committed offset of partition 0."""
        asked = {"group_id": group, "topics": [{"name": self.topic, "partition_indexes": [0]}]}
        client = await self.coordinator(group)
        (answer,) = (await client.ask(OFFSET_FETCH, 8, {"groups": [asked], "require_stable": True})).groups
        (partition,) = answer.topics[0].partitions
        return partition.error_code, partition.committed_offset

    async def use(self, topic: str) -> None:
        """All that follows is about this topic, which is made, in containers of both nodes."""
        await (await self.at(1)).create(topic, PARTITIONS)
        for broker in self.running:
            await until(lambda broker=broker: broker.topics.get(topic) is not None)  # type: ignore[misc]
        self.topic = topic

    def led_by(self, node: int) -> int:
        """The first partition whose leader that node is."""
        stream = self.running[0].topics.get(self.topic)
        assert stream is not None
        containers = [stream.state.container_of_slot(partition) for partition in range(PARTITIONS)]
        return next(
            number
            for number, container in enumerate(containers)
            if container is not None and self.owner(container) == node
        )


class Cut(Cluster):
    """One whose nodes can be lost."""

    def __init__(self, machines: Machines) -> None:
        super().__init__(machines.brokers)
        self.machines = machines

    async def lose(self, node: int) -> None:
        """Its lease ends; the other one has all its containers when this returns."""
        self.machines.coordinator.end(self.machines.chairs[node - 1].life)
        other = self.brokers[3 - node]
        await until(lambda: len(other.store.containers) == CONTAINERS and not are_loading(other))


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[Cut]:
    async with machines_in(directory) as machines:
        first = await machines.join()
        await machines.at_rest([4])
        await (await Client.connect(first)).create("t", PARTITIONS)
        await machines.join()
        await machines.at_rest([2, 2])
        yield Cut(machines)


class Producer:
    """A transactional producer that finds its coordinators and leaders, and asks again as real ones do."""

    def __init__(self, cluster: Cluster, name: str, kind: str) -> None:
        self.cluster = cluster
        self.name = name
        self.is_newest = kind == NEWEST
        self.who: Identity = NOBODY
        self.sequences: dict[int, int] = {}

    def _identified(self, prefix: str = "") -> dict[str, Any]:
        return {
            f"{prefix}transactional_id": self.name,
            f"{prefix}producer_id": self.who.producer_id,
            f"{prefix}producer_epoch": self.who.epoch,
        }

    async def _ask(self, key: int, versions: tuple[int, int], values: Mapping[str, Any]) -> Message:
        version = versions[self.is_newest]
        async for _ in tries():
            client = await self.cluster.coordinator(self.name)
            answer = await client.ask(key, version, {**self._identified(), **values})
            if answer.error_code not in AGAIN:
                assert answer.error_code == 0
                return answer
        raise AssertionError(f"API {key} is never answered: {answer.error_code}")

    async def init(self) -> None:
        answer = await self._ask(INIT_PRODUCER, (4, 5), {"transaction_timeout": 60_000})
        self.who = Identity(answer.producer_id, answer.producer_epoch)

    async def add(self, *partitions: int) -> None:
        """What an older client says before it writes."""
        topics = [{"name": self.cluster.topic, "partitions": list(partitions)}]
        asked = {**self._identified("v3_and_below_"), "v3_and_below_topics": topics}
        client = await self.cluster.coordinator(self.name)
        answer = await client.ask(ADD_PARTITIONS, 3, asked)
        (topic,) = answer.results_by_topic_v3_and_below
        assert {one.partition_error_code for one in topic.results_by_partition} == {0}

    async def write(self, partition: int, value: bytes) -> int:
        if not self.is_newest:
            await self.add(partition)
        sequence = self.sequences.get(partition, 0)
        records = batch(
            value,
            producer_id=self.who.producer_id,
            producer_epoch=self.who.epoch,
            base_sequence=sequence,
            transactional=True,
        )
        asked = {**produce_body(self.cluster.topic, [(partition, records)]), "transactional_id": self.name}
        async for _ in tries():
            leader = await self.cluster.leader(partition)
            answer = await leader.ask(PRODUCE, 12 if self.is_newest else 11, asked)
            code: int = answer.responses[0].partition_responses[0].error_code
            if code not in AGAIN:
                self.sequences[partition] = sequence + 1
                return code
        raise AssertionError(f"never written: {code}")

    async def commit_offset(self, group: str, offset: int) -> None:
        if not self.is_newest:
            await self._ask(ADD_OFFSETS, (3, 4), {"group_id": group})
        partition = {"partition_index": 0, "committed_offset": offset, "committed_leader_epoch": -1}
        topics = [{"name": self.cluster.topic, "partitions": [partition | {"committed_metadata": ""}]}]
        asked = {"group_id": group, "generation_id": -1, "member_id": "", "topics": topics, **self._identified()}
        client = await self.cluster.coordinator(group)
        answer = await client.ask(TXN_OFFSET_COMMIT, 5 if self.is_newest else 4, asked)
        assert answer.topics[0].partitions[0].error_code == 0

    async def end(self, *, committed: bool = True) -> None:
        answer = await self._ask(END_TXN, (4, 5), {"committed": committed})
        if self.is_newest:
            self.who = Identity(answer.producer_id, answer.producer_epoch)
            self.sequences.clear()


def test_it_ends_everywhere(tmp_path: Path) -> None:
    """Partitions of both nodes, and the offsets of a group whose coordinator is at the other one: with the requests of
    the newest clients and of older ones. Nothing is visible before the end."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as cluster:
            assert set((await leaders(await cluster.at(1), "t")).values()) == {1, 2}
            for topic, (kind, committed) in enumerate(itertools.product((NEWEST, OLDER), (True, False))):
                await cluster.use(f"t{topic}")
                group = cluster.named(2, f"g{topic}-")
                producer = Producer(cluster, cluster.named(1, f"x{topic}-"), kind)
                await producer.init()
                for partition in range(PARTITIONS):
                    assert await producer.write(partition, b"%d" % partition) == 0
                await producer.commit_offset(group, 7)
                assert [await cluster.committed(partition) for partition in range(PARTITIONS)] == [[]] * PARTITIONS
                assert (await cluster.offset(group))[0] == UNSTABLE_OFFSET_COMMIT

                await producer.end(committed=committed)

                await cluster.until_read(*([b"%d" % number] if committed else [] for number in range(PARTITIONS)))
                await cluster.until_offset(group, 7 if committed else -1)
                assert await producer.write(1, b"next") == 0
                await producer.end()

    run(scenario())


def test_what_is_missing_is_tried_again(tmp_path: Path) -> None:
    """The outcome is logged, and the other node cannot be asked for a while: the producer is answered, and the rest
    follows as soon as it can, without another word of the client. If the coordinator's node goes meanwhile, only the
    log knows that it was committed: whoever has the coordinator's container next tells the others."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as cluster:
            producer, group = Producer(cluster, cluster.named(1, "x"), NEWEST), cluster.named(2, "g")
            await begun(producer, group, 7)
            with cut_off(cluster.brokers[1]):
                await producer.end()
                assert await cluster.committed(cluster.led_by(1)) == [b"a"]
                assert await cluster.committed(cluster.led_by(2)) == []
                assert (await cluster.offset(group))[0] == UNSTABLE_OFFSET_COMMIT
            await cluster.until_read(*[[b"a"]] * PARTITIONS)
            await cluster.until_offset(group, 7)

            await begun(producer, group, 8)
            with cut_off(cluster.brokers[1]):
                await producer.end()
                assert await cluster.committed(cluster.led_by(2)) == [b"a"]
                await cluster.lose(1)
            await cluster.until_read(*[[b"a", b"a"]] * PARTITIONS)
            await cluster.until_offset(group, 8)

    run(scenario())


def test_a_node_goes_before_the_outcome(tmp_path: Path) -> None:
    """The one that leads partitions and has the group: what lies in its logs stays open, and ends with the rest at the
    next owner."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as cluster:
            producer, group = Producer(cluster, cluster.named(1, "x"), OLDER), cluster.named(2, "g")
            await begun(producer, group, 7)
            await cluster.lose(2)
            await producer.end()
            await cluster.until_read(*[[b"a"]] * PARTITIONS)
            await cluster.until_offset(group, 7)

    run(scenario())


async def begun(producer: Producer, group: str, offset: int) -> None:
    """A transaction with a record in each partition, and an offset of a group."""
    if producer.who == NOBODY:
        await producer.init()
    for partition in range(PARTITIONS):
        assert await producer.write(partition, b"a") == 0
    await producer.commit_offset(group, offset)


@contextmanager
def cut_off(broker: Broker) -> Iterator[None]:
    """It cannot ask others: no node knows the authority of its certificate."""
    peers, known = broker.standing.peers, broker.standing.peers._tls
    peers._tls = Authority.make().node(broker.node_id)
    for peer in peers._peers.values():
        peers._close(peer)
    peers._peers.clear()
    yield
    peers._tls = known
    peers._peers.clear()
