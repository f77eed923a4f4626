"""Searches by time see each entry once, also those that leave the log for good while it is searched."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.streams.entries import StoredEntry
from core.tiering.rows import ChunkState
from tests.core.support import DEADLINE_S, KIB, append, container_of, hosted_of, run, until
from tests.core.tiering.support import TIERING, chunks_in, fill, tiered_store
from tests.tier2.chunks import entry

pytestmark = pytest.mark.slow

NEWEST_MS = 1_000_000


@pytest.mark.parametrize("by", ["time", "newest"])
def test_a_file_that_goes_during_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """The log is searched from its beginning on, and gives up its first file: what that had is found in chunks."""

    async def scenario() -> None:
        patient = replace(TIERING, tier2_verify_delay_ms=3_600_000)
        async with tiered_store(tmp_path, patient) as store:
            container, reader, tier = container_of(store), hosted_of(store).reader, hosted_of(store).tier
            assert tier is not None
            slot = (await store.create_stream("s", slots=1)).slot(0)
            await append(slot, entry(0, 1, NEWEST_MS, b"x").payload, timestamp=NEWEST_MS)
            await fill(slot, 300 * KIB)
            await until(lambda: slot.durable_bytes - slot.tiered_bytes < TIERING.chunk_bytes)
            await until(lambda: slot.columns[0].base[0] > 0)
            path, loop = container.files.complete[0].path, asyncio.get_running_loop()
            assert await reader.local_start(slot) == 0

            def let_go() -> None:
                for row in chunks_in(store, ChunkState.COMMITTED):
                    tier.writer._second_look._due_at[row.id] = 0.0

            late = once_gone(path, lambda: loop.call_soon_threadsafe(let_go))
            name = "entry_at_time" if by == "time" else "entry_with_max_timestamp"
            monkeypatch.setattr(reader._log, name, late(getattr(reader._log, name)))
            found: StoredEntry | None
            if by == "time":
                found = await reader.entry_at_time(slot, 1005, 1)
                assert found is not None
                assert (found.first, found.max_timestamp) == (5, 1005)
            else:
                found = await reader.entry_with_max_timestamp(slot)
                assert found is not None
                assert (found.first, found.max_timestamp) == (0, NEWEST_MS)

    run(scenario())


def once_gone(path: Path, let_go: Callable[[], object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have a first call in a thread wait until the file is gone."""
    asked = threading.Event()

    def late(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not asked.is_set():
                asked.set()
                let_go()
                deadline = time.monotonic() + DEADLINE_S
                while path.exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
            return real(*args)

        return call

    return late
