"""What comes after the decision that a slot moves: containers that follow late, power cuts, reads that began before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.config import SyncMode
from core.container.container import Container
from core.errors import CannotMove, NotMovedYet, StorageFailure, StorageFull
from core.log.records import Delete, Operation
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.state import STREAMS_TABLE, StreamState
from core.streams.writers import Duplicate
from tests.core.cluster.several import FOUR, check_copies, open_several
from tests.core.support import Gate, append, copy_files, forget_bytes, owner_of, read_all, run, until
from tests.core.test_moving import again, entries, fill, opened

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("to_third", [False, True])
def test_asked_again_before_the_target_has_followed(tmp_path: Path, to_third: bool) -> None:
    """The target had no room for its copy of the stream: until it has, the slot is moved nowhere, and its arrival, with
    all entries, stays."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        container: Container = store.containers[target].container
        real = container.change_stream

        async def no_room(changed: Stream, state: StreamState) -> None:
            raise StorageFull("no room for it")

        container.change_stream = no_room  # type: ignore[method-assign]
        await store.move_slot(stream, 1, target)
        assert stream.state.container_of_slot(1) == target
        third = next(one for one in range(4) if one not in (source, target))
        with pytest.raises(NotMovedYet):
            await store.move_slot(stream, 1, third if to_third else target)
        container.change_stream = real  # type: ignore[method-assign]
        await store._shares._step()
        assert await entries(store, stream) == [b"x"]
        assert await append(stream.slot(1), b"y") == 1
        assert stream.slot(1).container_id == target
        check_copies(store)
        store, stream = await again(store, tmp_path, clean=False)
        assert await read_all(store, stream.slot(1)) == [b"x", b"y"]
        assert all(not one.container.arrivals for one in store.containers.values())
        await store.close()

    run(scenario())


@pytest.mark.parametrize(("is_written", "is_target"), [(True, False), (False, False), (True, True), (False, True)])
def test_the_container_that_decides_fails_at_the_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool, is_target: bool
) -> None:
    """Its disk may have the record, or not, and tells nobody. The slot stays, takes appends, and what its container
    knows of that outdoes the record at each start. If it `is_target`, callers have found the slot there meanwhile."""
    gate = Gate(monkeypatch)
    gate.open.set()
    gate.of = "nowhere yet"

    async def scenario() -> None:
        store, stream, source, _ = await opened(tmp_path)
        home = store.containers[stream.state.container].container
        target = home.id if is_target else next(one for one in range(4) if one not in (source, home.id))
        assert source != home.id
        await append(stream.slot(1), b"x")
        real = home.change_stream

        async def fail(changed: Stream, state: StreamState) -> None:
            error = StorageFailure("the disk is gone")
            if not is_written:
                home.log.on_failed(error)
            gate.of = str(home.directory)
            gate.open.clear()
            change = asyncio.ensure_future(real(changed, state))
            if is_written:
                await until(gate.waiting.is_set)
                home.log.on_failed(error)
            gate.open.set()
            await change

        home.change_stream = fail  # type: ignore[method-assign]
        with pytest.raises(NotMovedYet, match="has not decided it: the disk is gone"):
            await store.move_slot(stream, 1, target)
        assert stream.slot(1).container_id == source
        assert await append(stream.slot(1), b"y") == 1
        assert await entries(store, stream) == [b"x", b"y"]
        assert is_target or not store.containers[target].container.arrivals
        with contextlib.suppress(StorageFailure):
            await store.close(clean=False)
        for clean in (True, False):
            store = await open_several(tmp_path)
            (stream,) = store.streams
            assert stream.slot(1).container_id == source
            assert await entries(store, stream) == [b"x", b"y"]
            check_copies(store)
            assert all(not one.container.outcomes.beside for one in store.containers.values())
            await store.close(clean=clean)
        store = await open_several(tmp_path)
        (stream,) = store.streams
        await store.move_slot(stream, 1, target)
        assert await entries(store, stream) == [b"x", b"y"]
        await store.close()

    run(scenario())


