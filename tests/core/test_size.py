"""Size: memory and starts do not grow with the log, and slots cost next to nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import StoreConfig
from core.index.rows import ROW_BYTES
from tests.core.support import (
    SMALL,
    append,
    begin_append,
    container_of,
    fast_directory,
    hosted_of,
    maintenance_of,
    open_store,
    run,
    until,
)

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_many_tiny_entries() -> None:
    """Index and cache stay within their bounds, whatever was appended: rows leave memory, entries leave the cache."""
    config = replace(SMALL, log_file_bytes=8 * MIB, log_file_entries_max=100_000, cache_bytes=4 * MIB)
    entries_max = int(os.environ.get("PENSTOCK_TEST_ENTRIES", "250000"))

    async def scenario(directory: Path) -> None:
        store = await open_store(directory, config)
        stream = await store.create_stream("s", slots=16)
        container = container_of(store)
        slots = [stream.slot(number) for number in range(16)]
        gc.collect()
        before = resident_bytes()
        for start in range(0, entries_max, 5_000):
            for number in range(start, start + 5_000):
                container.append(slots[number % 16], b"tiny", 1, number)
            await container.log.synced(container.log.next_lsn - 1)
            await until(lambda: container.log.can_roll)
            if container.files.unindexed:
                await maintenance_of(store).index_files()
                assert container.log.slabs.used <= config.cache_bytes
                rows = sum(len(columns) for kept in container.files._columns.values() for _, columns in kept)
                assert rows <= 2 * config.log_file_entries_max + 5_000
        gc.collect()
        bound = config.cache_bytes + 2 * config.log_file_entries_max * (ROW_BYTES + 8)
        assert resident_bytes() - before < 2 * bound + 16 * MIB
        assert [entries_max // 16] * 16 == [slot.durable_end for slot in slots]
        assert hosted_of(store).reader.index_cache_used == 0
        for slot in slots:
            found = await hosted_of(store).reader.read(slot, 0, slot.durable_end, 4 * 1000, True)
            assert len(found.parts) == 1000
        assert (
            0
            < hosted_of(store).reader.index_cache_used
            <= config.index_cache_bytes + ROW_BYTES * config.log_file_entries_max
        )
        await store.close()

    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        run(scenario(Path(name)))


def test_ten_thousand_slots(tmp_path: Path) -> None:
    """A stream of 10,000 slots, all written: created and started again in seconds of the processor, with few syncs."""

    async def scenario() -> tuple[float, float]:
        store = await open_store(tmp_path, StoreConfig(log_file_bytes=8 * MIB))
        log = container_of(store).log
        before, began = log.stats.syncs, time.process_time()  # other processes want the cores and the disk, too
        stream = await store.create_stream("wide", slots=10_000)
        outcomes = [begin_append(stream.slot(number), b"x" * 100)[1] for number in range(10_000)]
        await outcomes[-1].future
        created = time.process_time() - began
        assert log.stats.syncs - before < 100
        await store.close()
        began = time.process_time()
        store = await open_store(tmp_path, StoreConfig(log_file_bytes=8 * MIB))
        started = time.process_time() - began
        assert store.replayed_bytes == 0
        recovered = store.streams.get("wide")
        assert recovered is not None
        assert all(recovered.slot(number).end == 1 for number in range(10_000))
        assert await append(recovered.slot(9_999), b"goes on") == 1
        await store.close(clean=False)
        return created, started

    created, started = run(scenario())
    assert created < 5
    assert started < 3


def test_a_thousand_streams(tmp_path: Path) -> None:
    """A thousand streams that are made at once share their syncs."""

    async def scenario() -> tuple[int, float]:
        store = await open_store(tmp_path)
        log = container_of(store).log
        before, began = log.stats.syncs, time.process_time()
        await asyncio.gather(*(store.create_stream(f"s{number}", slots=16) for number in range(1000)))
        syncs, seconds = log.stats.syncs - before, time.process_time() - began
        await store.close()
        store = await open_store(tmp_path)
        assert len(store.streams) == 1000
        assert len({stream.id for stream in store.streams}) == 1000
        await store.close(clean=False)
        return syncs, seconds

    syncs, seconds = run(scenario())
    assert syncs < 100
    assert seconds < 5
