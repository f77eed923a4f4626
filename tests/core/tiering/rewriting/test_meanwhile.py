"""What happens to a slot while its rewritten chunk waits for its second look counts when that is committed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from core.log.records import Put
from core.store import Store
from core.streams.live import Slot
from core.tiering.rewriting import rewriter
from core.tiering.rewriting.cleaned import CLEANED_TABLE, Cleaned, cleaned_key
from core.tiering.rewriting.outputs import Outputs
from core.tiering.rewriting.requests import SlotKey
from core.tiering.rows import ChunkState
from tests.core.support import append, container_of, run, until
from tests.core.tiering.rewriting.support import REWRITING, FirstByte, rewriter_of, rewriting_store
from tests.core.tiering.support import chunks_in, runs_of
from tests.tier2.chunks import entry
from tier2.chunk_format import ChunkId

pytestmark = pytest.mark.slow

KEYS = 7


async def waiting_output(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Slot, Outputs]:
    """A slot of a compacted stream, and the compaction of it, which waits for its second look."""
    outputs = rewriter_of(store)._outputs
    monkeypatch.setattr(outputs, "_verify_delay_s", 3600.0)
    slot = (await store.create_stream("s", slots=1, config={"compact": "1"})).slot(0)
    for number in range(10 * KEYS):
        body = bytes([number % KEYS]) * 300
        await append(slot, bytes(entry(slot.end, 1, 1000 + number, body).payload), timestamp=1000 + number)
    await until(lambda: outputs._made)
    return slot, outputs


async def looked_at(outputs: Outputs) -> ChunkId:
    """Have the oldest output looked at and committed, or abandoned."""
    made = outputs._made[0]
    outputs._made[0] = replace(made, due_s=0.0)
    await until(lambda: not outputs._made or outputs._made[0].chunk.id != made.chunk.id)
    return made.chunk.id


def test_compaction_is_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who turns a stream's compaction off loses nothing more by it, whatever a round has already written."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=FirstByte) as store:
            slot, outputs = await waiting_output(store, monkeypatch)
            await store.update_stream(slot.stream, config={})
            given_up = await looked_at(outputs)
            assert given_up not in [one.chunk for one in runs_of(store, slot)]
            await until(lambda: slot.tiered_end == slot.end)
            assert sum(one.entries for one in runs_of(store, slot)) == slot.end
            assert slot.compacted_end == 0

    run(scenario())


def test_its_inputs_stay_for_those_who_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay after which their objects are deleted begins when nothing refers to them, and not with the rewrite."""

    async def scenario() -> None:
        lasting = replace(REWRITING, file_delete_delay_ms=3_600_000)
        async with rewriting_store(tmp_path, lasting, FirstByte) as store:
            slot, outputs = await waiting_output(store, monkeypatch)
            trusted, begun_ms = container_of(store).trusted, outputs._made[0].chunk.changed_ms
            await until(lambda: trusted.stamp_ms() > begun_ms)
            inputs, now_ms = {one.chunk for one in outputs._made[0].inputs}, trusted.stamp_ms()
            committed = await looked_at(outputs)
            assert committed in [one.chunk for one in runs_of(store, slot)]
            left = [row for row in chunks_in(store, ChunkState.DELETING) if row.id in inputs]
            assert left
            assert all(row.changed_ms >= now_ms for row in left)

    run(scenario())


def test_a_stream_that_comes_while_rows_of_others_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far slots of streams that are gone are compacted is forgotten in several records: one of these streams is
    here again before its turn, and keeps its row."""
    monkeypatch.setattr(rewriter, "ROWS_PER_RECORD", 2)

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=FirstByte) as store:
            container, own = container_of(store), rewriter_of(store)
            await own.stop()
            rows = [cleaned_key(SlotKey(stream_id, 0)) for stream_id in (7, 8, 1)]
            await container.update(*(Put(CLEANED_TABLE, key, Cleaned().encode()) for key in rows))
            forgetting = asyncio.create_task(own._forget_streams())
            stream = await store.create_stream("s", slots=1)
            await forgetting
            assert stream.id == 1
            assert list(container.table(CLEANED_TABLE).entries) == rows[2:]

    run(scenario())
