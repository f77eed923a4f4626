"""Records of share-partitions that are read before a member asks for them: where a disk has them, its time passes while
members are at work.

Keeps: at most PIECES_MAX pieces are kept or on their way in a process, each of one partition, and of no more bytes than
an answer has of it; the one that waited longest makes room. A piece is what a read from its offset would have been when
it began: whoever takes it up later judges its batches as those of any other read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from core.streams.entries import ReadResult
    from gateway.groups.share.format import PlaceKey

PIECES_MAX: Final = 32


class Piece(NamedTuple):
    """What is read, or was, from an offset on; None comes of it if long-term storage took too long. `is_committed`:
    nothing of an open transaction is in it."""

    at: int
    is_committed: bool
    reading: asyncio.Task[ReadResult | None]


class ReadAhead:
    """See the module. One for a process."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[PlaceKey, Piece] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ReadAhead {len(self._pieces)} pieces>"

    def __len__(self) -> int:
        return len(self._pieces)

    def begin(
        self, key: PlaceKey, at: int, is_committed: bool, reading: Coroutine[Any, Any, ReadResult | None]
    ) -> None:
        """Read from an offset on, in place of what was read of the partition before."""
        self.drop(key)
        while len(self._pieces) >= PIECES_MAX:
            self.drop(next(iter(self._pieces)))
        task = asyncio.create_task(reading)
        task.add_done_callback(_noted)
        self._pieces[key] = Piece(at, is_committed, task)

    def take(self, key: PlaceKey, at: int, is_committed: bool) -> asyncio.Task[ReadResult | None] | None:
        """What is read from this offset on, if it is; nobody else gets it."""
        piece = self._pieces.get(key)
        if piece is None or (piece.at, piece.is_committed) != (at, is_committed):
            return None
        del self._pieces[key]
        return piece.reading

    def drop(self, key: PlaceKey) -> None:
        """Nobody wants what was read of a partition."""
        piece = self._pieces.pop(key, None)
        if piece is not None:
            piece.reading.cancel()

    async def close(self) -> None:
        """Drop all; returns when nothing is read any more."""
        readings = [piece.reading for piece in self._pieces.values()]
        for key in list(self._pieces):
            self.drop(key)
        await asyncio.gather(*readings, return_exceptions=True)


def _noted(reading: asyncio.Task[ReadResult | None]) -> None:
    """An error is told to whoever takes the piece; if nobody does, it was no news."""
    if not reading.cancelled():
        reading.exception()
