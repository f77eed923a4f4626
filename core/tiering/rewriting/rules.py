"""Rules: which chunks and slots are worth rewriting, and in which portions. Pure: they judge rows, and `rewriter` acts.

*Merge.* A chunk is a candidate when it is small (less than a quarter of `chunk_bytes`) or fragmented (its runs have
less than `RUN_BYTES_GOAL` on average), and has been through fewer than `LEVELS_MAX` merges: its *level*, the generation
of its runs. Candidates of one level are merged, oldest first, as soon as there are `MERGE_CHUNKS_MIN` and the merge
makes `MERGE_GAIN` times fewer objects or runs of them. Half the gain will do when no more fit into one merge. A merge
reads whole slots, one after the other, and cuts its output at `chunk_bytes` or `RUNS_MAX`. Afterwards a slot's data
lies together: one run replaces one run in each chunk.

So merging rewrites a stored byte `LEVELS_MAX` times at the most, whatever the traffic is. Runs or objects become at
least `MERGE_GAIN` / 2 times fewer from level to level. So merging makes at most twice as many puts as the storage
writer, besides one for each `chunk_bytes` that it rewrites. The number of slots matters only by the 2,000 of them that
the storage writer, too, takes into one object.

*Reclaim.* A chunk less than half of which is alive is rewritten: at most one byte is written for each that comes free.

*Compact.* A slot of a compacted stream is due when its dirty share is over `min_dirty_ratio`, when its oldest dirty run
is older than `max_lag_ms`, or when tombstones that a round has kept may go. A round takes all tiered entries of the
slot, from its start on; small slots share a round. With a ratio of r, a stored byte costs 1 / r rewritten ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from core.streams.ages import says_its_age
from core.streams.policy import StreamPolicy
from core.tiering.rewriting.cleaned import Cleaned
from core.tiering.rewriting.requests import InputChunk, InputRun, OutputRun, SlotKey
from core.tiering.rows import RunKey, RunRow, chunk_key
from core.trusted_time import TrustedTime
from tier2.chunk_format import ChunkId

SMALL: Final = 4
"""A chunk of less than 1 / SMALL of `chunk_bytes` is small."""
RUN_BYTES_GOAL: Final = 64 << 10
"""The size from which one request for a run is worth its while; it is also a block of a chunk."""
LEVELS_MAX: Final = 4
MERGE_CHUNKS_MIN: Final = 8
MERGE_CHUNKS_MAX: Final = 64
MERGE_GAIN: Final = 4
MERGE_RUNS_MAX: Final = 100_000
"""The most runs that one merge looks at: some 25 MB of memory while it is planned."""
RUNS_MAX: Final = 2000
"""The most input runs of one rewrite: they leave in one record of the log."""
RUN_OVERHEAD_MAX: Final = 420
"""The bytes of an index for one run of one block, if its stream and segment are in it for this run alone."""
CHUNK_OVERHEAD_MAX: Final = 500


class Candidate(NamedTuple):
    """A verified chunk, as planning sees it. Only a chunk that may be merged has its level looked up."""

    id: ChunkId
    size: int
    live_bytes: int
    runs: int
    any_run: RunKey
    level: int = 0

    def may_be_merged(self, chunk_bytes: int) -> bool:
        small = self.size < chunk_bytes // SMALL
        fragmented = self.runs > 1 and self.live_bytes < self.runs * RUN_BYTES_GOAL
        return small or fragmented

    @property
    def is_mostly_dead(self) -> bool:
        """Whether it is mostly dead. That is never true of a chunk just made, however little is in it."""
        needed = self.live_bytes + self.live_bytes // 1024 + self.runs * RUN_OVERHEAD_MAX + CHUNK_OVERHEAD_MAX
        return needed * 2 < self.size


@dataclass(frozen=True, slots=True)
class Portion:
    """The inputs of one rewrite: runs sorted by place and sequence numbers, without gaps within a slot."""

    runs: Sequence[RunRow]
    output_bytes: int = 0  # stop behind the run that reaches it; zero: take all
    compact: bool = False

    @property
    def slots(self) -> set[SlotKey]:
        return {slot_of(run) for run in self.runs}


def slot_of(run: RunRow) -> SlotKey:
    return SlotKey(run.stream_id, run.slot)


def place_of(run: RunRow) -> tuple[int, int, int, int]:
    return run.stream_id, run.segment_id, run.slot, run.first


# Merge and reclaim


def merge_groups(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """The oldest chunks of each level, as many as a merge may take, if there are enough."""
    by_level: dict[int, list[Candidate]] = {}
    for candidate in sorted(candidates):
        if candidate.level < LEVELS_MAX:
            by_level.setdefault(candidate.level, []).append(candidate)
    for _, some in sorted(by_level.items()):
        group: list[Candidate] = []
        runs = 0
        for candidate in some[:MERGE_CHUNKS_MAX]:
            if group and runs + candidate.runs > MERGE_RUNS_MAX:
                break
            group.append(candidate)
            runs += candidate.runs
        if len(group) >= MERGE_CHUNKS_MIN or len(group) < len(some):
            yield group


def is_worth_merging(group: Sequence[Candidate], keys: Iterable[RunKey], chunk_bytes: int, *, full: bool) -> bool:
    """Whether a merge of these chunks makes objects or runs this many times fewer; `keys` are all of their runs."""
    runs = sum(candidate.runs for candidate in group)
    slots = len({(key.stream_id, key.slot) for key in keys})
    size = sum(candidate.live_bytes for candidate in group)
    objects = max(-(-size // chunk_bytes), -(-runs // RUNS_MAX), 1)
    gain = MERGE_GAIN // 2 if full else MERGE_GAIN
    return objects * gain <= len(group) or slots * gain <= runs


def portions(rows: Iterable[RunRow], chunk_bytes: int) -> list[Portion]:
    """Rewrites of these runs, slot after slot. A slot whose runs do not follow one another is in several."""
    layers: list[_Layer] = []
    for _, of_slot in groupby(sorted(rows, key=lambda run: (run.stream_id, run.slot, run.first)), key=slot_of):
        for number, stretch in enumerate(_stretches(of_slot)):
            if number == len(layers):
                layers.append(_Layer(chunk_bytes))
            layers[number].add(stretch)
    found = [portion for layer in layers for portion in layer.portions()]
    return [Portion(sorted(some, key=place_of)) for some in found]


class _Layer:
    """Portions in the making, each slot with one stretch."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._done: list[list[RunRow]] = []
        self._open: list[RunRow] = []
        self._size = 0

    def add(self, stretch: Sequence[RunRow]) -> None:
        for run in stretch:
            if self._open and (self._size + run.length > self._chunk_bytes or len(self._open) >= RUNS_MAX):
                self._done.append(self._open)
                self._open, self._size = [], 0
            self._open.append(run)
            self._size += run.length

    def portions(self) -> list[list[RunRow]]:
        return [*self._done, self._open] if self._open else self._done


