"""A slot that moves between containers of one node of a cluster, with etcd and an object store: whoever dies at which
step, it has one owner, and all that was acknowledged."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from core import deciding
from core.cluster import etcd_keys, sqlite_registry
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import LeaseGone, Session
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.sqlite_registry import SqliteRegistry
from core.errors import (
    CannotMove,
    CoordinatorAway,
    CoordinatorRefuses,
    CorruptState,
    NotHosted,
    NotMovedYet,
    Stale,
)
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.writers import Duplicate
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.several import FOUR, placed_policy
from tests.core.cluster.test_etcd_cluster import Cluster, Node, serves_all
from tests.core.cluster.test_membership import CONTAINERS
from tests.core.log.objects.test_store import text
from tests.core.support import append, append_in_transaction, end_of, owner_of, read_all, run, until
from tests.core.tiering.support import storage_in

pytestmark = pytest.mark.slow

SLOTS: Final = 8
MOVING: Final = 1
WRITER: Final = 9
TRANSACTION: Final = 5


@asynccontextmanager
async def cluster_in(directory: Path, etcd: EtcdServer) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        storage = await storage_in(directory / "bucket")
        stack.push_async_callback(storage.close)
        cluster = Cluster(directory, etcd, storage, stack)
        client = EtcdClient(etcd.settings())
        stack.push_async_callback(client.close)
        await etcd_keys.join(Session(client, cluster.prefix), cluster.prefix, etcd_keys.Meta("c", CONTAINERS))
        yield cluster


def stream_of(node: Node) -> Stream:
    stream = node.store.streams.get("s")
    assert stream is not None
    return stream


async def with_stream(node: Node) -> tuple[Stream, int, int]:
    """A stream with an entry and an open transaction in the slot that is to move; from where, and whereto."""
    await serves_all(node)
    stream = await node.store.create_stream("s", slots=SLOTS)
    await append(stream.slot(MOVING), text(0), writer=(WRITER, 0, 0))
    await append_in_transaction(stream.slot(MOVING), text(1), (TRANSACTION, 0, 0))
    source = stream.slot(MOVING).container_id
    return stream, source, (source + 1) % CONTAINERS


def epoch_in(node: Node, container: int) -> int:
    return node.coordination.owners()[container].leader_epoch


async def dies(node: Node, other: Node) -> None:
    """It hears of nothing any more, and its lease ends, as another one has noticed. `release` its proxy in the end."""
    number, task = node.coordination.node, node.coordination._task
    await node.membership.stop()
    assert task is not None
    task.cancel()  # it begins no other life
    node.proxy.hold()
    await other.coordination.bury(other.coordination.lives()[number])


async def check_owner(node: Node, container: int, expected: list[bytes]) -> None:
    """The slot lies in one container of this node, whole, and goes on there."""
    stream, place = stream_of(node), (stream_of(node).id, MOVING)
    slot = stream.slot(MOVING)
    assert slot.container_id == container
    containers = [one.container for one in node.store.containers.values()]
    assert [one.id for one in containers if one.slot_at(*place) is not None] == [container]
    assert all(not one.arrivals and not one.outcomes.beside for one in containers)
    assert await read_all(node.store, slot) == expected
    assert isinstance(owner_of(slot).check_writer(slot, WRITER, 0, 0, 1), Duplicate)
    assert slot.has_open_transaction(TRANSACTION)
    assert slot.stable_end == 1
    await owner_of(slot).end_transactions([end_of(slot, TRANSACTION, committed=True)], [])
    assert await append(slot, text(9), writer=(WRITER, 0, 1)) == len(expected) + 1
    assert slot.stable_end == len(expected) + 2
    epochs = [epoch for epoch, _ in slot.leader_epochs]
    assert epochs == sorted(set(epochs))


def test_there_and_back_under_the_eyes_of_another_node(tmp_path: Path, etcd: EtcdServer) -> None:
    """To a container in an earlier epoch and to one in a later: leader epochs rise, and all nodes know that when they
    hear of the move. A container that goes to the other node afterwards is in a later epoch than that."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            seen: list[int] = []
            for to in (target, source, target):
                before = owner_of(stream.slot(MOVING)).epoch
                moved = await first.store.move_slot(stream, MOVING, to)
                assert moved.target == stream.slot(MOVING).container_id == to
                await until(lambda to=to: stream_of(second).slot(MOVING).container_id == to)
                seen.append(epoch_in(second, to))
                assert seen[-1] == owner_of(stream.slot(MOVING)).epoch > before
                assert stream_of(second).slot(MOVING).is_elsewhere
                with pytest.raises(NotHosted):
                    second.store.hosted(stream_of(second).slot(MOVING))
            assert await second.coordination.ask(target, 2)
            await until(lambda: second.membership.serving == {target})
            assert epoch_in(first, target) > seen[-1]
            await until(lambda: target not in first.store.containers)
            assert await read_all(second.store, stream_of(second).slot(MOVING)) == [text(0), text(1)]
            other = next(slot for slot in map(stream.slot, range(SLOTS)) if slot.container_id != target)
            with pytest.raises(NotHosted):  # its target is a container of another node
                await first.store.move_slot(stream, other.number, target)
            await first.membership.drain(20)
            await serves_all(second)
            await check_owner(second, target, [text(0), text(1)])

    run(scenario())


