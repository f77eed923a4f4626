"""A store of four containers, made from long-term storage alone: snapshots of different age agree about streams."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from core.store import Store
from core.streams.live import Slot, Stream
from core.tiering.snapshots.format import parse_snapshot_key
from core.tiering.snapshots.recover import containers_in, recover_store
from core.tiering.snapshots.recovered import RecoveredSlot, Report
from tests.core.cluster.several import check_copies, places_of
from tests.core.support import append, run, until
from tests.core.tiering.snapshots.test_recover import QUIET, same_tables
from tests.core.tiering.support import CLUSTER, chunk_entries, storage_in, tiered_store
from tests.tier2.chunks import entry, head_of
from tier2.storage import Storage

pytestmark = pytest.mark.slow

FOUR: Final = replace(QUIET, container_ids=(0, 1, 2, 3))


@asynccontextmanager
async def life(tmp_path: Path, storage: Storage) -> AsyncIterator[Store]:
    async with tiered_store(tmp_path, FOUR, storage, clean=False) as store:
        yield store


async def recovered(tmp_path: Path, storage: Storage) -> Report:
    """As `penstock recover` after all disks are gone: it asks how many containers there are."""
    shutil.rmtree(tmp_path / "store")
    config = replace(QUIET, container_ids=tuple(range(await containers_in(storage))))
    return await recover_store(
        tmp_path / "store", config, storage, CLUSTER, head_of, same_tables, lambda what, done, total: None
    )


async def fill(stream: Stream) -> None:
    """An entry in each slot, in a chunk when this returns."""
    slots = [stream.slot(number) for number in range(stream.slot_count)]
    for slot in slots:
        await append(slot, bytes(entry(slot.end, 1, 1000, b"in %d" % slot.number).payload), timestamp=1000)
    await until(lambda: all(slot.tiered_end == slot.durable_end for slot in slots))


async def snapshot(store: Store, *containers: int) -> dict[int, int]:
    """Take one of each of these; the LSNs that they cover."""
    covered: dict[int, int] = {}
    for one in containers:
        tier = store.containers[one].tier
        assert tier is not None
        await tier.snapshots.take()
        covered[one] = tier.snapshots.covered_lsn
    return covered


async def entries(storage: Storage, store: Store, slot: Slot) -> int:
    return len(await chunk_entries(storage, store, slot))


def test_all_containers(tmp_path: Path) -> None:
    """Streams over containers come back with their configuration, places and entries; a start finds all copies."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            stream = await store.create_stream("s", slots=8, config={"k": "v"})
            small = await store.create_stream("small", slots=1)
            gone = await store.create_stream("gone", slots=4)
            for one in (stream, small, gone):
                await fill(one)
            await store.delete_stream(gone)
            await snapshot(store, 0, 1, 2, 3)
            places = places_of(stream)
        report = await recovered(tmp_path, storage)
        assert report.containers == 4
        whole = [RecoveredSlot(number, 0, 1) for number in range(8)]
        assert [(one.name, one.slots) for one in report.streams] == [("s", whole), ("small", whole[:1])]
        async with life(tmp_path, storage) as store:
            check_copies(store)
            again = store.streams.get("s")
            assert again is not None
            assert (again.uuid, dict(again.config), places_of(again)) == (stream.uuid, {"k": "v"}, places)
            for number in range(8):
                assert await entries(storage, store, again.slot(number)) == 1
            await fill(again)
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("newer", [(0,), (1, 2, 3), (2,), ()], ids=str)
def test_snapshots_of_different_age(tmp_path: Path, newer: tuple[int, ...]) -> None:
    """A stream made, one grown and one deleted after some containers' snapshots: no entry of a chunk is lost, no slot
    lies in two containers, and what the home's snapshot knows to be deleted stays so."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            old = await store.create_stream("old", slots=4)
            gone = await store.create_stream("gone", slots=4)
            await fill(old)
            await fill(gone)
            covered = await snapshot(store, 0, 1, 2, 3)
            await store.delete_stream(gone)
            await store.grow_stream(old, 8)
            new = await store.create_stream("new", slots=8)
            await fill(new)
            await fill(old)
            await snapshot(store, *newer)
            places = {"old": places_of(old), "new": places_of(new)}
        for one in {0, 1, 2, 3} - set(newer):  # a crash before any later snapshot of these
            await _forget_later(storage, one, covered[one])
        await recovered(tmp_path, storage)
        async with life(tmp_path, storage) as store:
            check_copies(store)
            for name in ("old", "new"):
                stream = store.streams.get(name)
                assert stream is not None
                assert places_of(stream) == places[name]
                counts = [await entries(storage, store, stream.slot(number)) for number in range(8)]
                assert counts == ([2] * 4 + [1] * 4 if name == "old" else [1] * 8)
            if 0 in newer:
                assert store.streams.get("gone") is None
            await fill(await store.create_stream("later", slots=8))
        await storage.close()

    run(scenario())


async def _forget_later(storage: Storage, container: int, lsn: int) -> None:
    """Remove a container's snapshots after an LSN, as if it had crashed before."""
    async for info in storage.list(f"meta/{container}/"):
        found = parse_snapshot_key(info.key)
        if found is not None and found[1].lsn > lsn:
            await storage.delete(info.key)
