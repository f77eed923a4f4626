"""Rewrites of chunks: readers get the same entries afterwards, from fewer objects, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from core.store import Store
from core.streams.live import Slot, Stream
from core.tiering.rewriting.rewriter import Rewriter
from core.tiering.rewriting.rules import MERGE_CHUNKS_MIN
from core.tiering.rows import ChunkState, chunk_key
from tests.core.support import append, begin_append, hosted_of, read_all, run, until
from tests.core.tiering.rewriting.support import (
    REWRITING,
    Deadly,
    FirstByte,
    rewriter_of,
    rewriting_store,
    stop_rewriting,
)
from tests.core.tiering.support import (
    chunk_entries,
    chunks_in,
    chunks_of,
    object_keys,
    runs_of,
    unchanged,
    without_gaps,
)
from tests.tier2.chunks import entry, head_of
from tier2.chunk import ChunkReader
from tier2.storage import Storage

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that was verified behind the last look is not left alone for five minutes."""
    monkeypatch.setattr("core.tiering.rewriting.rewriter.LOOK_AGAIN_S", 0.1)


def is_tiered(slot: Slot) -> bool:
    """No entry of it waits: entries that left the slot before their turn are not awaited."""
    return max(slot.start, slot.tiered_end) == slot.end


async def trickle(stream: Stream, rounds: int, body: bytes = b"x") -> dict[Slot, list[bytes]]:
    """A little for each slot, chunk after chunk."""
    written: dict[Slot, list[bytes]] = {slot: [] for slot in stream.written_slots()}
    for number in range(rounds):
        for slot in written:
            for _ in range(2):
                payload = bytes(entry(slot.end, 1, 1000 + slot.end, body * (10 + number)).payload)
                await append(slot, payload, timestamp=1000 + slot.end)
                written[slot].append(payload)
        await until(lambda: all(is_tiered(slot) for slot in written))
    return written


async def written_chunks(store: Store, storage: Storage, slot: Slot) -> dict[int, bytes]:
    """The content of a slot's chunks, by sequence number; every run is checked against its row."""
    found: dict[int, bytes] = {}
    async with unchanged(store, slot):
        for row in runs_of(store, slot):
            chunk = store.hosted(slot).catalog.find_chunk(row.chunk)
            assert chunk is not None
            reader = await ChunkReader.open(chunk_key(row.chunk), chunk.size, storage.get_range, head_of)
            await reader.verify()
            stored = reader.index.run_of(row.stream_id, row.segment_id, row.slot)
            assert stored is not None
            assert (stored.first, stored.end, stored.length, stored.entries) == (
                row.first,
                row.end,
                row.length,
                row.entries,
            )
            offset = row.first
            while read := await reader.entries(stored, offset, 1 << 20):
                found |= {one.first: bytes(one.payload) for one in read}
                offset = read[-1].end
    return found


def storage_of(store: Store) -> Storage:
    tier = hosted_of(store).tier
    assert tier is not None
    return tier.long_term.storage


async def five_slots(store: Store) -> Stream:
    stream = await store.create_stream("s", slots=5)
    for number in range(5):
        stream.slot(number)
    return stream


async def assert_as_written(store: Store, written: dict[Slot, list[bytes]]) -> None:
    for slot, entries in written.items():
        runs = runs_of(store, slot)
        assert (runs[0].first, runs[-1].end) == (0, slot.tiered_end)
        assert without_gaps(runs)
        assert sum(run.appended for run in runs) == slot.tiered_bytes
        assert [run.bytes_before for run in runs] == [*accumulate((r.appended for r in runs[:-1]), initial=0)]
        assert await chunk_entries(storage_of(store), store, slot) == entries