def test_a_source_that_its_last_slot_has_left(tmp_path: Path, etcd: EtcdServer) -> None:
    """It forgets the stream, whoever opens it later; the stream is deleted everywhere, too."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            await serves_all(first)
            stream = await first.store.create_stream("s", slots=1)
            await append(stream.slot(0), text(0))
            source = stream.slot(0).container_id
            target = (source + 1) % CONTAINERS
            await first.store.move_slot(stream, 0, target)
            assert stream.id not in first.store.containers[source].container.streams
            second = await cluster.join(2)
            await first.membership.drain(20)
            await serves_all(second)
            assert await read_all(second.store, stream_of(second).slot(0)) == [text(0)]
            await second.store.delete_stream(stream_of(second))
            assert all(not one.container.streams for one in second.store.containers.values())

    run(scenario())


Hook = Callable[[], Awaitable[None]]


def arrived(node: Node, then: Hook) -> None:
    behind(node.store.mover, "_begin", then)


def copied(node: Node, then: Hook) -> None:
    before(node.store.mover, "_hand_over", then)


def state_there(node: Node, then: Hook) -> None:
    before(node.store, "decide_move", then)


def decided(node: Node, then: Hook) -> None:
    behind(node.store.registry, "change", then)


def followed(node: Node, then: Hook) -> None:
    before(node.store.mover, "_arrived", then)


def before(owner: Any, call: str, then: Hook) -> None:
    real = getattr(owner, call)

    async def made(*arguments: Any) -> Any:
        await then()
        return await real(*arguments)

    setattr(owner, call, made)


def behind(owner: Any, call: str, then: Hook) -> None:
    real = getattr(owner, call)

    async def made(*arguments: Any) -> Any:
        found = await real(*arguments)
        await then()
        return found

    setattr(owner, call, made)


STEPS: Final = {arrived: False, copied: False, state_there: False, decided: True, followed: True}
"""Steps at which the node dies, and whether the slot has moved by then."""


IN_A_HURRY: Final = (state_there, decided)


@pytest.mark.parametrize(
    "step", [pytest.param(one, marks=() if one in IN_A_HURRY else pytest.mark.slow, id=one.__name__) for one in STEPS]
)
def test_the_node_dies_at_a_step(tmp_path: Path, etcd: EtcdServer, step: Callable[[Node, Hook], None]) -> None:
    """Another one finds the slot where the registry has it, and nothing of it elsewhere; so does a third one, which
    takes over from that. The first one may as well have slept: it changes nothing any more."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            dead, died = asyncio.Event(), asyncio.Event()

            async def die() -> None:
                died.set()
                await dead.wait()

            step(first, die)
            moving = asyncio.create_task(first.store.move_slot(stream, MOVING, target))
            await died.wait()
            await dies(first, second)
            await serves_all(second)
            expected = [text(0), text(1)]
            owner = target if STEPS[step] else source
            slot = stream_of(second).slot(MOVING)
            assert slot.untiered or slot.tiered_end == slot.stable_end, "nobody looks for what goes into chunks"
            await append(stream_of(second).slot(MOVING), text(2))
            expected.append(text(2))
            first.proxy.release()
            dead.set()  # it has only slept, and goes on where it was
            await asyncio.gather(moving, return_exceptions=True)
            await second.store.catch_up()
            third = await cluster.join(3)
            await second.membership.drain(20)
            await serves_all(third)
            await check_owner(third, owner, expected)

    run(scenario())


