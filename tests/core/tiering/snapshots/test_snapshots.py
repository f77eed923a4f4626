"""Metadata snapshots as a store takes them: when, what is in them, how many stay."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.applied.tables import Delete, Put
from core.clock import SystemClock
from core.store import Store
from core.streams.writers import WriterState, new_batch
from core.tiering.context import LongTermStorage
from core.tiering.snapshots.format import Snapshot, decode_snapshot
from core.tiering.snapshots.snapshots import KEPT, SLICE_WRITERS, Snapshots, _encoded
from gateway.process.gc_passes import ShortPasses
from tests.core.support import append, container_of, hosted_of, policy_from, run, until
from tests.core.tiering.support import CLUSTER, TIERING, storage_in, tiered_store
from tests.tier2.chunks import head_of
from tier2.storage import Storage

pytestmark = pytest.mark.slow

QUIET = replace(TIERING, tier2_snapshot_interval_ms=3_600_000)
"""The test says when."""


async def snapshots_of(store: Store, storage: Storage) -> Snapshots:
    """Other ones of the store's container, which takes none of its own any more: both would put the same objects."""
    tier = hosted_of(store).tier
    assert tier is not None
    own = tier.snapshots
    await until(lambda: own._last_s > 0 and not own._taking.locked())  # its first step is due at once, and is over
    await own.stop(last=False)
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
            await store.hosted(slot).truncate(slot, 5)
            await append(slot, b"12", count=2)
            lsn = container_of(store).applied_lsn
            await (await snapshots_of(store, storage)).take()
            taken = (await stored(storage))[-1]

            assert (taken.container, taken.id.lsn, taken.cluster_id) == (0, lsn, CLUSTER)
            assert taken.tables["streams"] == store.table("streams").entries
            assert taken.tables["offsets"] == {b"k": b"v"}
            assert not {"runs", "chunks"} & taken.tables.keys()
            assert [row[:6] for row in taken.slots] == [(slot.stream.id, 1, 5, 4, 7, 0)]
            assert taken.slots[0].epochs == tuple(slot.leader_epochs)
        await storage.close()

    run(scenario())


