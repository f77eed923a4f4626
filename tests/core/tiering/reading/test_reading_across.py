"""Reading across memory, log and chunks: nobody can tell where an entry came from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.store import Store
from core.streams.entries import StillLoading
from core.streams.live import Slot
from core.tiering.rows import chunk_key
from tests.core.support import DEADLINE_S, KIB, append, container_of, hosted_of, read_all, run, until
from tests.core.tiering.reading.chunked_slot import Counting
from tests.core.tiering.support import AGEING, TIERING, fill, runs_of, storage_in, tiered_store
from tests.core.transactional import Transactional
from tests.tier2.chunks import entry

pytestmark = pytest.mark.slow


@asynccontextmanager
async def mostly_tiered(directory: Path, **policy: int) -> AsyncIterator[tuple[Store, Slot, list[bytes], Counting]]:
    """A slot whose beginning is in chunks only, its middle in chunks and in the log, its end in memory."""
    storage = Counting(await storage_in(directory / "tier2"))
    config = replace(TIERING, tier2_cache_bytes=1 << 20)
    async with tiered_store(directory, config, storage) as store:
        stream = await store.create_stream("s", slots=1, config={key: str(value) for key, value in policy.items()})
        slot = stream.slot(0)
        written = await fill(slot, 700 * KIB)
        await until(lambda: slot.durable_bytes - slot.tiered_bytes < config.chunk_bytes)
        await left_the_log(store, slot, 1)
        yield store, slot, written, storage
    await storage.close()


async def left_the_log(store: Store, slot: Slot, end: int) -> None:
    """Wait until only chunks hold what is before `end`."""
    async with asyncio.timeout(DEADLINE_S):
        while await store.hosted(slot).reader.local_start(slot) < end:  # noqa: ASYNC110 - no event of its own
            await asyncio.sleep(0.01)


@asynccontextmanager
async def tiered_and_local(directory: Path) -> AsyncIterator[tuple[Store, Slot, list[bytes], Counting]]:
    """A slot most of which is in chunks, all of it in the log as well, and little in memory."""
    storage = Counting(await storage_in(directory / "tier2"))
    async with tiered_store(directory, replace(TIERING, tier2_verify_delay_ms=3_600_000), storage) as store:
        slot = (await store.create_stream("s", slots=1)).slot(0)
        written = await fill(slot, 500 * KIB)
        await until(lambda: slot.durable_bytes - slot.tiered_bytes < TIERING.chunk_bytes)
        await until(lambda: slot.columns[0].base[0] > 0)
        yield store, slot, written, storage
    await storage.close()


def test_from_earliest_to_the_tail(tmp_path: Path) -> None:
    """From any offset, and with any limit, everything comes back in order."""

    async def scenario() -> None:
        async with mostly_tiered(tmp_path) as (store, slot, written, _):
            reader = hosted_of(store).reader
            for start in (0, 1, slot.tiered_end - 2, slot.tiered_end, slot.durable_end - 1):
                for max_bytes in (1, 10 * KIB, 1 << 20):
                    found, offset = b"", start
                    while offset < slot.durable_end:
                        answer = await reader.read(slot, offset, slot.durable_end, max_bytes, True)
                        assert answer.end > offset
                        found += b"".join(map(bytes, answer.parts))
                        offset = answer.end
                    assert b"".join(written[start:]) == found

    run(scenario())


def test_the_log_comes_first(tmp_path: Path) -> None:
    """Entries that the log still holds are read from there, all others from chunks."""

    async def scenario() -> None:
        async with tiered_and_local(tmp_path / "both") as (store, slot, written, storage):
            reader = hosted_of(store).reader
            assert await reader.local_start(slot) == 0
            storage.reads.clear()
            answer = await reader.read(slot, 0, slot.durable_end, 1, True)
            assert (written[0], []) == (b"".join(map(bytes, answer.parts)), storage.reads)
        async with mostly_tiered(tmp_path / "one") as (store, slot, written, storage):
            answer = await hosted_of(store).reader.read(slot, 0, slot.durable_end, 1, True)
            assert written[0] == b"".join(map(bytes, answer.parts))
            assert storage.reads

    run(scenario())


def test_single_entries(tmp_path: Path) -> None:
    """An entry by its offset, by time, and the newest one, wherever it lies."""

    async def scenario() -> None:
        async with mostly_tiered(tmp_path) as (store, slot, written, _):
            reader = hosted_of(store).reader
            for offset in (0, 7, slot.tiered_end - 1, slot.durable_end - 1):
                for found in (
                    await reader.entry_at(slot, offset),
                    await reader.entry_at_time(slot, 1000 + offset, 0),
                ):
                    assert found is not None
                    assert (offset, written[offset]) == (found.first, found.payload)
            assert await reader.entry_at(slot, slot.durable_end) is None
            assert await reader.entry_at_time(slot, 1000 + slot.durable_end, 0) is None
            newest = await reader.entry_with_max_timestamp(slot)
            assert newest is not None
            assert newest.first == slot.durable_end - 1
            assert await reader.bytes_before(slot, 7) == sum(map(len, written[:7]))

    run(scenario())


def test_newest_entry_in_a_chunk(tmp_path: Path) -> None:
    """The newest entry may be an old one; of those that are equally new it is the first."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            for offset, stamp in enumerate([5, 9000, 7, 9000]):
                await append(slot, entry(offset, 1, stamp, b"x").payload, timestamp=stamp)
            await until(lambda: slot.tiered_end == 4)
            await fill(slot, 300 * KIB)
            await left_the_log(store, slot, 4)
            reader = hosted_of(store).reader
            newest = await reader.entry_with_max_timestamp(slot)
            assert newest is not None
            assert newest.first == 1
            slot.start = 2
            newest = await reader.entry_with_max_timestamp(slot)
            assert newest is not None
            assert newest.first == 3

    run(scenario())


