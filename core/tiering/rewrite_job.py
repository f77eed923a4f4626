"""One rewrite, as it is carried out: runs of some chunks go in, one chunk comes out.

Inputs are read front to back, each through a window of bounded size; the output grows in a file without a name and is
put from there, so that a put that is tried again reads nothing anew. Memory: the windows, the records of the runs that
take part, and what a compaction's filters hold.

**Invariants**

- Every byte that is read has passed its block's CRC.
- Without a filter, the output holds exactly the entries of its inputs, byte for byte, in order.
- What the output covers is what its inputs covered. Where nothing is left of a run, the next one of its slot covers it
  too; the last one is never empty, because a filter keeps the last entry of its round.
- Nothing is put when anything went wrong before.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any, Final, NamedTuple, TypeVar

from core.tiering.filters import CompactionScope, EntryFilter, FilterFactory
from tier2.chunk import ChunkReader, ChunkWriter, Entry, EntryHeadOf, RunSource, walk
from tier2.chunk_format import (
    AbortedTransaction,
    BadChunk,
    ChunkId,
    ChunkIndex,
    Run,
    SegmentRef,
    StreamRef,
    check_blocks,
)
from tier2.storage import Buffer, Corrupt, Storage

_T = TypeVar("_T")

WINDOW_BYTES_MAX: Final = 4 << 20
WINDOWS_BYTES: Final = 32 << 20
"""All windows of a rewrite together, unless a block is larger than its window."""
WINDOW_BYTES_MIN: Final = 256 << 10
GAP_BYTES_MAX: Final = 64 << 10
"""Bytes between two runs that are read and thrown away rather than asked for around."""
PIECE_BYTES: Final = 1 << 20


class SlotKey(NamedTuple):
    """A slot by numbers."""

    stream_id: int
    slot: int


class InputChunk(NamedTuple):
    """A chunk that takes part."""

    key: str
    size: int


class InputRun(NamedTuple):
    """A run that takes part; `chunk` is its chunk's place among the inputs."""

    stream_id: int
    segment_id: int
    slot: int
    first: int
    end: int
    chunk: int
    generation: int

    @property
    def place(self) -> tuple[int, int, int]:
        """What a chunk has one run for."""
        return self.stream_id, self.segment_id, self.slot

    @property
    def slot_key(self) -> SlotKey:
        return SlotKey(self.stream_id, self.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """The first pass of a round of compaction: forget earlier rounds, learn the keys of these runs.

    Slots in their order, as far as `keys_max` goes; the last of them is learned in part. The runs of a slot are those
    that hold anything between the scope's ends, or the last one before.
    """

    scopes: Mapping[SlotKey, CompactionScope]
    inputs: Sequence[InputChunk]
    runs: Sequence[InputRun]
    keys_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Up to where each slot was learned; slots that were not reached are not in it."""

    ends: Mapping[SlotKey, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Make one chunk. Runs are sorted by place, then by what they hold, and without gaps within a slot.

    `output_bytes`: stop behind the run that reaches this size; zero: take all. `compact`: with the round's filters.
    """

    id: ChunkId
    key: str
    cluster_id: str
    created_ms: int
    streams: Mapping[int, StreamRef]
    inputs: Sequence[InputChunk]
    runs: Sequence[InputRun]
    output_bytes: int = 0
    compact: bool = False


class OutputRun(NamedTuple):
    """A run of the new chunk, as its index has it."""

    stream_id: int
    segment_id: int
    slot: int
    first: int
    end: int
    generation: int
    min_timestamp: int
    max_timestamp: int
    position: int
    length: int
    entries: int
    leader_epoch: int

    @property
    def slot_key(self) -> SlotKey:
        return SlotKey(self.stream_id, self.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """The new chunk: it is there."""

    size: int
    etag: str
    runs: Sequence[OutputRun]
    consumed: int  # of the runs that were given, from the first on
    clean_bytes: Mapping[SlotKey, int] = field(default_factory=dict)  # of what the round has been through
    due_ms: Mapping[SlotKey, int] = field(default_factory=dict)


class Executor:
    """Carries out one request at a time, in a thread that may block; `call` runs a coroutine of the storage's loop."""

    def __init__(
        self,
        storage: Storage,
        call: Callable[[Coroutine[Any, Any, Any]], Any],
        head_of: EntryHeadOf,
        filter_for: FilterFactory | None,
        spool: str | None,
    ) -> None:
        self._storage = storage
        self._call = call
        self._head_of = head_of
        self._filter_for = filter_for
        self._spool = spool
        self._filters: dict[SlotKey, EntryFilter] = {}
        self._ends: dict[SlotKey, int] = {}

    def learn(self, request: Learn) -> Learned:
        """Raises StorageError."""
        self.forget()
        assert self._filter_for is not None, "a compaction in a store that knows no filter"
        inputs = self._open(request.inputs, request.runs)
        held = 0
        for slot_key, runs in groupby(sorted(request.runs, key=_by_slot), lambda run: run.slot_key):
            if held >= request.keys_max:
                break
            scope = request.scopes[slot_key]
            chosen = self._filters[slot_key] = self._filter_for(scope)
            end, last_end = scope.end, scope.begin
            for entry in (entry for run in runs for entry in inputs.entries(run)):
                if entry.first >= scope.end:
                    break
                if entry.first >= scope.begin:
                    if held + chosen.held >= request.keys_max:
                        end = entry.first
                        break
                    chosen.learn(memoryview(entry.payload))
                last_end = entry.first + entry.count
            held += chosen.held
            chosen.end_at(last_end)
            self._ends[slot_key] = end
        return Learned(ends=dict(self._ends))

    def forget(self) -> None:
        """End a round."""
        self._filters.clear()
        self._ends.clear()

    def rewrite(self, request: Rewrite) -> Rewritten:
        """Raises StorageError, OSError."""
        inputs = self._open(request.inputs, request.runs)
        making = _Making(request, inputs, self._filters if request.compact else {}, self._ends)
        with tempfile.TemporaryFile(dir=self._spool, prefix="rewrite-") as file:
            writer = ChunkWriter(request.id, request.cluster_id, request.created_ms, making.sources(self._head_of))
            for part in writer.open():
                file.write(part)
            file.flush()
            assert writer.index is not None, "the writer has come to its end"
            stat = self._call(self._storage.put(request.key, _Spooled(file)))
        return Rewritten(
            size=writer.size,
            etag=stat.etag,
            runs=list(_output_runs(writer.index)),
            consumed=making.consumed,
            clean_bytes=making.clean_bytes,
            due_ms={key: due for key, chosen in making.filters.items() if (due := chosen.due_ms) is not None},
        )

    def _open(self, chunks: Sequence[InputChunk], runs: Sequence[InputRun]) -> _Inputs:
        return _Inputs(self._open_index, self._read, self._head_of, chunks, runs)

    def _open_index(self, chunk: InputChunk) -> ChunkIndex:
        opening = ChunkReader.open(chunk.key, chunk.size, self._storage.get_range, self._head_of)
        reader: ChunkReader = self._call(opening)
        return reader.index

    def _read(self, key: str, start: int, length: int) -> bytes:
        data: bytes = self._call(self._storage.get_range(key, start, length))
        return data


@dataclass(slots=True)
class _Making:
    """The output as it comes into being: what was consumed, what each slot's runs cover so far."""

    request: Rewrite
    inputs: _Inputs
    filters: Mapping[SlotKey, EntryFilter]
    ends: Mapping[SlotKey, int]
    consumed: int = 0
    size: int = 0
    full: bool = False
    clean_bytes: dict[SlotKey, int] = field(default_factory=dict)
    _covered_from: dict[SlotKey, int] = field(default_factory=dict)
    _covered_to: dict[SlotKey, int] = field(default_factory=dict)

    def sources(self, head_of: EntryHeadOf) -> Iterator[RunSource]:
        for _, grouped in groupby(self.request.runs, lambda run: run.place):
            runs = list(grouped)
            key = runs[0].slot_key
            segment = SegmentRef(
                id=runs[0].segment_id,
                stream=self.request.streams[key.stream_id],
                generation=max(run.generation for run in runs) + 1,
            )
            yield RunSource(
                segment=segment,
                slot=key.slot,
                entries=_Passing(self, runs, head_of),
                aborted=_Aborted(self.inputs, runs),
                covered=_Covered(self, key),
            )

    def entries(self, runs: Sequence[InputRun], head_of: EntryHeadOf) -> Iterator[Entry]:
        key = runs[0].slot_key
        chosen = self.filters.get(key)
        for run in runs:
            if self.full:
                return
            self._covered_from.setdefault(key, run.first)
            for entry in self.inputs.entries(run):
                kept = entry if chosen is None else self._kept(entry, key, chosen, head_of)
                if kept is not None:
                    self.size += len(kept.payload)
                    yield kept
            self._covered_to[key] = run.end
            self.consumed += 1
            self.full = 0 < self.request.output_bytes <= self.size

    def covered(self, key: SlotKey) -> tuple[int, int]:
        first, end = self._covered_from[key], self._covered_to[key]
        self._covered_from[key] = end
        return first, end

    def _kept(self, entry: Entry, key: SlotKey, chosen: EntryFilter, head_of: EntryHeadOf) -> Entry | None:
        if entry.first >= self.ends[key]:
            return entry
        payload = chosen.keep(memoryview(entry.payload))
        if payload is None:
            return None
        self.clean_bytes[key] = self.clean_bytes.get(key, 0) + len(payload)
        if payload is entry.payload:
            return entry
        first, count, newest, _ = head_of(memoryview(payload), 0)
        if first != entry.first or count != entry.count:
            raise ValueError(f"a filter has moved the entry at {entry.first}")
        return Entry(first, count, newest, entry.leader_epoch, payload)


@dataclass(frozen=True, slots=True)
class _Passing:
    making: _Making
    runs: Sequence[InputRun]
    head_of: EntryHeadOf

    def __call__(self) -> Iterator[Entry]:
        return self.making.entries(self.runs, self.head_of)


@dataclass(frozen=True, slots=True)
class _Covered:
    making: _Making
    key: SlotKey

    def __call__(self) -> tuple[int, int]:
        return self.making.covered(self.key)


@dataclass(frozen=True, slots=True)
class _Aborted:
    """Aborted transactions of the runs that were consumed; those that several of them list are listed once."""

    inputs: _Inputs
    runs: Sequence[InputRun]

    def __iter__(self) -> Iterator[AbortedTransaction]:
        found = dict.fromkeys(aborted for run in self.runs for aborted in self.inputs.aborted.get(run, ()))
        return iter(sorted(found, key=lambda aborted: (aborted.first, aborted.last)))


class _Inputs:
    """The chunks that are read: each opened when its first run is, and let go of behind its last."""

    def __init__(
        self,
        open_index: Callable[[InputChunk], ChunkIndex],
        read: Callable[[str, int, int], bytes],
        head_of: EntryHeadOf,
        chunks: Sequence[InputChunk],
        runs: Sequence[InputRun],
    ) -> None:
        self._open_index = open_index
        self._read = read
        self._head_of = head_of
        self._chunks = chunks
        self._wanted: list[list[InputRun]] = [[] for _ in chunks]
        for run in runs:
            self._wanted[run.chunk].append(run)
        # One slot's chunks are read one after the other, those of many slots side by side.
        beside = 1 if len({run.slot_key for run in runs}) == 1 else len(chunks)
        self._window_bytes = min(WINDOW_BYTES_MAX, max(WINDOW_BYTES_MIN, WINDOWS_BYTES // max(1, beside)))
        self._open: dict[int, _Input] = {}
        self.aborted: dict[InputRun, Sequence[AbortedTransaction]] = {}

    def entries(self, run: InputRun) -> Iterator[Entry]:
        """The entries of a run, once. Raises StorageError."""
        opened = self._open.get(run.chunk)
        if opened is None:
            opened = self._open[run.chunk] = self._opened(run.chunk)
        stored = opened.runs[run.place]
        if stored.aborted:
            self.aborted[run] = stored.aborted
        for entry in opened.entries(stored, self._head_of):
            if run.first <= entry.first < run.end:
                yield entry
        opened.left -= 1
        if not opened.left:
            del self._open[run.chunk]

    def _opened(self, number: int) -> _Input:
        chunk, wanted = self._chunks[number], self._wanted[number]
        index = self._open_index(chunk)
        found: dict[tuple[int, int, int], Run] = {}
        for run in wanted:
            stored = index.run_of(*run.place)
            if stored is None or stored.first > run.first or stored.end < run.end:
                why = f"slot {run.slot} of stream {run.stream_id} is not in it from {run.first} to {run.end}"
                raise Corrupt(chunk.key, chunk.size, why)
            found[run.place] = stored
        return _Input(chunk.key, index.block_bytes, found, self._read, self._window_bytes)


class _Input:
    """One chunk that is read, through a window that only moves forward while runs are read in their order."""

    def __init__(
        self,
        key: str,
        block_bytes: int,
        runs: Mapping[tuple[int, int, int], Run],
        read: Callable[[str, int, int], bytes],
        window_bytes: int,
    ) -> None:
        self.runs = runs
        self.left = len(runs)
        self._key = key
        self._block_bytes = block_bytes
        self._read = read
        self._window_bytes = window_bytes
        self._window = b""
        self._window_start = 0
        self._stretches = _stretches(runs.values())

    def entries(self, run: Run, head_of: EntryHeadOf) -> Iterator[Entry]:
        """A run's entries. Raises Corrupt."""
        step = max(1, min(self._window_bytes, PIECE_BYTES) // self._block_bytes) * self._block_bytes
        held, begin = b"", 0  # what was read and not yet passed on, and where in the run it begins
        try:
            for start in range(0, run.length, step):
                data = self._range(run.position + start, min(step, run.length - start))
                check_blocks(run, self._block_bytes, start, data)
                held += data
                passed = 0
                for entry in walk(run, memoryview(held), begin, begin, head_of):
                    passed += len(entry.payload)
                    count = entry.end - entry.first
                    yield Entry(entry.first, count, entry.max_timestamp, run.leader_epoch, entry.payload)
                held, begin = held[passed:], begin + passed
        except BadChunk as error:
            raise Corrupt(self._key, error.position, error.why) from error

    def _range(self, position: int, length: int) -> bytes:
        at = position - self._window_start
        if at < 0 or at + length > len(self._window):
            size = min(self._window_bytes, self._end_of_stretch(position) - position)
            self._window = b""  # two of them are never held
            self._window, self._window_start = self._read(self._key, position, max(size, length)), position
            at = 0
        return self._window[at : at + length]

    def _end_of_stretch(self, position: int) -> int:
        return self._stretches[bisect_right(self._stretches, position, key=lambda stretch: stretch[0]) - 1][1]


class _Spooled:
    """A file as a `Body`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def open(self) -> Iterator[Buffer]:
        position, fd = 0, self._file.fileno()
        while data := os.pread(fd, PIECE_BYTES, position):
            position += len(data)
            yield data


def _by_slot(run: InputRun) -> tuple[SlotKey, int]:
    return run.slot_key, run.first


def _stretches(runs: Iterable[Run]) -> list[tuple[int, int]]:
    """Where bytes of these runs lie, near ones as one."""
    found: list[tuple[int, int]] = []
    for run in sorted(runs, key=lambda run: run.position):
        end = run.position + run.length
        if found and run.position - found[-1][1] <= GAP_BYTES_MAX:
            found[-1] = found[-1][0], end
        else:
            found.append((run.position, end))
    return found


def _output_runs(index: ChunkIndex) -> Iterator[OutputRun]:
    for run in index.runs:
        yield OutputRun(
            stream_id=run.segment.stream.id,
            segment_id=run.segment.id,
            slot=run.slot,
            first=run.first,
            end=run.end,
            generation=run.segment.generation,
            min_timestamp=run.min_timestamp,
            max_timestamp=run.max_timestamp,
            position=run.position,
            length=run.length,
            entries=run.entries,
            leader_epoch=run.leader_epoch,
        )
