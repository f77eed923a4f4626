"""Transactions whose topics a node does not show, or shows too late: they end in each partition that is not gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from core.container.container import Container
from core.errors import StorageFull
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.state import StreamState
from gateway.broker import Broker
from gateway.transactions import remote
from gateway.transactions.places import Place
from gateway.transactions.transaction import Transaction, TransactionState
from gateway.transactions.whereabouts import topics_of
from tests.core.support import run, tries, until
from tests.gateway.cluster.test_transactions import NEWEST, OLDER, PARTITIONS, Cluster, Producer
from tests.gateway.cluster.workers import Workers, workers_in

pytestmark = pytest.mark.slow

DELETE_TOPICS: Final = 20
FIRST, SECOND = 1, 2


class Pair(Cluster):
    """Two workers, of which the second may stop and start again."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(list(workers.brokers))
        self.workers = workers

    async def restart(self, node: int) -> Broker:
        await self.brokers[node].stop()
        return await self.started(node)

    async def started(self, node: int) -> Broker:
        """One that has stopped serves again."""
        self.clients.pop(node, None)
        broker = await self.workers.start(node - 1)
        self.running = list(self.workers.brokers)
        await self.workers.meet()
        return broker

    async def delete(self, node: int, topic: str) -> None:
        client = await self.at(node)
        answer = await client.ask(DELETE_TOPICS, 5, {"topic_names": [topic], "timeout_ms": 10_000})
        assert [one.error_code for one in answer.responses] == [0]

    def stream(self, node: int) -> Stream:
        stream = self.brokers[node].topics.get(self.topic)
        assert stream is not None
        return stream

    def slot(self, node: int, stream_id: int, partition: int) -> Slot:
        """A partition of a container that a node has, whether or not its topic is shown."""
        stream = self.brokers[node].store.stream_of(stream_id)
        assert stream is not None
        slot = stream.known_slot(partition)
        assert slot is not None
        assert not slot.is_elsewhere
        return slot

    def transaction(self, producer: Producer) -> Transaction:
        """Of a producer whose coordinator is the first worker's."""
        known = self.brokers[FIRST].transactions.of(producer.name).get(producer.name)
        assert known is not None
        return known


@asynccontextmanager
async def pair_in(directory: Path) -> AsyncIterator[Pair]:
    async with workers_in(directory) as workers:
        pair = Pair(workers)
        await pair.use("t")
        yield pair


@contextmanager
def full(*container_ids: int) -> Iterator[None]:
    """No log of these containers has room for what is decided about a topic."""
    change = Container.change_stream

    async def refused(container: Container, stream: Stream, state: StreamState) -> None:
        if container.id in container_ids:
            raise StorageFull("no room")
        await change(container, stream, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Container, "change_stream", refused)
        patch.setattr("core.cluster.shares.RETRY_S", 0.1)
        yield


async def configured(pair: Pair) -> None:
    """Something is decided about the topic, which each container that has a part of it is to know."""
    stream = pair.stream(FIRST)
    await pair.brokers[FIRST].store.update_stream(stream, config={**stream.config, "retention.ms": "77777777"})
    seen = pair.brokers[SECOND].store.stream_of(stream.id)
    assert seen is not None
    await until(lambda: seen.logged.revision == stream.state.revision)


async def until_shown(pair: Pair) -> None:
    await until(lambda: pair.brokers[SECOND].topics.get("t") is not None)


async def until_read(pair: Pair, partition: int, *expected: bytes) -> None:
    async for _ in tries():
        if (found := await pair.committed(partition)) == list(expected):
            return
    raise AssertionError(f"read is {found}")


@asynccontextmanager
async def held_back(pair: Pair, node: int) -> AsyncIterator[None]:
    """A worker hears nothing of what is decided meanwhile."""
    following = pair.brokers[node].store._following
    assert following is not None
    async with following._one_at_a_time:
        yield


async def made_again(pair: Pair, node: int, old: Stream) -> None:
    """Another topic has the name when this returns, as that node knows."""
    await pair.delete(node, old.name)
    await (await pair.at(node)).create(old.name, PARTITIONS)
    assert pair.stream(node).uuid != old.uuid


@contextmanager
def led_by_the_second(pair: Pair) -> Iterator[None]:
    """Clients ask the second worker who leads what."""
    pair.running.reverse()
    yield
    pair.running.reverse()


def partition_in(pair: Pair, container_id: int) -> int:
    state = pair.stream(FIRST).state
    return next(number for number in range(PARTITIONS) if state.container_of_slot(number) == container_id)


