"""Memory into which a thread opens batches, one after the other.

To provide memory for a batch costs several times what its codec does: the machine clears each page at its first touch,
and takes it back afterwards. A *room* is as large as the largest batch that may be opened. Of it the machine provides
what is used, and it serves again.

**Invariant**: a room serves again only after nobody has a view of what was opened there before: views share a buffer,
and CPython counts the references to it.
"""

from __future__ import annotations

import gc
import mmap
import threading
from sys import getrefcount
from typing import Final

KEPT_BYTES_MAX: Final = 4 * 1024 * 1024
"""A room of which more was used goes with the last view of it: a thread at rest keeps no more than this."""
HUGE_BYTES_MIN: Final = 2 * 1024 * 1024


class Room:
    """The memory of one thread, of which pages are taken as they are used."""

    __slots__ = ("_alone", "_shared", "size", "view")

    def __init__(self, size: int) -> None:
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no room of {size} bytes to open a batch: {error.strerror}") from error
        if size >= HUGE_BYTES_MIN and hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self.size = size
        self.view = memoryview(memory)
        (self._shared,) = gc.get_referents(self.view)
        self._alone = getrefcount(self._shared)

    def __repr__(self) -> str:
        return f"<Room {self.size} bytes, {'viewed' if self.is_viewed else 'free'}>"

    @property
    def is_viewed(self) -> bool:
        """Whether anybody has a view of a part of it."""
        return getrefcount(self._shared) != self._alone


class _Mine(threading.local):
    room: Room | None = None


_mine: Final = _Mine()


def take_room(size: int) -> Room:
    """A room of at least that many bytes, which nobody views. Raises MemoryError."""
    room, _mine.room = _mine.room, None
    return Room(size) if room is None or room.size < size or room.is_viewed else room


def give_back(room: Room, used: int) -> None:
    """Keep the room for this thread's next batch, if at most `KEPT_BYTES_MAX` bytes of it were used."""
    if used <= KEPT_BYTES_MAX:
        _mine.room = room