def test_an_owner_that_was_deposed_decides_nothing(tmp_path: Path, etcd: EtcdServer) -> None:
    """It sends its decision, which comes to etcd only when others have its containers, and have taken an append: the
    slot is theirs, and stays."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            sent = asyncio.Event()

            async def send_late() -> None:
                if not sent.is_set():
                    first.proxy.hold()
                    sent.set()

            before(first.store.registry, "change", send_late)
            moving = asyncio.create_task(first.store.move_slot(stream, MOVING, target))
            await sent.wait()
            await asyncio.sleep(0)  # the request is with the proxy
            await second.coordination.bury(second.coordination.lives()[1])
            await serves_all(second)
            await append(stream_of(second).slot(MOVING), text(2))
            first.proxy.release()
            with pytest.raises((NotHosted, NotMovedYet)):
                await moving
            await second.store.catch_up()
            await check_owner(second, source, [text(0), text(1), text(2)])

    run(scenario())


@pytest.mark.parametrize("error", [CoordinatorAway, CoordinatorRefuses, CorruptState, LeaseGone])
@pytest.mark.parametrize("is_decided", [True, False])
def test_a_registry_that_leaves_the_decision_open(
    tmp_path: Path, etcd: EtcdServer, is_decided: bool, error: type[Exception]
) -> None:
    """It is asked until it tells: the slot has moved, or goes on where it was. Neither needs a start. A refusal may be
    that of a second try, as of rights that were taken away meanwhile, and the first one has gone through; what nobody
    foresaw may have come behind the decision."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            real, calls = first.store.registry.change, []

            async def open_twice(*arguments: Any) -> None:
                calls.append(arguments)
                if is_decided or len(calls) > 2:
                    await real(*arguments)
                if len(calls) <= 2:
                    raise error("the test has lost the answer")

            first.store.registry.change = open_twice  # type: ignore[method-assign]
            if is_decided:
                assert (await first.store.move_slot(stream, MOVING, target)).target == target
                await check_owner(first, target, [text(0), text(1)])
                return
            with pytest.raises(NotMovedYet, match="has not decided it"):
                await first.store.move_slot(stream, MOVING, target)
            assert len(calls) == 3
            await check_owner(first, source, [text(0), text(1)])
            assert (await first.store.move_slot(stream, MOVING, target)).target == target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "PAUSE_S", 0.01)
        run(scenario())


def test_a_decision_that_comes_late_finds_another_state(tmp_path: Path, etcd: EtcdServer) -> None:
    """Nobody knew of it when the slot had already been given back to its source: then it never comes."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            real, late = first.store.registry.change, []

            async def keep_one(*arguments: Any) -> None:
                if not late:
                    late.append(arguments)
                    raise CoordinatorAway("the test keeps it")
                await real(*arguments)

            first.store.registry.change = keep_one  # type: ignore[method-assign]
            with pytest.raises(NotMovedYet):
                await first.store.move_slot(stream, MOVING, target)
            await append(stream.slot(MOVING), text(2))
            with pytest.raises(Stale):
                await real(*late[0])
            await first.store.catch_up()
            await check_owner(first, source, [text(0), text(1), text(2)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "PAUSE_S", 0.01)
        run(scenario())


def test_a_file_of_the_registry_that_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds it at the decision, for longer than that waits: appends go on once it is free."""
    monkeypatch.setattr(sqlite_registry, "BUSY_S_MAX", 0.05)
    monkeypatch.setattr(deciding, "PAUSE_S", 0.01)

    async def scenario() -> None:
        registry = await SqliteRegistry.open(tmp_path / "registry")
        store = await Store.open(
            tmp_path / "store", FOUR, placed_policy, shared=registry, hosts=range(len(FOUR.container_ids))
        )
        other = sqlite3.connect(tmp_path / "registry", isolation_level=None)
        try:
            stream = await store.create_stream("s", slots=4)
            slot: Slot = stream.slot(MOVING)
            await append(slot, b"x")
            source, target = slot.container_id, (slot.container_id + 1) % 4

            async def lock() -> None:
                if not other.in_transaction:
                    other.execute("BEGIN IMMEDIATE")

            async def free() -> None:
                other.execute("ROLLBACK")

            before(store, "decide_move", lock)
            before(store, "was_moved", free)
            with pytest.raises(NotMovedYet, match="locked"):
                await store.move_slot(stream, MOVING, target)
            assert stream.slot(MOVING).container_id == source
            assert await append(stream.slot(MOVING), b"y") == 1
            assert not store.containers[target].container.arrivals
        finally:
            other.close()
            await store.close()
            await registry.close()

    run(scenario())