@pytest.mark.parametrize("kind", [NEWEST, OLDER])
@pytest.mark.parametrize("committed", [True, False])
def test_a_container_beside_it_has_no_room(tmp_path: Path, kind: str, committed: bool) -> None:
    """A worker that starts anew does not show a topic while one of its containers has no room for what was decided
    about it. The other one has an open transaction of the topic, and is told of its end: it ends there, and readers
    find that when the topic is shown."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            with_room, without = pair.workers.hosts(SECOND - 1)
            partition, stream_id = partition_in(pair, with_room), pair.stream(FIRST).id
            producer = Producer(pair, pair.named(FIRST, "x"), kind)
            await producer.init()
            assert await producer.write(partition, b"a") == 0
            with full(without):
                await configured(pair)
                second = await pair.restart(SECOND)
                assert second.topics.get("t") is None
                slot = pair.slot(SECOND, stream_id, partition)
                assert slot.has_open_transaction(producer.who.producer_id)

                who = producer.who
                await producer.end(committed=committed)

                await until(lambda: not slot.has_open_transaction(who.producer_id))
                assert second.topics.get("t") is None
            await until_shown(pair)
            assert await pair.committed(partition) == ([b"a"] if committed else [])
            assert slot.stable_end == slot.durable_end == 2

    run(scenario())


def test_the_coordinators_worker_does_not_show_it(tmp_path: Path) -> None:
    """It starts anew, and knows what its producer had written to: the partitions of both workers end."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            with_room, without = pair.workers.hosts(SECOND - 1)
            here = partition_in(pair, with_room)
            there = partition_in(pair, pair.workers.hosts(FIRST - 1)[0])
            producer = Producer(pair, pair.named(SECOND, "x"), NEWEST)
            await producer.init()
            for partition in (here, there):
                assert await producer.write(partition, b"a") == 0
            with full(without):
                await configured(pair)
                second = await pair.restart(SECOND)
                assert second.topics.get("t") is None
                await producer.end()
                await until_read(pair, there, b"a")
            await until_shown(pair)
            await until_read(pair, here, b"a")

    run(scenario())


# A topic that is deleted and made again


@pytest.mark.parametrize("is_late", [False, True])
def test_the_new_topic_has_no_part_in_it(tmp_path: Path, is_late: bool) -> None:
    """Its name was given again while a transaction was open in the old one. The end of that writes nothing to the new
    one, and waits for nothing of the old one, also where the coordinator has not heard of the change yet."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            producer = Producer(pair, pair.named(FIRST, "x"), NEWEST)
            await producer.init()
            for partition in range(PARTITIONS):
                assert await producer.write(partition, b"a") == 0
            old = pair.stream(SECOND)
            async with held_back(pair, FIRST):
                await made_again(pair, SECOND, old)
                if is_late:
                    await producer.end()
            if not is_late:
                await until(lambda: pair.stream(FIRST).uuid == pair.stream(SECOND).uuid != old.uuid)
                await producer.end()
            await until(lambda: pair.transaction(producer).state is TransactionState.COMPLETE_COMMIT)
            await until(lambda: pair.stream(FIRST).uuid == pair.stream(SECOND).uuid != old.uuid)
            for node in (FIRST, SECOND):
                assert {slot.end for slot in pair.stream(node).written_slots()} <= {0}

    run(scenario())


def test_a_late_coordinator_takes_no_topic_for_another(tmp_path: Path) -> None:
    """A producer writes to a new topic whose name was another's just before, and the coordinator has not heard of that.
    The old one does not become a part of the transaction in its place, whose end would then pass over the new one: the
    producer comes again until the coordinator knows."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            producer = Producer(pair, pair.named(FIRST, "x"), NEWEST)
            await producer.init()
            old = pair.stream(SECOND)
            with led_by_the_second(pair):
                async with held_back(pair, FIRST):
                    await made_again(pair, SECOND, old)
                    new = pair.stream(SECOND)
                    partition = next(number for number in range(PARTITIONS) if not new.slot(number).is_elsewhere)
                    writing = asyncio.create_task(producer.write(partition, b"a"))
                    refused = pair.brokers[SECOND].services.refused_batches
                    await until(lambda: refused._refused or writing.done())
                    assert not writing.done()
                    assert new.slot(partition).end == 0
                    assert pair.transaction(producer).state is TransactionState.EMPTY
                assert await writing == 0
            assert {place.stream_id for place in pair.transaction(producer).partitions} == {new.id}
            await producer.end()
            await until_read(pair, partition, b"a")

    run(scenario())


def test_a_node_that_says_no_id(tmp_path: Path) -> None:
    """One of an older release names topics by their names alone: what it asks is of whatever topic has the name."""

    async def scenario() -> None:
        async with pair_in(tmp_path) as pair:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(remote, "topics_of", without_ids)
                producer = Producer(pair, pair.named(FIRST, "x"), NEWEST)
                await producer.init()
                for partition in range(PARTITIONS):
                    assert await producer.write(partition, b"a") == 0
                await producer.end()
                await pair.until_read(*[[b"a"]] * PARTITIONS)

    run(scenario())


def without_ids(store: Store, places: Iterable[Place], numbers: str) -> list[dict[str, Any]]:
    return [topic | {"topic_id": None} for topic in topics_of(store, places, numbers)]
