"""One rewrite: all entries that go in come out, in one checked chunk that covers them; and the choice of inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.streams.policy import StreamPolicy
from core.tiering.filters import CompactionScope
from core.tiering.rewriting.cleaned import Cleaned, decode_cleaned
from core.tiering.rewriting.job import Executor
from core.tiering.rewriting.requests import InputChunk, InputRun, Learn, Rewrite, Rewritten, SlotKey
from core.tiering.rewriting.rules import (
    LEVELS_MAX,
    MERGE_CHUNKS_MAX,
    MERGE_CHUNKS_MIN,
    RUNS_MAX,
    Candidate,
    Dirt,
    dirt_of,
    is_worth_merging,
    merge_groups,
    next_round,
    output_rows,
    portions,
)
from core.tiering.rows import RunKey, RunRow
from core.trusted_time import TrustedTime
from tests.core.tiering.rewriting.support import FirstByte
from tests.tier2.chunks import CLICKS, ORDERS, entry, head_of
from tier2.chunk import ChunkReader, ChunkWriter, Entry, RunSource
from tier2.chunk_format import AbortedTransaction, ChunkId, SegmentRef
from tier2.storage import Corrupt, Data, ObjectNotFound, ObjectStat, open_data

STREAMS = {ORDERS.id: ORDERS, CLICKS.id: CLICKS}
Place = tuple[int, int, int]


def run_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@dataclass
class Objects:
    """Storage in a dict, as far as a rewrite needs it."""

    data: dict[str, bytes] = field(default_factory=dict)
    largest: int = 0

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        self.data[key] = b"".join(open_data(data))
        assert self.data[key] == b"".join(open_data(data)), "a put may be tried again"
        return ObjectStat(size=len(self.data[key]), etag="e", modified_ms=0, token="")

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        if key not in self.data:
            raise ObjectNotFound(key)
        assert 0 <= start <= start + length <= len(self.data[key])
        self.largest = max(self.largest, length)
        return self.data[key][start : start + length]


@dataclass
class Bench:
    """Chunks that are made by hand, and rewrites of them."""

    objects: Objects = field(default_factory=Objects)
    runs: list[InputRun] = field(default_factory=list)
    chunks: list[InputChunk] = field(default_factory=list)
    ends: dict[SlotKey, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.executor = Executor(self.objects, run_now, head_of, FirstByte, None)  # type: ignore[arg-type]

    def chunk(self, runs: dict[Place, Sequence[Entry]], block_bytes: int = 64) -> None:
        key = f"in-{len(self.chunks)}"
        sources = [
            RunSource(
                segment=SegmentRef(id=segment, stream=STREAMS[stream], generation=1),
                slot=slot,
                entries=lambda entries=entries: entries,  # type: ignore[misc]
                aborted=(AbortedTransaction(writer_id=3, first=0, last=1 << 40, stable_end=1),),
            )
            for (stream, segment, slot), entries in sorted(runs.items())
        ]
        writer = ChunkWriter(ChunkId(container=0, epoch=0, sequence=len(self.chunks)), "c", 1, sources, block_bytes)
        self.objects.data[key] = b"".join(writer.open())
        assert writer.index is not None
        for run in writer.index.runs:
            place = run.segment.stream.id, run.segment.id, run.slot
            self.runs.append(InputRun(*place, run.first, run.end, len(self.chunks), 1))
        self.chunks.append(InputChunk(key, writer.size))

    def rewrite(self, *, output_bytes: int = 0, compact: bool = False, skip: int = 0) -> Rewritten:
        return self.executor.rewrite(
            Rewrite(
                id=ChunkId(container=0, epoch=1, sequence=1),
                key="out",
                cluster_id="c",
                created_ms=5,
                streams=STREAMS,
                inputs=self.chunks,
                runs=sorted(self.runs)[skip:],
                output_bytes=output_bytes,
                compact=compact,
            )
        )

    def learn(self, begin: int, end: int, keys_max: int = 1000) -> dict[SlotKey, int]:
        scopes = {
            run.slot_key: CompactionScope(begin=begin, end=end, now_ms=0, tombstone_ms=0, writers={})
            for run in self.runs
        }
        request = Learn(scopes=scopes, inputs=self.chunks, runs=sorted(self.runs), keys_max=keys_max)
        return dict(self.executor.learn(request).ends)

    def output(self) -> dict[Place, list[bytes]]:
        """The content of the new chunk, after all of it was verified."""

        async def read() -> dict[Place, list[bytes]]:
            size = len(self.objects.data["out"])
            reader = await ChunkReader.open("out", size, self.objects.get_range, head_of)
            await reader.verify()
            found: dict[Place, list[bytes]] = {}
            for run in reader.index.runs:
                place = run.segment.stream.id, run.segment.id, run.slot
                entries = await reader.entries(run, run.first, 1 << 30)
                found[place] = [bytes(one.payload) for one in entries]
                assert run.aborted == (AbortedTransaction(writer_id=3, first=0, last=1 << 40, stable_end=1),)
            return found

        found: dict[Place, list[bytes]] = asyncio.run(read())
        return found


PLACES = [(7, 0, 0), (7, 0, 1), (7, 1 << 32, 1), (9, 0, 0), (9, 0, 3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(PLACES), st.lists(st.integers(0, 900), min_size=1, max_size=6), min_size=1),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([64, 1000, 65536]),
)
def test_merge_keeps_everything(made: list[dict[Place, list[int]]], block_bytes: int) -> None:
    """For every place the entries of all chunks come out in order, byte for byte."""
    bench, ends, expected = Bench(), dict[tuple[int, int], int](), dict[Place, list[bytes]]()
    for number, sizes in enumerate(made):
        chunk: dict[Place, list[Entry]] = {}
        for place, lengths in sorted(sizes.items()):
            if place == (7, 0, 1) and (7, 1 << 32, 1) in expected:
                continue  # a slot never goes back to an earlier segment
            slot = place[0], place[2]
            for length in lengths:
                one = entry(ends.get(slot, 0), 1 + length % 3, 100 + number, bytes(length), leader_epoch=number)
                ends[slot] = one.first + one.count
                chunk.setdefault(place, []).append(one)
                expected.setdefault(place, []).append(bytes(one.payload))
        if chunk:
            bench.chunk(chunk, block_bytes)
    if not bench.chunks:
        return
    done = bench.rewrite()

    assert bench.output() == expected
    assert done.consumed == len(bench.runs)
    assert done.size == len(bench.objects.data["out"])
    for run in done.runs:
        inputs = [r for r in bench.runs if r.place == (run.stream_id, run.segment_id, run.slot)]
        assert (run.first, run.end) == (min(r.first for r in inputs), max(r.end for r in inputs))
        assert run.generation == 2


def one_slot(chunks: int, per_chunk: int = 10, keys: int = 3, size: int = 50) -> Bench:
    bench = Bench()
    for number in range(chunks):
        first = number * per_chunk
        bench.chunk({(7, 0, 0): [entry(n, 1, n, bytes([n % keys]) * size) for n in range(first, first + per_chunk)]})
    return bench


@pytest.mark.parametrize("compact", [False, True])
def test_a_run_that_begins_within_an_entry(compact: bool) -> None:
    """Its row begins where its slot began when it was cut. The entry stays, and so does the beginning by the row."""
    bench = Bench()
    entries = [entry(0, 4, 0, b"several"), entry(4, 1, 4, b"one")]
    bench.chunk({(7, 0, 0): entries})
    bench.runs[0] = bench.runs[0]._replace(first=2)
    if compact:
        assert bench.learn(2, 5) == {SlotKey(7, 0): 5}
    done = bench.rewrite(compact=compact)

    assert [(run.first, run.end, run.entries) for run in done.runs] == [(2, 5, 2)]
    assert bench.output() == {(7, 0, 0): [bytes(one.payload) for one in entries]}


def test_compaction_cut_in_chunks() -> None:
    """A large slot comes out in several chunks that cover it without a gap, each with something in it."""
    bench = one_slot(20, keys=60)
    assert bench.learn(0, 200) == {SlotKey(7, 0): 200}
    skip, reached, left = 0, 0, []
    while skip < 20:
        done = bench.rewrite(output_bytes=300, compact=True, skip=skip)
        (run,) = done.runs
        assert run.first == reached
        left += bench.output()[7, 0, 0]
        skip, reached = skip + done.consumed, run.end

    assert reached == 200
    assert [head_of(memoryview(one), 0)[0] for one in left] == list(range(140, 200))


def test_emptied_runs_are_covered() -> None:
    """If nothing is left of a slot's segment, its next one covers it."""
    bench = Bench()
    bench.chunk({(7, 0, 0): [entry(0, 1, 0, b"a"), entry(1, 1, 0, b"a")]})
    bench.chunk({(7, 1 << 32, 0): [entry(2, 1, 0, b"a")]})
    bench.learn(0, 3)
    (run,) = bench.rewrite(compact=True).runs

    assert (run.segment_id, run.first, run.end, run.entries) == (1 << 32, 0, 3, 1)


