"""The storage writer: entries go from the log into chunks once, in order, and leave the log only when it is safe."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from core.clock import ManualClock
from core.errors import StorageFull
from core.log.records import Put
from core.streams.live import Slot
from core.tiering.rows import PENDING_TABLE, ChunkRow, ChunkState, chunk_key
from core.tiering.tier import CACHE_DIRECTORY
from core.tiering.upkeep.collector import PUT_LASTS_S_MAX
from tests.core.support import KIB, append, begin_append, container_of, hosted_of, read_all, run, until
from tests.core.tiering.support import (
    AGEING,
    TIERING,
    chunk_entries,
    chunks_in,
    chunks_of,
    fill,
    object_keys,
    runs_of,
    storage_in,
    tiered_store,
    without_gaps,
)
from tests.tier2.chunks import entry
from tier2.chunk_format import ChunkId
from tier2.filesystem import INCOMING, FilesystemStorage
from tier2.storage import Came, Data, ObjectInfo, ObjectStat, Storage, Unavailable

pytestmark = pytest.mark.slow


class Unreliable:
    """Storage that can be switched off, and that can forget an object."""

    def __init__(self, inner: FilesystemStorage) -> None:
        self.inner: Storage = inner
        self.away = False
        self.puts = 0

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        self._check()
        self.puts += 1
        return await self.inner.put(key, data, token=token)

    async def put_new(self, key: str, data: bytes | bytearray | memoryview, *, token: str = "") -> ObjectStat:
        self._check()
        return await self.inner.put_new(key, data, token=token)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self._check()
        return await self.inner.get_range(key, start, length)

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        self._check()
        await self.inner.get_pieces(key, start, length, piece_bytes, came)

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix, after=after)

    async def delete(self, key: str) -> None:
        self._check()
        await self.inner.delete(key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        self._check()
        await self.inner.delete_many(keys)

    async def stat(self, key: str) -> ObjectStat | None:
        self._check()
        return await self.inner.stat(key)

    async def sweep_uploads(self, older_than_s: float) -> int:
        self._check()
        return await self.inner.sweep_uploads(older_than_s)

    async def close(self) -> None:
        await self.inner.close()

    def _check(self) -> None:
        if self.away:
            raise Unavailable("switched off")


def test_by_bytes(tmp_path: Path) -> None:
    """A segment's chunks hold what was appended, in order; the rest stays in the log until it is due."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, storage=storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 300 * KIB)
            await until(lambda: slot.durable_bytes - slot.tiered_bytes < TIERING.chunk_bytes)

            runs = runs_of(store, slot)
            assert runs[0].first == 0
            assert runs[-1].end == slot.tiered_end
            assert without_gaps(runs)
            assert len(runs) > 2
            assert await chunk_entries(storage, store, slot) == written[: slot.tiered_end]

    run(scenario())


