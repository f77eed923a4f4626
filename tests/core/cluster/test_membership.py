"""Nodes of a cluster over one object store: they open and release containers while they serve, and take over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from core import joining
from core.clock import SystemClock
from core.cluster.sqlite_registry import SqliteRegistry
from core.config import LogStore
from core.container.container import Container
from core.errors import Deposed, NotHosted, StorageFailure
from core.hosted import container_directory
from core.membership import Fence, Membership
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.writers import Duplicate
from core.tiering.context import LongTermStorage
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.cluster.several import placed_policy
from tests.core.log.objects.test_store import Faulty, text
from tests.core.support import append, begin_append, read_all, run, until
from tests.core.test_several_containers import Watching
from tests.core.tiering.support import CLUSTER, TIERING, storage_in
from tests.tier2.chunks import head_of
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Buffer, ObjectStat, Storage

pytestmark = pytest.mark.slow

CONTAINERS: Final = 4
OBJECTS: Final = replace(TIERING, log_store=LogStore.OBJECT, container_ids=tuple(range(CONTAINERS)))


class Coordinators:
    """What a gateway keeps beside containers: here it only notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.refuses: set[int] = set()
        self.may_end = asyncio.Event()
        self.may_end.set()

    def expect(self, container_id: int) -> None:
        self.heard.append(("expect", container_id))

    async def begin(self, container_id: int) -> None:
        if container_id in self.refuses:
            raise ValueError("a row of a later release")
        self.heard.append(("begin", container_id))

    async def end(self, container_id: int) -> None:
        await self.may_end.wait()
        self.heard.append(("end", container_id))


@dataclass
class Node:
    store: Store
    registry: SqliteRegistry
    seat: Seat
    membership: Membership
    services: Coordinators

    def stream(self, name: str = "s") -> Stream:
        found = self.store.streams.get(name)
        assert found is not None
        return found

    def slots_here(self) -> list[Slot]:
        stream = self.stream()
        slots = [stream.slot(number) for number in range(stream.slot_count)]
        return [slot for slot in slots if slot.container_id in self.store.containers]


class Cluster:
    """Nodes on machines of their own; an object store, a coordinator and a registry in common."""

    def __init__(self, directory: Path, storage: FilesystemStorage) -> None:
        self.directory = directory
        self.storage = storage
        self.coordinator = Coordinator(range(CONTAINERS))
        self.nodes: list[Node] = []

    async def join(self, storage: Storage | None = None, fence: Fence = Fence.BOTH) -> Node:
        number = len(self.nodes)
        registry = await SqliteRegistry.open(self.directory / "registry")
        store = await Store.open(
            self.directory / f"machine-{number}" / "store",
            OBJECTS,
            placed_policy,
            SystemClock(),
            LongTermStorage(storage=storage or self.storage, cluster_id=CLUSTER, head_of=head_of),
            shared=registry,
            hosts=(),
        )
        seat, services = Seat(self.coordinator, number), Coordinators()
        node = Node(store, registry, seat, Membership(seat, store, services, fence), services)
        self.nodes.append(node)
        node.membership.start()
        return node

    async def at_rest(self, *nodes: Node) -> None:
        """Until these nodes serve all containers."""
        await until(lambda: sum(len(node.membership.serving) for node in nodes) == CONTAINERS)
        for node in nodes:
            await node.store.catch_up()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.membership.stop()
            await node.store.close(clean=False)
            await node.membership.close()
            await node.registry.close()
        await self.storage.close()


@asynccontextmanager
async def cluster_in(directory: Path) -> AsyncIterator[Cluster]:
    """Whatever its nodes were about when they are stopped, none of them leaves a writer of a log behind."""
    before = log_writers()
    cluster = Cluster(directory, await storage_in(directory / "bucket"))
    try:
        yield cluster
    finally:
        await cluster.stop()
    assert not log_writers() - before


def log_writers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.endswith("-writer")}


async def contents(nodes: list[Node]) -> dict[int, list[bytes]]:
    """What the owners of each slot of stream s have."""
    found: dict[int, list[bytes]] = {}
    for node in nodes:
        for slot in node.slots_here():
            found[slot.number] = await read_all(node.store, slot)
    return dict(sorted(found.items()))