def test_learning_is_bounded() -> None:
    """A round ends where there are too many keys; entries behind stay as they are."""
    bench = one_slot(4, keys=40)
    assert bench.learn(0, 40, keys_max=15) == {SlotKey(7, 0): 15}
    done = bench.rewrite(compact=True)

    assert len(bench.output()[7, 0, 0]) == 40
    assert done.clean_bytes == {SlotKey(7, 0): sum(len(e.payload) for e in (entry(0, 1, 0, bytes(50)),)) * 15}


def test_dirty_part_only_is_learned() -> None:
    """Records before the dirty part are filtered by the keys behind it, and by nothing else."""
    bench = one_slot(2, keys=4)
    bench.learn(18, 20)
    bench.rewrite(compact=True)
    left = [head_of(memoryview(one), 0)[0] for one in bench.output()[7, 0, 0]]

    assert left == [n for n in range(20) if n % 4 not in (2, 3) or n >= 18]


@pytest.mark.parametrize("at", [50, 100, 300])
def test_damage(at: int) -> None:
    """Nothing is put when an input is damaged; the error names it."""
    bench = one_slot(2)
    data = bytearray(bench.objects.data["in-1"])
    data[at] ^= 1
    bench.objects.data["in-1"] = bytes(data)

    with pytest.raises(Corrupt, match="in-1"):
        bench.rewrite()
    assert "out" not in bench.objects.data


