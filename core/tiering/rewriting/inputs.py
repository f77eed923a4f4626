"""The chunks that a rewrite reads: front to back, each through a window of bounded size.

**Invariant**: every byte passed on belongs to a block that passed its CRC.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from core.tiering.rewriting.requests import InputChunk, InputRun
from tier2.chunk import Entry, EntryHeadOf, walk
from tier2.chunk_format import AbortedTransaction, BadChunk, ChunkIndex, Run, check_blocks
from tier2.storage import Corrupt

WINDOW_BYTES_MAX: Final = 4 << 20
WINDOWS_BYTES: Final = 32 << 20
"""The size of all windows of a rewrite together, unless a block is larger than its window."""
WINDOW_BYTES_MIN: Final = 256 << 10
GAP_BYTES_MAX: Final = 64 << 10
"""A gap of up to this many bytes between two runs is read and thrown away: that costs less than another request."""
PIECE_BYTES: Final = 1 << 20


class Inputs:
    """The chunks to read: each is opened with its first run, and let go of behind its last."""

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

    def aborted(self, run: InputRun) -> list[AbortedTransaction]:
        """The aborted transactions that overlap a run, to be asked for before its entries. Raises StorageError."""
        listed = self._input_of(run).runs[run.place].aborted
        return [one for one in listed if one.first < run.end and one.last >= run.first]

    def entries(self, run: InputRun) -> Iterator[Entry]:
        """The entries of a run, once. Raises StorageError.

        A run may begin within an entry, where its slot began when it was cut: records of that entry are in it.
        """
        opened = self._input_of(run)
        for entry in opened.entries(opened.runs[run.place], self._head_of):
            if entry.first < run.end and entry.first + entry.count > run.first:
                yield entry
        opened.left -= 1
        if not opened.left:
            del self._open[run.chunk]

    def _input_of(self, run: InputRun) -> _Input:
        opened = self._open.get(run.chunk)
        if opened is None:
            opened = self._open[run.chunk] = self._opened(run.chunk)
        return opened

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
    """One chunk, read through a window. It only moves forward while runs are read in their order."""

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
        held, begin = b"", 0  # bytes read and not yet passed on, and their beginning in the run
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
            self._window = b""  # never hold two of them
            self._window, self._window_start = self._read(self._key, position, max(size, length)), position
            at = 0
        return self._window[at : at + length]

    def _end_of_stretch(self, position: int) -> int:
        return self._stretches[bisect_right(self._stretches, position, key=lambda stretch: stretch[0]) - 1][1]


def _stretches(runs: Iterable[Run]) -> list[tuple[int, int]]:
    """The ranges of these runs' bytes; near ranges are joined."""
    found: list[tuple[int, int]] = []
    for run in sorted(runs, key=lambda run: run.position):
        end = run.position + run.length
        if found and run.position - found[-1][1] <= GAP_BYTES_MAX:
            found[-1] = found[-1][0], end
        else:
            found.append((run.position, end))
    return found