def test_hand_overs_in_the_middle_of_a_move(tmp_path: Path, etcd: EtcdServer) -> None:
    """The target goes to another node while entries are copied: the slot stays, and nothing of it is left there."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))

            async def give_away() -> None:
                assert await first.coordination.ask(target, 2)
                await until(lambda: first.store.containers.get(target) is None)

            copied(first, give_away)
            with pytest.raises((NotHosted, NotMovedYet)):
                await first.store.move_slot(stream, MOVING, target)
            await until(lambda: second.membership.serving == {target})
            assert not second.store.containers[target].container.arrivals
            assert second.store.containers[target].container.slot_at(stream.id, MOVING) is None
            await check_owner(first, source, [text(0), text(1)])

    run(scenario())


@pytest.mark.parametrize("is_told", [True, False])
def test_the_target_goes_to_another_node_as_the_slot_is_decided(
    tmp_path: Path, etcd: EtcdServer, is_told: bool
) -> None:
    """It is handed over behind the decision, before its old owner has followed: then the slot is the heir's, and
    nobody finds the object of its former container any more."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, source, target = await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            real, decided, sealed = first.store.registry.change, asyncio.Event(), asyncio.Event()
            hand_over = first.coordination.hand_over

            async def decide(*arguments: Any) -> None:
                await real(*arguments)
                if decided.is_set():
                    return
                decided.set()
                assert await first.coordination.ask(target, 2)
                await sealed.wait()
                if not is_told:
                    await until(lambda: target not in first.store.containers)
                    raise CoordinatorAway("the test has lost the answer")

            async def give(*arguments: Any) -> bool:
                sealed.set()
                if is_told:
                    await until(lambda: stream.slot(MOVING).has_moved)
                return await hand_over(*arguments)

            first.store.registry.change = decide  # type: ignore[method-assign]
            first.coordination.hand_over = give  # type: ignore[method-assign]
            assert (await first.store.move_slot(stream, MOVING, target)).target == target
            await until(lambda: second.membership.serving == {target} and target not in first.store.containers)
            await until(lambda: not first.membership._actions)
            assert stream.slot(MOVING).container_id == target
            with pytest.raises(NotHosted):
                first.store.hosted(stream.slot(MOVING))
            assert await append(stream_of(second).slot(MOVING), text(2)) == 2
            assert first.store.containers[source].container.slot_at(stream.id, MOVING) is None
            await check_owner(second, target, [text(0), text(1), text(2)])

    run(scenario())


def test_below_the_level_slots_stay(tmp_path: Path, etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            stream, _, target = await with_stream(first)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(EtcdCoordination, "level", 2)
                with pytest.raises(CannotMove, match="from level 3 on"):
                    await first.store.move_slot(stream, MOVING, target)
            assert not first.store.containers[target].container.arrivals

    run(scenario())


def test_a_stream_that_is_made_while_a_container_is_opened(tmp_path: Path, etcd: EtcdServer) -> None:
    """The container has been given all that was decided before; what is decided meanwhile is brought to it as well,
    before anybody can append there."""

    async def scenario() -> None:
        async with cluster_in(tmp_path, etcd) as cluster:
            first = await cluster.join(1)
            await with_stream(first)
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            made: list[str] = []

            async def create() -> None:
                made.append(f"late-{len(made)}")
                await first.store.create_stream(made[-1], slots=SLOTS)
                await second.store.catch_up()

            before(second.store, "settle_arrivals", create)
            assert await first.coordination.ask(0, 2)
            await until(lambda: second.membership.serving == {0})
            (name,) = made
            stream = second.store.streams.get(name)
            assert stream is not None
            assert stream.id in second.store.containers[0].container.streams
            slot = next(slot for slot in map(stream.slot, range(SLOTS)) if slot.container_id == 0)
            await append(slot, text(7))
            await second.membership.drain(20)
            await serves_all(first)
            known = first.store.streams.get(name)
            assert known is not None
            assert await read_all(first.store, known.slot(slot.number)) == [text(7)]

    run(scenario())
