"""The background work of a container takes turns with those who ask for some of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.core.support import append, hosted_of, maintenance_of, make, open_store, run, until


def test_a_place_is_cleared_in_turn(tmp_path: Path) -> None:
    """The checkpoint for a slot that is to come back waits while the files are worked at: amid the move of entries out
    of the log's way it would delete rows, which that brings back."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream, maintenance = await make(store), maintenance_of(store)
        await append(stream.slot(0), b"x")
        before, files = maintenance.position, maintenance._at_files
        async with files:
            clearing = asyncio.create_task(hosted_of(store).clear((stream.id, 7)))
            await until(lambda: files._waiters or clearing.done())
            assert maintenance.position == before
        await clearing
        assert maintenance.position.lsn > before.lsn
        await store.close()

    run(scenario())
