"""Reading from chunks: entries come back as they were appended, wherever they lie, and damage stays where it is."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import MIB
from core.errors import CorruptChunk, MissingChunk, OutOfRange, StoreClosed, TierUnavailable
from core.tiering.reading.gets import GETS_MAX
from core.tiering.reading.reader import TieredReader
from core.tiering.reading.yielding import Stretch
from core.tiering.rows import chunk_key
from tests.core.support import KIB, fast_directory, run, until
from tests.core.tiering.reading.chunked_slot import ChunkedSlot, Counting, read_on
from tests.tier2.chunks import entry
from tier2.chunk import Entry
from tier2.chunk_format import AbortedTransaction
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Unavailable

pytestmark = pytest.mark.slow

WAIT_S: Final = 20.0


@asynccontextmanager
async def chunked(slots: int = 1) -> AsyncIterator[tuple[ChunkedSlot, Counting]]:
    with tempfile.TemporaryDirectory(dir=fast_directory()) as directory:
        storage = Counting(await FilesystemStorage.open(FilesystemSettings(directory=Path(directory))))
        yield ChunkedSlot(storage, slots), storage
        await storage.close()


def filler(first: int, count: int, size: int) -> list[Entry]:
    return [entry(n, 1, 1000 + n, bytes([n % 251]) * size) for n in range(first, first + count)]


def joined(entries: Sequence[Entry]) -> bytes:
    return b"".join(bytes(one.payload) for one in entries)


shapes = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 300), st.integers(0, 3)), max_size=30),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)
"""Runs: for each entry how many offsets it has, how long it is, and how many offsets are missing before it; and how
many are missing at the end of the run."""


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    shapes,
    st.sampled_from([64, 100, 1024, 64 * KIB]),
    st.sampled_from([0, 40, 700, 5000, MIB]),
    st.sampled_from([512 * KIB, 64 * MIB]),
)
def test_any_offset_any_limit(
    shape: list[tuple[list[tuple[int, int, int]], int]], block_bytes: int, max_bytes: int, cache: int
) -> None:
    """From any offset and with any limit, whole entries come back in order, across runs, pages and gaps."""

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            everything: list[Entry] = []
            offset = 0
            for sizes, missing_at_end in shape:
                entries: list[Entry] = []
                for span, size, missing in sizes:
                    offset += missing
                    entries.append(entry(offset, span, offset % 17, bytes([offset % 256]) * size))
                    offset += span
                offset += missing_at_end
                if offset > chunks.slot.tiered_end:
                    await chunks.add(entries, end=offset, block_bytes=block_bytes)
                    everything += entries
            reader = chunks.reader(tier2_cache_bytes=cache)
            for start in range(0, offset + 1, max(1, offset // 7)):
                wanted = [one for one in everything if one.first + one.count > start]
                assert joined(wanted) == await read_on(reader, chunks.slot, start, max_bytes)
                for stamp in (3, 16, 17):
                    newer = next((one for one in wanted if one.max_timestamp >= stamp), None)
                    found = await reader.entry_at_time(chunks.slot, stamp, start)
                    assert (newer and newer.first) == (found and found.first)
                chunks.slot.start = start
                newest = max(wanted, key=lambda one: one.max_timestamp, default=None)
                found = await reader.entry_with_max_timestamp(chunks.slot)
                assert (newest and newest.payload) == (found and found.payload)
                chunks.slot.start = 0
            await reader.close()

    run(scenario())


def aborted_from(begun: Sequence[tuple[int, int]]) -> list[AbortedTransaction]:
    """Transactions of a writer each, from where they began and how far it is to their markers."""
    spans = sorted({first + length: first for first, length in begun}.items())
    later = [[first for end, first in spans if end > last] for last, _ in spans]
    return [
        AbortedTransaction(writer_id=number, first=first, last=last, stable_end=min([last + 1, *later[number]]))
        for number, (last, first) in enumerate(spans)
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 30)), max_size=12),
    st.sampled_from([1, 150, 500, MIB]),
)
def test_aborted_transactions(runs: list[tuple[int, int]], begun: list[tuple[int, int]], max_bytes: int) -> None:
    """An answer names each aborted transaction that overlaps it once, however many runs and gaps it spans."""
    aborted = aborted_from(begun)

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            for count, missing_at_end in runs:
                first = chunks.slot.tiered_end
                end = first + count + missing_at_end
                if end > first:
                    await chunks.add(filler(first, count, 50), end=end, aborted=aborted)
            end = chunks.slot.tiered_end
            for start in range(0, end, max(1, end // 5)):
                reader = chunks.reader()
                offset = start
                while offset < end:
                    found = await reader.read(chunks.slot, offset, end, max_bytes, True)
                    parts = [
                        (max(row.first, offset), min(row.end, found.end))
                        for row in chunks.known.rows
                        if row.entries and row.first < found.end and row.first + row.entries > offset
                    ]
                    wanted = [
                        (one.last, one.first, one.writer_id, one.stable_end)
                        for one in aborted
                        if any(one.first < high and one.last >= low for low, high in parts if low < high)
                    ]
                    assert wanted == list(found.aborted)
                    offset = found.end
                    await until(partial(_is_at_rest, reader))
                await reader.close()

    run(scenario())


def _is_at_rest(reader: TieredReader) -> bool:
    """Whether the runs that come next are open: then an answer may span them."""
    return not any(follower.opening for follower in reader._ahead._followers.values())


def test_limits() -> None:
    """An answer has at most as many bytes as were asked for, one entry at least if wanted, and stops at an end."""

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            entries = filler(0, 200, KIB)
            await chunks.add(entries)
            reader = chunks.reader()
            size = len(bytes(entries[0].payload))

            assert (await reader.read(chunks.slot, 7, 200, size - 1, False))[:3] == ([], 0, 7)
            assert (size, 8) == (await reader.read(chunks.slot, 7, 200, size - 1, True))[1:3]
            assert (3 * size, 10) == (await reader.read(chunks.slot, 7, 200, 3 * size + 5, True))[1:3]
            assert (3 * size, 10) == (await reader.read(chunks.slot, 7, 10, MIB, True))[1:3]
            found = await reader.read(chunks.slot, 0, 200, 100 * KIB, True)
            assert 64 * KIB - size < found.size <= 100 * KIB
            assert joined(entries[: found.end]) == b"".join(map(bytes, found.parts))
            await reader.close()

    run(scenario())


def test_one_request_for_all(tmp_path: Path) -> None:
    """However many ask for a page at the same time, it is read once; the next one finds it in memory."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            await chunks.add(filler(0, 100, KIB))
            reader = chunks.reader()
            offsets = [*range(50), *range(50)]
            answers = await asyncio.gather(*(reader.read(chunks.slot, n, 100, MIB, True) for n in offsets))
            assert {100} == {answer.end for answer in answers}
            assert len(storage.reads) == 2  # the index, and the page
            await reader.close()

    run(scenario())


