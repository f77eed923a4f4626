"""Rewriting of chunks in the background: small ones are merged, slots are compacted, what dead runs keep is freed.

What is worth it, and how much it costs, is the planners' (`core.tiering.rewriting.planners`); the work is done in a
process of its own (`core.tiering.rewriting.worker`); what becomes of its outputs is told in
`core.tiering.rewriting.outputs`. Here is decided what is done next, for one container.

**Invariants**

- Inputs are runs of verified chunks, and no run is in two rewrites at a time (`_busy`).
- A slot that leaves is in no rewrite that begins from then on; those that are under way end (`leaving`, `is_at`).
- A worker that fails, or a store that stops amid anything, leaves intents, which the next start abandons.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from core.background import Background
from core.log.records import Delete
from core.tiering.context import TierContext
from core.tiering.filters import WorkerSetup
from core.tiering.rewriting.cleaned import CLEANED_TABLE, Cleaned, decode_cleaned_key, key_of
from core.tiering.rewriting.outputs import Counters, Outputs, Round
from core.tiering.rewriting.planners import Busy, CompactionPlanner, MergePlanner, SlotLeaves
from core.tiering.rewriting.requests import Learn, Rewrite
from core.tiering.rewriting.rules import Dirt, Portion, compaction_portion, dirty_runs, inputs_of
from core.tiering.rewriting.worker import Worker, WorkerFailed
from core.tiering.rows import ChunkState, RunRow, chunk_key, parse_chunk_key
from tier2.chunk_format import ChunkId, StreamRef

if TYPE_CHECKING:
    from core.streams.live import Slot

logger = logging.getLogger(__name__)

KEYS_MAX: Final = 500_000
"""Keys that one round of compaction holds: some 100 MB in the worker."""
IDLE_S: Final = 60.0
"""How long the worker is kept for the next rewrite."""
LOOK_AGAIN_S: Final = 300.0
"""How often chunks are looked through though none came and none of their runs has died: some are verified by now."""
ROWS_PER_RECORD: Final = 1000
GONE: Final = "what a compaction was to read has been deleted meanwhile"


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
        self._busy = Busy()
        self.counters = Counters()
        self._outputs = Outputs(context, self._busy, self.counters)
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

    def __repr__(self) -> str:
        return f"<Rewriter {self._container.id}: {len(self._outputs)} uncommitted, {self.counters}>"

    @property
    def worker_pid(self) -> int | None:
        """The process that rewrites, while there is one."""
        return self._worker.pid

    @property
    def last_error(self) -> str | None:
        """Why the last look failed; None when it went well."""
        return self._background.last_error

    def start(self) -> None:
        self._outputs.show_cleaned()
        self._background.start()

    async def stop(self) -> None:
        """End; what is on its way is abandoned by the next start."""
        await self._background.stop()
        await self._worker.end()

    async def _step(self) -> float:
        return 0 if await self.work() else self._outputs.due_in_s(at_most=self._config.rewrite_interval_ms / 1000)

    async def work(self) -> bool:
        """Do the next thing that is due, and commit what can be; whether there was anything.

        Raises StoreError, StorageError, WorkerFailed.
        """
        await self._outputs.commit_due()
        if self._context.is_pressed or self._context.snapshots.lacks_room:
            return False  # storage and processors are needed elsewhere
        now = self._clock.monotonic_s()
        try:
            has_worked = await self._compact() or await self._merge()
        except SlotLeaves:
            return True  # the next plan leaves it out
        if has_worked:
            self._worked_s = self._clock.monotonic_s()
            return True
        if self._worker.pid is not None and now - self._worked_s >= IDLE_S:
            await self._worker.end()
        return False

    @contextlib.contextmanager
    def leaving(self, slot: Slot) -> Iterator[None]:
        """A slot is to leave the container: nothing of it is rewritten any more, but for what is under way."""
        self._busy.leaves(key_of(slot))
        try:
            yield
        finally:
            self._busy.stays(key_of(slot))

    def is_at(self, slot: Slot) -> bool:
        """Whether a rewrite of a slot's runs is under way."""
        return self._busy.is_at(key_of(slot))

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
                made += await self._make(portion, Round(), is_last=True)
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
        round_ = Round({one.slot: Cleaned(end) for one, end in ends})
        portion = compaction_portion(ends, self._config.chunk_bytes)
        while portion.runs:
            consumed = await self._make(portion, round_, is_last=False)
            portion = replace(portion, runs=portion.runs[consumed:])
        self.counters.compactions += 1

    async def _forget_streams(self) -> None:
        """Rows of streams that are gone go too."""
        table, streams = self._container.table(CLEANED_TABLE), self._container.streams
        gone = [key for key in table.entries if decode_cleaned_key(key).stream_id not in streams]
        for start in range(0, len(gone), ROWS_PER_RECORD):
            some = gone[start : start + ROWS_PER_RECORD]
            # Some may have come back, with rows, while others were logged.
            still = [key for key in some if decode_cleaned_key(key).stream_id not in streams]
            if still:
                await self._container.update(*(Delete(CLEANED_TABLE, key) for key in still))

    # Making

    async def _make(self, portion: Portion, round_: Round, *, is_last: bool) -> int:
        """Have the worker make one chunk; returns how many runs went into it. Raises WorkerFailed, StoreError."""
        await self._outputs.room()
        streams = self._stream_refs(portion)
        sizes = await self._sizes(portion.runs)
        runs = [run for run in portion.runs if run.stream_id in streams and run.chunk in sizes]
        if len(runs) < len(portion.runs) and portion.compact:
            raise WorkerFailed(GONE, again=True)
        if not runs:
            return 0
        chunks, inputs = inputs_of(runs, sizes)
        chunk_id = await self._outputs.intend()
        try:
            self._busy.check(runs)
        except SlotLeaves:
            round_.failed = True
            await self._outputs.abandon(chunk_id)
            raise
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
            is_last = is_last or done.consumed == len(runs)
            self._outputs.take(request, done, runs, round_, is_last=is_last, are_ours=True)
        except (WorkerFailed, ValueError) as error:
            round_.failed = True
            self._busy.release(runs)
            await self._outputs.abandon(chunk_id)
            if isinstance(error, ValueError):
                raise WorkerFailed(f"a rewrite is not what was asked for: {error}", again=False) from error
            raise
        self._busy.release(runs[done.consumed :])
        return done.consumed

    async def _sizes(self, runs: Sequence[RunRow]) -> dict[ChunkId, int]:
        """The rows of verified chunks."""

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
