"""How long entries and chunks have waited, over owners that each have a container for a short time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from core.clock import ManualClock
from core.config import StoreConfig
from core.store import Store
from core.streams.live import Slot
from core.tiering.context import LongTermStorage
from core.tiering.rows import ChunkState
from tests.core.support import append, make, policy_from, run, until
from tests.core.tiering.support import CLUSTER, TIERING, chunks_in, chunks_of, object_keys, storage_in
from tests.tier2.chunks import head_of
from tier2.filesystem import FilesystemStorage

WAITING: Final = replace(TIERING, chunk_age_ms=600_000, tier2_verify_delay_ms=30_000)


@asynccontextmanager
async def life(
    directory: Path, storage: FilesystemStorage, clock: ManualClock, config: StoreConfig = WAITING
) -> AsyncIterator[Store]:
    """One owner of the container, which is killed."""
    long_term = LongTermStorage(storage=storage, cluster_id=CLUSTER, head_of=head_of)
    store = await Store.open(directory / "store", config, policy_from, clock, long_term)
    try:
        yield store
    finally:
        await store.close(clean=False)


def only(store: Store) -> Slot:
    stream = store.streams.get("s")
    assert stream is not None
    return stream.slot(0)


async def look(store: Store) -> None:
    """The storage writer looks at what is due when the test says so."""
    tier = store.containers[0].tier
    assert tier is not None
    await tier.writer._background.stop()
    await tier.writer._step()


def test_entries_grow_old_over_owners_of_a_short_time(tmp_path: Path) -> None:
    """None of three has the container for as long as an entry may wait. The third one tiers what the first one took:
    once, and not again what it has just tiered."""

    async def scenario() -> None:
        storage, clock = await storage_in(tmp_path / "bucket"), ManualClock()
        async with life(tmp_path, storage, clock) as store:
            slot = (await make(store)).slot(0)
            await append(slot, b"first")
            clock.advance(250)
        async with life(tmp_path, storage, clock) as store:
            await append(only(store), b"second")
            clock.advance(250)
            await look(store)
            assert await object_keys(storage) == [], "it has waited for 500 s of 600"
        async with life(tmp_path, storage, clock) as store:
            clock.advance(101)
            await look(store)
            await until(lambda: chunks_in(store, ChunkState.COMMITTED))
            assert only(store).tiered_end == 2
            await append(only(store), b"third")
        async with life(tmp_path, storage, clock) as store:
            await look(store)
            assert len(chunks_of(store)) == 1, "what the chunk has left came after it"
        await storage.close()

    run(scenario())


def test_a_second_look_is_due_by_the_time_of_the_commit(tmp_path: Path) -> None:
    """An owner that ends 20 s after a chunk was committed leaves 10 s of the delay to the next one."""

    async def scenario() -> None:
        storage, clock = await storage_in(tmp_path / "bucket"), ManualClock()
        async with life(tmp_path, storage, clock) as store:
            slot = (await make(store)).slot(0)
            await append(slot, b"first")
            clock.advance(601)
            await look(store)
            await until(lambda: chunks_in(store, ChunkState.COMMITTED))
            clock.advance(20)
        async with life(tmp_path, storage, clock) as store:
            await look(store)
            clock.advance(9)
            await look(store)
            assert chunks_in(store, ChunkState.COMMITTED)
            clock.advance(2)
            await look(store)
            await until(lambda: chunks_in(store, ChunkState.VERIFIED))
        await storage.close()

    run(scenario())