def test_nobody_waits_for_long(tmp_path: Path) -> None:
    """A reader that runs out of time gets an error; the load goes on, and the next read is immediate."""

    async def scenario() -> None:
        async with mostly_tiered(tmp_path) as (store, slot, _, storage):
            reader = hosted_of(store).reader
            storage.held = lambda key: True
            patience = asyncio.get_running_loop().create_future()
            reading = asyncio.create_task(reader.read(slot, 0, slot.durable_end, 1 << 20, True, patience))
            storage.reads.clear()
            await until(lambda: storage.reads)
            patience.set_result(None)
            with pytest.raises(StillLoading):
                await reading
            storage.held = lambda key: False
            storage.go.set()
            await until(lambda: reader.cached(slot, 0, slot.durable_end, 1, True))
            await until(lambda: reader.cached(slot, 1, slot.durable_end, 1, True))

    run(scenario())


def test_retention_by_bytes_goes_by_runs(tmp_path: Path) -> None:
    """Whole runs leave, as many as the slot can do without, and no object is read for it."""

    async def scenario() -> None:
        async with mostly_tiered(tmp_path, retention_bytes=300 * KIB) as (store, slot, _, storage):
            ends = [row.end for row in runs_of(store, slot)]
            retention = store.containers[0].retention
            storage.reads.clear()
            await retention.enforce()

            assert slot.start in ends
            assert slot.size_bytes >= 300 * KIB
            following = next(row for row in runs_of(store, slot) if row.first == slot.start)
            assert slot.size_bytes - following.appended < 300 * KIB
            assert storage.reads == []

    run(scenario())


def test_a_lost_log_file_is_read_from_its_chunks(tmp_path: Path) -> None:
    """Entries that both a log file and chunks held are not lost with the file."""

    async def scenario() -> None:
        async with tiered_and_local(tmp_path) as (store, slot, written, _):
            container = container_of(store)
            oldest = container.files.complete[0].path
            kept = oldest.rename(oldest.with_suffix(".kept"))
            answer = await hosted_of(store).reader.read(slot, 0, slot.durable_end, 1, True)
            assert written[0] == b"".join(map(bytes, answer.parts))
            kept.rename(oldest)

    run(scenario())


def test_chunks_survive_a_restart(tmp_path: Path) -> None:
    """After a start, clean or not, everything is read as before."""

    async def scenario() -> None:
        async with mostly_tiered(tmp_path) as (store, slot, written, _):
            assert runs_of(store, slot)
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, TIERING, storage) as store:
            stream = store.streams.get("s")
            assert stream is not None
            slot = stream.slot(0)
            found, offset = b"", 0
            while offset < slot.durable_end:
                answer = await hosted_of(store).reader.read(slot, offset, slot.durable_end, 1 << 20, True)
                found += b"".join(map(bytes, answer.parts))
                offset = answer.end
            assert b"".join(written) == found
            assert all([await storage.stat(chunk_key(row.chunk)) for row in runs_of(store, slot)])
        await storage.close()

    run(scenario())


def test_memory_outlives_the_log_file(tmp_path: Path) -> None:
    """Entries that left the log on disk a moment ago are read from memory, whatever long-term storage does."""

    async def scenario() -> None:
        config = replace(TIERING, cache_bytes=4096 * KIB)
        storage = Counting(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, config, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 500 * KIB)
            await left_the_log(store, slot, slot.durable_end // 2)
            reader = hosted_of(store).reader
            assert await read_all(store, slot) == written
            assert reader.counters.memory.bytes == sum(map(len, written))
            assert (reader.counters.log.reads, reader.counters.chunk.reads) == (0, 0)
            # Searches, and whatever else needs more than bytes, go by what is stored.
            found = await reader.entry_at(slot, 0)
            assert (found and found.payload) == written[0]
        await storage.close()

    run(scenario())


def test_memory_says_nothing_of_transactions_that_the_log_let_go_of(tmp_path: Path) -> None:
    """Chunks know which of them were aborted, so a slot that ever had one is read from there."""

    async def scenario() -> None:
        config = replace(TIERING, cache_bytes=4096 * KIB)
        async with tiered_store(tmp_path, config) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await model.append(1)
            await model.end(1, committed=False)
            await fill(model.slot, 500 * KIB)
            await left_the_log(store, model.slot, model.slot.durable_end // 2)
            reader = hosted_of(store).reader
            found = await reader.read(model.slot, 0, model.slot.durable_end, 4 * KIB, True)
            assert [aborted.writer_id for aborted in found.aborted] == [1]
            assert reader.counters.chunk.reads == 1

    run(scenario())
