"""Metadata snapshots as a store takes them: when, what is in them, how many stay."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from core.store import Store
from core.tables import Put
from core.tiering.snapshot_format import Snapshot, decode_snapshot
from core.tiering.snapshots import KEPT, Snapshots
from core.tiering.tier import LongTermStorage
from tests.core.support import append, container_of, run, until
from tests.core.tiering.support import CLUSTER, TIERING, storage_in, tiered_store
from tests.tier2.chunks import head_of
from tier2.storage import Storage

QUIET = replace(TIERING, tier2_snapshot_interval_ms=3_600_000)
"""The test says when."""


def snapshots_of(store: Store, storage: Storage) -> Snapshots:
    return Snapshots(container_of(store), LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=head_of))


async def stored(storage: Storage) -> list[Snapshot]:
    """All snapshots, oldest first."""
    infos = [info async for info in storage.list("meta/")]
    return [decode_snapshot(await storage.get_range(info.key, 0, info.size)) for info in infos]


def test_what_is_in_it(tmp_path: Path) -> None:
    """Streams, tables and each slot's place; nothing of tables that grow with what is stored."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            slot = (await store.create_stream("s", slots=3)).slot(1)
            await append(slot, b"1234", count=5)
            await store.update(Put("offsets", b"k", b"v"))
            await slot.truncate_before(5)
            await append(slot, b"12", count=2)
            lsn = container_of(store).applied_lsn
            await snapshots_of(store, storage).take()
            taken = (await stored(storage))[-1]

            assert (taken.container, taken.id.lsn, taken.cluster_id) == (0, lsn, CLUSTER)
            assert taken.tables["streams"] == store.table("streams").entries
            assert taken.tables["offsets"] == {b"k": b"v"}
            assert not {"runs", "chunks"} & taken.tables.keys()
            assert [row[:6] for row in taken.slots] == [(slot.stream.id, 1, 5, 4, 7, 0)]
            assert taken.slots[0].epochs == tuple(slot.epochs)
        await storage.close()

    run(scenario())


def test_only_when_something_changed(tmp_path: Path) -> None:
    """An idle store puts nothing."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            snapshots = snapshots_of(store, storage)
            await snapshots.take()
            await snapshots.take()
            assert snapshots.counters.taken == 1
            await store.update(Put("offsets", b"k", b"v"))
            await snapshots.take()
            assert snapshots.counters.taken == 2
            assert snapshots.covered_lsn == container_of(store).applied_lsn
        await storage.close()

    run(scenario())


def test_the_newest_stay(tmp_path: Path) -> None:
    """Older ones go, also those of the runs before; what lies beside them stays."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        await storage.put("meta/0/notes", b"somebody's")
        await storage.put("meta/1/00000000-0000000000000001", b"another container's")
        for _ in range(2):
            async with tiered_store(tmp_path, QUIET, storage) as store:
                snapshots = snapshots_of(store, storage)
                for number in range(KEPT):
                    await store.update(Put("offsets", b"k", bytes((number,))))
                    await snapshots.take()
                newest = snapshots.covered_lsn
        keys = [info.key async for info in storage.list("meta/0/0")]

        assert len(keys) == KEPT
        assert int(keys[-1][-16:], 16) >= newest
        assert await storage.stat("meta/0/notes") is not None
        assert await storage.stat("meta/1/00000000-0000000000000001") is not None
        await storage.close()

    run(scenario())


def test_when_asked(tmp_path: Path) -> None:
    """Whoever waits for one gets it long before the interval is over, and a stop takes a last one."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            snapshots = snapshots_of(store, storage)
            snapshots.start()
            wanted = container_of(store).applied_lsn
            snapshots.request()
            await until(lambda: snapshots.covered_lsn >= wanted)
            await store.update(Put("offsets", b"k", b"v"))
            await snapshots.stop()

            assert snapshots.covered_lsn == container_of(store).applied_lsn
        await storage.close()

    run(scenario())


def test_while_slots_change(tmp_path: Path) -> None:
    """A snapshot that is taken while entries come covers what was there when it began."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await append(slot, b"1")
            before = slot.durable_end
            snapshots = snapshots_of(store, storage)
            await asyncio.gather(snapshots.take(), *(append(slot, b"2") for _ in range(50)))
            taken = (await stored(storage))[-1]

            assert taken.id.lsn <= container_of(store).applied_lsn
            assert taken.slots[0].durable_end >= before
        await storage.close()

    run(scenario())