def test_neighbours_come_together() -> None:
    """Missing pages that lie side by side are one request; a reader that goes on finds them loaded ahead."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 12 * 1024, KIB)
            await chunks.add(entries)
            reader = chunks.reader()
            await reader.read(chunks.slot, 0, len(entries), 6 * MIB, True)
            assert len(storage.reads) == 2

            assert joined(entries) == await read_on(reader, chunks.slot, 0, MIB)
            assert len(storage.reads) < 9
            await reader.close()

    run(scenario())


@pytest.mark.parametrize("read_ahead", [0, 16 * MIB])
def test_only_read_ahead_yields(monkeypatch: pytest.MonkeyPatch, read_ahead: int) -> None:
    """Bytes that a reader waits for come as fast as they can."""
    yields: list[Stretch] = []

    def noted(stretch: Stretch) -> None:
        yields.append(stretch)

    monkeypatch.setattr(Stretch, "yield_now", noted)

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            entries = filler(0, 12 * 1024, KIB)
            await chunks.add(entries)
            reader = chunks.reader(tier2_read_ahead_bytes=read_ahead)
            assert joined(entries) == await read_on(reader, chunks.slot, 0, MIB)
            await reader.close()

    run(scenario())
    assert bool(yields) == bool(read_ahead)


def test_a_page_is_there_before_its_request_has_ended() -> None:
    """A reader of the first page of a request does not wait for the last one."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 4 * 1024, KIB)
            await chunks.add(entries)
            reader = chunks.reader()
            rest = threading.Event()
            storage.comes = lambda number: number == 0 or rest.wait(WAIT_S)
            whole = asyncio.create_task(reader.read(chunks.slot, 0, len(entries), 4 * MIB, True))
            await until(lambda: storage.at_once)

            found = await reader.read(chunks.slot, 0, len(entries), MIB // 2, True)
            assert found.size
            assert not whole.done()

            rest.set()
            assert (await whole).size > 3 * MIB
            await reader.close()

    run(scenario())


def test_what_came_before_a_failure_stays() -> None:
    """A request that breaks off fails those who wait for what it did not bring; the rest is not read twice."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 4 * 1024, KIB)
            await chunks.add(entries)
            reader = chunks.reader()

            def break_off(number: int) -> None:
                if number == 2:
                    raise Unavailable("cut off")

            storage.comes = break_off
            with pytest.raises(TierUnavailable, match="cut off"):
                await reader.read(chunks.slot, 0, len(entries), 4 * MIB, True)
            storage.comes = lambda number: None
            before = storage.reads[-1]
            assert (await reader.read(chunks.slot, 0, len(entries), 4 * MIB, True)).size > 3 * MIB
            assert storage.reads[-1][1:] == (before[1] + 2 * MIB, before[2] - 2 * MIB)
            await reader.close()

    run(scenario())


def test_memory_is_bounded() -> None:
    """Pages, indices and what is on its way stay within the configured bytes, and read-ahead within its own."""

    async def scenario() -> None:
        async with chunked(slots=4) as (chunks, _):
            for _ in range(3):
                first = chunks.slot.tiered_end
                await chunks.add_chunk({slot: filler(first, 1024, KIB) for slot in range(4)})
            reader = chunks.reader(tier2_cache_bytes=2 * MIB, tier2_read_ahead_bytes=512 * KIB)
            most = most_ahead = 0

            async def consume(number: int) -> None:
                nonlocal most, most_ahead
                slot, offset = chunks.stream.slot(number), 0
                while offset < slot.tiered_end:
                    offset = (await reader.read(slot, offset, slot.tiered_end, 100 * KIB, True)).end
                    most, most_ahead = max(most, reader.used), max(most_ahead, reader.loaded_ahead)

            await asyncio.gather(*(consume(number) for number in range(4)))
            assert most <= 2 * MIB
            assert 0 < most_ahead <= 512 * KIB
            await reader.close()

    run(scenario())


def test_small_answers_let_go_of_pages() -> None:
    """An answer of a few bytes does not keep a page alive."""

    async def scenario() -> None:
        async with chunked() as (chunks, _):
            await chunks.add(filler(0, 1000, KIB))
            reader = chunks.reader()
            found = await reader.read(chunks.slot, 3, 1000, 2 * KIB, True)
            assert all(isinstance(part, bytes) for part in found.parts)
            await reader.close()

    run(scenario())


async def damaged(storage: Counting, key: str, position: int) -> None:
    stat = await storage.stat(key)
    assert stat is not None
    data = bytearray(await storage.inner.get_range(key, 0, stat.size))
    data[position] ^= 1
    await storage.put(key, bytes(data))


@pytest.mark.parametrize("block_bytes", [300, 64 * KIB])
def test_damage_stays_where_it_is(block_bytes: int) -> None:
    """Entries in a bad block are refused by name, one by one; all others are read as before."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 1000, 200)
            row = await chunks.add(entries, block_bytes=block_bytes)
            bad = 100_000
            await damaged(storage, chunk_key(row.chunk), row.position + bad)
            begin, stop = bad // block_bytes * block_bytes, bad // block_bytes * block_bytes + block_bytes
            reader = chunks.reader()
            position = refused = 0
            for one in entries:
                size = len(bytes(one.payload))
                if position + size <= begin or position >= stop:
                    found = await reader.read(chunks.slot, one.first, 1000, MIB, True)
                    assert b"".join(map(bytes, found.parts)) == joined(entries[one.first : found.end])
                else:
                    with pytest.raises(CorruptChunk) as refusal:
                        await reader.read(chunks.slot, one.first, 1000, MIB, True)
                    assert refusal.value.key == chunk_key(row.chunk)
                    assert refusal.value.position == row.position + begin
                    refused += 1
                position += size
            assert refused
            await reader.close()

    run(scenario())


def test_object_is_gone() -> None:
    """A missing object is named; if others took its place, or the slot begins behind it, reading goes on."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            row = await chunks.add(filler(0, 100, KIB))
            await chunks.add(filler(100, 100, KIB))
            await storage.delete(chunk_key(row.chunk))
            reader = chunks.reader()
            with pytest.raises(MissingChunk, match=chunk_key(row.chunk)):
                await reader.read(chunks.slot, 5, 200, MIB, True)
            assert (await reader.read(chunks.slot, 100, 200, MIB, True)).end == 200
            chunks.slot.start = 100
            with pytest.raises(OutOfRange):
                await reader.read(chunks.slot, 5, 200, MIB, True)
            await reader.close()

    run(scenario())


def test_object_was_replaced() -> None:
    """A reader whose object was rewritten meanwhile finds the entries in the new one."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 3000, KIB)
            old = await chunks.add(entries)
            reader = chunks.reader(tier2_cache_bytes=512 * KIB, tier2_read_ahead_bytes=0)
            first = await reader.read(chunks.slot, 0, 3000, 100 * KIB, True)
            chunks.slot.tiered_end = 0
            new = await chunks.add(entries)
            chunks.known.rows[:] = [new]
            await storage.delete(chunk_key(old.chunk))
            rest = await read_on(reader, chunks.slot, first.end, MIB)
            assert joined(entries[first.end :]) == rest
            await reader.close()

    run(scenario())


def test_slow_objects_delay_nobody_else() -> None:
    """While some objects do not answer, others are read; the next reader finds pages that another gave up."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            slow = await chunks.add(filler(0, 100, KIB))
            await chunks.add(filler(100, 100, KIB))
            reader = chunks.reader()
            storage.held = lambda key: key == chunk_key(slow.chunk)
            waiting = asyncio.create_task(reader.read(chunks.slot, 0, 200, MIB, True))
            await until(lambda: storage.reads)
            assert (await reader.read(chunks.slot, 100, 200, MIB, True)).end == 200

            waiting.cancel()
            again = asyncio.create_task(reader.read(chunks.slot, 0, 200, MIB, True))
            storage.held = lambda key: False
            storage.go.set()
            assert (await again).end == 100
            assert len([key for key, _, _ in storage.reads if key == chunk_key(slow.chunk)]) == 2
            await reader.close()

    run(scenario())


def test_requests_at_once_are_bounded() -> None:
    """Many readers of many objects make a bounded number of requests at a time."""

    async def scenario() -> None:
        async with chunked(slots=30) as (chunks, storage):
            for slot in range(30):
                await chunks.add(filler(0, 50, KIB), slot=slot)
            reader = chunks.reader()
            slots = [chunks.stream.slot(number) for number in range(30)]
            await asyncio.gather(*(reader.read(slot, 0, 50, MIB, True) for slot in slots))
            assert storage.most_at_once <= GETS_MAX
            await reader.close()

    run(scenario())


def test_unavailable_then_back() -> None:
    """Storage that is away is said to be away; the next read after it has come back succeeds."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            await chunks.add(filler(0, 100, KIB))
            reader = chunks.reader()
            storage.error = Unavailable("switched off")
            with pytest.raises(TierUnavailable):
                await reader.read(chunks.slot, 0, 100, MIB, True)
            storage.error = None
            assert (await reader.read(chunks.slot, 0, 100, MIB, True)).end == 100
            await reader.close()

    run(scenario())


def test_closing_ends_reads() -> None:
    """A reader that waits when the store closes hears of it."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            await chunks.add(filler(0, 100, KIB))
            reader = chunks.reader()
            storage.held = lambda key: True
            waiting = asyncio.create_task(reader.read(chunks.slot, 0, 100, MIB, True))
            await until(lambda: storage.reads)
            await reader.close()
            with pytest.raises(StoreClosed):
                await waiting

    run(scenario())


def test_disk_cache(tmp_path: Path) -> None:
    """Pages that left memory come from the disk; damaged, cut off or deleted ones come from afar again."""

    async def scenario() -> None:
        async with chunked() as (chunks, storage):
            entries = filler(0, 4000, KIB)
            await chunks.add(entries)
            cache = tmp_path / "cache"
            cache.mkdir()
            (cache / "left-behind").write_bytes(b"of an earlier run")
            reader = chunks.reader(
                cache, tier2_cache_bytes=MIB, tier2_disk_cache_bytes=8 * MIB, tier2_read_ahead_bytes=0
            )
            assert joined(entries) == await read_on(reader, chunks.slot, 0, 100 * KIB)
            assert not (cache / "left-behind").exists()
            before = len(storage.reads)
            assert joined(entries) == await read_on(reader, chunks.slot, 0, 100 * KIB)
            assert len(storage.reads) < before + before // 2

            pages = sorted(cache.iterdir())
            pages[0].unlink()
            pages[1].write_bytes(b"short")
            pages[2].write_bytes(bytes(pages[2].stat().st_size))
            assert joined(entries) == await read_on(reader, chunks.slot, 0, 100 * KIB)
            await reader.close()
            assert not cache.exists()

    run(scenario())
