"""What the process that rewrites chunks is asked for, and what it answers. Plain values that can be sent to it."""

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