def test_only_when_something_changed(tmp_path: Path) -> None:
    """An idle store puts nothing."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            snapshots = await snapshots_of(store, storage)
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
    """Older ones go, also those of earlier runs; other objects stay."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        await storage.put("meta/0/notes", b"somebody's")
        await storage.put("meta/1/00000000-0000000000000001", b"another container's")
        for _ in range(2):
            async with tiered_store(tmp_path, QUIET, storage) as store:
                snapshots = await snapshots_of(store, storage)
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
    """A waiter for a snapshot gets it long before the interval is over, and a stop takes a last one."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            snapshots = await snapshots_of(store, storage)
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
            snapshots = await snapshots_of(store, storage)
            await asyncio.gather(snapshots.take(), *(append(slot, b"2") for _ in range(50)))
            taken = (await stored(storage))[-1]

            assert taken.id.lsn <= container_of(store).applied_lsn
            assert taken.slots[0].durable_end >= before
        await storage.close()

    run(scenario())


def test_writers(tmp_path: Path) -> None:
    """A snapshot has the durable batches of each idempotent writer, and none that was on its way."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage) as store:
            container = container_of(store)
            slot = (await store.create_stream("s", slots=2)).slot(1)
            for number in range(7):
                container.append(slot, b"1234", 2, 5, None, 9, 1, 2 * number)
            await container.all_durable()
            snapshots = await snapshots_of(store, storage)
            container.append(slot, b"1234", 2, 5, None, 9, 1, 14)
            container.append(slot, b"1234", 2, 5, None, 10, 0, 0)
            captured, writers = await snapshots._capture()
            taken = decode_snapshot(b"".join(_encoded(captured, writers)))

            assert (taken.slots[0].slot, list(taken.writers)) == (1, [0])
            (known,) = taken.writers[0]
            assert (known.writer_id, known.epoch) == (9, 1)
            assert [batch.base for batch in known.batches] == [6, 8, 10, 12]
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("promise", ["stream made", "stream deleted", "records deleted", "row deleted"])
def test_soon_after(tmp_path: Path, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's acknowledged changes are in a snapshot soon, though the interval is an hour."""
    monkeypatch.setattr("core.tiering.snapshots.snapshots.SOON_S", 0.05)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        long_term = LongTermStorage(
            storage=storage, cluster_id=CLUSTER, head_of=head_of, promised=frozenset({"offsets"})
        )
        store = await Store.open(tmp_path / "store", QUIET, policy_from, SystemClock(), long_term)
        tier = hosted_of(store).tier
        assert tier is not None
        stream = await store.create_stream("s", slots=1)
        await append(stream.slot(0), b"1234", count=5)
        await store.update(Put("offsets", b"k", b"v"))
        await tier.snapshots.take()
        tier.snapshots._is_wanted = tier.snapshots._is_due_soon = False
        await until(lambda: tier.snapshots.covered_lsn == container_of(store).applied_lsn)
        if promise == "stream made":
            await store.create_stream("another", slots=1)
        elif promise == "stream deleted":
            await store.delete_stream(stream)
        elif promise == "records deleted":
            await store.hosted(stream.slot(0)).truncate(stream.slot(0), 5)
        else:
            await store.update(Delete("offsets", b"k"))
        lsn = container_of(store).applied_lsn

        await until(lambda: tier.snapshots.covered_lsn >= lsn)
        await store.close(clean=False)
        await storage.close()

    run(scenario())


def test_others_wait_for_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are written all the time, or that no client was told of, do not ask for a snapshot."""
    monkeypatch.setattr("core.tiering.snapshots.snapshots.SOON_S", 0.0)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, QUIET, storage, clean=False) as store:
            tier = hosted_of(store).tier
            assert tier is not None
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await until(lambda: tier.snapshots.covered_lsn == container_of(store).applied_lsn)
            await append(slot, b"1234")
            await store.update(Put("offsets", b"k", b"v"), Delete("others", b"k"))

            assert not tier.snapshots._is_due_soon
            assert not tier.snapshots._is_wanted
        await storage.close()

    run(scenario())


@pytest.mark.slow
def test_a_hundred_thousand_writers(tmp_path: Path) -> None:
    """The event loop goes on while a snapshot of them is captured and encoded; its size is bounded by theirs."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        alone = replace(QUIET, checkpoint_interval_ms=3_600_000, checkpoint_log_bytes=1 << 40)
        async with tiered_store(tmp_path, alone, storage, clean=False) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await append(slot, b"1234", count=5 * WRITERS)
            slot.writers = {n: _writer(n) for n in range(WRITERS)}
            snapshots = await snapshots_of(store, storage)
            await asyncio.sleep(0)
            gc.collect()
            before = gc.get_threshold()
            passes = ShortPasses(lambda _: None)
            passes.begin()  # as the gateway does when it is ready
            began, taking = time.process_time(), asyncio.create_task(snapshots.take())
            worst, turns = 0.0, 0
            while not taking.done():
                at = time.thread_time()  # other processes want the cores, too
                await asyncio.sleep(0)
                worst = max(worst, time.thread_time() - at)
                turns += 1
            await taking
            passes.end()
            gc.unfreeze()
            gc.set_threshold(*before)
            took = time.process_time() - began
            print(f"{took:.2f} s of CPU, {snapshots.counters.bytes} bytes, a turn took {1000 * worst:.1f} ms at most")

            assert turns > WRITERS / SLICE_WRITERS
            assert worst < TURN_S_MAX
            assert snapshots.counters.bytes < 200 * WRITERS
            taken = (await stored(storage))[-1]
            assert len(taken.writers[0]) == WRITERS
        await storage.close()

    run(scenario())


WRITERS = 100_000
TURN_S_MAX = 0.1
"""Twice what is allowed: a turn that meets the collector of cycles, on cores that others want, too."""


def _writer(number: int) -> WriterState:
    state = WriterState(0, 1_700_000_000_000 + number)
    state.batches = [new_batch(0, 10 * n, number * 5 + n, 1, 1_700_000_000_000 + 997 * number + n) for n in range(5)]
    return state
