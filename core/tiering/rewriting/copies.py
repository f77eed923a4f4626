"""Chunks of one container that are made of another one's runs, for a slot that moves (`core.histories`).

They are made as merges make theirs, by a process that rewrites: each entry byte for byte, in runs that cover what the
other ones covered, with the aborted transactions of their indices. So offsets without a record come along.

**Invariants**

- Runs are committed front to back, each after a second look at its object; when one is not there, none behind it is
  committed. So what is covered has no gap.
- How far the slot is compacted counts with the last of them: a tombstone leaves here when it would have left there.
- What was put and is not committed when the copying ends is abandoned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from core.errors import TierUnavailable
from core.tiering.context import TierContext
from core.tiering.filters import WorkerSetup
from core.tiering.rewriting.cleaned import Cleaned
from core.tiering.rewriting.outputs import Counters, Outputs, Round
from core.tiering.rewriting.planners import Busy
from core.tiering.rewriting.requests import Rewrite
from core.tiering.rewriting.rules import RUNS_MAX, inputs_of, place_of, slot_of
from core.tiering.rewriting.worker import Worker, WorkerFailed
from core.tiering.rows import RunRow, chunk_key
from tier2.chunk_format import ChunkId, StreamRef

PAUSE_S_MAX: Final = 0.5
"""Between two looks at whether the copying may go on, while outputs wait for their second look."""


class Copies:
    """The copies of one slot's runs, made once. The process that makes them is its own: what the container's other one
    has learned of a compaction stays."""

    def __init__(self, context: TierContext, setup: WorkerSetup, start: Callable[[], int]) -> None:
        """`start` is asked again and again where the slot begins, and raises what ends the copying."""
        self._context = context
        self._start = start
        self._worker = Worker(setup, str(context.container.directory.parent))
        self._busy = Busy()
        self._outputs = Outputs(context, self._busy, Counters())

    def __repr__(self) -> str:
        return f"<Copies into container {self._context.container.id}: {len(self._outputs)} uncommitted>"

    async def make(
        self, stream: StreamRef, runs: Sequence[RunRow], sizes: Mapping[ChunkId, int], cleaned: Cleaned
    ) -> None:
        """Copy the runs of a slot, in their order, without those that it begins behind by then; `sizes` are those of
        their chunks, `cleaned` is how far they are compacted. Returns when they are committed. Raises StoreError,
        WorkerFailed, and what `start` raises."""
        left: Sequence[RunRow] = sorted(runs, key=place_of)
        round_ = Round({slot_of(runs[0]): cleaned})
        try:
            while left := self._still_left(left, round_):
                await self._outputs.room()
                left = left[await self._make(stream, left, sizes, round_) :]
            while self._outputs:
                await asyncio.sleep(self._outputs.due_in_s(PAUSE_S_MAX))
                await self._outputs.commit_due()
                self._still_left(left, round_)
        finally:
            await self._worker.end()
            await self._outputs.give_up()

    def _still_left(self, left: Sequence[RunRow], round_: Round) -> Sequence[RunRow]:
        """Of these runs, those that are still of the slot. Raises what ends the copying."""
        start = self._start()
        if round_.failed:
            raise TierUnavailable("a chunk that was copied is not in long-term storage")
        return [run for run in left if run.end > start]

    async def _make(
        self, stream: StreamRef, left: Sequence[RunRow], sizes: Mapping[ChunkId, int], round_: Round
    ) -> int:
        """Have one chunk made of the first of these runs; returns of how many."""
        context, some = self._context, left[:RUNS_MAX]
        container = context.container
        chunks, inputs = inputs_of(some, sizes)
        chunk_id = await self._outputs.intend()
        request = Rewrite(
            id=chunk_id,
            key=chunk_key(chunk_id),
            cluster_id=context.long_term.cluster_id,
            created_ms=container.clock.wall_ms(),
            streams={stream.id: stream},
            inputs=chunks,
            runs=inputs,
            output_bytes=container.config.chunk_bytes,
        )
        try:
            done = await self._worker.rewrite(request)
            is_last = done.consumed == len(left)
            self._outputs.take(request, done, some, round_, is_last=is_last, are_ours=False)
        except ValueError as error:
            await self._outputs.abandon(chunk_id)
            raise WorkerFailed(f"a copy is not what was asked for: {error}", again=False) from error
        except BaseException:
            await self._outputs.abandon(chunk_id)
            raise
        self._busy.hold(some[: done.consumed])
        return done.consumed