@pytest.mark.parametrize("is_told", [True, False])
def test_a_put_waits_for_the_coordinators_word_when_a_node_stops(tmp_path: Path, is_told: bool) -> None:
    """It is acknowledged once that comes; if it never comes, its waiter is told, and nobody waits for ever."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            node = await cluster.join()
            await cluster.at_rest(node)
            slot = (await node.store.create_stream("s", slots=1)).slot(0)
            await append(slot, text(0))
            node.seat.is_away_for = {"read_epochs"}
            _, late = begin_append(slot, text(1))
            await until(lambda: "read_epochs" in node.seat.refused)
            await node.membership.stop()
            assert not late.future.done()
            async with asyncio.timeout(20):
                if is_told:
                    node.seat.is_away_for = set()
                    await late.future
                    assert await read_all(node.store, slot) == [text(0), text(1)]
                else:
                    await node.membership.close()
                    with pytest.raises(StorageFailure):
                        await late.future

    run(scenario())


def test_a_dead_node_is_replaced_by_all_others(tmp_path: Path) -> None:
    """Three nodes, of which one ends: the others have all of its entries, and go on with its writers."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            stream = await first.store.create_stream("s", slots=8)
            for number in range(8):
                await append(stream.slot(number), text(number), writer=(9, 0, 0))
            await append(stream.slot(0), text(0), writer=(9, 0, 1))
            others = [await cluster.join(), await cluster.join()]
            cluster.coordinator.end(first.seat.life)
            await cluster.at_rest(*others)
            assert [len(node.membership.serving) for node in others] == [2, 2]
            assert sorted(epoch for _, epoch in epochs(others)) == [5, 6, 7, 8]
            expected = {number: [text(number)] * (2 if number == 0 else 1) for number in range(8)}
            assert await contents(others) == expected
            for node in others:
                for slot in node.slots_here():
                    container, newest = node.store.hosted(slot).container, int(slot.number == 0)
                    assert isinstance(container.check_writer(slot, 9, 0, newest, 1), Duplicate)
                    assert container.check_writer(slot, 9, 0, newest + 1, 1) is None
                    await append(slot, text(100 + slot.number))
                    expected[slot.number].append(text(100 + slot.number))
            assert await contents(others) == expected

    run(scenario())


def epochs(nodes: list[Node]) -> list[tuple[int, int]]:
    return [(id, one.container.epoch) for node in nodes for id, one in node.store.containers.items()]


def test_an_owner_that_lost_its_lease_acknowledges_nothing(tmp_path: Path) -> None:
    """Its slots are not here any more, what waits is told so, its files are gone, and it lives on."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            faulty = Faulty(cluster.storage)
            first = await cluster.join(faulty)  # type: ignore[arg-type]
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            await append(slot, text(0))
            second = await cluster.join()
            watching = Watching()
            slot.watch(watching)
            faulty.gate.clear()
            _, late = begin_append(slot, text(1))
            first.seat.lose_lease()
            with pytest.raises(NotHosted):
                first.store.hosted(slot)
            with pytest.raises(Deposed, match="has ended"):
                await late.future
            await cluster.at_rest(second)
            faulty.gate.set()
            await until(lambda: not first.store.containers)
            assert watching.told
            assert slot.has_moved
            assert first.stream().slot(0).is_elsewhere
            await until(lambda: not container_directory(first.store.directory, slot.container_id).exists())
            assert await contents([second]) == {0: [text(0)]}
            assert ("end", slot.container_id) in first.services.heard
            assert not first.store.failed.done()

            first.seat.begin_anew()
            cluster.coordinator.end(second.seat.life)
            await cluster.at_rest(first)
            assert await contents([first]) == {0: [text(0)]}

    run(scenario())


def test_the_next_life_answers_no_reads_of_what_the_former_one_had(tmp_path: Path) -> None:
    """Stepping down takes longer than coming back, and another node has appended meanwhile."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            second = await cluster.join()
            first.services.may_end.clear()
            first.seat.lose_lease()
            first.seat.begin_anew()
            assert first.seat.is_fresh()
            assert not first.store.serves(slot.container_id), "its membership has not looked yet"
            await cluster.at_rest(second)
            (theirs,) = second.slots_here()
            await append(theirs, text(0))
            assert slot.container_id in first.store.containers, "it has not been closed yet"
            assert first.seat.is_fresh()
            assert not first.store.serves(slot.container_id)
            with pytest.raises(NotHosted):
                first.store.hosted(slot)
            first.services.may_end.set()
            await until(lambda: not first.store.containers)

    run(scenario())


class Careless(FilesystemStorage):
    """Ignores conditions, as some stores do."""

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self.put(key, data)


