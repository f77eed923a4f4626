"""The work of one rewrite: runs of some chunks go in, one chunk comes out.

Inputs are read front to back (`core.tiering.rewriting.inputs`). The output grows in a file without a name and is put
from there, so a second try of a put reads no input again. Memory holds the windows, the records of the runs that take
part, and the state of a compaction's filters.

**Invariants**

- Without a filter, the output holds exactly the entries of its inputs, byte for byte, in order.
- The output covers the same sequence numbers as its inputs. If nothing is left of a run, the next run of its slot
  covers it too. The last run is never empty, because a filter keeps the last entry of its round.
- Nothing is put when anything went wrong before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, Any, Final, TypeVar

from core.tiering.filters import EntryFilter, FilterFactory
from core.tiering.rewriting.inputs import Inputs
from core.tiering.rewriting.requests import InputChunk, InputRun, Learn, Learned, OutputRun, Rewrite, Rewritten, SlotKey
from tier2.chunk import ChunkReader, ChunkWriter, Entry, EntryHeadOf, RunSource
from tier2.chunk_format import AbortedTransaction, ChunkIndex, SegmentRef
from tier2.storage import Buffer, Storage

_T = TypeVar("_T")

PIECE_BYTES: Final = 1 << 20


class Executor:
    """The side that makes chunks: one request at a time, in a thread that may block. `call` runs a coroutine of the
    storage's loop."""

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
            for entry in (entry for run in runs for entry in _begun(inputs, run, chosen)):
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
            runs=list(_output_runs(writer.index, making.within)),
            consumed=making.consumed,
            clean_bytes=making.clean_bytes,
            due_ms={key: due for key, chosen in making.filters.items() if (due := chosen.due_ms) is not None},
        )

    def _open(self, chunks: Sequence[InputChunk], runs: Sequence[InputRun]) -> Inputs:
        return Inputs(self._open_index, self._read, self._head_of, chunks, runs)

    def _open_index(self, chunk: InputChunk) -> ChunkIndex:
        opening = ChunkReader.open(chunk.key, chunk.size, self._storage.get_range, self._head_of)
        reader: ChunkReader = self._call(opening)
        return reader.index

    def _read(self, key: str, start: int, length: int) -> bytes:
        data: bytes = self._call(self._storage.get_range(key, start, length))
        return data


def _begun(inputs: Inputs, run: InputRun, chosen: EntryFilter) -> Iterator[Entry]:
    """A run's entries. The filter has already been told of their transactions."""
    chosen.run_begins(inputs.aborted(run))
    return inputs.entries(run)


@dataclass(slots=True)
class _Making:
    """The output in the making: the consumed runs, and the range that each slot's runs cover so far."""

    request: Rewrite
    inputs: Inputs
    filters: Mapping[SlotKey, EntryFilter]
    ends: Mapping[SlotKey, int]
    consumed: int = 0
    size: int = 0
    full: bool = False
    clean_bytes: dict[SlotKey, int] = field(default_factory=dict)
    within: dict[tuple[SlotKey, int], int] = field(default_factory=dict)
    """Where a run begins by its row, by slot and the first offset of the entry that it begins within."""
    _covered_from: dict[SlotKey, int] = field(default_factory=dict)
    _covered_to: dict[SlotKey, int] = field(default_factory=dict)
    _aborted: dict[tuple[int, int, int], dict[AbortedTransaction, None]] = field(default_factory=dict)

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
                aborted=_Aborted(self, runs[0]),
                covered=_Covered(self, key),
            )

    def entries(self, runs: Sequence[InputRun], head_of: EntryHeadOf) -> Iterator[Entry]:
        key = runs[0].slot_key
        chosen = self.filters.get(key)
        for run in runs:
            if self.full:
                return
            self._covered_from.setdefault(key, run.first)
            self._aborted.setdefault(run.place, {}).update(dict.fromkeys(self.inputs.aborted(run)))
            for entry in self.inputs.entries(run) if chosen is None else _begun(self.inputs, run, chosen):
                kept = entry if chosen is None else self._kept(entry, key, chosen, head_of)
                if kept is not None:
                    if kept.first < self._covered_from[key]:  # the run begins within it
                        self.within[key, kept.first] = self._covered_from[key]
                        self._covered_from[key] = kept.first
                    self.size += len(kept.payload)
                    yield kept
            self._covered_to[key] = run.end
            self.consumed += 1
            self.full = 0 < self.request.output_bytes <= self.size

    def covered(self, key: SlotKey) -> tuple[int, int]:
        first, end = self._covered_from[key], self._covered_to[key]
        self._covered_from[key] = end
        return first, end

    def aborted(self, run: InputRun) -> list[AbortedTransaction]:
        """The aborted transactions that the output lists, each once, if a filter has left anything of them."""
        key = run.slot_key
        chosen = self.filters.get(key)
        found = sorted(self._aborted.get(run.place, ()), key=lambda one: one.last)
        return [one for one in found if chosen is None or one.last >= self.ends[key] or chosen.has_left(one)]

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
    making: _Making
    run: InputRun

    def __iter__(self) -> Iterator[AbortedTransaction]:
        return iter(self.making.aborted(self.run))


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


def _output_runs(index: ChunkIndex, within: Mapping[tuple[SlotKey, int], int]) -> Iterator[OutputRun]:
    """The runs by their rows: these begin where the first input's row does, which may lie within its first entry."""
    for run in index.runs:
        key = SlotKey(run.segment.stream.id, run.slot)
        yield OutputRun(
            stream_id=run.segment.stream.id,
            segment_id=run.segment.id,
            slot=run.slot,
            first=within.get((key, run.first), run.first),
            end=run.end,
            generation=run.segment.generation,
            min_timestamp=run.min_timestamp,
            max_timestamp=run.max_timestamp,
            position=run.position,
            length=run.length,
            entries=run.entries,
            leader_epoch=run.leader_epoch,
        )
