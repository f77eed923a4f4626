"""What a chunk holds is decided with its record: what has happened while it waited for that counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.log.records import Put
from core.store import Store
from core.tiering.rows import RUNS_TABLE, ChunkState, chunk_key, without_runs
from core.tiering.tier import Tier
from tests.core.support import KIB, begin_append, container_of, hosted_of, run, until
from tests.core.tiering.support import (
    AGEING,
    TIERING,
    chunk_entries,
    chunks_in,
    fill,
    object_keys,
    runs_of,
    storage_in,
    tiered_store,
)
from tests.core.tiering.writing.test_order_of_chunks import Directed
from tests.tier2.chunks import entry, head_of
from tier2.chunk import ChunkReader

pytestmark = pytest.mark.slow


def tier_of(store: Store) -> Tier:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier


def test_a_stream_that_goes_while_a_commit_waits(tmp_path: Path) -> None:
    """No row is logged of a slot that is gone when the turn of its chunk has come: it might be back with other ones."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        storage.is_open = True
        async with tiered_store(tmp_path, AGEING, storage) as store:
            stream, turn = await store.create_stream("s", slots=1), tier_of(store).context.changing
            logged: list[object] = []
            container_of(store).on_applied(RUNS_TABLE, logged.append)
            async with turn:
                await fill(stream.slot(0), KIB)
                await until(lambda: storage.chunks_put and turn._waiters)
                assert await object_keys(storage)
                await store.delete_stream(stream)
            await until(lambda: not tier_of(store).writer.uploading)
            assert not logged
            await until(lambda: not hosted_of(store).catalog.pending)
            assert not await object_keys(storage)

    run(scenario())


def test_a_slot_that_comes_back_while_its_lost_chunk_is_put_again(tmp_path: Path) -> None:
    """Its chunks from now on may begin where the lost one did: their rows stay."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        storage.is_open = True
        patient = replace(AGEING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient, storage, clean=False) as store:
            container, look = container_of(store), tier_of(store).writer._second_look
            staying, leaving = [(await store.create_stream(name, slots=1)).slot(0) for name in ("stays", "leaves")]
            for slot in (staying, leaving):
                begin_append(slot, bytes(entry(0, 1, 5, b"x" * 20).payload), timestamp=5)
            await until(lambda: staying.tiered_end == leaving.tiered_end == 1)
            (lost,) = chunks_in(store, ChunkState.COMMITTED)
            assert len(lost.runs) == 2

            storage.is_open = False
            await storage.delete(chunk_key(lost.id))
            look._due_at[lost.id] = 0.0
            await until(lambda: storage.waiting)
            # It has left, and its runs were removed. It has come back, as another object and with another chunk.
            (old,) = runs_of(store, leaving)
            new = replace(old, chunk=replace(old.chunk, sequence=old.chunk.sequence + 1_000_000))
            gone = without_runs(lost, {(old.stream_id, old.slot, old.first)}, lost.changed_ms)
            await container.update(*gone, Put(RUNS_TABLE, new.key, new.encode()))
            container.outcomes.beside[leaving.stream.id, 0] = container.make_slot(leaving.stream, 0)

            storage.open()
            await until(lambda: runs_of(store, staying)[0].chunk != lost.id)
            assert runs_of(store, leaving) == [new]
            (again,) = chunks_in(store, ChunkState.COMMITTED)
            assert [one.stream_id for one in again.runs] == [staying.stream.id]

    run(scenario())


def test_a_lost_chunk_that_dies_while_it_is_put_again(tmp_path: Path) -> None:
    """All that it held is deleted by then: nothing takes its place, and both objects go."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        storage.is_open = True
        patient = replace(AGEING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient, storage) as store:
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await fill(slot, KIB)
            await until(lambda: slot.tiered_end == slot.end)
            (lost,) = chunks_in(store, ChunkState.COMMITTED)
            storage.is_open = False
            await storage.delete(chunk_key(lost.id))
            tier_of(store).writer._second_look._due_at[lost.id] = 0.0
            await until(lambda: storage.waiting)
            await store.hosted(slot).truncate(slot, slot.end)
            await until(lambda: not chunks_in(store, ChunkState.COMMITTED))
            storage.open()
            await until(lambda: not hosted_of(store).catalog.pending)
            assert not runs_of(store, slot)
            assert not await object_keys(storage)

    run(scenario())


def test_a_chunk_that_dies_before_its_second_look(tmp_path: Path) -> None:
    """Nothing is kept of it, nor of one that was refused a look; the delay of others goes on."""

    async def scenario() -> None:
        patient = replace(AGEING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient, await storage_in(tmp_path / "tier2")) as store:
            look = tier_of(store).writer._second_look
            for number in range(3):
                slot = (await store.create_stream(f"s-{number}", slots=1)).slot(0)
                await fill(slot, KIB)
                await until(lambda slot=slot: slot.tiered_end == slot.end)  # type: ignore[misc]
                (row,) = [
                    one for one in chunks_in(store, ChunkState.COMMITTED) if one.runs[0].stream_id == slot.stream.id
                ]
                look._is_refused(row.id)
                if number < 2:
                    await store.hosted(slot).truncate(slot, slot.end)
            await until(lambda: [one.id for one in chunks_in(store, ChunkState.COMMITTED)] == [row.id])
            await until(lambda: list(look._due_at) == list(look._refused) == [row.id])

    run(scenario())


def test_the_log_lets_go_of_what_is_deleted_while_a_chunk_waits(tmp_path: Path) -> None:
    """Its run begins with what is left, and bytes are counted as before: retention by bytes takes nothing too early,
    and the run can be rewritten."""

    async def scenario() -> None:
        storage = Directed(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, replace(TIERING, chunk_bytes=1 << 20), storage) as store:
            container, writer = container_of(store), tier_of(store).writer
            slot = (await store.create_stream("s", slots=1)).slot(0)
            written = await fill(slot, 100 * KIB)
            writer.hurry(slot)
            await until(lambda: storage.waiting)
            file, end = container.files.complete[0], slot.end
            await store.hosted(slot).truncate(slot, end - 5)
            await until(lambda: file not in container.files.complete)
            storage.open()
            await until(lambda: slot.tiered_end == end)
            (left,) = runs_of(store, slot)
            assert 0 < left.first <= slot.start
            assert slot.tiered_bytes == slot.total_bytes == sum(map(len, written))
            assert left.bytes_before == sum(map(len, written[: left.first]))
            assert await chunk_entries(storage, store, slot) == written[left.first :]
            chunk = hosted_of(store).catalog.find_chunk(left.chunk)
            assert chunk is not None
            opened = await ChunkReader.open(chunk_key(left.chunk), chunk.size, storage.get_range, head_of)
            (stored,) = opened.index.runs
            assert (stored.first, stored.end) == (left.first, left.end)

    run(scenario())
