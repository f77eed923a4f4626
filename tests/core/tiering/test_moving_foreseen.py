"""A slot moves between logs in an object store, and its target makes chunks while it knows a state that is foreseen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core import freezing
from core.config import LogStore
from core.streams.live import Slot
from tests.core.support import KIB, run, until
from tests.core.tiering.support import AGEING, fill, storage_in
from tests.core.tiering.test_moving import opened, skipped
from tests.core.transactional import Transactional
from tier2.filesystem import FilesystemStorage
from tier2.storage import Data, ObjectStat, Unavailable

pytestmark = pytest.mark.slow

TWO_IN_OBJECTS = replace(AGEING, container_ids=(0, 1), log_store=LogStore.OBJECT)


class HeldStorage:
    """An object store that keeps puts below some prefixes until they are let go; then those of chunks have failed."""

    def __init__(self, inner: FilesystemStorage) -> None:
        self._inner = inner
        self._is_open: dict[str, asyncio.Event] = defaultdict(_opened)
        self.waiting: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def hold(self, prefix: str) -> None:
        self._is_open[prefix].clear()

    def let_go(self, prefix: str) -> None:
        self._is_open[prefix].set()

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if await self._was_held(key):
            raise Unavailable(f"{key} was not taken")
        return await self._inner.put(key, data, token=token)

    async def put_new(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        await self._was_held(key)
        return await self._inner.put_new(key, data, token=token)

    async def _was_held(self, key: str) -> bool:
        prefix = "/".join(key.split("/")[:2])
        if self._is_open[prefix].is_set():
            return False
        self.waiting.add(prefix)
        return await self._is_open[prefix].wait()


def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def test_a_chunk_of_a_freeze_that_was_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker of an aborted transaction is on its way when the slot is frozen, and so in the state that the target
    foresees. The target cuts a chunk by that state, and puts it once more when the freeze has been taken back: the
    chunk lists the transaction. So committed readers pass over it when the log has let go of it."""
    monkeypatch.setattr(freezing, "FREEZE_S", 0.5)
    monkeypatch.setattr(freezing, "PAUSE_S", 2.0)  # longer than that until a put is tried again

    async def scenario() -> None:
        storage = HeldStorage(await storage_in(tmp_path / "tier2"))
        async with opened(tmp_path / "store", storage, TWO_IN_OBJECTS, clean=False) as store:  # type: ignore[arg-type]
            stream = await store.create_stream("s", slots=1)
            slot = stream.slot(0)
            source, target = store.hosted(slot).container, store.containers[1 - slot.container_id].container
            target.risen(source.epoch + 1)

            def arrived() -> Slot | None:
                return target.arriving((stream.id, 0))

            script = Transactional(store, slot)
            await script.append(5, body=KIB)
            storage.hold(f"chunks/{target.id}")
            storage.hold(f"log/{source.id}")
            ended = asyncio.create_task(script.end(5, committed=False))
            await until(lambda: not source.is_all_durable)
            moved = asyncio.create_task(store.move_slot(stream, 0, target.id))
            await until(lambda: f"chunks/{target.id}" in storage.waiting)
            assert slot.durable_end < slot.end
            await until(
                lambda: not source.is_leaving(slot) and (found := arrived()) is not None and found.stable_end == 0
            )
            storage.let_go(f"chunks/{target.id}")
            await until(lambda: (found := arrived()) is not None and found.tiered_end == slot.end)
            storage.let_go(f"log/{source.id}")
            await ended
            await moved
            slot = stream.slot(0)
            assert slot.container_id == target.id
            await fill(slot, 4 * TWO_IN_OBJECTS.log_file_bytes)
            await until(lambda: not slot.aborted_rows)  # the log has let go of it
            assert await skipped(store, slot) == set(script.aborted)

    run(scenario())
