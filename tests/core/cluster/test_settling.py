"""A frozen slot whose containers have their logs in an object store: both settle at the same time, and nothing is
decided before both have."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core import freezing, moving
from core.applied.tables import Delete, Put
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import Session
from core.cluster.etcd_keys import Meta, join
from core.container.arrivals import ARRIVING_TABLE
from core.container.container import Container
from core.copying import Move
from core.errors import Deposed, StorageFailure
from core.log.records import Trim
from core.streams.live import Slot, Stream
from core.streams.writers import Duplicate
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.test_etcd_cluster import Cluster, Node, serves_all
from tests.core.cluster.test_membership import CONTAINERS
from tests.core.cluster.test_moving_in_a_cluster import MOVING, TRANSACTION, WRITER, stream_of, with_stream
from tests.core.log.objects.test_store import text
from tests.core.support import Outcome, begin_append, end_of, owner_of, read_all, run, until
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemStorage
from tier2.storage import Data, ObjectStat

pytestmark = pytest.mark.slow


class HeldStorage:
    """An object store that keeps the puts of some containers' logs until they are let go."""

    def __init__(self, inner: FilesystemStorage) -> None:
        self._inner = inner
        self._is_open: dict[str, asyncio.Event] = defaultdict(_opened)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def hold(self, container: int) -> None:
        self._is_open[str(container)].clear()

    def let_go(self, container: int) -> None:
        self._is_open[str(container)].set()

    async def put_new(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if key.startswith("log/"):
            await self._is_open[key.split("/")[1]].wait()
        return await self._inner.put_new(key, data, token=token)


def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Scene:
    """A slot that is to move, whose source's puts are held; and what its target's log was told of it."""

    node: Node
    cluster: Cluster
    storage: HeldStorage
    stream: Stream
    source: Container
    target: Container
    told: list[Put | Delete]
    decided: list[int]

    @property
    def slot(self) -> Slot:
        return self.stream.slot(MOVING)

    def begin(self, number: int, sequence: int) -> Outcome:
        return begin_append(self.slot, text(number), writer=(WRITER, 0, sequence))[1]

    def move(self) -> asyncio.Task[object]:
        return asyncio.create_task(self.node.store.move_slot(self.stream, MOVING, self.target.id))

    async def until_foreseen(self) -> None:
        """The target has the rest, and a state, durably; the source has not settled, and nothing is decided."""
        await until(lambda: len(self.told) >= 2)
        assert self.slot.durable_end < self.slot.end
        assert self.slot.container_id == self.source.id
        assert not self.decided


@asynccontextmanager
async def scene(directory: Path, etcd: EtcdServer, *, is_ended: bool = False) -> AsyncIterator[Scene]:
    """A stream with an entry, and a transaction of another one, in the slot that moves; then the source is held."""
    async with AsyncExitStack() as stack:
        inner = await storage_in(directory / "bucket")
        stack.push_async_callback(inner.close)
        storage = HeldStorage(inner)
        cluster = Cluster(directory, etcd, storage, stack)  # type: ignore[arg-type]
        client = EtcdClient(etcd.settings())
        stack.push_async_callback(client.close)
        await join(Session(client, cluster.prefix), cluster.prefix, Meta("c", CONTAINERS))
        node = await cluster.join(1)
        stream, source, target = await with_stream(node)
        its, theirs = (node.store.containers[one].container for one in (source, target))
        found = Scene(node, cluster, storage, stream, its, theirs, [], [])
        theirs.on_applied(ARRIVING_TABLE, found.told.append)
        real = node.store.decide_move

        async def decide(*arguments: Any) -> None:
            found.decided.append(stream.slot(MOVING).durable_end)
            await real(*arguments)

        node.store.decide_move = decide  # type: ignore[method-assign]
        if is_ended:
            await its.end_transactions([end_of(stream.slot(MOVING), TRANSACTION, committed=True)], [])
        storage.hold(source)
        stack.callback(storage.let_go, source)
        yield found


def test_both_logs_settle_at_the_same_time(tmp_path: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source's puts hang. The target has all by then, an entry and a marker on their way among it; it is decided
    once they are stored, and nothing was logged twice. So a node finds it that opens the containers later."""
    monkeypatch.setattr(freezing, "FREEZE_S", 20.0)

    async def scenario() -> None:
        async with scene(tmp_path, etcd) as at:
            late = at.begin(2, 1)
            ended = at.source.end_transactions([end_of(at.slot, TRANSACTION, committed=False)], [])
            moved = at.move()
            await at.until_foreseen()
            assert not late.future.done()
            assert not ended.done()
            at.storage.let_go(at.source.id)
            await asyncio.gather(late.future, ended, moved)
            assert at.decided == [4]
            assert [type(one) for one in at.told] == [Put, Put, Delete]
            await check(at.node)
            second = await at.cluster.join(2)
            await at.node.membership.drain(20)
            await serves_all(second)
            await check(second)

    async def check(node: Node) -> None:
        slot = stream_of(node).slot(MOVING)
        assert (await read_all(node.store, slot))[:3] == [text(0), text(1), text(2)]
        assert (slot.end, slot.stable_end) == (4, 4)
        assert not slot.has_open_transaction(TRANSACTION)
        assert [(row.writer_id, row.first) for row in slot.aborted_in(0, 4)] == [(TRANSACTION, 1)]
        assert isinstance(owner_of(slot).check_writer(slot, WRITER, 0, 1, 1), Duplicate)
        assert owner_of(slot).check_writer(slot, WRITER, 0, 2, 1) is None

    run(scenario())


def test_chunks_of_what_was_copied_before_it_was_durable(
    tmp_path: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target makes none of it until it knows what comes of it. A freeze that was taken back leaves no more behind
    than that: once the source has settled, a pass finds that all is known."""
    monkeypatch.setattr(freezing, "FREEZE_S", 0.2)
    monkeypatch.setattr(freezing, "PAUSE_S", 0.01)

    async def scenario() -> None:
        async with scene(tmp_path, etcd, is_ended=True) as at:
            real, seen = moving.pass_over, list[tuple[bool, bool]]()

            async def passing(move: Move) -> float:
                is_settled = move.slot.stable_end >= move.arrived.end
                took_s = await real(move)
                seen.append((is_settled, move.barrier is not None))
                return took_s

            monkeypatch.setattr(moving, "pass_over", passing)
            late = at.begin(2, 1)
            moved = at.move()
            await at.until_foreseen()
            await until(lambda: (False, True) in seen)
            at.storage.let_go(at.source.id)
            await asyncio.gather(late.future, moved)
            assert (True, True) not in seen
            assert (await read_all(at.node.store, at.slot))[-1] == text(2)

    run(scenario())


def test_a_state_that_comes_otherwise(tmp_path: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion of records is on its way at the source: the state is logged again, with what that has changed."""
    monkeypatch.setattr(freezing, "FREEZE_S", 20.0)

    async def scenario() -> None:
        async with scene(tmp_path, etcd) as at:
            late = at.begin(2, 1)
            trimmed = at.source.submit([Trim(at.stream.id, MOVING, 1, len(text(0)))])
            moved = at.move()
            await at.until_foreseen()
            at.storage.let_go(at.source.id)
            await asyncio.gather(late.future, trimmed, moved)
            assert [type(one) for one in at.told] == [Put, Put, Put, Delete]
            assert (at.slot.container_id, at.slot.start) == (at.target.id, 1)
            assert await read_all(at.node.store, at.slot) == [text(1), text(2)]
            assert at.slot.stable_end == 1

    run(scenario())


def test_a_source_that_is_lost_before_it_has_settled(
    tmp_path: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has it. The target has all that it never acknowledged, and nothing is decided: that goes."""
    monkeypatch.setattr(freezing, "FREEZE_S", 20.0)

    async def scenario() -> None:
        async with scene(tmp_path, etcd) as at:
            late = at.begin(2, 1)
            moved = at.move()
            await at.until_foreseen()
            at.node.store.containers[at.source.id].disown(Deposed(at.source.id, "the test has it"))
            with pytest.raises(Deposed):
                await late.future
            with pytest.raises(StorageFailure):
                await moved
            assert not at.decided
            assert at.stream.logged.container_of_slot(MOVING) == at.source.id
            assert not at.target.arrivals
            assert at.target.slot_at(at.stream.id, MOVING) is None

    run(scenario())


def test_a_source_that_settles_too_late(tmp_path: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each freeze is taken back. What is appended in between lies behind what the target has of the freezes before,
    and comes along once the source has settled."""
    monkeypatch.setattr(freezing, "FREEZE_S", 0.2)
    monkeypatch.setattr(freezing, "PAUSE_S", 0.01)

    async def scenario() -> None:
        async with scene(tmp_path, etcd) as at:
            outcomes = [at.begin(2, 1)]
            moved = at.move()
            await at.until_foreseen()
            for number in range(3, 6):
                await until(lambda: not at.source.is_leaving(at.slot))
                before = len(at.told)
                outcomes.append(at.begin(number, number - 1))
                await until(lambda before=before: len(at.told) > before or moved.done())  # type: ignore[misc]
            assert not at.decided
            at.storage.let_go(at.source.id)
            await asyncio.gather(*(one.future for one in outcomes), moved)
            assert at.slot.container_id == at.target.id
            assert await read_all(at.node.store, at.slot) == [text(number) for number in range(6)]
            assert isinstance(owner_of(at.slot).check_writer(at.slot, WRITER, 0, 4, 1), Duplicate)
            assert owner_of(at.slot).check_writer(at.slot, WRITER, 0, 5, 1) is None
            assert at.slot.has_open_transaction(TRANSACTION)
            assert at.slot.stable_end == 1

    run(scenario())
