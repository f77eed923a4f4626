"""Chunks: written entries come back, by offset and by time; any damage is found; memory is bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tier2.chunks import CLICKS, ORDERS, Ranges, entry, head_of, source, write
from tier2.chunk import ChunkReader, ChunkWriter, Entry, RunSource
from tier2.chunk_format import (
    FOOTER_SIZE,
    HEADER_SIZE,
    AbortedTransaction,
    BadChunk,
    ChunkId,
    Run,
    SegmentRef,
    decode_footer,
)
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Corrupt, StorageError

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "chunk-v1.bin"
MIB = 1 << 20


@st.composite
def runs_of_entries(draw: st.DrawFn) -> list[list[Entry]]:
    """Entries of some slots: dense or with gaps, small or larger than a block, times in any order."""
    runs = []
    for _ in range(draw(st.integers(1, 4))):
        at, entries = draw(st.integers(0, 1 << 40)), []
        for _ in range(draw(st.integers(1, 25))):
            count = draw(st.integers(1, 5))
            body = bytes(draw(st.sampled_from([0, 1, 7, 40, 41, 100, 300])))
            entries.append(entry(at, count, draw(st.integers(-1, 50)), body))
            at += count + draw(st.sampled_from([0, 0, 0, 1, 9]))
        runs.append(entries)
    return runs


def wanted(entries: list[Entry], offset: int, max_bytes: int) -> list[bytes]:
    """The model: whole entries that end after the offset, at least one, within the bytes."""
    found: list[bytes] = []
    for one in entries:
        if one.first + one.count > offset:
            if found and sum(map(len, found)) + len(one.payload) > max_bytes:
                break
            found.append(bytes(one.payload))
    return found


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs_of_entries(), st.sampled_from([64, 100, 256, 65536]), st.integers(0, 400), st.data())
def test_round_trip(runs: list[list[Entry]], block: int, max_bytes: int, data: st.DataObject) -> None:
    """From any offset, reading on yields each entry once, byte by byte, and the first of a time is found."""
    chunk, _ = write([source(5, slot, entries) for slot, entries in enumerate(runs)], block)

    async def scenario() -> None:
        reader = await Ranges(chunk).reader()
        await reader.verify()
        for slot, entries in enumerate(runs):
            run = reader.index.run_of(ORDERS.id, 5, slot)
            assert run is not None
            last = entries[-1].first + entries[-1].count
            offset = data.draw(st.integers(max(0, entries[0].first - 2), last))
            read: list[bytes] = []
            at = offset
            while found := await reader.entries(run, at, max_bytes):
                payloads = [bytes(one.payload) for one in found]
                expected = wanted(entries, at, max_bytes)
                assert payloads == expected[: len(payloads)]
                read += payloads
                at = found[-1].end
            assert read == wanted(entries, offset, 1 << 40)

            time = data.draw(st.integers(-1, 51))
            later = [e for e in entries if e.first + e.count > offset and e.max_timestamp >= time]
            first = await reader.entry_at_time(run, time, offset)
            assert (first and bytes(first.payload)) == (later[0].payload if later else None)

    asyncio.run(scenario())


def example() -> list[RunSource]:
    """Two streams, three slots, one with an aborted transaction; blocks of 128 bytes cut entries."""
    aborted = [AbortedTransaction(writer_id=4, first=90, last=104, stable_end=105)]
    orders = [entry(100 + 3 * n, 3, 1000 + n, bytes([n]) * 37, leader_epoch=n) for n in range(12)]
    return [
        source(1 << 32 | 1, 0, orders, ORDERS, aborted),
        source(1 << 32 | 1, 3, [entry(0, 1, -1, b"only")], ORDERS),
        source(1 << 32 | 2, 3, [entry(5, 2, 7, b"x" * 300), entry(7, 1, 3, b"y")], CLICKS),
    ]


def test_golden_file() -> None:
    """The bytes of version 1 never change: buckets hold them."""
    data, _ = write(example(), block_bytes=128)

    assert data == GOLDEN.read_bytes()


def test_describes_itself() -> None:
    """All that is needed to adopt a chunk without other metadata is in its index."""
    data, writer = write(example(), block_bytes=128)

    index = asyncio.run(Ranges(data).reader()).index

    assert index == writer.index
    assert (index.id, index.cluster_id) == (ChunkId(container=1, epoch=2, sequence=3), "cluster-1")
    assert [(r.segment.stream.name, r.segment.id & 3, r.slot, r.first, r.end) for r in index.runs] == [
        ("orders", 1, 0, 100, 136),
        ("orders", 1, 3, 0, 1),
        ("clicks-é", 2, 3, 5, 8),
    ]
    first = index.runs[0]
    assert (first.entries, first.min_timestamp, first.max_timestamp, first.leader_epoch) == (12, 1000, 1011, 11)
    assert [one.writer_id for one in first.aborted] == [4]
    assert index.run_of(ORDERS.id, 1 << 32 | 1, 1) is None
    assert index.run_of(0, 0, 0) is None


def test_reads_with_few_requests() -> None:
    """Opening takes one request, two if the index is long; reading a slot takes one, of whole blocks."""

    async def scenario() -> None:
        data, _ = write([source(1, 0, [entry(n, body=b"z" * 1000) for n in range(500)])])
        ranges = Ranges(data)
        reader = await ranges.reader()
        assert len(ranges.requests) == 1
        run = reader.index.runs[0]
        found = await reader.entries(run, 250, 100_000)
        assert len(ranges.requests) == 2
        start, length = ranges.requests[-1]
        assert (start - HEADER_SIZE) % (64 << 10) == length % (64 << 10) == 0
        assert length <= 100_000 + 2 * (64 << 10)
        assert found[0].first == 250

        many, _ = write([source(1, slot, [entry(0)]) for slot in range(2000)])
        ranges = Ranges(many)
        assert len((await ranges.reader()).index.runs) == 2000
        assert len(ranges.requests) == 2

    asyncio.run(scenario())


async def read_all(reader: ChunkReader, runs: list[Run]) -> list[bytes]:
    found = []
    for run in runs:
        at = run.first
        while entries := await reader.entries(run, at, 1 << 20):
            found += [bytes(one.payload) for one in entries]
            at = entries[-1].end
    return found


def test_every_flipped_bit_is_found() -> None:
    """Whichever byte is damaged: verify raises, naming key and position; reads return the truth or raise."""
    data, _ = write(example(), block_bytes=128)
    runs = example()
    truth = [[bytes(one.payload) for one in run.entries()] for run in runs]
    runs_end = decode_footer(data[-FOOTER_SIZE:], len(data)).index_position

    async def scenario() -> None:
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1 << (position % 8)
            ranges = Ranges(bytes(damaged))
            if position >= runs_end:
                with pytest.raises(Corrupt) as damage:
                    await ranges.reader()
                assert damage.value.key == "the-chunk"
                assert damage.value.position >= runs_end
                continue
            reader = await ranges.reader()
            with pytest.raises(Corrupt, match="the-chunk"):
                await reader.verify()
            for run, entries in zip(reader.index.runs, truth, strict=True):
                if run.position <= position < run.position + run.length:
                    with pytest.raises(Corrupt) as damage:
                        await read_all(reader, [run])
                    assert damage.value.position <= position < damage.value.position + 128
                else:
                    assert await read_all(reader, [run]) == entries

    asyncio.run(scenario())


def test_every_cut_is_found() -> None:
    """An object that lost its end, at whatever byte, is not read; nor is one that lost its beginning, or grew."""
    data, _ = write(example(), block_bytes=128)

    async def scenario() -> None:
        for size in range(len(data)):
            for cut, known in ((data[:size], size or 1), (data[:size], len(data)), (data[-size:], size or 1)):
                if cut == data:
                    continue
                with pytest.raises(StorageError) as damage:
                    await Ranges(cut).reader(known)
                assert isinstance(damage.value, Corrupt)
        with pytest.raises(Corrupt):
            await Ranges(data + b"\0").reader()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("position", "replacement", "why"),
    [
        (-8, b"SOMEBODY", "magic"),
        (-16, b"\x02\x00", "version 2"),
        (0, b"SOMEBODY", "magic"),
        (8, b"\x63\x00", "version 99"),
    ],
)
def test_foreign_magic_and_version(position: int, replacement: bytes, why: str) -> None:
    """Another file, or a later release's chunk, is distinguished from damage."""
    data = bytearray(write(example(), block_bytes=128)[0])
    position %= len(data)
    data[position : position + len(replacement)] = replacement

    async def scenario() -> None:
        await (await Ranges(bytes(data)).reader()).verify()

    with pytest.raises(Corrupt, match=why):
        asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_no_chunk(data: bytes) -> None:
    """Whatever an object holds, opening it raises Corrupt or nothing."""
    with pytest.raises(Corrupt):
        asyncio.run(Ranges(data or b"\0").reader())


