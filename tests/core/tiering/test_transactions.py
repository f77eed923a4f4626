"""Transactions in long-term storage: readers of chunks get the same aborted ones as readers of the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from core.store import Store
from core.tiering.rows import ChunkState, chunk_key
from tests.core.support import KIB, container_of, forget_bytes, hosted_of, run, until
from tests.core.tiering.reading.test_reading_across import left_the_log
from tests.core.tiering.rewriting.support import REWRITING, rewriter_of, rewriting_store
from tests.core.tiering.rewriting.test_rewriter import storage_of
from tests.core.tiering.snapshots.test_recover import life, recovered, snapshot
from tests.core.tiering.support import (
    AGEING,
    TIERING,
    chunks_in,
    fill,
    object_keys,
    runs_of,
    storage_in,
    tiered_store,
    unchanged,
)
from tests.core.transactional import Transactional, check_all, check_each, end_all, told, write_randomly
from tests.tier2.chunks import head_of
from tier2.chunk import ChunkReader
from tier2.storage import Storage

pytestmark = pytest.mark.slow

LIMITS = (1, 3 * KIB, 40 * KIB, 1 << 20)


async def listed(
    store: Store, storage: Storage, model: Transactional
) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """Each run's bounds and the aborted transactions that its chunk lists: last, first, writer id."""
    found = []
    async with unchanged(store, model.slot):
        for row in runs_of(store, model.slot):
            chunk = store.hosted(model.slot).catalog.find_chunk(row.chunk)
            assert chunk is not None
            reader = await ChunkReader.open(chunk_key(row.chunk), chunk.size, storage.get_range, head_of)
            run_of = reader.index.run_of(row.stream_id, row.segment_id, row.slot)
            assert run_of is not None
            found.append((row.first, row.end, [(one.last, one.first, one.writer_id) for one in run_of.aborted]))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_from_every_offset(tmp_path: Path, seed: int) -> None:
    """In chunks, log files or memory: with every limit, from every offset, the same transactions are returned."""
    random = Random(seed)

    async def scenario() -> None:
        config = replace(AGEING, chunk_bytes=random.choice((16, 64)) * KIB, tier2_cache_bytes=1 << 20)
        async with tiered_store(tmp_path, config) as store:
            stream = await store.create_stream("s", slots=2)
            models = [Transactional(store, stream.slot(number)) for number in range(2)]
            for _ in range(3):
                for model in models:
                    await write_randomly(model, random, 40 * KIB, 3 * KIB)
                await until(lambda: all(model.slot.tiered_end == model.slot.stable_end for model in models))
            for model in models:
                await end_all(model, random)
            await until(lambda: all(model.slot.tiered_end == model.slot.durable_end for model in models))
            for model in models:
                await left_the_log(store, model.slot, model.ends[len(model.ends) // 3])
                await write_randomly(model, random, 40 * KIB, 3 * KIB)
                assert model.aborted
                await check_all(model, [0, model.slot.durable_end // 2], LIMITS)
                await check_each(model, LIMITS)

    run(scenario())


def test_every_run_lists_them(tmp_path: Path) -> None:
    """A chunk lists the aborted transactions that overlap its runs, wherever they began or ended."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with tiered_store(tmp_path, AGEING, storage) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            for writer_id in (1, 2):
                await model.append(writer_id)
            await model.append()
            assert model.slot.stable_end == 0
            for _ in range(3):
                await model.append(1)
            await model.end(1, committed=False)
            assert model.slot.stable_end == 1
            await until(lambda: model.slot.tiered_end == 1)
            await model.end(2, committed=True)
            await until(lambda: model.slot.tiered_end == model.slot.durable_end)
            await model.append()
            await until(lambda: model.slot.tiered_end == model.slot.durable_end)

            assert await listed(store, storage, model) == [(0, 1, [(6, 0, 1)]), (1, 8, [(6, 0, 1)]), (8, 9, [])]
        await storage.close()

    run(scenario())


def test_nothing_unstable_is_tiered(tmp_path: Path) -> None:
    """Entries that an open transaction holds back stay in the log; its end releases them."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await model.append()
            await model.append(5)
            await model.append()
            await until(lambda: model.slot.tiered_end == 1)
            await until(lambda: model.slot not in container_of(store).untiered)
            assert model.slot.tiered_end == 1
            await model.end(5, committed=False)
            await until(lambda: model.slot.tiered_end == 4)
            await check_each(model, LIMITS)

    run(scenario())


def test_lost_object_is_put_again(tmp_path: Path) -> None:
    """The chunk that takes the place of a lost one lists them, too, also when a start comes between."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        patient = replace(AGEING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient, storage, clean=False) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await model.append(1)
            await model.append()
            await model.end(1, committed=False)
            await until(lambda: model.slot.tiered_end == 3)
        lost = await object_keys(storage)
        for key in lost:
            await storage.delete(key)
        async with tiered_store(tmp_path, AGEING, storage) as store:
            model.slot = next(iter(store.streams)).slot(0)
            await until(lambda: chunks_in(store, ChunkState.VERIFIED))

            assert not {chunk_key(row.chunk) for row in runs_of(store, model.slot)} & set(lost)
            assert [aborted for _, _, aborted in await listed(store, storage, model)] == [[(2, 0, 1)]] * len(lost)
        await storage.close()

    run(scenario())


def test_merged_runs(tmp_path: Path) -> None:
    """Chunks that were merged list what their inputs did, once."""

    async def scenario() -> None:
        random = Random(11)
        async with rewriting_store(tmp_path, REWRITING) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            for _ in range(12):
                await write_randomly(model, random, 300, 60)
                await model.append(9)
                await until(lambda: model.slot.tiered_end == model.slot.stable_end)
                await end_all(model, random)
                await until(lambda: model.slot.tiered_end == model.slot.durable_end)
            await until(lambda: rewriter_of(store).counters.rewrites)
            merged = model.slot.durable_end
            for _ in range(150):  # until the log lets go of all that
                await model.append(body=2 * KIB)
            await left_the_log(store, model.slot, merged)
            assert any(row.generation for row in runs_of(store, model.slot))
            for first, end, aborted in await listed(store, storage_of(store), model):
                assert aborted == model.aborted_in(first, end)
            await check_each(model, LIMITS)

    run(scenario())


def test_log_file_leaves_while_it_is_read(tmp_path: Path) -> None:
    """A read that began before the log and the slot let go of something tells of it nevertheless."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, TIERING) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await model.append(1)
            await model.end(1, committed=False)
            slot = model.slot
            await fill(slot, 80 * KIB)
            forget_bytes(slot.columns)
            reader = hosted_of(store).reader
            reading = reader._log.read

            def read_then_forget(*args: object) -> object:
                found = reading(*args)  # type: ignore[arg-type]
                slot.forget_transactions_before(slot.end)
                return found

            reader._log.read = read_then_forget  # type: ignore[method-assign, assignment]
            found = await reader.read(slot, 0, slot.durable_end, 100, True)

            assert told(found) == [(1, 0, 1)]
            assert not slot.aborted_rows

    run(scenario())


def test_recovered(tmp_path: Path) -> None:
    """A store that is made from long-term storage tells of them as before, and of those that come later."""

    async def scenario() -> None:
        random, storage = Random(3), await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await write_randomly(model, random, 20 * KIB, KIB)
            await end_all(model, random)
            await until(lambda: model.slot.tiered_end == model.slot.durable_end)
            await snapshot(store)
            stable = model.slot.durable_end
            await model.append(7)
            await model.append()
        report = await recovered(tmp_path, storage)
        (stream,) = report.streams
        assert (stream.slots[0].start, stream.slots[0].end) == (0, stable)
        async with life(tmp_path, storage) as store:
            again = Transactional(
                store, next(iter(store.streams)).slot(0), model.written[:-2], model.ends[:-2], {}, model.aborted
            )
            assert (again.slot.end, again.slot.stable_end, again.slot.transactions) == (stable, stable, None)
            await check_each(again, LIMITS)
            await write_randomly(again, random, 5 * KIB, KIB)
            await end_all(again, random)
            await until(lambda: again.slot.tiered_end == again.slot.durable_end)
            await check_each(again, LIMITS)
        await storage.close()

    run(scenario())


def test_recovered_without_its_marker(tmp_path: Path) -> None:
    """Committed readers still skip the entries of an aborted transaction whose marker was lost with the disk."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "objects")
        async with life(tmp_path, storage) as store:
            model = Transactional(store, (await store.create_stream("s", slots=1)).slot(0))
            await model.append(1)
            await model.append(2)
            await model.end(1, committed=False)
            await until(lambda: model.slot.tiered_end == model.slot.stable_end == 1)
            await snapshot(store)
        await recovered(tmp_path, storage)
        async with life(tmp_path, storage) as store:
            slot = next(iter(store.streams)).slot(0)
            found = await hosted_of(store).reader.read(slot, 0, slot.durable_end, KIB, True)
            assert (found.end, slot.stable_end, told(found)) == (1, 1, [(2, 0, 1)])
        await storage.close()

    run(scenario())
