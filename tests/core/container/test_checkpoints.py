"""Checkpoints: what changes while one is taken is saved by it or by the next, and never undone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.container.container import Container
from core.log.records import Delete, Operation, Put
from core.store import Store
from core.tiering.rows import CHUNKS_TABLE, RUNS_TABLE, RunRow, run_key
from tests.core.support import container_of, maintenance_of, open_store, run
from tier2.chunk_format import ChunkId

KEY = run_key(1, 0, 0)
OTHER = run_key(1, 0, 7)


def value(generation: int) -> bytes:
    """The row of a run of a stream that is not here."""
    return RunRow(
        stream_id=1,
        slot=0,
        first=0,
        end=7,
        chunk=ChunkId(container=0, epoch=0, sequence=1),
        segment_id=0,
        generation=generation,
        min_timestamp=0,
        max_timestamp=0,
        position=0,
        length=1,
        entries=1,
        leader_epoch=0,
        bytes_before=0,
        appended=1,
    ).encode()


def saved(container: Container, table: str, key: bytes) -> bytes | None:
    """The value as a look-up finds it."""
    unsaved = container.table(table)
    assert len(unsaved) == 0
    return container.metadata.table_value(table, key)


async def changed_since_a_checkpoint(directory: Path) -> Store:
    """A store with two rows that are saved, of which one has changed since, and the other one has gone."""
    store = await open_store(directory)
    await container_of(store).update(Put(RUNS_TABLE, KEY, value(1)), Put(RUNS_TABLE, OTHER, value(1)))
    await maintenance_of(store).checkpoint()
    await container_of(store).update(Put(RUNS_TABLE, KEY, value(2)), Delete(RUNS_TABLE, OTHER))
    return store


async def checkpoint_amid(
    store: Store, patch: pytest.MonkeyPatch, *meanwhile: Operation, again: Sequence[Operation] = ()
) -> None:
    """A checkpoint: some changes come when it has taken what it is to save, and before it looks at the values; others
    when it has looked."""
    checkpoints = maintenance_of(store)._checkpoints
    capture = checkpoints._capture

    async def late(*args: Any) -> Any:
        await container_of(store).update(*meanwhile)
        values = await capture(*args)
        if again:
            await container_of(store).update(*again)
        return values

    with patch.context() as patched:
        patched.setattr(checkpoints, "_capture", late)
        await maintenance_of(store).checkpoint()


@pytest.mark.parametrize("table", [RUNS_TABLE, CHUNKS_TABLE])
def test_a_row_that_changes_while_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """It is saved as it is then, and the next checkpoint does not take it for deleted because memory has let go of
    it."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        container, maintenance = container_of(store), maintenance_of(store)
        await container.update(Put(table, KEY, value(1)))
        await checkpoint_amid(store, monkeypatch, Put(table, KEY, value(2)))
        assert saved(container, table, KEY) == value(2)
        for _ in range(2):
            await container.update(Put("t", b"k", b"something to save"))
            await maintenance.checkpoint()
            assert saved(container, table, KEY) == value(2)
        await store.close(clean=False)

    run(scenario())


def test_rows_that_come_and_go_while_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was deleted then stays deleted, one that came back then is there, one that changed behind it, too."""

    async def scenario() -> None:
        store = await changed_since_a_checkpoint(tmp_path)
        container, maintenance = container_of(store), maintenance_of(store)
        await checkpoint_amid(
            store,
            monkeypatch,
            Delete(RUNS_TABLE, KEY),
            Put(RUNS_TABLE, OTHER, value(3)),
            again=[Put(RUNS_TABLE, OTHER, value(4))],
        )
        await maintenance.checkpoint()
        assert saved(container, RUNS_TABLE, KEY) is None
        assert saved(container, RUNS_TABLE, OTHER) == value(4)
        await store.close(clean=False)

    run(scenario())


def test_a_failed_one_saves_nothing_and_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed checkpoint has looked at is saved by the next one, deletions included."""

    async def scenario() -> None:
        store = await changed_since_a_checkpoint(tmp_path)
        container, maintenance = container_of(store), maintenance_of(store)

        def fail(*args: Any) -> None:
            raise OSError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(container.metadata, "commit", fail)
            await checkpoint_amid(store, patched, Put(RUNS_TABLE, KEY, value(3)))
        assert len(container.table(RUNS_TABLE)) == 2
        await maintenance.checkpoint()
        assert saved(container, RUNS_TABLE, KEY) == value(3)
        assert saved(container, RUNS_TABLE, OTHER) is None
        await store.close(clean=False)

    run(scenario())
