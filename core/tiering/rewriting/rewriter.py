"""Rewrites chunks in the background: merges small ones, compacts, and frees what dead runs keep.

What is worth it, and how much it costs, is `rewriting`'s; the work is done in a process of its own (`rewrite_worker`).
Here is the order of things, for one container:

1. The intent is logged: from now on the key is known, and swept if nothing comes of it.
2. The worker makes the chunk and puts it.
3. `tier2_verify_delay_ms` later the object is looked at: a store may lose what it has just acknowledged, and then it is
   the inputs that must still be there. Meanwhile the next rewrites are under way.
4. One record commits: rows of the new runs, removal of the old ones, the chunk as verified, inputs that hold nothing
   any more as to be deleted.

**Invariants**

- Inputs are runs of verified chunks, and no run is in two rewrites at a time (`_busy`).
- What is committed replaces exactly the rows that it was made of: they are looked at again under
  `TierContext.changing`, which is held until they are changed. A slot whose rows are no longer those, or that starts
  behind them by now, is left out.
- Outputs of a compaction are committed front to back. A round counts (table ``compactions``) with its last output, so
  no tombstone leaves before everything older than it has been through a round that knew its key.
- A worker that fails, or a store that stops amid anything, leaves intents, which the next start abandons.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.background import Background
from core.errors import StorageFull
from core.log.records import Delete, Operation, Put
from core.tiering.context import TierContext
from core.tiering.filters import WorkerSetup
from core.tiering.rewriting.cleaned import (
    CLEANED_TABLE,
    Cleaned,
    cleaned_key,
    decode_cleaned,
    decode_cleaned_key,
    slot_in,
)
from core.tiering.rewriting.planners import Busy, CompactionPlanner, MergePlanner
from core.tiering.rewriting.requests import Learn, Rewrite, Rewritten, SlotKey
from core.tiering.rewriting.rules import (
    Dirt,
    Portion,
    compaction_portion,
    dirty_runs,
    inputs_of,
    output_rows,
    slot_of,
)
from core.tiering.rewriting.worker import Worker, WorkerFailed
from core.tiering.rows import (
    CHUNKS_TABLE,
    PENDING_TABLE,
    RUNS_TABLE,
    ChunkRow,
    ChunkState,
    RunRow,
    chunk_key,
    parse_chunk_key,
    without_runs,
)
from tier2.chunk_format import ChunkId, StreamRef
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

KEYS_MAX: Final = 500_000
"""Keys that one round of compaction holds: some 100 MB in the worker."""
UNCOMMITTED_MAX: Final = 64
"""Outputs that wait to be looked at again: they are stored beside their inputs until then."""
IDLE_S: Final = 60.0
"""How long the worker is kept for the next rewrite."""
LOOK_AGAIN_S: Final = 300.0
"""How often chunks are looked through though none came and none of their runs has died: some are verified by now."""
ROWS_PER_RECORD: Final = 1000
GONE: Final = "what a compaction was to read has been deleted meanwhile"
STATS_MAX: Final = 5
"""How often an object is looked at when the storage is away, before the rewrite is abandoned."""


@dataclass(slots=True)
class Counters:
    """What was done since the start, for the operator."""

    rewrites: int = 0
    chunks_in: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compactions: int = 0
    abandoned: int = 0


@dataclass(eq=False, slots=True)
class _Round:
    """Outputs that count together: of a compaction, or each of a merge by itself."""

    cleaned: dict[SlotKey, Cleaned] = field(default_factory=dict)
    failed: bool = False

    @property
    def is_compaction(self) -> bool:
        return bool(self.cleaned)


@dataclass(frozen=True, slots=True)
class _Made:
    """An output that is there and not yet committed."""

    chunk: ChunkRow
    inputs: Sequence[RunRow]
    rows: Sequence[tuple[RunRow, Sequence[RunRow]]]  # each with what it replaces
    round: _Round
    is_last: bool
    due_s: float


class Rewriter:
    """Rewrites for one container."""

    def __init__(self, context: TierContext, setup: WorkerSetup) -> None:
        container = context.container
        self._context = context
        self._container = container
        self._catalog = context.catalog
        self._config = container.config
        self._clock = container.clock
        self._worker = Worker(setup, str(container.directory.parent))
        self._can_compact = setup.filter_for is not None
        self._made: deque[_Made] = deque()
        self._busy = Busy()
        self._merges = MergePlanner(container, context.catalog)
        self._compactions = CompactionPlanner(container, context.catalog)
        self._looked: tuple[int, float] = (-1, 0.0)  # `TierContext.rows_changed`, when
        self._worked_s = 0.0
        self._background = Background(
            "rewriting of chunks",
            context.container.id,
            self._step,
            retry_s=context.container.config.rewrite_interval_ms / 1000,
            expected=(WorkerFailed,),
        )
        self.counters = Counters()

    def __repr__(self) -> str:
        return f"<Rewriter {self._container.id}: {len(self._made)} uncommitted, {self.counters}>"

    @property
    def worker_pid(self) -> int | None:
        """The process that rewrites, while there is one."""
        return self._worker.pid

    @property
    def last_error(self) -> str | None:
        """Why the last look failed; None when it went well."""
        return self._background.last_error

    def start(self) -> None:
        for key, value in self._container.table(CLEANED_TABLE).items():
            self._show(decode_cleaned_key(key), decode_cleaned(value))
        self._background.start()

    async def stop(self) -> None:
        """End; what is on its way is abandoned by the next start."""
        await self._background.stop()
        await self._worker.end()

    async def _step(self) -> float:
        return 0 if await self.work() else self._pause_s()

    def _pause_s(self) -> float:
        pause = self._config.rewrite_interval_ms / 1000
        return min(pause, max(0.01, self._made[0].due_s - self._clock.monotonic_s())) if self._made else pause

    async def work(self) -> bool:
        """Do the next thing that is due, and commit what can be; whether there was anything.

        Raises StoreError, StorageError, WorkerFailed.
        """
        await self._commit_due()
        if self._context.is_pressed or self._context.snapshots.lacks_room:
            return False  # storage and processors are needed elsewhere
        now = self._clock.monotonic_s()
        if await self._compact() or await self._merge():
            self._worked_s = self._clock.monotonic_s()
            return True
        if self._worker.pid is not None and now - self._worked_s >= IDLE_S:
            await self._worker.end()
        return False

    # What is due

    async def _merge(self) -> bool:
        now, changed = self._clock.monotonic_s(), self._context.rows_changed
        known, looked_s = self._looked
        if known == changed and now - looked_s < LOOK_AGAIN_S:
            return False
        plan = await self._catalog.in_thread(self._merges.plan, self._busy)
        made = 0
        for portion in plan:
            try:
                made += await self._make(portion, _Round(), is_last=True)
            except WorkerFailed as error:
                if error.again:
                    raise
                if not await self._are_there(portion.runs):
                    return True  # their slots went on while they were read: look anew
                bad = parse_chunk_key(error.key)
                self._merges.avoid([bad] if bad is not None else [run.chunk for run in portion.runs])
                logger.error("chunks are left as they are for now", extra={"reason": str(error)})
        if not made:
            self._looked = changed, now
        return bool(made)

    async def _compact(self) -> bool:
        """One round, if a slot is due."""
        if not self._can_compact:
            return False
        await self._forget_streams()
        chosen = await self._compactions.plan(self._busy)
        if not chosen:
            return False
        try:
            await self._round_of(chosen)
        except WorkerFailed as error:
            if error.again or not await self._are_there([run for one in chosen for run in one.runs]):
                raise
            self._compactions.avoid(chosen)
            logger.error("slots stay uncompacted for now", extra={"reason": str(error)})
            return False
        return True

    async def _round_of(self, chosen: Sequence[Dirt]) -> None:
        """Raises WorkerFailed, StoreError."""
        scopes = {one.slot: await self._compactions.scope(one) for one in chosen}
        runs = [run for one in chosen for run in dirty_runs(one)]
        sizes = await self._sizes(runs)
        if not all(run.chunk in sizes for run in runs):
            raise WorkerFailed(GONE, again=True)
        chunks, inputs = inputs_of(runs, sizes)
        learned = await self._worker.learn(Learn(scopes=scopes, inputs=chunks, runs=inputs, keys_max=KEYS_MAX))
        ends = [(one, learned.ends[one.slot]) for one in chosen if one.slot in learned.ends]
        round_ = _Round({one.slot: Cleaned(end) for one, end in ends})
        portion = compaction_portion(ends, self._config.chunk_bytes)
        while portion.runs:
            consumed = await self._make(portion, round_, is_last=False)
            portion = replace(portion, runs=portion.runs[consumed:])
        self.counters.compactions += 1

    async def _forget_streams(self) -> None:
        """Rows of streams that are gone go too."""
        table = self._container.table(CLEANED_TABLE)
        gone = [key for key in table.entries if decode_cleaned_key(key).stream_id not in self._container.streams]
        for start in range(0, len(gone), ROWS_PER_RECORD):
            await self._container.update(*(Delete(CLEANED_TABLE, key) for key in gone[start : start + ROWS_PER_RECORD]))

    # Making

    async def _make(self, portion: Portion, round_: _Round, *, is_last: bool) -> int:
        """Have the worker make one chunk; returns how many runs went into it. Raises WorkerFailed, StoreError."""
        await self._commit_due()
        while len(self._made) >= UNCOMMITTED_MAX:
            await asyncio.sleep(max(0.01, self._made[0].due_s - self._clock.monotonic_s()))
            await self._commit_due()
        streams = self._stream_refs(portion)
        sizes = await self._sizes(portion.runs)
        runs = [run for run in portion.runs if run.stream_id in streams and run.chunk in sizes]
        if len(runs) < len(portion.runs) and portion.compact:
            raise WorkerFailed(GONE, again=True)
        if not runs:
            return 0
        chunks, inputs = inputs_of(runs, sizes)
        chunk_id = await self._intend()
        self._busy.hold(runs)
        request = Rewrite(
            id=chunk_id,
            key=chunk_key(chunk_id),
            cluster_id=self._context.long_term.cluster_id,
            created_ms=self._clock.wall_ms(),
            streams=streams,
            inputs=chunks,
            runs=inputs,
            output_bytes=portion.output_bytes,
            compact=portion.compact,
        )
        try:
            done = await self._worker.rewrite(request)
            made = self._made_of(request, done, runs, round_, is_last or done.consumed == len(runs))
        except (WorkerFailed, ValueError) as error:
            round_.failed = True
            self._busy.release(runs)
            await self._abandon(chunk_id)
            if isinstance(error, ValueError):
                raise WorkerFailed(f"a rewrite is not what was asked for: {error}", again=False) from error
            raise
        self._busy.release(runs[done.consumed :])
        self._made.append(made)
        return done.consumed

    def _made_of(
        self, request: Rewrite, done: Rewritten, runs: Sequence[RunRow], round_: _Round, is_last: bool
    ) -> _Made:
        consumed = runs[: done.consumed]
        rows = list(output_rows(request.id, consumed, done.runs))
        for slot_key, cleaned in round_.cleaned.items():
            round_.cleaned[slot_key] = cleaned._replace(
                size=cleaned.size + done.clean_bytes.get(slot_key, 0),
                due_ms=_sooner(cleaned.due_ms, done.due_ms.get(slot_key, -1)),
            )
        now_ms = self._container.trusted.stamp_ms()
        chunk = ChunkRow(
            id=request.id,
            state=ChunkState.VERIFIED,
            created_ms=request.created_ms,
            changed_ms=now_ms,
            size=done.size,
            etag=done.etag,
        )
        self.counters.chunks_in += len(request.inputs)
        self.counters.bytes_in += sum(run.length for run in consumed)
        self.counters.bytes_out += done.size
        due_s = self._clock.monotonic_s() + self._config.tier2_verify_delay_ms / 1000
        return _Made(chunk, consumed, rows, round_, is_last, due_s)

    async def _intend(self) -> ChunkId:
        container, now_ms = self._container, self._container.trusted.stamp_ms()
        chunk_id = ChunkId(container=container.id, epoch=container.epoch, sequence=container.log.next_lsn)
        row = ChunkRow(id=chunk_id, state=ChunkState.INTENT, created_ms=now_ms, changed_ms=now_ms)
        await container.update(Put(PENDING_TABLE, row.key, row.encode()))
        await container.synced()  # or a power cut leaves an object that nobody knows of
        return chunk_id

    async def _abandon(self, chunk_id: ChunkId) -> None:
        now_ms = self._container.trusted.stamp_ms()
        row = ChunkRow(id=chunk_id, state=ChunkState.ABANDONED, created_ms=now_ms, changed_ms=now_ms)
        self.counters.abandoned += 1
        try:
            await self._container.update(Put(PENDING_TABLE, row.key, row.encode()))
        except StorageFull:
            return  # the next start abandons it

    async def _sizes(self, runs: Sequence[RunRow]) -> dict[ChunkId, int]:
        """Of the chunks that are verified."""

        def look_up() -> dict[ChunkId, int]:
            rows = map(self._catalog.find_chunk, {run.chunk for run in runs})
            return {row.id: row.size for row in rows if row is not None and row.state is ChunkState.VERIFIED}

        return await self._catalog.in_thread(look_up)

    async def _are_there(self, runs: Sequence[RunRow]) -> bool:
        """Whether all of these chunks are still verified ones."""
        return {run.chunk for run in runs} <= (await self._sizes(runs)).keys()

    def _stream_refs(self, portion: Portion) -> dict[int, StreamRef]:
        streams = self._container.streams
        ids = {run.stream_id for run in portion.runs}
        return {s.id: StreamRef(id=s.id, uuid=s.uuid, name=s.name) for s in streams.values() if s.id in ids}

    def _show(self, key: SlotKey, cleaned: Cleaned) -> None:
        """Let readers have what is left, though the log may still hold all of it."""
        slot = slot_in(self._container, key)
        if slot is not None:
            slot.compacted_end = max(slot.compacted_end, min(cleaned.end, slot.tiered_end))

    # Commit

    async def _commit_due(self) -> None:
        while self._made and self._made[0].due_s <= self._clock.monotonic_s():
            made = self._made[0]
            if (made.round.is_compaction and made.round.failed) or not await self._is_there(made.chunk):
                made.round.failed = True
                await self._abandon(made.chunk.id)
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
        """Raises StoreError."""
        async with self._context.changing:
            unchanged, operations = await self._catalog.in_thread(self._replacing, made)
            # No await from here to the record. A slot that has gone on needs neither its old rows nor a new one.
            rows = [row for row, _ in made.rows if row.key in unchanged and self._is_live(row)]
            if not rows:
                made.round.failed = True
                await self._abandon(made.chunk.id)
                return
            await self._container.update(*operations, *self._output(made, rows))
        if made.is_last:
            for slot_key, cleaned in made.round.cleaned.items():
                self._show(slot_key, cleaned)
        self.counters.rewrites += 1
        self._context.rows_changed += 1
        logger.info(
            "chunks rewritten",
            extra={"chunk": chunk_key(made.chunk.id), "runs": f"{len(made.inputs)} to {len(rows)}"},
        )

    def _replacing(self, made: _Made) -> tuple[set[bytes], list[Operation]]:
        """Keys of those rows whose inputs are still what they were, and what takes these inputs away. In a thread."""
        same: set[bytes] = set()
        replaced: dict[ChunkId, set[tuple[int, int, int]]] = {}
        operations: list[Operation] = []
        for row, inputs in made.rows:
            if not self._is_unchanged(row, inputs):
                continue
            same.add(row.key)
            for run in inputs:
                operations.append(Delete(RUNS_TABLE, run.key))
                replaced.setdefault(run.chunk, set()).add((run.stream_id, run.slot, run.first))
        for chunk_id, gone in replaced.items():
            chunk = self._catalog.find_chunk(chunk_id)
            if chunk is not None and chunk.runs:
                operations += without_runs(chunk, gone, made.chunk.changed_ms)
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

    def _is_live(self, row: RunRow) -> bool:
        slot = slot_in(self._container, slot_of(row))
        return slot is not None and not slot.stream.deleted and slot.start < row.end

    def _output(self, made: _Made, rows: Sequence[RunRow]) -> Iterator[Operation]:
        """The new chunk and its rows; with the last one of a compaction, how far its slots are clean."""
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
        """A start knows from these rows which slots hold less than was appended, also amid their first round."""
        table = self._container.table(CLEANED_TABLE)
        for key in dict.fromkeys(cleaned_key(slot_of(row)) for row in rows if row.removed):
            if table.get(key) is None:
                yield Put(CLEANED_TABLE, key, Cleaned().encode())


def _sooner(one: int, other: int) -> int:
    """The earlier of two times, of which -1 is none."""
    return max(one, other) if one < 0 or other < 0 else min(one, other)
