"""A store of several containers: each fails or is released by itself, and the process goes on with the others."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from core.clock import ManualClock
from core.config import MIB, StoreConfig
from core.container.arrivals import arrival_put
from core.errors import NotHosted, StorageFailure
from core.log.records import Put
from core.offline import looked_at
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.saving import encode_slot
from core.streams.slot_format import decode_slot
from core.streams.state import STREAMS_TABLE, new_stream, stream_key
from tests.core.support import (
    KIB,
    SMALL,
    Gate,
    append,
    before_syncs,
    begin_append,
    end_of,
    forget_bytes,
    make,
    owner_of,
    policy_from,
    read_all,
    run,
    until,
)

pytestmark = pytest.mark.slow

TWO: Final = replace(SMALL, container_ids=(0, 1))
ELSEWHERE: Final = 1
STREAM_ID: Final = 1_000


async def open_two(directory: Path, config: StoreConfig = TWO) -> Store:
    store = await Store.open(directory, config, policy_from, ManualClock())
    for hosted in store.containers.values():
        await hosted.maintenance.stop()  # the test says when
    return store


async def make_elsewhere(store: Store) -> Stream:
    """A stream in the container that keeps no tables."""
    container = store.containers[ELSEWHERE].container
    state = new_stream(
        stream_id=STREAM_ID, name="away", uuid=uuid4(), slots=1, created_ms=0, container=container.id, config={}
    )
    await container.update(Put(STREAMS_TABLE, STREAM_ID.to_bytes(4, "big"), state.encode()))
    return container.streams[STREAM_ID]


@contextmanager
def failing(container_id: int) -> Iterator[None]:
    """Syncs of one container's log fail."""

    def fail(fd: int) -> None:
        if f"/container-{container_id}/log/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        before_syncs(patch, fail)
        yield


async def refuses(slot: Slot) -> None:
    """Nothing is taken for a slot, or for its container."""
    container = owner_of(slot)
    with pytest.raises(StorageFailure):
        begin_append(slot, b"later")
    with pytest.raises(StorageFailure):
        await container.update(Put("t", b"k", b"v"))
    with pytest.raises(StorageFailure):
        await container.end_transactions([end_of(slot, 1, committed=True)], [Put("t", b"k", b"v")])


def test_one_fails_and_the_others_serve(tmp_path: Path) -> None:
    """A poisoned log ends appends to its container's streams; they are still read, and everything else goes on."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        await append(here, b"one")
        await append(away, b"safe")
        with failing(ELSEWHERE), pytest.raises(StorageFailure):
            await append(away, b"lost")

        await refuses(away)
        assert await read_all(store, away) == [b"safe"]
        await append(here, b"two")
        assert not store.failed.done()
        assert [hosted.concerns() != [] for hosted in store.containers.values()] == [False, True]
        await append((await make(store, "later")).slot(0), b"three")
        assert await read_all(store, here) == [b"one", b"two"]
        await store.close()

        store = await open_two(tmp_path)
        assert store.containers[0].recovered.clean
        assert not store.containers[ELSEWHERE].recovered.clean
        again = store.streams.get("away")
        assert again is not None
        assert (await read_all(store, again.slot(0)))[:1] == [b"safe"]
        await append(again.slot(0), b"goes on")
        await store.close()

    run(scenario())


def test_a_busy_log_uses_what_the_others_leave(tmp_path: Path) -> None:
    """The log that a start may have to replay is bounded for all containers together. One that has more than its share
    is checkpointed once the others leave it nothing more; one below its share is not."""

    async def scenario() -> None:
        config = replace(TWO, log_file_bytes=16 * MIB, checkpoint_log_bytes=4 * MIB)
        store = await open_two(tmp_path, config)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        busy, quiet = (store.containers[one].maintenance for one in (0, ELSEWHERE))
        await append(here, bytes(3 * MIB))
        assert not busy._is_checkpoint_urgent()
        await append(away, bytes(MIB))
        assert busy._is_checkpoint_urgent()
        assert not quiet._is_checkpoint_urgent()
        await busy.checkpoint()
        assert not busy._is_checkpoint_urgent()
        await store.close()

    run(scenario())


def test_an_applied_state_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RocksDB of one container fails for good: its log takes nothing more, that could never be let go of."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        await append(away, b"safe")
        maintenance = store.containers[ELSEWHERE].maintenance

        async def fail(*, clean: bool = False) -> None:
            raise StorageFailure("the applied state cannot be written any more")

        monkeypatch.setattr(maintenance, "checkpoint", fail)
        maintenance.start()
        monkeypatch.setattr(maintenance, "_checkpoint_at", 0.0)  # it is due
        await until(owner_of(away).failed.done)

        await refuses(away)
        assert not store.failed.done()
        assert await read_all(store, away) == [b"safe"]
        await append(here, b"one")
        await store.close()
        store = await open_two(tmp_path)
        assert store.containers[0].recovered.clean
        await store.close()

    run(scenario())


def test_the_home_of_tables_fails(tmp_path: Path) -> None:
    """Without the container that keeps tables nothing can be created or changed; the others' slots go on. The process
    ends when the last container has failed."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        with failing(0), pytest.raises(StorageFailure):
            await append(here, b"lost")
        with pytest.raises(StorageFailure):
            await make(store, "later")
        await append(away, b"goes on")
        assert not store.failed.done()
        with failing(ELSEWHERE), pytest.raises(StorageFailure):
            await append(away, b"lost")
        assert isinstance(await store.failed, StorageFailure)
        await store.close()

    run(scenario())


