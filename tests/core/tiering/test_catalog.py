"""The catalog of chunks: look-ups in threads, while the loop applies records and checkpoints save them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.applied.metadata import table_item
from core.log.records import Delete, Operation, Put
from core.store import Store
from core.streams.live import Slot
from core.tiering.rows import CHUNKS_TABLE, PENDING_TABLE, RUNS_TABLE, ChunkRow, ChunkState, RunRow, chunk_row_key
from tests.core.support import KIB, container_of, hosted_of, run, until
from tests.core.tiering.support import AGEING, fill, runs_of, tiered_store
from tier2.chunk_format import ChunkId

pytestmark = pytest.mark.slow


async def three_runs(store: Store) -> Slot:
    """A slot in three chunks, which are verified and saved."""
    slot = (await store.create_stream("s", slots=1)).slot(0)
    for _ in range(3):
        await fill(slot, KIB)
        await until(lambda: slot.tiered_end == slot.end)
    container = container_of(store)
    await until(lambda: not hosted_of(store).catalog.pending)
    await until(lambda: not len(container.table(RUNS_TABLE)) and not len(container.table(CHUNKS_TABLE)))
    return slot


def merged(runs: Sequence[RunRow]) -> tuple[RunRow, list[Operation]]:
    """One run in the place of these, in the order in which a rewrite logs it."""
    row = replace(runs[0], end=runs[-1].end, appended=sum(one.appended for one in runs))
    return row, [*(Delete(RUNS_TABLE, one.key) for one in runs), Put(RUNS_TABLE, row.key, row.encode())]


def is_whole(found: Sequence[tuple[int, int]], slot: Slot) -> bool:
    """Whether these follow one another from the slot's start to its end."""
    ends = [0, *(end for _, end in found)]
    return ends[-1] == slot.tiered_end and ends[:-1] == [first for first, _ in found]


def test_half_a_rewrite_is_never_found(tmp_path: Path) -> None:
    """A thread that looks while a record with thousands of rows is applied finds all of them or none: what seems to be
    a gap would be passed over by readers, and by retention."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, container, catalog = await three_runs(store), container_of(store), hosted_of(store).catalog
            runs = runs_of(store, slot)
            row, operations = merged(runs)
            seen: list[list[tuple[int, int]]] = []

            def look(operation: object) -> None:
                with ThreadPoolExecutor(1) as thread:
                    rows = thread.submit(lambda: list(catalog.iter_runs(slot.stream.id, slot.number, -1))).result()
                seen.append([(one.first, one.end) for one in rows])

            container.on_applied(RUNS_TABLE, look)
            await container.update(*operations)
            assert len(seen) == len(operations) == 4
            assert all(is_whole(found, slot) for found in seen), seen
            assert runs_of(store, slot) == [row]

    run(scenario())


def test_a_record_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that has looked into memory before a record, and looks at the disk amid its checkpoint, looks anew."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, container = await three_runs(store), container_of(store)
            row, operations = merged(runs_of(store, slot))
            metadata, meanwhile = container.metadata, [operations]
            table_items = metadata.table_items

            def looking(*args: Any) -> Iterator[tuple[bytes, bytes]]:
                if meanwhile:
                    container.outcomes.apply(meanwhile.pop())
                    metadata.write([table_item(RUNS_TABLE, row.key, container.applied_lsn, row.encode())])
                return table_items(*args)

            monkeypatch.setattr(metadata, "table_items", looking)
            found = runs_of(store, slot)
            assert not meanwhile
            assert found == [row]

    run(scenario())


def test_a_chunk_is_found_before_its_runs(tmp_path: Path) -> None:
    """A run that is found names a chunk that is found, too: amid a record, whatever the order of its rows is."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, AGEING) as store:
            slot, container, catalog = await three_runs(store), container_of(store), hosted_of(store).catalog
            first = runs_of(store, slot)[0]
            chunk = catalog.find_chunk(first.chunk)
            assert chunk is not None
            new = replace(chunk, id=replace(chunk.id, sequence=chunk.id.sequence + 1_000_000), runs=(first.listed,))
            moved = replace(first, chunk=new.id)
            missing: list[RunRow] = []

            def look(operation: object) -> None:
                rows = list(catalog.iter_runs(slot.stream.id, slot.number, -1))
                missing.extend(one for one in rows if catalog.find_chunk(one.chunk) is None)

            container.on_applied(RUNS_TABLE, look)
            await container.update(
                Put(RUNS_TABLE, moved.key, moved.encode()), Put(CHUNKS_TABLE, chunk_row_key(new.id), new.encode())
            )
            assert runs_of(store, slot)[0] == moved
            assert not missing

    run(scenario())


def test_a_chunk_that_is_verified_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes from one table to the other, and is found all the same: a reader would take its object for gone."""

    async def scenario() -> None:
        patient = replace(AGEING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient) as store:
            container, catalog = container_of(store), hosted_of(store).catalog
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await fill(slot, KIB)
            await until(lambda: slot.tiered_end == slot.end)
            (row,) = catalog.pending
            verified = replace(row, state=ChunkState.VERIFIED)
            confirmed = [Delete(PENDING_TABLE, row.key), Put(CHUNKS_TABLE, row.key, verified.encode())]
            pending_chunk = catalog.pending_chunk

            def looking(chunk_id: ChunkId) -> ChunkRow | None:
                if confirmed:
                    container.outcomes.apply(list(confirmed))
                    confirmed.clear()
                return pending_chunk(chunk_id)

            monkeypatch.setattr(catalog, "pending_chunk", looking)
            assert catalog.find_chunk(row.id) == verified
            assert not confirmed

    run(scenario())