def fail_at_the_decision(home: Container, *, is_written: bool = False, gate: Gate | None = None) -> None:
    """The container fails when it logs what is decided: the record is on its disk, or not, and nobody is told."""
    real = home.change_stream

    async def fail(changed: Stream, state: StreamState) -> None:
        error = StorageFailure("the disk is gone")
        if gate is not None and is_written:
            gate.of = str(home.directory)
            gate.open.clear()
            change = asyncio.ensure_future(real(changed, state))
            await until(gate.waiting.is_set)
            home.log.on_failed(error)
            gate.open.set()
            await change
        home.log.on_failed(error)
        raise error

    home.change_stream = fail  # type: ignore[method-assign]


@pytest.mark.parametrize("is_written", [True, False])
def test_the_container_that_decides_fails_and_has_the_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """It takes nothing more for the slot, and the target has all of that: so the slot goes on there without a start,
    with its writers. What the target's log says outdoes the record, or its absence, at each start."""
    gate = Gate(monkeypatch)
    gate.open.set()
    gate.of = "nowhere yet"

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        home = store.containers[stream.state.container].container
        number = next(n for n in range(4) if stream.slot(n).container_id == home.id)
        target = (home.id + 1) % 4
        await append(stream.slot(number), b"x", writer=(7, 0, 0))
        fail_at_the_decision(home, is_written=is_written, gate=gate)
        before = stream.slot(number)
        await store.move_slot(stream, number, target)
        slot = stream.slot(number)
        assert slot.container_id == target
        assert before.has_moved
        assert isinstance(owner_of(slot).check_writer(slot, 7, 0, 0, 1), Duplicate)
        assert await append(slot, b"y", writer=(7, 0, 1)) == 1
        assert await read_all(store, slot) == [b"x", b"y"]
        assert not store.containers[target].container.arrivals
        with contextlib.suppress(StorageFailure):
            await store.close(clean=False)
        for clean in (True, False):
            store = await open_several(tmp_path)
            (stream,) = store.streams
            slot = stream.slot(number)
            assert slot.container_id == target
            assert await read_all(store, slot) == [b"x", b"y"]
            assert isinstance(owner_of(slot).check_writer(slot, 7, 0, 1, 1), Duplicate)
            check_copies(store)
            assert all(not one.container.arrivals for one in store.containers.values())
            assert all(not one.container.outcomes.beside for one in store.containers.values())
            await store.close(clean=clean)
        store = await open_several(tmp_path)
        (stream,) = store.streams
        await store.move_slot(stream, number, home.id)
        assert await append(stream.slot(number), b"z", writer=(7, 0, 2)) == 2
        assert await read_all(store, stream.slot(number)) == [b"x", b"y", b"z"]
        await store.close()

    run(scenario())


def test_whoever_waits_at_a_slot_whose_container_fails_at_the_decision_is_told(tmp_path: Path) -> None:
    """Its object is another one now: a fetch that waits at the former one would wait for ever."""

    class Watcher:
        def __init__(self) -> None:
            self.told = 0

        def slot_appended(self, slot: Slot, size: int) -> None: ...

        def slot_settled(self, slot: Slot, size: int) -> None: ...

        def slot_changed(self, slot: Slot) -> None:
            self.told += slot.has_moved

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        home = store.containers[stream.state.container].container
        number = next(n for n in range(4) if stream.slot(n).container_id == home.id)
        watcher = Watcher()
        stream.slot(number).watch(watcher)
        fail_at_the_decision(home)
        await store.move_slot(stream, number, (home.id + 1) % 4)
        assert watcher.told
        with contextlib.suppress(StorageFailure):
            await store.close(clean=False)

    run(scenario())