def test_what_is_not_here(tmp_path: Path) -> None:
    """A slot whose container is not open has nobody who serves it."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        assert store.hosted(here) is store.containers[0]
        assert store.hosted(away) is store.containers[ELSEWHERE]
        await store.close()
        with pytest.raises(NotHosted):
            store.hosted(here)

    run(scenario())


async def is_given_away(slot: Slot) -> None:
    """Nothing is appended to a slot any more, even by a caller that held its container before."""
    container = owner_of(slot)
    with pytest.raises(NotHosted):
        begin_append(slot, b"later")
    with pytest.raises(NotHosted):
        container.end_transactions([end_of(slot, 1, committed=True)], [])


_others: set[threading.Thread] = set()
"""Threads from before a test: of stores that other tests dropped as a crash would."""


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    _others.update(threading.enumerate())
    yield
    _others.clear()


def threads_of(container_id: int) -> list[str]:
    """Threads by name that serve a container."""
    names = [thread.name.split("_")[0] for thread in threading.enumerate() if thread not in _others]
    marks = (f"log-{container_id}", f"metadata-{container_id}", f"catalog-{container_id}")
    return [name for name in names if name.startswith(marks)]


async def no_thread_is_left(container_id: int) -> None:
    """The one that makes memory ahead ends by itself, after the piece that it makes just now."""
    for _ in range(400):
        if not threads_of(container_id):
            return
        await asyncio.sleep(0.025)
    assert threads_of(container_id) == []


class Watching:
    """A watcher that looks at its slot again at each call."""

    def __init__(self) -> None:
        self.told = 0

    def slot_appended(self, slot: Slot, size: int) -> None:
        pass

    def slot_settled(self, slot: Slot, size: int) -> None:
        pass

    def slot_changed(self, slot: Slot) -> None:
        self.told += 1


def test_writers_of_what_arrives_count_no_more_after_a_release(tmp_path: Path) -> None:
    """A container goes while a slot is on its way into it, with a state that has writers."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        slot, target = (await make(store)).slot(0), store.containers[ELSEWHERE].container
        await append(slot, b"x", writer=(7, 0, 0))
        state = decode_slot(encode_slot(slot))._replace(since_lsn=target.log.file.first_lsn)
        stream = slot.stream
        await target.update(
            Put(STREAMS_TABLE, stream_key(stream.id), stream.logged.encode()),
            arrival_put((stream.id, 0), state.encode()),
        )
        assert target.arriving((stream.id, 0)) is not None
        assert store.known_writers.count == 2
        await store.release(ELSEWHERE)
        assert store.known_writers.count == 1
        await store.close()

    run(scenario())


