"""A store of several containers: each fails by itself, and the process goes on with the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from core.clock import ManualClock
from core.errors import NotHosted, StorageFailure
from core.log.records import Put
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.state import STREAMS_TABLE, new_stream
from tests.core.support import (
    SMALL,
    append,
    before_syncs,
    begin_append,
    end_of,
    make,
    owner_of,
    policy_from,
    read_all,
    run,
    until,
)

TWO: Final = replace(SMALL, container_ids=(0, 1))
ELSEWHERE: Final = 1
STREAM_ID: Final = 1_000


async def open_two(directory: Path) -> Store:
    store = await Store.open(directory, TWO, policy_from, ManualClock())
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
    """Without the container that keeps tables nothing can be created or committed: the process ends."""

    async def scenario() -> None:
        store = await open_two(tmp_path)
        here = (await make(store)).slot(0)
        with failing(0), pytest.raises(StorageFailure):
            await append(here, b"lost")
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