def test_windows_are_bounded() -> None:
    """However large a chunk is, a bounded part of it is read at a time."""
    bench = Bench()
    bench.chunk({(7, 0, 0): [entry(n, 1, n, bytes(1000)) for n in range(9000)]}, block_bytes=65536)
    bench.rewrite()

    assert bench.objects.largest <= 4 << 20


# What goes in


def row(first: int, end: int, chunk: int = 0, slot: int = 0, length: int = 100, **changes: int) -> RunRow:
    made = RunRow(
        stream_id=7,
        slot=slot,
        first=first,
        end=end,
        chunk=ChunkId(container=0, epoch=0, sequence=chunk),
        segment_id=0,
        generation=0,
        min_timestamp=first,
        max_timestamp=end,
        position=40,
        length=length,
        entries=1,
        leader_epoch=0,
        bytes_before=first * 10,
        appended=length,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def candidate(number: int, level: int = 0, runs: int = 10, size: int = 1000) -> Candidate:
    key = RunKey(7, 0, number, number + 1, 10)
    return Candidate(ChunkId(container=0, epoch=0, sequence=number), size, size, runs, key, level)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(1, 400)), unique_by=lambda t: t[:2]))
def test_portions(found: list[tuple[int, int, int]]) -> None:
    """Every run is in one portion, portions are bounded, and a slot's runs in one follow one another."""
    rows = [row(first, first + 1, slot=slot, length=length) for slot, first, length in found]
    made = portions(rows, 1000)

    assert sorted((r.slot, r.first) for portion in made for r in portion.runs) == sorted(t[:2] for t in found)
    for portion in made:
        assert sum(run.length for run in portion.runs) <= 1000
        for slot in {run.slot for run in portion.runs}:
            of_slot = [run.first for run in portion.runs if run.slot == slot]
            assert of_slot == list(range(of_slot[0], of_slot[0] + len(of_slot)))