def test_writers_of_what_has_moved_count_no_more_after_a_release(tmp_path: Path) -> None:
    """A container goes that is still to hear that a slot has left it: the slot's writers count where it is now."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        stream = await make_elsewhere(store)
        slot, target = stream.slot(0), store.containers[0].container
        await append(slot, b"x", writer=(7, 0, 0))
        arriving = decode_slot(encode_slot(slot))._replace(since_lsn=target.log.file.first_lsn)
        moved = stream.logged.moved(0, target.id, 0, "test")
        key = stream_key(stream.id)
        await target.update(
            Put(STREAMS_TABLE, key, stream.logged.encode()), arrival_put((stream.id, 0), arriving.encode())
        )
        await target.update(Put(STREAMS_TABLE, key, moved.encode()))
        assert slot.has_moved
        assert stream.slot(0) is not slot
        assert store.known_writers.count == 2
        await store.release(ELSEWHERE)
        assert store.known_writers.count == 1
        await store.close()

    run(scenario())


def test_one_is_released_and_the_others_serve(tmp_path: Path) -> None:
    """A released container that is opened elsewhere has all of its entries; meanwhile the store serves the others."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, stream = (await make(store)).slot(0), await make_elsewhere(store)
        away = stream.slot(0)
        await append(here, b"one", writer=(1, 0, 0))
        entries = [b"%d" % number * 4 * KIB for number in range(40)]  # of several files
        for entry in entries:
            await append(away, entry)
        await append(away, b"last", writer=(2, 0, 0))
        assert store.known_writers.count == 2
        assert threads_of(ELSEWHERE)

        await store.release(ELSEWHERE)
        await no_thread_is_left(ELSEWHERE)
        assert store.known_writers.count == 1
        await is_given_away(away)
        assert store.stream_of(STREAM_ID) is stream
        with pytest.raises(NotHosted):
            store.hosted(away)
        for change in (store.update_stream(stream, config={}), store.delete_stream(stream), store.release(ELSEWHERE)):
            with pytest.raises(NotHosted):
                await change

        await append(here, b"two")
        await append((await make(store, "later")).slot(0), b"three")
        assert await read_all(store, here) == [b"one", b"two"]
        async with looked_at(tmp_path, replace(SMALL, container_ids=(ELSEWHERE,))) as (again,):
            assert again.recovered.clean
            assert again.container.streams[STREAM_ID].slot(0).end == len(entries) + 1
        await store.close()

        store = await open_two(tmp_path)
        assert [hosted.recovered.clean for hosted in store.containers.values()] == [True, True]
        found = store.streams.get("away")
        assert found is not None
        assert await read_all(store, found.slot(0)) == [*entries, b"last"]
        assert store.known_writers.count == 2
        await store.close()

    run(scenario())


def test_appends_on_their_way_when_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become durable before it is closed. From the call on nothing else is taken, and watchers look again."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        away, watching = (await make_elsewhere(store)).slot(0), Watching()
        away.watch(watching)
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            outcomes = [begin_append(away, b"%d" % number)[1] for number in range(10)]
            await until(gate.waiting.is_set)
            release = asyncio.create_task(store.release(ELSEWHERE))
            await until(lambda: watching.told)
            await is_given_away(away)
            with pytest.raises(NotHosted):
                store.hosted(away)
            assert not any(outcome.future.done() for outcome in outcomes)
            gate.open.set()
            await asyncio.gather(*(outcome.future for outcome in outcomes))
            await release
        assert away.durable_end == 10
        await store.close()

        store = await open_two(tmp_path)
        assert store.containers[ELSEWHERE].container.streams[STREAM_ID].slot(0).durable_end == 10
        await store.close()

    run(scenario())


def test_a_disk_that_fails_while_it_is_released(tmp_path: Path) -> None:
    """Appends under way end with an error, all is closed, and a start finds every acknowledged entry."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here, away = (await make(store)).slot(0), (await make_elsewhere(store)).slot(0)
        await append(away, b"safe")
        with failing(ELSEWHERE):
            outcome = begin_append(away, b"lost")[1]
            await store.release(ELSEWHERE)
        assert isinstance(outcome.future.exception(), StorageFailure)
        await no_thread_is_left(ELSEWHERE)
        await is_given_away(away)
        await append(here, b"one")
        assert not store.failed.done()
        await store.close()

        store = await open_two(tmp_path)
        again = store.streams.get("away")
        assert again is not None
        assert (await read_all(store, again.slot(0)))[:1] == [b"safe"]
        await store.close()

    run(scenario())


def test_reads_under_way_when_it_is_released(tmp_path: Path) -> None:
    """A reader that goes on with a container that was released hears that it is not here."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        away = (await make_elsewhere(store)).slot(0)
        await append(away, b"safe")
        reader = store.hosted(away).reader
        await store.release(ELSEWHERE)
        forget_bytes(away.columns)
        with pytest.raises(NotHosted):
            await reader.read(away, 0, 1, KIB, True)
        await store.close()

    run(scenario())


def test_a_stop_while_one_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's stop waits for it, also where nobody else does any more. The home of tables is not released."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        away = (await make_elsewhere(store)).slot(0)
        with pytest.raises(ValueError, match="keeps the tables"):
            await store.release(0)
        with monkeypatch.context() as patch:
            gate = Gate(patch)
            outcome = begin_append(away, b"x")[1]
            await until(gate.waiting.is_set)
            release = asyncio.create_task(store.release(ELSEWHERE))
            await until(lambda: store.containers.keys() == {0})
            release.cancel()
            stop = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            gate.open.set()
            await stop
        assert outcome.future.exception() is None
        await no_thread_is_left(ELSEWHERE)

    run(scenario())
