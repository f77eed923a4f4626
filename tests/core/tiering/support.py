"""A store with long-term storage in a directory, and what tests ask about it."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.clock import Clock, SystemClock
from core.config import StoreConfig
from core.store import Store
from core.streams.live import Slot
from core.tiering.context import LongTermStorage
from core.tiering.rows import ChunkRow, ChunkState, RunRow, chunk_key
from tests.core.support import KIB, SMALL, append, hosted_of, owner_of, policy_from, until
from tests.tier2.chunks import entry, head_of
from tier2.chunk import ChunkReader
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIERING: Final = replace(
    SMALL,
    chunk_bytes=32 * KIB,
    chunk_age_ms=3_600_000,
    log_max_bytes=1 << 30,
    checkpoint_interval_ms=50,
    tier2_verify_delay_ms=20,
    file_delete_delay_ms=20,
    tier2_abandoned_ms=100,
    tier2_snapshot_interval_ms=20,
)
AGEING: Final = replace(TIERING, chunk_age_ms=50)
CLUSTER: Final = "cluster-1"


async def storage_in(directory: Path) -> FilesystemStorage:
    return await FilesystemStorage.open(FilesystemSettings(directory=directory))


@asynccontextmanager
async def tiered_store(
    directory: Path,
    config: StoreConfig = TIERING,
    storage: Storage | None = None,
    *,
    clock: Clock | None = None,
    clean: bool = True,
) -> AsyncIterator[Store]:
    """A store whose background works; `clean=False` leaves it as a crash does."""
    own = storage if storage is not None else await storage_in(directory / "tier2")
    long_term = LongTermStorage(storage=own, cluster_id=CLUSTER, head_of=head_of)
    store = await Store.open(directory / "store", config, policy_from, clock or SystemClock(), long_term)
    try:
        yield store
    finally:
        await store.close(clean=clean)
        if storage is None:
            await own.close()


async def fill(slot: Slot, size: int, body: int = KIB) -> list[bytes]:
    """Append entries of `body` bytes until there are `size` bytes of them; the entries."""
    written: list[bytes] = []
    while sum(map(len, written)) < size:
        payload = bytes(entry(slot.end, 1, 1000 + slot.end, b"." * body).payload)
        await append(slot, payload, timestamp=1000 + slot.end)
        written.append(payload)
        if not owner_of(slot).log.can_roll:
            await until(lambda: owner_of(slot).log.can_roll)
    return written


def runs_of(store: Store, slot: Slot) -> list[RunRow]:
    return list(store.hosted(slot).catalog.iter_runs(slot.stream.id, slot.number, -1))


def chunks_of(store: Store) -> list[ChunkRow]:
    catalog = hosted_of(store).catalog
    return [*catalog.pending, *catalog.iter_verified()]


def chunks_in(store: Store, state: ChunkState) -> list[ChunkRow]:
    return [row for row in chunks_of(store) if row.state is state]


async def chunk_entries(storage: Storage, store: Store, slot: Slot) -> list[bytes]:
    """The content of a slot's chunks, run by run, checked against the rows."""
    found: list[bytes] = []
    async with unchanged(store, slot):
        for run in runs_of(store, slot):
            chunk = store.hosted(slot).catalog.find_chunk(run.chunk)
            assert chunk is not None
            reader = await ChunkReader.open(chunk_key(run.chunk), chunk.size, storage.get_range, head_of)
            await reader.verify()
            stored = reader.index.run_of(run.stream_id, run.segment_id, run.slot)
            assert stored is not None
            assert (stored.position, stored.length, stored.entries) == (run.position, run.length, run.entries)
            offset = run.first
            while read := await reader.entries(stored, offset, 1 << 20):
                found += (bytes(one.payload) for one in read)
                offset = read[-1].end
            assert offset == run.end
    return found


def unchanged(store: Store, slot: Slot) -> asyncio.Lock:
    """While it is held, no rewrite and no deletion takes a run of the slot's container away, and so no object of one.
    Readers of the product look anew where one goes."""
    tier = store.hosted(slot).tier
    assert tier is not None
    return tier.context.changing


async def object_keys(storage: Storage) -> list[str]:
    return [info.key async for info in storage.list("chunks/")]


def without_gaps(runs: list[RunRow]) -> bool:
    return all(later.first == earlier.end for earlier, later in itertools.pairwise(runs))
