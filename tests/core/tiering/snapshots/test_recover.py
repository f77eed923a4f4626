"""A store made from long-term storage alone: all tiered entries, nothing twice, and losses by name."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from core.applied.tables import Put
from core.store import Store
from core.streams.live import Slot
from core.tiering.rows import ChunkState, chunk_key, parse_chunk_key
from core.tiering.snapshots.format import parse_snapshot_key
from core.tiering.snapshots.recover import EPOCHS_APART, Tables, recover_store
from core.tiering.snapshots.recovered import RecoveredSlot, Report
from core.tiering.tier import Tier
from tests.core.support import append, container_of, hosted_of, owner_of, run, until
from tests.core.tiering.support import (
    AGEING,
    CLUSTER,
    chunk_entries,
    chunks_of,
    fill,
    object_keys,
    runs_of,
    storage_in,
    tiered_store,
    without_gaps,
)
from tests.tier2.chunks import entry, head_of
from tier2.chunk import ChunkWriter, RunSource
from tier2.chunk_format import ChunkId, SegmentRef, StreamRef
from tier2.storage import Storage

pytestmark = pytest.mark.slow

QUIET = replace(AGEING, tier2_snapshot_interval_ms=3_600_000)
"""Snapshots are taken when the test, or a stop, says so."""


def same_tables(tables: Tables, bounds: Mapping[tuple[str, int], tuple[int, int]]) -> Tables:
    return tables


async def recovered(tmp_path: Path, storage: Storage) -> Report:
    """Do the work of `penstock recover`, after the disk is gone."""
    shutil.rmtree(tmp_path / "store")
    return await recover_store(
        tmp_path / "store", QUIET, storage, CLUSTER, head_of, same_tables, lambda what, done, total: None
    )


@asynccontextmanager
async def life(tmp_path: Path, storage: Storage) -> AsyncIterator[Store]:
    """One life of the store; ends as a crash does, so that nothing is put at the end."""
    async with tiered_store(tmp_path, QUIET, storage, clean=False) as store:
        yield store


async def tiered(slot: Slot) -> None:
    await until(lambda: slot.tiered_end == slot.durable_end)


async def snapshot(store: Store) -> int:
    """Take one; the LSN that it covers."""
    tier = hosted_of(store).tier
    assert tier is not None
    await tier.snapshots.take()
    return tier.snapshots.covered_lsn


async def forget_later(storage: Storage, lsn: int) -> None:
    """Remove the snapshots that were taken since, because the log or an object waited for one."""
    async for info in storage.list("meta/"):
        found = parse_snapshot_key(info.key)
        if found is not None and found[1].lsn > lsn:
            await storage.delete(info.key)


async def write(slot: Slot, count: int) -> list[bytes]:
    """Some small entries, in one chunk when this returns, however long it takes to append them."""
    tier, written = owner_of(slot).tier, []
    assert isinstance(tier, Tier)
    tier.writer.hold(slot)
    for _ in range(count):
        payload = bytes(entry(slot.end, 1, 1000 + slot.end, b"%d" % slot.end).payload)
        await append(slot, payload, timestamp=1000 + slot.end)
        written.append(payload)
    tier.writer.let_go(slot)
    await tiered(slot)
    return written


async def put_chunk(storage: Storage, epoch: int, slot: Slot, first: int, leader_epoch: int) -> str:
    """A chunk of one entry that no log knows of."""
    chunk_id = ChunkId(container=0, epoch=epoch, sequence=1 << 40 | first)
    stream = StreamRef(id=slot.stream.id, uuid=slot.stream.uuid, name=slot.stream.name)
    source = RunSource(
        segment=SegmentRef(id=0, stream=stream, generation=0),
        slot=slot.number,
        entries=lambda: [entry(first, 1, leader_epoch=leader_epoch)],
    )
    await storage.put(chunk_key(chunk_id), ChunkWriter(chunk_id, CLUSTER, 1, [source]))
    return chunk_key(chunk_id)


def test_everything(tmp_path: Path) -> None:
    """Streams with their configuration, tables, entries, starts; epochs above any seen, ids never again."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            stream = await store.create_stream("s", slots=3, config={"k": "v"})
            gone = await store.create_stream("gone", slots=1)
            await write(gone.slot(0), 1)
            written = await write(stream.slot(1), 50)
            more = await fill(stream.slot(2), 100_000)
            await store.hosted(stream.slot(1)).truncate(stream.slot(1), 10)
            await store.update(Put("offsets", b"key", b"value"))
            await tiered(stream.slot(2))
            await store.delete_stream(gone)
            taken = await snapshot(store)
            await append(stream.slot(1), bytes(entry(50).payload))
            epoch, uuid = container_of(store).epoch, stream.uuid
        await forget_later(storage, taken)
        report = await recovered(tmp_path, storage)

        assert [(one.name, one.slots, one.untiered) for one in report.streams] == [
            ("s", [RecoveredSlot(0, 0, 0), RecoveredSlot(1, 10, 50), RecoveredSlot(2, 0, len(more))], 0)
        ]
        async with life(tmp_path, storage) as store:
            stream = next(iter(store.streams))
            assert (stream.name, stream.uuid, dict(stream.config), stream.slot_count) == ("s", uuid, {"k": "v"}, 3)
            assert store.table("offsets").entries == {b"key": b"value"}
            assert container_of(store).epoch >= epoch + EPOCHS_APART
            one, two = stream.slot(1), stream.slot(2)
            assert (one.start, one.end, two.start, two.end) == (10, 50, 0, len(more))
            assert (await chunk_entries(storage, store, one))[-40:] == written[10:]
            assert await chunk_entries(storage, store, two) == more
            assert without_gaps(runs_of(store, two))
            assert two.size_bytes == sum(map(len, more))
            later = await write(one, 5)
            assert (await chunk_entries(storage, store, one))[-5:] == later
            assert (await store.create_stream("new", slots=1)).id > gone.id
        await storage.close()

    run(scenario())


