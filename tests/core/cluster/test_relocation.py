"""Slots that go to containers of other nodes, with etcd and an object store: written all the time, whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd_moves import EtcdMoves
from core.cluster.wanted_moves import WantedMove
from core.errors import CannotMove, NotHosted, NotMovedYet, StoreError
from core.relocation import Relocation
from core.streams.live import Slot, Stream
from core.streams.writers import Duplicate
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.test_etcd_cluster import Cluster, Node, serves_all
from tests.core.cluster.test_membership import CONTAINERS
from tests.core.cluster.test_moving_in_a_cluster import before, cluster_in, dies, stream_of
from tests.core.log.objects.test_store import text
from tests.core.support import append, owner_of, read_all, run, until

pytestmark = pytest.mark.slow

SLOTS: Final = 8
WRITER: Final = 9
REQUEST_S: Final = 1.0


@dataclass
class Mover:
    node: Node
    rows: EtcdMoves
    relocation: Relocation


async def joined(cluster: Cluster, number: int) -> Mover:
    node = await cluster.join(number)
    push = cluster.stack.push_async_callback
    client = EtcdClient(cluster.etcd.settings(node.proxy.endpoint))
    push(client.close)
    mirror = await Mirror.open(client, cluster.prefix)
    push(mirror.close)
    rows = EtcdMoves(mirror, Session(client, cluster.prefix))
    relocation = Relocation(node.coordination, rows, node.store)
    relocation.start()
    push(relocation.stop)
    return Mover(node, rows, relocation)


@asynccontextmanager
async def two_nodes(directory: Path, etcd: EtcdServer) -> AsyncIterator[tuple[Cluster, Mover, Mover, int]]:
    """The first has all containers but the one returned, which the second has."""
    async with cluster_in(directory, etcd) as cluster:
        first = await joined(cluster, 1)
        await serves_all(first.node)
        stream = await first.node.store.create_stream("s", slots=SLOTS)
        for number in range(SLOTS):
            await append(stream.slot(number), text(number), writer=(WRITER, 0, 0))
        second = await joined(cluster, 2)
        away = stream.slot(0).container_id
        assert await first.node.coordination.ask(away, 2)
        await until(lambda: second.node.membership.serving == {away})
        await first.node.store.catch_up()
        yield cluster, first, second, away


def slot_here(mover: Mover) -> Slot:
    """A slot that this node has."""
    stream = stream_of(mover.node)
    found = (stream.slot(number) for number in range(SLOTS))
    return next(slot for slot in found if mover.node.store.serves(slot.container_id))


class Producer:
    """One idempotent writer of a slot, which goes to whoever has it, and sends again what it has no answer to."""

    def __init__(self, movers: list[Mover], number: int) -> None:
        self.movers = movers
        self.number = number
        self.sent = 1  # the first one is there
        self.refused = 0

    async def go_on(self) -> None:
        while True:
            if not await self._send():
                self.refused += 1
                await asyncio.sleep(0.01)

    async def _send(self) -> bool:
        for mover in self.movers:
            slot = stream_of(mover.node).slot(self.number)
            try:
                container = mover.node.store.hosted(slot).container
                known = container.check_writer(slot, WRITER, 0, self.sent, 1)
                async with asyncio.timeout(REQUEST_S):
                    if isinstance(known, Duplicate):
                        await container.all_durable()
                    else:
                        await append(slot, text(100 + self.sent), writer=(WRITER, 0, self.sent))
            except (StoreError, TimeoutError):  # another one has it, or nobody just now
                continue
            self.sent += 1
            await asyncio.sleep(0)
            return True
        return False


@asynccontextmanager
async def writing(movers: list[Mover], number: int) -> AsyncIterator[Producer]:
    producer = Producer(movers, number)
    task = asyncio.create_task(producer.go_on())
    try:
        await until(lambda: producer.sent > 3)
        yield producer
        sent = producer.sent
        await until(lambda: producer.sent > sent + 3)  # it goes on
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def check_slot(mover: Mover, number: int, sent: int) -> None:
    slot = stream_of(mover.node).slot(number)
    found = await read_all(mover.node.store, slot)
    expected = [text(number), *(text(100 + n) for n in range(1, sent))]
    assert found[: len(expected)] == expected
    assert len(found) <= len(expected) + 1
    assert isinstance(owner_of(slot).check_writer(slot, WRITER, 0, sent - 1, 1), Duplicate)


SLOW: Final = pytest.mark.slow


@pytest.mark.parametrize("asks", [pytest.param("source", marks=SLOW), pytest.param("target", marks=SLOW), "third"])
def test_to_a_container_of_another_node(tmp_path: Path, etcd: EtcdServer, asks: str) -> None:
    """Any node may be asked. The container comes, takes the slot and goes home, while the slot is written."""

    async def scenario() -> None:
        async with two_nodes(tmp_path, etcd) as (cluster, first, second, away):
            number = slot_here(first).number
            asked = {"source": first, "target": second}.get(asks) or await joined(cluster, 3)
            await until(lambda: asked.node.store.streams.get("s"))
            async with writing([first, second], number) as producer:
                moved = await asked.node.store.move_slot(stream_of(asked.node), number, away)
                assert moved.target == away
                await until(lambda: not asked.rows.wanted())
                await until(lambda: second.node.membership.serving == {away})
                await until(lambda: stream_of(second.node).slot(number).container_id == away)
            await check_slot(second, number, producer.sent)
            with pytest.raises(NotHosted):
                first.node.store.hosted(stream_of(first.node).slot(number))
            assert await asked.node.store.move_slot(stream_of(asked.node), number, away)  # it is there
            with pytest.raises(NotHosted):
                await asked.node.store.move_slot(stream_of(asked.node), number, 99)

    run(scenario())


def test_several_slots_go_on_one_trip_and_one_that_cannot_says_why(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path, etcd) as (_, first, second, away):
            stream = stream_of(first.node)
            numbers = [n for n in range(SLOTS) if first.node.store.serves(stream.slot(n).container_id)][:3]
            for one in (first, second):
                one.node.store.on_move(lambda slot: "a group reads it" if slot.number == numbers[1] else None)
            trips: list[int] = []

            async def note() -> None:
                trips.append(1)

            before(first.node.coordination, "ask", note)
            outcomes = await asyncio.gather(
                *(second.node.store.move_slot(stream_of(second.node), number, away) for number in numbers),
                return_exceptions=True,
            )
            assert isinstance(outcomes[1], CannotMove)
            assert "a group reads it" in str(outcomes[1])
            await until(lambda: not first.rows.wanted() and second.node.membership.serving == {away})
            await until(lambda: stream_of(second.node).slot(numbers[2]).container_id == away)
            assert stream_of(second.node).slot(numbers[0]).container_id == away
            assert stream_of(second.node).slot(numbers[1]).container_id != away
            assert len(trips) == 2, "there and back"

    run(scenario())


@pytest.mark.parametrize(
    "step", [pytest.param("it is asked for", marks=SLOW), "it has come", pytest.param("the slot has moved", marks=SLOW)]
)
def test_the_sources_node_dies_on_the_way(tmp_path: Path, etcd: EtcdServer, step: str) -> None:
    """Whoever has its containers then goes on with what is wanted."""

    async def scenario() -> None:
        async with two_nodes(tmp_path, etcd) as (cluster, first, second, away):
            third = await joined(cluster, 3)
            cluster.stack.callback(first.node.proxy.release)
            await until(lambda: third.node.store.streams.get("s"))
            number, died = slot_here(first).number, asyncio.Event()

            async def die() -> None:
                died.set()
                await asyncio.Event().wait()

            if step == "it is asked for":
                real = first.node.coordination.ask

                async def ask(container: int, node: int) -> bool:
                    await real(container, node)
                    await die()
                    return True

                first.node.coordination.ask = ask  # type: ignore[method-assign]
            elif step == "it has come":
                before(first.node.store.mover, "move", die)
            else:
                real_ask, asked = first.node.coordination.ask, []

                async def ask_once(container: int, node: int) -> bool:
                    asked.append(node)
                    if len(asked) > 1:
                        await die()
                    return await real_ask(container, node)

                first.node.coordination.ask = ask_once  # type: ignore[method-assign]
            async with writing([first, second, third], number) as producer:
                moving = asyncio.create_task(third.node.store.move_slot(stream_of(third.node), number, away))
                await died.wait()
                await dies(first.node, third.node)
                producer.movers = [second, third]
                await moving
                await until(lambda: not third.rows.wanted())
                await until(
                    lambda: len(second.node.membership.serving) + len(third.node.membership.serving) == CONTAINERS
                )
            owner = next(one for one in (second, third) if away in one.node.membership.serving)
            assert owner is second, "it is at home"
            await until(lambda: stream_of(owner.node).slot(number).container_id == away)
            await check_slot(owner, number, producer.sent)

    run(scenario())


def test_the_targets_home_dies_while_it_is_away(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path, etcd) as (cluster, first, second, away):
            number = slot_here(first).number
            cluster.stack.callback(second.node.proxy.release)

            async def die() -> None:
                await dies(second.node, first.node)

            before(first.node.store.mover, "move", die)
            await first.node.store.move_slot(stream_of(first.node), number, away)
            await until(lambda: not first.rows.wanted())
            await serves_all(first.node)
            assert await read_all(first.node.store, stream_of(first.node).slot(number)) == [text(number)]

    run(scenario())


def test_what_cannot_be_wanted(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path, etcd) as (_, first, second, away):
            stream: Stream = stream_of(first.node)
            number = slot_here(first).number
            other = next(one for one in range(CONTAINERS) if one not in (away, stream.slot(number).container_id))
            row = WantedMove(place=(stream.id, number), target=away, home=2)
            async with asyncio.timeout(10):
                await first.relocation.stop()
                await second.relocation.stop()
            assert await second.rows.want(row)
            await until(first.rows.wanted)
            with pytest.raises(NotMovedYet, match=f"on its way to container {away}"):
                await first.relocation.want(stream, number, other)
            await first.relocation.want(stream, number, away)  # it is wanted already
            assert first.rows.wanted() == [row]
            with pytest.raises(CannotMove, match="has 8 slots"):
                await first.relocation.want(stream, 8, away)
            await first.node.store.seal_stream(stream)
            with pytest.raises(CannotMove, match="sealed"):
                await first.relocation.want(stream, number, away)

    run(scenario())