@pytest.mark.parametrize("fence", [Fence.BOTH, Fence.VERIFY])
def test_an_owner_that_sleeps_is_found_out_by_the_guard(tmp_path: Path, fence: Fence) -> None:
    """It hears of nothing, and the store takes its late put; only the coordinator tells that it was deposed."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            faulty = Faulty(await careless_in(tmp_path / "bucket"))
            first = await cluster.join(faulty, fence)  # type: ignore[arg-type]
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            await append(slot, text(0))
            second = await cluster.join(fence=fence)
            faulty.gate.clear()
            _, late = begin_append(slot, text(1))
            assert first.membership._looking is not None
            first.membership._looking.cancel()
            first.seat.is_asleep = True
            cluster.coordinator.end(first.seat.life)
            await cluster.at_rest(second)
            (theirs,) = second.slots_here()
            await append(theirs, text(2))
            faulty.gate.set()
            with pytest.raises(Deposed, match="taken over"):
                await late.future
            assert await contents([second]) == {0: [text(0), text(2)]}

    run(scenario())


async def careless_in(directory: Path) -> FilesystemStorage:
    return await Careless.open(FilesystemSettings(directory=directory))


def test_a_node_that_leaves_hands_over(tmp_path: Path) -> None:
    """All containers are with the other node when it has drained; then nothing of them is open."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            second = await cluster.join()
            stream = await first.store.create_stream("s", slots=8)
            await second.store.catch_up()
            for node in (first, second):
                for slot in node.slots_here():
                    await append(slot, text(slot.number))
            assert stream.slot_count == 8
            await first.membership.drain(20)
            assert not first.store.containers
            await cluster.at_rest(second)
            assert await contents([second]) == {number: [text(number)] for number in range(8)}

    run(scenario())


def test_streams_that_came_and_went_while_a_container_was_nobodys(tmp_path: Path) -> None:
    """The taker logs what was decided meanwhile before anybody appends."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            await append((await first.store.create_stream("s", slots=4)).slot(0), text(0))
            gone = await first.store.create_stream("gone", slots=4)
            await first.membership.drain(20)
            assert not first.store.containers
            await first.store.delete_stream(gone)
            await first.store.create_stream("later", slots=4)
            second = await cluster.join()
            await cluster.at_rest(second)
            assert second.store.streams.get("gone") is None
            for number in range(4):
                await append(second.stream("later").slot(number), text(number))
            for hosted in second.store.containers.values():
                names = sorted(stream.name for stream in hosted.container.streams.values())
                assert names == ["later", "s"]
            assert (await contents([second]))[0] == [text(0)]

    run(scenario())


def test_a_stream_that_goes_while_a_container_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It existed when its copy was wanted, and is gone when its turn has come: the taker does not bring it back."""
    monkeypatch.setattr(joining, "COPIES_AT_ONCE", 1)

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            for name in ("a", "s"):
                await first.store.create_stream(name, slots=4)
            await first.membership.drain(20)
            second = await cluster.join()
            bringing, go_on, real = asyncio.Event(), asyncio.Event(), second.store._shares.bring_to

            async def bring_to(container: Container, stream: Stream) -> None:
                if stream.name == "a":
                    bringing.set()
                    await go_on.wait()
                await real(container, stream)

            monkeypatch.setattr(second.store._shares, "bring_to", bring_to)
            await bringing.wait()
            gone = second.stream()
            await second.store.delete_stream(gone)
            go_on.set()
            await cluster.at_rest(second)
            assert second.store.streams.by_id(gone.id) is None
            assert second.store.streams.get("s") is None
            for hosted in second.store.containers.values():
                assert [stream.name for stream in hosted.container.streams.values()] == ["a"]

    run(scenario())


def test_a_coordinator_that_has_refused_is_asked_again(tmp_path: Path) -> None:
    """Its disk was full, or its rights were changed: neither claims nor what waits for the guard are given up."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            first.seat.refuses = True
            _, waiting = begin_append(slot, text(0))
            await asyncio.sleep(0.1)
            assert not waiting.future.done()
            first.seat.refuses = False
            await waiting.future
            second = await cluster.join()
            second.seat.refuses = True
            cluster.coordinator.end(first.seat.life)
            await asyncio.sleep(0.1)
            assert not second.membership.serving
            second.seat.refuses = False
            await cluster.at_rest(second)
            assert await contents([second]) == {0: [text(0)]}

    run(scenario())


def test_a_container_that_fails_or_cannot_be_served_goes_to_another_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first = await cluster.join()
            await cluster.at_rest(first)
            second = await cluster.join()
            first.services.refuses = {2}
            first.store.containers[2].container.fail(StorageFailure("the copy cannot be written"))
            await until(lambda: second.membership.serving == {2})
            assert first.membership.serving == {0, 1, 3}

    run(scenario())