def test_foreign_entries_are_found() -> None:
    """Entries whose own heads contradict the index are damage, not data, though every CRC is right."""
    liar = Entry(10, 1, 0, 0, entry(99, 1, 0).payload)
    data, _ = write([source(1, 0, [entry(9), liar])])

    with pytest.raises(Corrupt, match="contradicts"):
        asyncio.run(read_whole(data))


async def read_whole(data: bytes) -> None:
    reader = await Ranges(data).reader()
    await read_all(reader, list(reader.index.runs))


@pytest.mark.parametrize(
    "entries",
    [[], [Entry(0, 1, 0, 0, b"")], [Entry(0, 0, 0, 0, b"x")], [entry(5), entry(5)], [entry(5, 3), entry(7)]],
)
def test_writer_refuses_nonsense(entries: list[Entry]) -> None:
    """Empty runs and entries, and entries out of order, are a mistake of ours, not a chunk."""
    with pytest.raises(ValueError, match="entr"):
        write([source(1, 0, entries)])


def test_runs_must_be_sorted() -> None:
    """A slot appears once, in order."""
    for slots in ([1, 0], [1, 1]):
        with pytest.raises(ValueError, match="sorted"):
            write([source(1, slot, [entry(0)]) for slot in slots])


def test_footer_bounds_what_is_read() -> None:
    """A footer that promises an index outside of the object is damage before anything is read."""
    with pytest.raises(BadChunk):
        decode_footer(b"\0" * FOOTER_SIZE, 10**6)


def test_large_chunk_in_bounded_memory(tmp_path: Path) -> None:
    """Writing and verifying a chunk of 64 MiB takes a few MiB of memory, into a real store and back."""
    body = bytes(16_000)

    def entries() -> Iterator[Entry]:
        for number in range(64 * MIB // 16_024):
            yield entry(number, 1, number, body)

    ref = SegmentRef(id=1, stream=ORDERS, generation=0)
    run = RunSource(segment=ref, slot=0, entries=entries)
    writer = ChunkWriter(ChunkId(container=1, epoch=1, sequence=1), "c", 0, [run])

    async def scenario() -> int:
        storage = await FilesystemStorage.open(FilesystemSettings(directory=tmp_path))
        tracemalloc.start()
        stat = await storage.put("large", writer)
        assert stat.size == writer.size > 63 * MIB
        writing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        reader = await ChunkReader.open("large", stat.size, storage.get_range, head_of)
        await reader.verify()
        reading = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await storage.close()
        assert reading < 16 * MIB
        return writing

    assert asyncio.run(scenario()) < 4 * MIB
