"""The scrub, which reads long-term storage again, slowly, so that damage is known before anybody needs the bytes.

A pass reads every verified chunk once and checks its CRCs; the next begins `tier2_scrub_interval_ms` after its end. The
scrub only reports damage: nothing else holds those records any more, and the whole ones among them stay readable.

**Invariant**: there is one request at a time, and no more than `BYTES_PER_S`, so that readers do not notice it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from core.background import Background
from core.tiering.rows import ChunkRow, ChunkState, chunk_key
from tier2.chunk import ChunkReader
from tier2.chunk_format import BadChunk, ChunkIndex, Run, check_blocks
from tier2.storage import Corrupt, ObjectNotFound

if TYPE_CHECKING:
    from core.tiering.context import TierContext

logger = logging.getLogger(__name__)

BYTES_PER_S: Final = 8 << 20
RANGE_BYTES: Final = 1 << 20
FIRST_AFTER_S: Final = 3600.0
"""The first pass begins this long after the start, or sooner if the interval is shorter."""
PAUSE_S: Final = 60.0
CHUNKS_PER_STEP: Final = 100

Piece = tuple[Run, int, int]
"""Some blocks of a run: their beginning in it, and their bytes."""


@dataclass(slots=True)
class ScrubCounters:
    """Counters since the start, for the operator."""

    chunks: int = 0
    damaged: int = 0


class Scrub:
    """The scrub of one container's chunks."""

    def __init__(self, context: TierContext) -> None:
        self._catalog = context.catalog
        self._long_term = context.long_term
        self._container_id = context.container.id
        self._interval_s = context.container.config.tier2_scrub_interval_ms / 1000
        self._after = b""  # the place that the pass has reached
        first_s = min(FIRST_AFTER_S, self._interval_s)
        self._background = Background("scrub", self._container_id, self._step, retry_s=PAUSE_S, first_s=first_s)
        self.counters = ScrubCounters()

    @property
    def last_error(self) -> str | None:
        """The error that interrupted a pass; None when the last one went well."""
        return self._background.last_error

    def start(self) -> None:
        """Begin, unless it is turned off."""
        if self._interval_s:
            self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    async def _step(self) -> float:
        await self._pass()
        return self._interval_s

    async def _pass(self) -> None:
        """Take a pass over all verified chunks, from where the last one was interrupted. Raises StorageError."""
        catalog = self._catalog
        while rows := await catalog.in_thread(catalog.verified_from, self._after, CHUNKS_PER_STEP):
            for row in rows:
                await self._look(row)
                self._after = row.key + b"\0"
        self._after = b""

    async def _look(self, row: ChunkRow) -> None:
        try:
            await self._read(row)
        except (Corrupt, ObjectNotFound) as error:
            now = await self._catalog.chunk(row.id)
            if now is None or now.state is not ChunkState.VERIFIED:
                return  # nothing refers to it any more
            self.counters.damaged += 1
            logger.error(
                "an object in long-term storage is damaged or gone: put it back from a backup; "
                "`penstock tier2 verify` names all of them",
                extra={"chunk": chunk_key(row.id), "reason": str(error)},
            )
        self.counters.chunks += 1

    async def _read(self, row: ChunkRow) -> None:
        """Check every block of a chunk. Raises StorageError, Corrupt among them."""
        key, long_term = chunk_key(row.id), self._long_term
        reader = await ChunkReader.open(key, row.size, long_term.storage.get_range, long_term.head_of)
        block_bytes = reader.index.block_bytes
        for pieces in _ranges(reader.index):
            run, start, _ = pieces[0]
            size = sum(length for _, _, length in pieces)
            data = await long_term.storage.get_range(key, run.position + start, size)
            try:
                await asyncio.to_thread(_check, pieces, data, block_bytes)
            except BadChunk as error:
                raise Corrupt(key, error.position, error.why) from error
            await asyncio.sleep(size / BYTES_PER_S)


def _ranges(index: ChunkIndex) -> Iterator[list[Piece]]:
    """All blocks of a chunk, in pieces that lie side by side in its object: small runs share a request."""
    step = max(1, RANGE_BYTES // index.block_bytes) * index.block_bytes
    pieces: list[Piece] = []
    begin = end = 0
    for run in sorted(index.runs, key=lambda run: run.position):
        for start in range(0, run.length, step):
            length = min(step, run.length - start)
            if pieces and (run.position + start != end or end + length - begin > step):
                yield pieces
                pieces = []
            if not pieces:
                begin = run.position + start
            pieces.append((run, start, length))
            end = run.position + start + length
    if pieces:
        yield pieces


def _check(pieces: list[Piece], data: bytes, block_bytes: int) -> None:
    """Raises BadChunk."""
    view, at = memoryview(data), 0
    for run, start, length in pieces:
        check_blocks(run, block_bytes, start, view[at : at + length])
        at += length