def test_twice(tmp_path: Path) -> None:
    """A recovered store may lose its disk as well; epochs rise again."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        written: list[bytes] = []
        epochs: list[int] = []
        for _ in range(3):
            async with life(tmp_path, storage) as store:
                found = store.streams.get("s") or await store.create_stream("s", slots=1)
                written += await write(found.slot(0), 7)
                epochs.append(container_of(store).epoch)
                await snapshot(store)
            report = await recovered(tmp_path, storage)

            assert report.findings == []
            assert report.streams[0].slots == [RecoveredSlot(0, 0, len(written))]
        async with life(tmp_path, storage) as store:
            found = next(iter(store.streams))
            assert await chunk_entries(storage, store, found.slot(0)) == written
            epochs.append(container_of(store).epoch)
        assert all(later - earlier >= EPOCHS_APART for earlier, later in itertools.pairwise(epochs))
        await storage.close()

    run(scenario())


def test_newer_than_the_snapshot(tmp_path: Path) -> None:
    """Streams that were made, grown, or deleted and made again since are adopted from what chunks say."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            grown = await store.create_stream("grown", slots=1)
            old = await store.create_stream("again", slots=1)
            await write(grown.slot(0), 3)
            await write(old.slot(0), 3)
            taken = await snapshot(store)
            await store.grow_stream(grown, 4)
            await write(grown.slot(2), 2)
            await store.delete_stream(old)
            again = await store.create_stream("again", slots=2)
            new = await store.create_stream("new", slots=5)
            await write(again.slot(0), 1)
            await write(new.slot(3), 6)
            uuid = again.uuid
        await forget_later(storage, taken)
        report = await recovered(tmp_path, storage)

        assert {one.name: [tuple(slot) for slot in one.slots] for one in report.streams} == {
            "again": [(0, 0, 1)],
            "grown": [(0, 0, 3), (1, 0, 0), (2, 0, 2)],
            "new": [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 6)],
        }
        for said in ("'new' is newer", "'again' was deleted and made again", "'grown' grew"):
            assert any(said in finding for finding in report.findings)
        async with life(tmp_path, storage) as store:
            found = store.streams.get("again")
            assert found is not None
            assert found.uuid == uuid
        await storage.close()

    run(scenario())


def test_without_a_snapshot(tmp_path: Path) -> None:
    """Chunks alone give back every stream that they speak of, and the report says what is lost."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            written = await write((await store.create_stream("s", slots=2)).slot(1), 9)
        async for info in storage.list("meta/"):
            await storage.delete(info.key)
        report = await recovered(tmp_path, storage)

        assert [(one.name, one.slots) for one in report.streams] == [
            ("s", [RecoveredSlot(0, 0, 0), RecoveredSlot(1, 0, len(written))])
        ]
        assert "there is no metadata snapshot" in report.findings[0]
        await storage.close()

    run(scenario())


def test_damaged_snapshot(tmp_path: Path) -> None:
    """The newest one that is whole is used, and the other is named."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            await store.update(Put("offsets", b"k", b"1"))
            await snapshot(store)
            await store.update(Put("offsets", b"k", b"2"))
            await snapshot(store)
        newest = [info async for info in storage.list("meta/")][-1]
        await storage.put(newest.key, (await storage.get_range(newest.key, 0, newest.size))[:-1])
        report = await recovered(tmp_path, storage)

        assert any(newest.key in finding for finding in report.findings)
        async with life(tmp_path, storage) as store:
            assert store.table("offsets").get(b"k") == b"1"
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_chunk_in_the_middle(tmp_path: Path, damage: str) -> None:
    """Entries behind a lost chunk stay at their offsets, and the lost ones are named."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            parts = [await write(slot, 4) for _ in range(3)]
            runs = runs_of(store, slot)
            await snapshot(store)
        middle = next(one for one in runs if one.first == 4)
        assert middle.end == 8, "this test wants a chunk for each part"
        key = chunk_key(middle.chunk)
        stat = await storage.stat(key)
        assert stat is not None
        data = bytearray(await storage.get_range(key, 0, stat.size))
        if damage == "gone":
            await storage.delete(key)
        elif damage == "cut":
            await storage.put(key, data[:-1])
        else:
            data[-45] ^= 1  # in the index
            await storage.put(key, data)
        report = await recovered(tmp_path, storage)

        assert report.streams[0].slots == [RecoveredSlot(0, 0, 12)]
        assert any("s-0: offsets 4 to 7 were in long-term storage" in finding for finding in report.findings)
        assert (damage == "gone") != any(f"chunk {key} cannot be read" in finding for finding in report.findings)
        async with life(tmp_path, storage) as store:
            slot = next(iter(store.streams)).slot(0)
            rows = runs_of(store, slot)
            assert without_gaps(rows)
            assert (rows[0].first, rows[-1].end, slot.end) == (0, 12, 12)
            assert len(parts) == 3
        await storage.close()

    run(scenario())


def test_the_newest_chunk_is_right(tmp_path: Path) -> None:
    """If chunks overlap, as after a merge, the newer one is used, and nothing refers to the older one."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await write(slot, 1)
            await snapshot(store)
            newer = await put_chunk(storage, container_of(store).epoch, slot, 0, slot.leader_epoch)
        report = await recovered(tmp_path, storage)

        assert (report.chunks, report.unused) == (1, 1)
        async with life(tmp_path, storage) as store:
            assert [chunk_key(row.id) for row in chunks_of(store)] == [newer]
        await storage.close()

    run(scenario())