def test_the_container_that_decides_fails_and_is_to_have_the_slot(tmp_path: Path) -> None:
    """The slot stays where it is, and goes on there."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        home = store.containers[stream.state.container].container
        number = next(n for n in range(4) if stream.slot(n).container_id != home.id)
        source = stream.slot(number).container_id
        await append(stream.slot(number), b"x")
        fail_at_the_decision(home)
        with pytest.raises(NotMovedYet):
            await store.move_slot(stream, number, home.id)
        assert await append(stream.slot(number), b"y") == 1
        await check_after_a_failure(store, tmp_path, number, source, [b"x", b"y"])

    run(scenario())


def test_both_containers_fail_at_the_decision(tmp_path: Path) -> None:
    """Only the next start tells: until then the slot is moved nowhere, and its arrival stays."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        home = store.containers[stream.state.container].container
        number = next(n for n in range(4) if stream.slot(n).container_id == home.id)
        target = (home.id + 1) % 4
        await append(stream.slot(number), b"x")
        fail_at_the_decision(home)
        other = store.containers[target].container

        async def fail_too(*_: object) -> None:
            other.log.on_failed(StorageFailure("that disk as well"))
            raise StorageFailure("that disk as well")

        other.change_stream = fail_too  # type: ignore[method-assign]
        with pytest.raises(StorageFailure):
            await store.move_slot(stream, number, target)
        with pytest.raises((NotMovedYet, CannotMove)):
            await store.move_slot(stream, number, target)
        arrived = other.arriving((stream.id, number))
        assert arrived is not None
        assert arrived.durable_end == 1
        await check_after_a_failure(store, tmp_path, number, home.id, [b"x"])

    run(scenario())


def test_the_log_is_indexed_while_nobody_knows_whether_the_slot_leaves(tmp_path: Path) -> None:
    """The decision is on its way to a disk that takes nothing more: the target fails, or a kill comes before. The slot
    stays, and rows lead to each of its entries, as its container has not let go of it."""

    async def scenario() -> None:
        store = await open_several(tmp_path / "store")
        stream = await store.create_stream("s", slots=4)
        home = store.containers[stream.state.container].container
        number = next(n for n in range(4) if stream.slot(n).container_id != home.id)
        source = store.containers[stream.slot(number).container_id]
        written = await fill(stream.slot(number), 30)
        assert source.container.files.unindexed
        real = home.change_stream

        async def fail(changed: Stream, state: StreamState) -> None:
            home.change_stream = real  # type: ignore[method-assign]
            home.log._writer.write = lambda buffers, end: None  # type: ignore[method-assign]
            change = asyncio.ensure_future(real(changed, state))
            await asyncio.sleep(0)
            assert stream.slot(number).container_id == home.id  # where callers find it, as the log was given that
            await source.maintenance.index_files()
            await source.maintenance.checkpoint()
            copy_files(store, tmp_path / "killed")
            home.log.on_failed(StorageFailure("the disk is gone"))
            await change

        home.change_stream = fail  # type: ignore[method-assign]
        with pytest.raises(NotMovedYet):
            await store.move_slot(stream, number, home.id)
        assert await append(stream.slot(number), b"y") == len(written)
        for _ in range(2):
            await source.maintenance.index_files()
            await source.maintenance.checkpoint()
            await source.maintenance.truncate()
        forget_bytes(stream.slot(number).columns)
        assert await read_all(store, stream.slot(number)) == [*written, b"y"]
        await check_after_a_failure(store, tmp_path / "store", number, source.id, [*written, b"y"])
        await check_after_a_failure(
            await open_several(tmp_path / "killed"), tmp_path / "killed", number, source.id, written
        )

    run(scenario())