def test_portions_are_one_record_each() -> None:
    """No rewrite takes more runs than one record of the log can remove."""
    rows = [row(first, first + 1, length=1) for first in range(RUNS_MAX + 5)]

    assert [len(portion.runs) for portion in portions(rows, 1 << 30)] == [RUNS_MAX, 5]


def test_merge_groups() -> None:
    """The oldest of each level that are enough; never those that were merged often enough."""
    young = [candidate(n) for n in range(MERGE_CHUNKS_MIN - 1)]
    old = [candidate(100 + n, level=2) for n in range(MERGE_CHUNKS_MIN)]
    oldest = [candidate(200 + n, level=LEVELS_MAX) for n in range(99)]
    many = [candidate(300 + n, level=1) for n in range(99)]

    assert list(merge_groups([*oldest, *old, *young, *many])) == [many[:MERGE_CHUNKS_MAX], old]


def test_merge_is_worth_it() -> None:
    """Chunks of the same slots, or of little, are merged; many runs of as many slots are not."""
    chunks = [candidate(n, runs=1000, size=4_000_000) for n in range(8)]
    same = [RunKey(7, slot, n, n + 1, 10) for n in range(8) for slot in range(1000)]
    other = [RunKey(7, slot, 0, 1, 10) for slot in range(8000)]
    small = [candidate(n, runs=1) for n in range(8)]

    assert is_worth_merging(chunks, same, 1 << 22, full=False)
    assert not is_worth_merging(chunks, other, 1 << 22, full=True)
    assert is_worth_merging(small, other[:8], 1 << 22, full=False)


def test_merging_converges() -> None:
    """A byte is rewritten a bounded number of times, and far fewer objects stay than were put."""
    chunks: list[Candidate] = []
    rewritten = 0
    for number in range(4000):
        chunks.append(candidate(number, runs=1, size=1000))
        for group in list(merge_groups(chunks)):
            keys = [RunKey(7, 0, c.id.sequence, c.id.sequence + 1, 10) for c in group]
            if is_worth_merging(group, keys, 1 << 25, full=False):
                size = sum(c.size for c in group)
                rewritten += size
                chunks = [c for c in chunks if c not in group]
                chunks.append(candidate(group[-1].id.sequence, group[0].level + 1, size=size, runs=1))

    assert rewritten <= LEVELS_MAX * 4000 * 1000
    assert len(chunks) < (LEVELS_MAX + 1) * MERGE_CHUNKS_MIN


POLICY = StreamPolicy(compact=True)


def dirt(
    *runs: RunRow,
    cleaned: Cleaned = Cleaned(),  # noqa: B008
    now_ms: int = 1000,
    now: TrustedTime | None = None,
    made_ms: int = 0,
    **policy: object,
) -> Dirt | None:
    made = {run.chunk: made_ms for run in runs}
    believed = now or TrustedTime(now_ms)
    return dirt_of(SlotKey(7, 0), runs, cleaned, replace(POLICY, **policy), believed, made)  # type: ignore[arg-type]


