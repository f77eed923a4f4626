"""The history of a slot that compaction has been at, when the slot moves (`core.moving`): it comes chunk by chunk.

An entry of a log begins where the one before it ends, so what compaction has left cannot go through the target's log.
It is in chunks, all of it. These are copied into chunks of the target (`core.tiering.rewriting.copies`); what lies
behind them has a record at each offset, and goes through the log as ever.

**Invariants**

- Nothing rewrites the slot from before its chunks are looked up until its move has ended. What a compaction had begun
  has ended by then, with its outputs committed or abandoned: the rows and how far it is compacted belong together.
- The target's entries begin in its log where the copied chunks end.
- A crash before the decision leaves chunks of an arrival, which the next start takes back with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.errors import CannotMove, NotMovedYet
from core.tiering.rewriting.cleaned import CLEANED_TABLE, Cleaned, cleaned_key, decode_cleaned, key_of
from core.tiering.rewriting.copies import Copies
from core.tiering.rewriting.worker import WorkerFailed
from core.tiering.rows import ChunkState, RunRow
from tier2.chunk_format import ChunkId, StreamRef

if TYPE_CHECKING:
    from core.container.container import Container
    from core.copying import Move
    from core.hosted import HostedContainer
    from core.streams.live import Slot
    from core.tiering.catalog import Catalog
    from core.tiering.rewriting.rewriter import Rewriter

QUIET_S_MAX: Final = 600.0
"""The longest wait for a rewrite of the slot that is under way, and for the second look at its newest chunks."""
PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class History:
    """The verified runs of a compacted slot from its start on, with the sizes of their chunks."""

    runs: Sequence[RunRow]
    sizes: Mapping[ChunkId, int]
    cleaned: Cleaned

    @property
    def end(self) -> int:
        return self.runs[-1].end

    @property
    def appended_bytes(self) -> int:
        """Bytes of all entries that were ever appended before `end`."""
        return self.runs[-1].bytes_before + self.runs[-1].appended

    @property
    def stored_bytes(self) -> int:
        return sum(run.length for run in self.runs)


def has_holes(slot: Slot) -> bool:
    """Whether compaction has taken records out of a slot."""
    return bool(slot.removed) or slot.compacted_end > slot.start


def copies_chunks(hosted: HostedContainer) -> bool:
    """Whether chunks can be copied into a container."""
    return hosted.tier is not None and hosted.tier.long_term.rewriting is not None


@contextlib.asynccontextmanager
async def left_alone(slot: Slot, source: HostedContainer) -> AsyncIterator[History | None]:
    """Have nothing rewritten of a slot that moves. What is given has to come chunk by chunk; None: nothing has to.
    Raises NotMovedYet, StoreError."""
    rewriter = None if source.tier is None else source.tier.rewriter
    with contextlib.nullcontext() if rewriter is None else rewriter.leaving(slot):
        if rewriter is not None and (slot.stream.policy.compact or has_holes(slot)):
            await _quiet(slot, source.container, rewriter)
        yield await _history_of(slot, source) if has_holes(slot) else None


async def _quiet(slot: Slot, container: Container, rewriter: Rewriter) -> None:
    """Wait until no rewrite of a slot is under way. Raises NotMovedYet."""
    try:
        async with asyncio.timeout(QUIET_S_MAX):
            while rewriter.is_at(slot):
                if container.is_left or container.failed.done():
                    raise _not_yet(slot, f"container {container.id} leaves this process")
                await asyncio.sleep(PAUSE_S)
    except TimeoutError as error:
        raise _not_yet(slot, f"its chunks were still rewritten after {QUIET_S_MAX:g} s") from error


async def _history_of(slot: Slot, source: HostedContainer) -> History | None:
    """None if all of it has been deleted meanwhile. Raises NotMovedYet, StoreError."""
    runs, sizes = await source.catalog.in_thread(_verified, source.catalog, slot)
    end = runs[-1].end if runs else slot.start
    if end < slot.compacted_end or slot.removed.behind(end):
        raise _not_yet(slot, "the chunks that compaction has made are not all verified yet")
    if not runs:
        return None
    row = source.container.table(CLEANED_TABLE).get(cleaned_key(key_of(slot)))
    return History(runs, sizes, Cleaned() if row is None else decode_cleaned(row))


def _verified(catalog: Catalog, slot: Slot) -> tuple[list[RunRow], dict[ChunkId, int]]:
    """A slot's runs up to the first chunk that was not looked at twice. Blocks."""
    runs: list[RunRow] = []
    sizes: dict[ChunkId, int] = {}
    for run in catalog.iter_runs(slot.stream.id, slot.number, slot.start):
        if run.chunk not in sizes:
            chunk = catalog.find_chunk(run.chunk)
            if chunk is None or chunk.state is not ChunkState.VERIFIED:
                break
            sizes[run.chunk] = chunk.size
        runs.append(run)
    return runs, sizes


async def bring(move: Move, history: History) -> None:
    """Copy it into chunks of the target; returns when they are there for good. Raises NotMovedYet, CannotMove,
    StoreError."""
    stream, slot, tier = move.stream, move.slot, move.target.tier
    assert tier is not None, "where the source has chunks the target can have some"
    assert tier.long_term.rewriting is not None, "it was asked for before"

    def start() -> int:
        move.check()
        return slot.start

    copies = Copies(tier.context, tier.long_term.rewriting, start)
    try:
        await copies.make(
            StreamRef(id=stream.id, uuid=stream.uuid, name=stream.name), history.runs, history.sizes, history.cleaned
        )
    except WorkerFailed as error:
        why = f"its compacted chunks were not copied: {error}"
        if error.again or slot.start > history.runs[0].first:  # they may have been deleted under the copying
            raise _not_yet(slot, why) from error
        raise CannotMove(stream.name, slot.number, why) from error
    move.copied_bytes += history.stored_bytes


def _not_yet(slot: Slot, why: str) -> NotMovedYet:
    return NotMovedYet(slot.stream.name, slot.number, why)