def test_merge(tmp_path: Path) -> None:
    """Many small chunks become few in which each slot lies together; nothing else changes, and the old objects go."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            written = await trickle(await five_slots(store), 10)
            await until(lambda: rewriter_of(store).counters.rewrites)
            await assert_as_written(store, written)

            # How many chunks there were is the machine's affair. Of each level fewer are left than a merge takes.
            tier = hosted_of(store).tier
            assert tier is not None
            made = tier.writer.counters.chunks
            await until(lambda: len(chunks_of(store)) < MERGE_CHUNKS_MIN + made // MERGE_CHUNKS_MIN)
            await stop_rewriting(store)  # another merge may be under way
            await until(lambda: {row.state for row in hosted_of(store).catalog.pending} <= {ChunkState.INTENT})
            begun = {chunk_key(row.id) for row in chunks_in(store, ChunkState.INTENT)}
            whole = {chunk_key(row.id) for row in chunks_in(store, ChunkState.VERIFIED)}
            assert set(await object_keys(storage_of(store))) - begun == whole
            await assert_as_written(store, written)

    run(scenario())


@pytest.mark.slow
def test_trims_meanwhile(tmp_path: Path) -> None:
    """Slots whose starts move, and streams that go, while their chunks are rewritten lose nothing else."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            stream, gone = await five_slots(store), await store.create_stream("gone", slots=3)
            for number in range(3):
                gone.slot(number)
            done = asyncio.Event()

            async def trim() -> None:
                dice = random.Random(7)
                while not done.is_set():
                    slot = stream.slot(dice.randrange(4))  # the last one stays whole
                    await store.hosted(slot).truncate(slot, dice.randint(slot.start, slot.durable_end))
                    await asyncio.sleep(0.02)

            trimming = asyncio.create_task(trim())
            doomed = await trickle(gone, 4)
            written = await trickle(stream, 12)
            assert doomed
            await store.delete_stream(gone)
            written = {slot: entries + (await trickle_one(slot, 6)) for slot, entries in written.items()}
            await until(lambda: rewriter_of(store).counters.rewrites)
            done.set()
            await trimming
            await stop_rewriting(store)
            await until(
                lambda: all(runs_of(store, slot)[0].end > slot.start for slot in written if runs_of(store, slot))
            )

            for slot, entries in written.items():
                runs = runs_of(store, slot)
                assert without_gaps(runs)
                if slot.start < slot.tiered_end:
                    assert runs[0].first <= slot.start
                    assert runs[-1].end == slot.tiered_end
                    assert await chunk_entries(storage_of(store), store, slot) == entries[runs[0].first :]
            await until(lambda: not [run for n in range(3) for run in runs_of(store, gone.slot(n))])

    run(scenario())


async def trickle_one(slot: Slot, rounds: int) -> list[bytes]:
    written: list[bytes] = []
    for number in range(rounds):
        payload = bytes(entry(slot.end, 1, 1000 + slot.end, b"y" * number).payload)
        await append(slot, payload, timestamp=1000 + slot.end)
        written.append(payload)
        await until(lambda: is_tiered(slot))
    return written


@pytest.mark.slow
def test_a_run_that_begins_within_an_entry(tmp_path: Path) -> None:
    """A slot is trimmed to within an entry before that goes into a chunk. What is left of it outlives each rewrite."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            stream = await store.create_stream("s", slots=1)
            slot, tier = stream.slot(0), hosted_of(store).tier
            assert tier is not None
            tier.writer.hold(slot)
            written = []
            for _ in range(2):
                written.append(bytes(entry(slot.end, 4, 1000 + slot.end, b"several").payload))
                await append(slot, written[-1], 4, timestamp=1000 + slot.end)
            await store.hosted(slot).truncate(slot, 2)
            tier.writer.let_go(slot)
            await until(lambda: is_tiered(slot))
            for generation in (1, 2):
                while runs_of(store, slot)[0].generation < generation:
                    written += (await trickle(stream, 2))[slot]
                assert runs_of(store, slot)[0].first == 2
                assert await chunk_entries(storage_of(store), store, slot) == written
                assert await read_all(store, slot, 2) == written

    run(scenario())


@pytest.mark.slow
def test_merge_survives_restart(tmp_path: Path) -> None:
    """Rewrites that a crash interrupts are abandoned, nothing refers to them, and they are done again."""

    async def scenario() -> None:
        slow = replace(REWRITING, tier2_verify_delay_ms=3_600_000)
        hasty = replace(REWRITING, rewrite_interval_ms=3_600_000)
        async with rewriting_store(tmp_path, hasty) as store:
            expected = {slot.number: entries for slot, entries in (await trickle(await five_slots(store), 10)).items()}
            await until(lambda: len(chunks_in(store, ChunkState.VERIFIED)) >= 8)
        async with rewriting_store(tmp_path, slow, clean=False) as store:
            await until(lambda: rewriter_of(store).counters.bytes_out)
            left = {row.id for row in chunks_in(store, ChunkState.INTENT)}
            assert left
        async with rewriting_store(tmp_path) as store:
            await until(lambda: rewriter_of(store).counters.rewrites)
            stream = store.streams.get("s")
            assert stream is not None
            await assert_as_written(store, {stream.slot(n): entries for n, entries in expected.items()})
            assert left.isdisjoint(run.chunk for number in expected for run in runs_of(store, stream.slot(number)))
            await until(lambda: left.isdisjoint(row.id for row in chunks_of(store)))
            assert {chunk_key(one) for one in left}.isdisjoint(await object_keys(storage_of(store)))

    run(scenario())


@pytest.mark.slow
def test_worker_killed(tmp_path: Path) -> None:
    """A worker that is killed costs its rewrite; the next one does it."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            stream, rewriter = await five_slots(store), rewriter_of(store)
            killed = asyncio.create_task(kill_first_worker(rewriter))
            written = await trickle(stream, 10)
            await killed
            await until(lambda: rewriter.counters.rewrites)

            await assert_as_written(store, written)
            assert rewriter.worker_pid is not None

    run(scenario())


