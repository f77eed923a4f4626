"""Chunks that rewriting makes, from the intent to the commit.

1. The intent is logged. From now on the key is known, and it is swept if no chunk comes of it.
2. The chunk is made and put, in another module.
3. `tier2_verify_delay_ms` later the object is looked at. A store may lose an object that it has just acknowledged, and
   then the inputs must still be there. Meanwhile the next outputs are made.
4. One record commits: it adds rows of the new runs, removes rows of the old ones, makes the chunk verified, and leaves
   empty inputs to deletion.

**Invariants**

- An output replaces exactly the rows that it was made of. They are looked at again under `TierContext.changing`, which
  is held until they are changed. A slot is left out if its rows have changed, if it starts behind them by now, or if it
  is not to be compacted any more.
- Outputs are committed in the order in which they were made; those of a compaction front to back.
- A round counts (table ``compactions``) with its last output. So no tombstone leaves before all entries older than it
  have been through a round that knew its key.
- Inputs are busy until their output is committed or abandoned.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.errors import StorageFull
from core.log.records import Delete, Operation, Put
from core.tiering.context import TierContext
from core.tiering.rewriting.cleaned import (
    CLEANED_TABLE,
    Cleaned,
    cleaned_key,
    decode_cleaned,
    decode_cleaned_key,
    slot_in,
)
from core.tiering.rewriting.planners import Busy
from core.tiering.rewriting.requests import Rewrite, Rewritten, SlotKey
from core.tiering.rewriting.rules import output_rows, slot_of
from core.tiering.rows import (
    CHUNKS_TABLE,
    PENDING_TABLE,
    RUNS_TABLE,
    ChunkRow,
    ChunkState,
    RunRow,
    chunk_key,
    without_runs,
)
from tier2.chunk_format import ChunkId
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

UNCOMMITTED_MAX: Final = 64
"""The most outputs that wait for their second look. Until then they are stored beside their inputs."""
STATS_MAX: Final = 5
"""The looks at an object while storage is away, before the rewrite is abandoned."""


@dataclass(slots=True)
class Counters:
    """Counts since the start, for the operator."""

    rewrites: int = 0
    chunks_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compactions: int = 0
    abandoned: int = 0


@dataclass(eq=False, slots=True)
class Round:
    """Outputs that count together: all of a compaction. Each output of a merge is a round by itself."""

    cleaned: dict[SlotKey, Cleaned] = field(default_factory=dict)
    failed: bool = False

    @property
    def is_compaction(self) -> bool:
        return bool(self.cleaned)


@dataclass(frozen=True, slots=True)
class _Made:
    """An output that was put and is not yet committed."""

    chunk: ChunkRow
    inputs: Sequence[RunRow]
    rows: Sequence[tuple[RunRow, Sequence[RunRow]]]  # each with the rows that it replaces
    round: Round
    is_last: bool
    due_s: float


class Outputs:
    """The outputs of one container's rewriting."""

    def __init__(self, context: TierContext, busy: Busy, counters: Counters) -> None:
        container = context.container
        self._context = context
        self._container = container
        self._catalog = context.catalog
        self._clock = container.clock
        self._verify_delay_s = container.config.tier2_verify_delay_ms / 1000
        self._made: deque[_Made] = deque()
        self._busy = busy
        self._counters = counters

    def __len__(self) -> int:
        """The number of outputs that were put and are not yet committed."""
        return len(self._made)

    def due_in_s(self, at_most: float) -> float:
        """Seconds until the oldest output is due for its commit."""
        return min(at_most, max(0.01, self._made[0].due_s - self._clock.monotonic_s())) if self._made else at_most

    def show_cleaned(self) -> None:
        """Let readers see compactions from before this start."""
        for key, value in self._container.table(CLEANED_TABLE).items():
            self._show(decode_cleaned_key(key), decode_cleaned(value))

    async def intend(self) -> ChunkId:
        """Log the intent of the next output; returns its id. Raises StoreError."""
        container, now_ms = self._container, self._container.trusted.stamp_ms()
        chunk_id = ChunkId(container=container.id, epoch=container.epoch, sequence=container.log.next_lsn)
        row = ChunkRow(id=chunk_id, state=ChunkState.INTENT, created_ms=now_ms, changed_ms=now_ms)
        await container.update(Put(PENDING_TABLE, row.key, row.encode()))
        await container.synced()  # or a power cut could leave an unknown object
        return chunk_id

    async def abandon(self, chunk_id: ChunkId) -> None:
        """Give an output up: its object goes, if there is one. Raises StoreError, except StorageFull."""
        now_ms = self._container.trusted.stamp_ms()
        row = ChunkRow(id=chunk_id, state=ChunkState.ABANDONED, created_ms=now_ms, changed_ms=now_ms)
        self._counters.abandoned += 1
        try:
            await self._container.update(Put(PENDING_TABLE, row.key, row.encode()))
        except StorageFull:
            return  # the next start abandons it

    def _show(self, key: SlotKey, cleaned: Cleaned) -> None:
        """Let readers see the compacted slot, though the log may still hold all of its entries."""
        slot = slot_in(self._container, key)
        if slot is not None:
            slot.compacted_end = max(slot.compacted_end, min(cleaned.end, slot.tiered_end))

    async def room(self) -> None:
        """Commit due outputs, and wait until another one may be made. Raises StoreError."""
        await self.commit_due()
        while len(self._made) >= UNCOMMITTED_MAX:
            await asyncio.sleep(max(0.01, self._made[0].due_s - self._clock.monotonic_s()))
            await self.commit_due()

    def take(
        self, request: Rewrite, done: Rewritten, runs: Sequence[RunRow], round_: Round, *, is_last: bool, are_ours: bool
    ) -> None:
        """Note that an output was put. It is committed after its second look. `are_ours`: it takes the place of the
        runs that it was made of. Raises ValueError when it is not what was asked for."""
        consumed = runs[: done.consumed]
        rows = [(row, taken if are_ours else ()) for row, taken in output_rows(request.id, consumed, done.runs)]
        for slot_key, cleaned in round_.cleaned.items():
            round_.cleaned[slot_key] = cleaned._replace(
                size=cleaned.size + done.clean_bytes.get(slot_key, 0),
                due_ms=_sooner(cleaned.due_ms, done.due_ms.get(slot_key, -1)),
            )
        chunk = ChunkRow(
            id=request.id,
            state=ChunkState.VERIFIED,
            created_ms=request.created_ms,
            changed_ms=self._container.trusted.stamp_ms(),
            size=done.size,
            etag=done.etag,
        )
        self._counters.chunks_in += len(request.inputs)
        self._counters.bytes_in += sum(run.length for run in consumed)
        self._counters.bytes_out += done.size
        due_s = self._clock.monotonic_s() + self._verify_delay_s
        self._made.append(_Made(chunk, consumed, rows, round_, is_last, due_s))

    async def give_up(self) -> None:
        """Abandon what was put and is not committed. Raises StoreError, except StorageFull."""
        while self._made:
            made = self._made.popleft()
            await self.abandon(made.chunk.id)
            self._busy.release(made.inputs)

    # Commit

    async def commit_due(self) -> None:
        """Commit due outputs. Raises StoreError."""
        while self._made and self._made[0].due_s <= self._clock.monotonic_s():
            made = self._made[0]
            if (made.round.is_compaction and made.round.failed) or not await self._is_there(made.chunk):
                made.round.failed = True
                await self.abandon(made.chunk.id)
            else:
                await self._commit(made)
            self._made.popleft()
            self._busy.release(made.inputs)

    async def _is_there(self, chunk: ChunkRow) -> bool:
        for attempt in range(1, STATS_MAX + 1):
            try:
                stat = await self._context.long_term.storage.stat(chunk_key(chunk.id))
                return stat is not None and (stat.size, stat.etag) == (chunk.size, chunk.etag)
            except StorageError:
                if attempt == STATS_MAX:
                    return False
                await asyncio.sleep(attempt)
        return False

    async def _commit(self, made: _Made) -> None:
        """Commit one output. Raises StoreError."""
        async with self._context.changing:
            now_ms = self._container.trusted.stamp_ms()  # for how long the inputs stay, for those who read them
            wanted = [pair for pair in made.rows if self._is_wanted(*pair, made.round)]
            unchanged, operations = await self._catalog.in_thread(self._replacing, wanted, now_ms)
            # No await from here to the record. A slot that has gone on needs neither its old rows nor a new one.
            rows = [row for row, _ in wanted if row.key in unchanged and self._is_live(row)]
            if not rows:
                made.round.failed = True
                await self.abandon(made.chunk.id)
                return
            await self._container.update(*operations, *self._output(made, rows))
        if made.is_last:
            for slot_key, cleaned in made.round.cleaned.items():
                self._show(slot_key, cleaned)
        self._counters.rewrites += 1
        self._context.rows_changed += 1
        logger.info(
            "chunks rewritten",
            extra={"chunk": chunk_key(made.chunk.id), "runs": f"{len(made.inputs)} to {len(rows)}"},
        )

    def _replacing(
        self, wanted: Sequence[tuple[RunRow, Sequence[RunRow]]], now_ms: int
    ) -> tuple[set[bytes], list[Operation]]:
        """The keys of rows whose inputs are unchanged, and the operations that remove these inputs. In a thread."""
        same: set[bytes] = set()
        replaced: dict[ChunkId, set[tuple[int, int, int]]] = {}
        operations: list[Operation] = []
        for row, inputs in wanted:
            if not self._is_unchanged(row, inputs):
                continue
            same.add(row.key)
            for run in inputs:
                operations.append(Delete(RUNS_TABLE, run.key))
                replaced.setdefault(run.chunk, set()).add((run.stream_id, run.slot, run.first))
        for chunk_id, gone in replaced.items():
            chunk = self._catalog.find_chunk(chunk_id)
            if chunk is not None and chunk.runs:
                operations += without_runs(chunk, gone, now_ms)
        return same, operations

    def _is_unchanged(self, row: RunRow, inputs: Sequence[RunRow]) -> bool:
        slot = slot_in(self._container, slot_of(row))
        if slot is None:
            return False
        start = max(slot.start, row.first)
        found: list[tuple[int, int, ChunkId]] = []
        for run in self._catalog.iter_runs(row.stream_id, row.slot, start):
            if run.first >= row.end:
                break
            found.append((run.first, run.end, run.chunk))
        return found == [(run.first, run.end, run.chunk) for run in inputs if run.end > start]

    def _is_wanted(self, row: RunRow, inputs: Sequence[RunRow], round_: Round) -> bool:
        """Whether a slot is still to be compacted. A copy of what was compacted elsewhere takes nobody's place."""
        slot = slot_in(self._container, slot_of(row))
        return not (round_.is_compaction and inputs) or (slot is not None and slot.stream.policy.compact)

    def _is_live(self, row: RunRow) -> bool:
        slot = slot_in(self._container, slot_of(row))
        return slot is not None and not slot.stream.deleted and slot.start < row.end

    def _output(self, made: _Made, rows: Sequence[RunRow]) -> Iterator[Operation]:
        """The new chunk and its rows; with a compaction's last one, also how far its slots are clean."""
        live = replace(made.chunk, live_bytes=sum(row.length for row in rows), runs=tuple(row.listed for row in rows))
        yield Delete(PENDING_TABLE, live.key)
        yield Put(CHUNKS_TABLE, live.key, live.encode())
        for row in rows:
            yield Put(RUNS_TABLE, row.key, row.encode())
        if not made.is_last:
            yield from self._unclean(rows)
            return
        done = {slot_of(row) for row in rows}
        for slot_key, cleaned in made.round.cleaned.items():
            if slot_key in done:
                yield Put(CLEANED_TABLE, cleaned_key(slot_key), cleaned.encode())

    def _unclean(self, rows: Sequence[RunRow]) -> Iterator[Operation]:
        """Rows that tell a start which slots hold less than was appended, even amid their first round."""
        table = self._container.table(CLEANED_TABLE)
        for key in dict.fromkeys(cleaned_key(slot_of(row)) for row in rows if row.removed):
            if table.get(key) is None:
                yield Put(CLEANED_TABLE, key, Cleaned().encode())


def _sooner(one: int, other: int) -> int:
    """The earlier of two times, of which -1 is none."""
    return max(one, other) if one < 0 or other < 0 else min(one, other)