async def check_after_a_failure(store: Store, directory: Path, number: int, place: int, entries: list[bytes]) -> None:
    """The next start finds the slot in this container, with these entries, and nothing is left of its move."""
    with contextlib.suppress(StorageFailure):
        await store.close(clean=False)
    store = await open_several(directory)
    (stream,) = store.streams
    assert stream.slot(number).container_id == place
    assert await read_all(store, stream.slot(number)) == entries
    assert all(not one.container.arrivals for one in store.containers.values())
    check_copies(store)
    await store.close()


async def small_stream(directory: Path) -> tuple[Store, Stream, int]:
    """A stream that lies in one container as a whole, with a writer in each of two slots; and another container."""
    store = await open_several(directory)
    stream = await store.create_stream("small", slots=2, config={"one": ""})
    for number in range(2):
        await append(stream.slot(number), b"x", writer=(7 + number, 0, 0))
    return store, stream, (stream.state.container + 1) % 4


def knows_its_writers(stream: Stream) -> bool:
    slots = [stream.slot(number) for number in range(2)]
    return all(isinstance(owner_of(one).check_writer(one, 7 + one.number, 0, 0, 1), Duplicate) for one in slots)


@pytest.mark.parametrize("is_killed", [False, True])
def test_writers_of_a_stream_in_one_container_outlive_a_move_that_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """The target lets go of its copy of the stream, and of nothing that the source has: what a writer sends again is
    known in all slots, also after a kill in the middle of the move."""

    async def scenario() -> None:
        store, stream, target = await small_stream(tmp_path / "a")
        known = store.known_writers.count

        async def refuse(*_: object) -> None:
            copy_files(store, tmp_path / "b")
            raise StorageFull("the registry has no room")

        with monkeypatch.context() as patch:
            patch.setattr(store, "decide_move", refuse)
            with pytest.raises(StorageFull):
                await store.move_slot(stream, 1, target)
        if is_killed:
            await store.close()
            store = await open_several(tmp_path / "b")
            (stream,) = store.streams
        assert store.containers[target].container.streams == {}
        assert knows_its_writers(stream)
        assert store.known_writers.count == known
        await store.close()

    run(scenario())


@pytest.mark.parametrize("checkpoints", ["source", "target", "both", "none"])
def test_containers_are_recovered_from_before_and_after_a_move(tmp_path: Path, checkpoints: str) -> None:
    """A kill right after a move; the applied state of each container reflects it, or its log alone does. The stream has
    the object of the slot's container."""

    async def scenario() -> None:
        store, stream, target = await small_stream(tmp_path)
        source = stream.slot(1).container_id
        for hosted in store.containers.values():
            await hosted.maintenance.checkpoint()
        await store.move_slot(stream, 1, target)
        for id in (source, target):
            if checkpoints in ("both", "source" if id == source else "target"):
                await store.containers[id].maintenance.checkpoint()
        for _ in range(2):
            store, stream = await again(store, tmp_path, clean=False)
            slot = stream.slot(1)
            assert (slot.container_id, slot.has_moved) == (target, False)
            assert store.containers[target].container.slot_at(stream.id, 1) is slot
            assert all(not one.container.outcomes.beside for one in store.containers.values())
            assert [slot.number for slot in stream.slots_in(target)] == [1]
            assert (await entries(store, stream))[:1] == [b"x"]
            assert knows_its_writers(stream)
            await append(slot, b"y")
        await store.close()

    run(scenario())


def test_background_of_the_target_leaves_other_slots_alone(tmp_path: Path) -> None:
    """A slot of a stream that lies in one container arrives in another one: that has none of the stream's slots yet."""

    async def scenario() -> None:
        store, stream, target = await small_stream(tmp_path)
        container, seen = store.containers[target].container, []
        real = container.all_durable

        def looking() -> asyncio.Future[None]:
            seen.append(list(stream.slots_in(target)))
            return real()

        container.all_durable = looking  # type: ignore[method-assign]
        await store.move_slot(stream, 1, target)
        assert seen
        assert not any(seen)
        assert [slot.number for slot in stream.slots_in(target)] == [1]
        await store.close()

    run(scenario())