def _stretches(runs: Iterable[RunRow]) -> Iterator[list[RunRow]]:
    """Runs of one slot that follow one another without a gap."""
    stretch: list[RunRow] = []
    for run in runs:
        if stretch and stretch[-1].end != run.first:
            yield stretch
            stretch = []
        stretch.append(run)
    if stretch:
        yield stretch


# Compaction


@dataclass(frozen=True, slots=True)
class Dirt:
    """The input of a round in one slot: `runs` from its start up to the one that holds `end` - 1."""

    slot: SlotKey
    runs: Sequence[RunRow]
    begin: int
    end: int
    share: float
    size: int


def dirt_of(
    slot: SlotKey,
    runs: Sequence[RunRow],
    cleaned: Cleaned,
    policy: StreamPolicy,
    now: TrustedTime,
    made_ms: Mapping[ChunkId, int],
) -> Dirt | None:
    """The part of a slot to compact; `runs` are all of its verified ones. None when nothing is due.

    `made_ms` is when their chunks were made, which gives their age if their timestamps cannot.
    """
    settled = list(runs)
    if policy.min_lag_ms:
        settled = list(_settled(runs, cleaned.end, now.timestamps_ms, policy.min_lag_ms, made_ms))
    if not settled:
        return None
    size = sum(run.length for run in settled)
    clean = min(cleaned.size, sum(run.length for run in settled if run.first < cleaned.end))
    begin, end = min(cleaned.end, settled[-1].end), settled[-1].end
    share = (size - clean) / size
    fresh = [run for run in settled if run.end > cleaned.end]
    overdue = any(0 < run.min_timestamp < now.timestamps_ms - policy.max_lag_ms for run in fresh)
    if not (fresh and (share > policy.min_dirty_ratio or overdue)) and not 0 <= cleaned.due_ms <= now.ages_ms:
        return None
    return Dirt(slot, settled, begin, end, share, size)