def test_a_store_that_had_been_replaced(tmp_path: Path) -> None:
    """A chunk that the replaced store uploads later is refused: its leader epoch is below the one before it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await write(slot, 2)
            await snapshot(store)
            old_epoch = container_of(store).epoch
        await recovered(tmp_path, storage)
        async with life(tmp_path, storage) as store:
            slot = next(iter(store.streams)).slot(0)
            await write(slot, 2)
            late = await put_chunk(storage, old_epoch, slot, 4, old_epoch)
            await snapshot(store)
        report = await recovered(tmp_path, storage)

        assert report.streams[0].slots == [RecoveredSlot(0, 0, 4)]
        assert any(f"offsets 4 to 4 of chunk {late} are refused" in finding for finding in report.findings)
        await storage.close()

    run(scenario())


def test_objects_that_are_dead(tmp_path: Path) -> None:
    """Objects about to be deleted are not adopted, and are still deleted by the new store."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        slow = replace(QUIET, file_delete_delay_ms=3_600_000)
        async with tiered_store(tmp_path, slow, storage, clean=False) as store:
            kept = await store.create_stream("kept", slots=1)
            await write(kept.slot(0), 2)
            dead = await store.create_stream("dead", slots=1)
            await write(dead.slot(0), 2)
            await store.delete_stream(dead)
            await until(lambda: any(row.state is ChunkState.DELETING for row in chunks_of(store)))
            await snapshot(store)
        before = await object_keys(storage)
        report = await recovered(tmp_path, storage)

        assert await object_keys(storage) == before
        assert [one.name for one in report.streams] == ["kept"]
        async with life(tmp_path, storage) as store:
            tier = hosted_of(store).tier
            assert tier is not None
            await until(lambda: not hosted_of(store).catalog.pending or tier.snapshots.request())
            assert await object_keys(storage) == [chunk_key(row.id) for row in chunks_of(store)]
        await storage.close()

    run(scenario())


def test_foreign_objects(tmp_path: Path) -> None:
    """A chunk of another cluster, or under another chunk's name, is left out and named; other objects are ignored."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            stream = await store.create_stream("s", slots=1)
            await write(stream.slot(0), 2)
            await snapshot(store)
        (key,) = await object_keys(storage)
        stat = await storage.stat(key)
        own = parse_chunk_key(key)
        assert stat is not None
        assert own is not None
        copied = chunk_key(replace(own, sequence=own.sequence + 1))
        await storage.put(copied, await storage.get_range(key, 0, stat.size))
        foreign = replace(own, sequence=own.sequence + 2)
        ref = SegmentRef(id=0, stream=StreamRef(id=1, uuid=UUID(int=1), name="t"), generation=0)
        source = RunSource(segment=ref, slot=0, entries=lambda: [entry(0)])
        await storage.put(chunk_key(foreign), ChunkWriter(foreign, "another", 1, [source]))
        await storage.put("chunks/0/notes", b"somebody's")
        report = await recovered(tmp_path, storage)

        assert report.streams[0].slots == [RecoveredSlot(0, 0, 2)]
        for left_out in (copied, chunk_key(foreign)):
            assert any(f"chunk {left_out} is left out" in finding for finding in report.findings)
        await storage.close()

    run(scenario())


def test_nothing_there(tmp_path: Path) -> None:
    """A cluster that lost its disk before it stored anything begins empty."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        (tmp_path / "store").mkdir()
        report = await recovered(tmp_path, storage)

        assert report.streams == []
        async with life(tmp_path, storage) as store:
            assert len(store.streams) == 0
        await storage.close()

    run(scenario())