async def kill_first_worker(rewriter: Rewriter) -> None:
    await until(lambda: rewriter.worker_pid is not None)
    assert rewriter.worker_pid is not None
    os.kill(rewriter.worker_pid, signal.SIGKILL)


def test_compaction(tmp_path: Path) -> None:
    """A compacted stream's chunks keep the entries that the filter keeps; sequence numbers and coverage stay."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=FirstByte) as store:
            slot = (await store.create_stream("s", slots=1, config={"compact": "1"})).slot(0)
            last: dict[int, tuple[int, bytes]] = {}
            for number in range(90):
                key = number * number % 7
                payload = bytes(entry(slot.end, 1, 1000 + number, bytes([key]) * 300).payload)
                last[key] = slot.end, payload
                await append(slot, payload, timestamp=1000 + number)
            await until(lambda: slot.tiered_end == slot.end)
            await until(lambda: sum(run.entries for run in runs_of(store, slot)) == len(last))

            runs = runs_of(store, slot)
            assert (runs[0].first, runs[-1].end) == (0, slot.end)
            assert without_gaps(runs)
            assert sum(run.appended for run in runs) == slot.tiered_bytes
            assert await written_chunks(store, storage_of(store), slot) == dict(last.values())

    run(scenario())


def test_compaction_that_kills(tmp_path: Path) -> None:
    """A compaction that brings its process down loses nothing, and does not keep anything else from going on."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path, filter_for=Deadly) as store:
            stream = await store.create_stream("s", slots=1, config={"compact": "1"})
            stream.slot(0)
            written = await trickle(stream, 3)
            await until(lambda: rewriter_of(store).counters.abandoned)

            await assert_as_written(store, written)

    run(scenario())


def test_reclaim(tmp_path: Path) -> None:
    """A chunk of which most is dead is rewritten without that."""

    async def scenario() -> None:
        async with rewriting_store(tmp_path) as store:
            short, long = await store.create_stream("short", slots=1), await store.create_stream("long", slots=1)
            kept = bytes(entry(0, 1, 5, b"kept").payload)
            for number in range(20):
                begin_append(short.slot(0), bytes(entry(number, 1, 5, b"." * 1000).payload))
            await append(long.slot(0), kept)
            await until(lambda: len(chunks_in(store, ChunkState.VERIFIED)) == 1)
            (old,) = chunks_of(store)
            assert old.size > 20_000
            await store.delete_stream(short)
            await until(lambda: rewriter_of(store).counters.rewrites)

            await until(lambda: old.id not in [chunk.id for chunk in chunks_of(store)])
            (new,) = chunks_of(store)
            assert new.size < 1000
            assert await chunk_entries(storage_of(store), store, long.slot(0)) == [kept]

    run(scenario())


@pytest.mark.slow
def test_worker_is_alone(tmp_path: Path) -> None:
    """The worker has none of the store's files or sockets, and takes few turns."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.set_inheritable(True)
            async with rewriting_store(tmp_path) as store:
                await trickle(await five_slots(store), 10)
                await until(lambda: rewriter_of(store).counters.rewrites)
                process = psutil.Process(rewriter_of(store).worker_pid)
                open_files = [Path(file.path) for file in process.open_files()]

                assert not [path for path in open_files if path.is_relative_to(tmp_path / "store")]
                assert not process.net_connections()
                assert process.nice() > psutil.Process().nice()
            assert not process.is_running()

    run(scenario())


@pytest.mark.slow
def test_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """However the store's process ends, its worker does not stay."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    worker.wait(20)


PARENT = """
import asyncio, sys
from pathlib import Path
from core.tiering.rewriting.worker import Worker, WorkerFailed
from core.tiering.rewriting.requests import Learn
from tests.core.tiering.rewriting.support import FirstByte, setup_for

async def main():
    worker = Worker(setup_for(Path(sys.argv[1]), FirstByte), None)
    await worker.learn(Learn(scopes={}, inputs=(), runs=(), keys_max=1))
    print(worker.pid, flush=True)
    await asyncio.sleep(100)

asyncio.run(main())
"""