def _settled(
    runs: Iterable[RunRow], clean_end: int, now_ms: int, lag_ms: int, made_ms: Mapping[ChunkId, int]
) -> Iterator[RunRow]:
    """Runs up to the first dirty one that is too young."""
    for run in runs:
        newest = run.max_timestamp if says_its_age(run.max_timestamp, now_ms) else made_ms.get(run.chunk, now_ms)
        if run.end > clean_end and newest > now_ms - lag_ms:
            return
        yield run


def next_round(dirt: Iterable[Dirt], chunk_bytes: int) -> list[Dirt]:
    """Which slots go through the next round together: the dirtiest, and others that fit beside it."""
    chosen: list[Dirt] = []
    size = runs = 0
    for one in sorted(dirt, key=lambda one: (-one.share, one.slot)):
        fits = size + one.size <= chunk_bytes and runs + len(one.runs) <= RUNS_MAX
        if chosen and not fits:
            continue
        chosen.append(one)
        size, runs = size + one.size, runs + len(one.runs)
        if size >= chunk_bytes:
            break
    return chosen


def dirty_runs(dirt: Dirt) -> list[RunRow]:
    """The runs that the first pass must see; if there are none, the last run before."""
    return [run for run in dirt.runs if run.end > dirt.begin] or list(dirt.runs[-1:])


def compaction_portion(learned: Iterable[tuple[Dirt, int]], chunk_bytes: int) -> Portion:
    """The second pass over the learned slots, up to the given ends. One large slot is cut while it is written."""
    runs = [run for dirt, end in learned for run in dirt.runs if run.first < end]
    alone = len({slot_of(run) for run in runs}) == 1
    return Portion(sorted(runs, key=place_of), chunk_bytes if alone else 0, compact=True)


# Requests and their outcome


def inputs_of(runs: Sequence[RunRow], sizes: Mapping[ChunkId, int]) -> tuple[list[InputChunk], list[InputRun]]:
    """The runs as the worker gets them."""
    numbers = {chunk: number for number, chunk in enumerate(dict.fromkeys(run.chunk for run in runs))}
    chunks = [InputChunk(chunk_key(chunk), sizes[chunk]) for chunk in numbers]
    return chunks, [
        InputRun(run.stream_id, run.segment_id, run.slot, run.first, run.end, numbers[run.chunk], run.generation)
        for run in runs
    ]


def output_rows(
    chunk: ChunkId, inputs: Iterable[RunRow], outputs: Iterable[OutputRun]
) -> Iterator[tuple[RunRow, list[RunRow]]]:
    """The rows of a new chunk's runs, each with the rows it replaces. Raises ValueError when it does not cover them."""
    by_slot: dict[SlotKey, list[RunRow]] = {}
    for run in sorted(inputs, key=lambda run: run.first):
        by_slot.setdefault(slot_of(run), []).append(run)
    for output in outputs:
        taken = [r for r in by_slot[output.slot_key] if output.first <= r.first and r.end <= output.end]
        if not taken or (taken[0].first, taken[-1].end) != (output.first, output.end):
            raise ValueError(f"{output} does not cover its inputs")
        row = RunRow(
            stream_id=output.stream_id,
            slot=output.slot,
            first=output.first,
            end=output.end,
            chunk=chunk,
            segment_id=output.segment_id,
            generation=output.generation,
            min_timestamp=output.min_timestamp,
            max_timestamp=output.max_timestamp,
            position=output.position,
            length=output.length,
            entries=output.entries,
            leader_epoch=output.leader_epoch,
            bytes_before=taken[0].bytes_before,
            appended=sum(run.appended for run in taken),
        )
        yield row, taken
