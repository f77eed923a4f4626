"""The requests to the process that rewrites chunks, and its answers: plain values that can be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.tiering.filters import CompactionScope
from tier2.chunk_format import ChunkId, StreamRef


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
        """The slot and segment for which a chunk has one run."""
        return self.stream_id, self.segment_id, self.slot

    @property
    def slot_key(self) -> SlotKey:
        return SlotKey(self.stream_id, self.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """The first pass of a round of compaction: forget earlier rounds, learn the keys of these runs.

    Slots are learned in their order until there are `keys_max` keys, so the last slot may be learned in part. The runs
    of a slot are those that hold anything between the scope's ends, or else the last run before.
    """

    scopes: Mapping[SlotKey, CompactionScope]
    inputs: Sequence[InputChunk]
    runs: Sequence[InputRun]
    keys_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The offset up to which each slot was learned, without slots that were not reached."""

    ends: Mapping[SlotKey, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Make one chunk. Runs are sorted by place, then by their sequence numbers, and have no gaps within a slot.

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
    """The new chunk, which has been put."""

    size: int
    etag: str
    runs: Sequence[OutputRun]
    consumed: int  # of the given runs, from the first on
    clean_bytes: Mapping[SlotKey, int] = field(default_factory=dict)  # of the entries that the round has been through
    due_ms: Mapping[SlotKey, int] = field(default_factory=dict)