def test_dirty_ratio() -> None:
    """A slot is due when more than the ratio of its bytes came since it was compacted."""
    runs = row(0, 10), row(10, 20)
    assert dirt() is None
    assert dirt(*runs, cleaned=Cleaned(10, 100)) is None
    assert dirt(*runs, cleaned=Cleaned(20, 200), min_dirty_ratio=0.0) is None
    found = dirt(*runs, cleaned=Cleaned(10, 100), min_dirty_ratio=0.4)
    assert found is not None
    assert (found.begin, found.end, found.share, len(found.runs)) == (10, 20, 0.5, 2)
    assert dirt(row(0, 20, length=150), row(20, 30), cleaned=Cleaned(10, 100)) is not None


def test_lags() -> None:
    """min.compaction.lag.ms keeps what is young, max.compaction.lag.ms overrules the ratio."""
    runs = row(0, 10), row(10, 20), row(20, 30)
    found = dirt(*runs, now_ms=30, min_lag_ms=10)
    assert found is not None
    assert found.end == 20
    assert dirt(*runs, now_ms=5, min_lag_ms=10) is None
    assert dirt(*runs, cleaned=Cleaned(20, 200), now_ms=100, max_lag_ms=90) is None
    assert dirt(*runs, cleaned=Cleaned(20, 200), now_ms=100, max_lag_ms=79) is not None


@pytest.mark.parametrize("timestamp", [-1, 10**18])
def test_lag_of_what_has_no_usable_time(timestamp: int) -> None:
    """Records without a timestamp, or with one far ahead, are as young as their chunk: neither too early nor never."""
    runs = row(0, 10, max_timestamp=timestamp), row(10, 20)

    assert dirt(*runs, now_ms=1000, min_lag_ms=500, made_ms=501) is None
    found = dirt(*runs, now_ms=1000, min_lag_ms=500, made_ms=500)
    assert found is not None
    assert found.end == 20


def test_tombstones_are_due() -> None:
    """A slot to which nothing comes is compacted once more when its tombstones may go."""
    runs = row(0, 10), row(10, 20)
    stopped = TrustedTime(1).after_stop(10_000_000)
    assert dirt(*runs, cleaned=Cleaned(20, 200, 500), now=stopped) is None
    assert dirt(*runs, cleaned=Cleaned(20, 200), max_lag_ms=90, now=stopped) is None
    assert dirt(*runs, cleaned=Cleaned(20, 200, 500), now_ms=499) is None
    found = dirt(*runs, cleaned=Cleaned(20, 200, 500), now_ms=500)
    assert found is not None
    assert (found.begin, found.end) == (20, 20)


def test_rounds_are_shared() -> None:
    """Small slots go through a round together, the dirtiest first; a large one is alone."""
    small = [Dirt(SlotKey(7, n), [row(0, 1, slot=n)], 0, 1, n / 10, 100) for n in range(10)]
    large = Dirt(SlotKey(8, 0), [row(0, 1)], 0, 1, 0.95, 5000)

    assert next_round([*small, large], 1000) == [large]
    assert [one.slot.slot for one in next_round(small, 450)] == [9, 8, 7, 6]
    assert next_round([], 1000) == []


def test_rows_of_an_output() -> None:
    """A new row says what its inputs said of bytes, and refuses to stand for anything else."""
    bench = one_slot(3)
    inputs = [row(0, 10), row(10, 20, length=50), row(20, 30)]
    done = bench.rewrite()
    chunk = ChunkId(container=0, epoch=1, sequence=1)
    ((made, replaced),) = output_rows(chunk, inputs, done.runs)

    assert (made.first, made.end, made.bytes_before, made.appended) == (0, 30, 0, 250)
    assert replaced == inputs
    with pytest.raises(ValueError, match="does not cover"):
        list(output_rows(chunk, inputs[1:], done.runs))


def test_cleaned_row() -> None:
    """A row of the table comes back as it was."""
    assert decode_cleaned(Cleaned(5, 6, 7).encode()) == Cleaned(5, 6, 7)