def test_a_held_slot_waits(tmp_path: Path) -> None:
    """No chunk is made of it while another slot's are, as often as anything is due; all of them once it is let go."""

    async def scenario() -> None:
        async with tiered_store(tmp_path) as store:
            held = (await store.create_stream("held", slots=1)).slot(0)
            other = (await store.create_stream("other", slots=1)).slot(0)
            tier = hosted_of(store).tier
            assert tier is not None
            await fill(held, 100 * KIB)
            await until(lambda: held.tiered_end > 0)
            reached = tier.writer.hold(held)
            await until(lambda: held.tiered_end == reached)  # what was on its way has come
            written = await fill(held, 200 * KIB)
            await fill(other, 200 * KIB)
            await until(lambda: other.tiered_end > other.end // 2)
            assert held.tiered_end == reached
            assert tier.writer.untiered_bytes >= sum(map(len, written))
            tier.writer.let_go(held)
            await until(lambda: held.tiered_end > held.end // 2)
            assert without_gaps(runs_of(store, held))

    run(scenario())


def test_a_held_slot_does_not_fill_the_log(tmp_path: Path) -> None:
    """Once the log is pressed it is tiered like any other."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, replace(TIERING, log_max_bytes=512 * KIB)) as store:
            held = (await store.create_stream("held", slots=1)).slot(0)
            tier = hosted_of(store).tier
            assert tier is not None
            assert tier.writer.hold(held) == 0
            await fill(held, 300 * KIB)
            await until(lambda: held.tiered_end > 0)

    run(scenario())


def test_log_is_released(tmp_path: Path) -> None:
    """Entries in verified chunks leave the log, and only those."""

    async def scenario() -> None:
        async with tiered_store(tmp_path) as store:
            container = container_of(store)
            slot = (await store.create_stream("s", slots=1)).slot(0)
            first = container.log.file
            written = await fill(slot, 300 * KIB)
            await until(lambda: not first.path.exists())
            assert slot.start == 0
            assert b"".join(await read_all(store, slot)) == b"".join(written)

    run(scenario())


def test_many_slots_share_chunks(tmp_path: Path) -> None:
    """Little data of many slots costs one object, not one for each."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, AGEING, storage) as store:
            streams = [await store.create_stream(f"s{number}", slots=10) for number in range(10)]
            slots = [stream.slot(number) for stream in streams for number in range(10)]
            waiting = [begin_append(slot, entry(0, 1, 5, b"x" * 20).payload, timestamp=5)[1] for slot in slots]
            await asyncio.gather(*(one.future for one in waiting))
            await until(lambda: all(slot.tiered_end == 1 for slot in slots))

            assert len(chunks_of(store)) <= 2
            assert await chunk_entries(storage, store, slots[37]) == [bytes(entry(0, 1, 5, b"x" * 20).payload)]

    run(scenario())


def test_intents_of_an_earlier_run_are_swept(tmp_path: Path) -> None:
    """An interrupted upload is never committed, and its object deleted, even if it arrives late. Nothing else is."""

    async def scenario() -> None:
        storage, clock = await storage_in(tmp_path / "tier2"), ManualClock()
        left = ChunkId(container=0, epoch=0, sequence=77)
        async with tiered_store(tmp_path, storage=storage, clock=clock, clean=False) as store:
            row = ChunkRow(id=left, state=ChunkState.INTENT, created_ms=1, changed_ms=1)
            await store.update(Put(PENDING_TABLE, row.key, row.encode()))
        foreign = ChunkId(container=0, epoch=0, sequence=78)
        await storage.put(chunk_key(left), b"half a chunk")
        await storage.put(chunk_key(foreign), b"not ours")
        async with tiered_store(tmp_path, storage=storage, clock=clock) as store:
            tier = hosted_of(store).tier
            assert tier is not None
            await until(lambda: tier.collector._swept)
            assert await object_keys(storage) == [chunk_key(foreign)]
            await storage.put(chunk_key(left), b"half a chunk")
            clock.advance(TIERING.tier2_abandoned_ms / 1000)
            await until(lambda: not chunks_of(store))
        assert await object_keys(storage) == [chunk_key(foreign)]

    run(scenario())


def test_unfinished_uploads_are_swept(tmp_path: Path) -> None:
    """Half an upload of a killed process is removed once no put can still use it; a younger one stays."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        old, young = (tmp_path / "tier2" / INCOMING / name for name in ("old", "young"))
        for path in (old, young):
            path.write_bytes(b"half a chunk")
        os.utime(old, (time.time() - PUT_LASTS_S_MAX - 60,) * 2)
        async with tiered_store(tmp_path, storage=storage):
            await until(lambda: not old.exists())
            assert young.exists()

    run(scenario())


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_young_object_is_put_again(tmp_path: Path, damage: str) -> None:
    """A chunk that the store lost after it was committed is remade from the log, which had kept it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        patient = replace(TIERING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient, storage, clean=False) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 200 * KIB)
            await until(lambda: slot.durable_bytes - slot.tiered_bytes < TIERING.chunk_bytes)
            assert chunks_in(store, ChunkState.VERIFIED) == []
            assert container_of(store).files.complete[0].first_lsn == 1
        for key in await object_keys(storage):
            if damage == "gone":
                await storage.delete(key)
            else:
                await storage.put(key, b"half")
        async with tiered_store(tmp_path, storage=storage) as store:
            slot = next(iter(store.streams)).slot(0)
            await until(lambda: not chunks_in(store, ChunkState.COMMITTED))
            assert without_gaps(runs_of(store, slot))
            assert await chunk_entries(storage, store, slot) == written[: slot.tiered_end]
            await until(
                lambda: container_of(store).files.complete == [] or container_of(store).files.complete[0].first_lsn > 1
            )

    run(scenario())


def test_storage_away(tmp_path: Path) -> None:
    """Appends go on until the log is full, are then refused, and go on by themselves when storage is back."""

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        small = replace(TIERING, log_max_bytes=512 * KIB)
        async with tiered_store(tmp_path, small, storage) as store:
            container = container_of(store)
            slot = (await store.create_stream("s", slots=1)).slot(0)
            storage.away = True
            written: list[bytes] = []
            with pytest.raises(StorageFull, match=re.escape("log.max.bytes")):
                await fill_until_refused(slot, written)
            assert container.log_bytes <= 512 * KIB
            assert container.throttle.is_on
            assert len(written) > 300

            storage.away = False
            await until(lambda: container.log_bytes < 300 * KIB)
            await until(lambda: not container.throttle.is_on)
            written += await fill(slot, 4 * KIB)
            await until(lambda: slot.durable_bytes - slot.tiered_bytes < TIERING.chunk_bytes)
            assert await chunk_entries(storage, store, slot) == written[: slot.tiered_end]

    run(scenario())


async def fill_until_refused(slot: Slot, written: list[bytes]) -> None:
    while len(written) < 2000:
        written += await fill(slot, 1)


def test_dead_chunks_are_deleted(tmp_path: Path) -> None:
    """When every slot in a chunk has moved on, or its stream is deleted, the object goes and so do the rows."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, AGEING, storage) as store:
            kept = (await store.create_stream("kept", slots=1)).slot(0)
            deleted = await store.create_stream("deleted", slots=1)
            await fill(kept, 100 * KIB)
            await fill(deleted.slot(0), 100 * KIB)
            await until(lambda: kept.tiered_end == kept.end and deleted.slot(0).tiered_end == deleted.slot(0).end)

            await store.hosted(kept).truncate(kept, 50)
            await until(lambda: runs_of(store, kept)[0].end > 50 and runs_of(store, kept)[0].first <= 50)
            await store.delete_stream(deleted)
            catalog = hosted_of(store).catalog
            await until(lambda: not list(catalog.iter_stream_runs(deleted.id)))
            await until(lambda: not chunks_in(store, ChunkState.DELETING))
            await until(lambda: not chunks_in(store, ChunkState.COMMITTED))
            alive = sorted({chunk_key(one.chunk) for one in runs_of(store, kept)})
            assert sorted(await object_keys(storage)) == alive
            assert sorted(chunk_key(row.id) for row in chunks_of(store)) == alive

            await store.hosted(kept).truncate(kept, kept.end)
            await until(lambda: not chunks_of(store))
            assert await object_keys(storage) == []

    run(scenario())


def test_deletion_survives_a_crash(tmp_path: Path) -> None:
    """Chunks that died before a crash are found by the next start."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, AGEING, storage, clean=False) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            gone = await store.create_stream("gone", slots=1)
            await fill(slot, 50 * KIB)
            await fill(gone.slot(0), 50 * KIB)
            await until(lambda: slot.tiered_end == slot.end and gone.slot(0).tiered_end == gone.slot(0).end)
            tier = hosted_of(store).tier
            assert tier is not None
            await tier.collector.stop()
            await store.hosted(slot).truncate(slot, slot.end)
            await store.delete_stream(gone)
        assert await object_keys(storage)
        async with tiered_store(tmp_path, AGEING, storage) as store:
            await until(lambda: not chunks_of(store))
        assert await object_keys(storage) == []

    run(scenario())


def test_restart_goes_on(tmp_path: Path) -> None:
    """After a restart the rows are there, what was not tiered is, and nothing is tiered twice."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        written: list[bytes] = []
        for clean in (True, False, True):
            async with tiered_store(tmp_path, AGEING, storage, clean=clean) as store:
                stream = store.streams.get("s") or await store.create_stream("s", slots=1)
                slot = stream.slot(0)
                written += await fill(slot, 100 * KIB)
                await until(partial(tiered, slot))
                assert without_gaps(runs_of(store, slot))
                assert await chunk_entries(storage, store, slot) == written

    run(scenario())


def tiered(slot: Slot) -> bool:
    return slot.tiered_end == slot.end


def test_trim_during_an_upload(tmp_path: Path) -> None:
    """Entries that are deleted during an upload never leave a dangling row."""

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, AGEING, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            storage.away = True
            await fill(slot, 100 * KIB)
            tier = hosted_of(store).tier
            assert tier is not None
            await until(lambda: tier.writer.uploading)
            await store.hosted(slot).truncate(slot, slot.end)
            storage.away = False
            await append(slot, entry(slot.end, 1, 9, b"last").payload, timestamp=9)
            await until(lambda: slot.tiered_end == slot.end and not tier.writer.uploading)
            await until(lambda: len(chunks_of(store)) == 1)
            assert [one.first for one in runs_of(store, slot)] == [slot.start]

    run(scenario())


def test_cache_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    """Files that a killed process left in the cache go from the disk, even if nothing is cached on disk now."""

    async def scenario() -> None:
        async with tiered_store(tmp_path) as store:
            cache = container_of(store).directory / CACHE_DIRECTORY
        cache.mkdir()
        (cache / "1.page").write_bytes(b"of an earlier run")
        async with tiered_store(tmp_path):
            assert not cache.exists()

    run(scenario())