def test_a_kill_after_the_stream_was_changed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's copy of the stream is as old as the arrival. A start goes by what was decided since."""

    async def scenario() -> None:
        store, stream, target = await small_stream(tmp_path / "a")

        async def refuse(*_: object) -> None:
            copy_files(store, tmp_path / "b")
            raise StorageFull("the registry has no room")

        container = store.containers[target].container
        real, changed = container.all_durable, []

        async def change() -> None:
            await store.update_stream(stream, config={"one": "", "retention_ms": "5000"})
            await store.grow_stream(stream, 4)
            await append(stream.slot(3), b"in the new slot")

        def changing() -> asyncio.Future[None]:
            if not changed:
                changed.append(asyncio.create_task(change()))
            return real()

        container.all_durable = changing  # type: ignore[method-assign]
        move_locked = store._deciding.move_locked

        async def late(*args: Any) -> None:
            await refuse()
            await move_locked(*args)

        monkeypatch.setattr(store, "decide_move", late)
        real_hand_over = store.mover._hand_over

        async def hand_over(move: Any) -> float:
            await changed[0]
            return await real_hand_over(move)

        monkeypatch.setattr(store.mover, "_hand_over", hand_over)
        with pytest.raises(StorageFull):
            await store.move_slot(stream, 1, target)
        await store.close()
        for _ in range(2):
            store = await open_several(tmp_path / "b")
            (stream,) = store.streams
            assert (stream.slot_count, stream.policy.retention_ms) == (4, 5000)
            assert await read_all(store, stream.slot(3)) == [b"in the new slot"]
            check_copies(store)
            await store.close()

    run(scenario())


def test_a_stream_leaves_a_container_once_the_decision_is_synced(tmp_path: Path) -> None:
    """In mode `interval` a power cut may take the decision, but not if the source has forgotten the stream for good: no
    log would tell where its entries are."""

    async def scenario() -> None:
        hour = replace(FOUR, sync_mode=SyncMode.INTERVAL, sync_interval_ms=3_600_000)
        store = await open_several(tmp_path, hour)
        stream = await store.create_stream("s", slots=4)
        home = stream.state.container
        source = next(slot.container_id for n in range(4) if (slot := stream.slot(n)).container_id != home)
        number = next(n for n in range(4) if stream.slot(n).container_id == source)
        target = next(one for one in range(4) if one not in (home, source))
        await append(stream.slot(number), b"x")
        log, leaving, synced = store.containers[home].container.log, store.containers[source].container, []
        real = leaving.submit

        def submit(operations: Sequence[Operation]) -> asyncio.Future[None]:
            if any(isinstance(one, Delete) and one.table == STREAMS_TABLE for one in operations):
                synced.append(log.synced_lsn >= log.next_lsn - 1)
            return real(operations)

        leaving.submit = submit  # type: ignore[method-assign]
        await store.move_slot(stream, number, target)
        assert synced == [True]
        check_copies(store)
        await store.close()

    run(scenario())


def test_what_begins_beside_a_slot_while_it_is_copied(tmp_path: Path) -> None:
    """Who keeps something beside a slot is asked again once it is frozen: a copy takes minutes."""

    async def scenario() -> None:
        store, stream, source, target = await opened(tmp_path)
        await append(stream.slot(1), b"x")
        container, begun = store.containers[target].container, False
        real = container.all_durable

        def begins() -> asyncio.Future[None]:
            nonlocal begun
            begun = True
            return real()

        container.all_durable = begins  # type: ignore[method-assign]
        store.on_move(lambda slot: "a group has begun to read it" if begun else None)
        with pytest.raises(CannotMove, match="has begun to read it"):
            await store.move_slot(stream, 1, target)
        assert stream.slot(1).container_id == source
        assert await append(stream.slot(1), b"y") == 1
        check_copies(store)
        await store.close()

    run(scenario())
