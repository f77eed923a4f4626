"""Reading: entries come back as they were appended, whichever place serves them, within the limits of the request."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import CorruptLog
from tests.core.support import (
    KIB,
    container_of,
    forget_bytes,
    hosted_of,
    maintenance_of,
    make,
    open_store,
    read_all,
    roll,
    run,
)
from tests.core.transactional import Transactional, check_all


def test_entry_too_large_for_what_is_left(tmp_path: Path) -> None:
    """A read that may return nothing returns nothing when the first entry does not fit, from memory and from disk."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await roll(store, slot)
        await roll(store, slot)
        await roll(store, slot)
        await maintenance_of(store).index_files()
        reader = hosted_of(store).reader
        for offset in (0, slot.end - 1):
            found = await reader.read(slot, offset, slot.durable_end, 10, False)
            assert ([], 0, offset) == (found.parts, found.size, found.end)
        forget_bytes(slot.columns)
        found = await reader.read(slot, slot.end - 1, slot.durable_end, 10, False)
        assert ([], 0, slot.end - 1) == (found.parts, found.size, found.end)
        await store.close()

    run(scenario())


@pytest.mark.slow
def test_aborted_transactions(tmp_path: Path) -> None:
    """A read names the aborted transactions that overlap it, from memory, by rows in memory, and by a sidecar."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        model = Transactional(store, (await make(store)).slot(0))
        for _ in range(3):
            first = container_of(store).log.file.first_lsn
            while container_of(store).log.file.first_lsn == first:
                for writer_id in (7, 8, 7, -1, 9):
                    await model.append(writer_id, count=2, body=KIB)
                await model.end(8, committed=True)
                await model.end(9, committed=False)
                await model.end(7, committed=False)
        await maintenance_of(store).index_files()
        await model.append(7)
        slot = model.slot
        offsets = [0, 1, 5, 8, 10, 11, 12, slot.columns[0].base[0] + 3, slot.end - 20, slot.end - 3, slot.end - 1]
        await check_all(model, offsets, (1, 2500, 10 * KIB, 1 << 20))
        forget_bytes(slot.columns)
        await check_all(model, offsets, (1, 2500, 10 * KIB, 1 << 20))
        await store.close()

    run(scenario())


def test_size_after_trim_to_the_end(tmp_path: Path) -> None:
    """A slot that was trimmed up to its end holds zero bytes."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await roll(store, slot)
        await roll(store, slot)
        await store.hosted(slot).truncate(slot, slot.durable_end)
        assert (slot.size_bytes, await read_all(store, slot)) == (0, [])
        await store.close()

    run(scenario())


def test_missing_file_is_damage(tmp_path: Path) -> None:
    """A log file or sidecar that vanished is reported as damage, never as data that has expired."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        for _ in range(6):  # the first file's bytes and rows leave memory
            await roll(store, slot)
        await maintenance_of(store).index_files()
        first = container_of(store).files.complete[0].path
        with_sidecar = first.with_suffix(".idx")
        kept = with_sidecar.read_bytes()
        with_sidecar.unlink()
        with pytest.raises(CorruptLog):
            await read_all(store, slot)
        with_sidecar.write_bytes(kept)
        first.unlink()
        with pytest.raises(CorruptLog):
            await read_all(store, slot)
        await store.close(clean=False)

    run(scenario())
