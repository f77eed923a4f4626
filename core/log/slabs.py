"""The newest bytes of the log in memory, from which the log is written and read.

The *image* of a log file has the file's own bytes at the file's own positions, as far back as memory goes. It consists
of *slabs*: equal pieces of page-aligned memory, so that whole blocks go from them to the disk past the page cache. The
writer copies each frame into the image once. Readers get views of the same bytes. Nothing is kept for a single entry.

Slabs go round. The log takes one after the other. Once there are as many as the bound allows, the oldest one becomes
the next. A thread that gives way to others (`Grower`) makes memory ahead: the first touch of a page costs up to ten
times the copy into it, and neither the event loop nor the writer should pay for that.

**Invariants**

- The writer's thread alone changes the bytes of an image, and only bytes behind all that it has reported as written.
- A slab serves another image only after it has left its image's `views`, so that nobody can get another view of it, and
  after nobody has a view: views share a buffer, and CPython counts the references to it.
- Slabs and the rows that lead to them (`index_bytes`) have at most `bytes_max` bytes, except `SLABS_MIN` slabs, slabs
  that are not written yet, and slabs that somebody still views. `relieve` bounds those that wait for slow readers.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading
import time
from collections import deque
from collections.abc import Callable
from sys import getrefcount
from typing import Final

from core.log.format import Buffer

SLAB_BYTES_MAX: Final = 2 << 20
"""A huge page, where the machine has them: one fault of the first touch instead of 512."""
SLAB_BYTES_MIN: Final = 4096
INDEX_ROW_BYTES: Final = 24
"""Memory of the row that leads to one entry."""
SLABS_MIN: Final = 4
"""The slab that is written, one that is on its way to the disk, one that is read, and one ahead."""
SLABS_WISHED: Final = 16
"""A small bound is cut into about as many slabs."""
AT_ONCE_BYTES: Final = 256 << 20
"""Up to this size the caches of a process grow as fast as its logs: a slab that the grower has not made is made when
needed. Beyond it, the oldest slab is used again, and a cache grows when processors have time."""
AHEAD_SLABS: Final = 16
"""Slabs that are made before anybody needs them."""
VIEWED_SHARE: Final = 8
VIEWED_BYTES_MIN: Final = 16 << 20
"""Slabs that wait for their views may have an eighth of the bound, or this many bytes. Then the views must go."""
JOINED_BYTES_MAX: Final = 64 << 10
"""An entry across two slabs is copied up to this size. A larger one is handed out in pieces."""


class Slab:
    """A piece of memory, in the image of one file at a time."""

    __slots__ = ("_alone", "_shared", "image", "number", "view")

    def __init__(self, memory: mmap.mmap) -> None:
        self.view = memoryview(memory)
        (self._shared,) = gc.get_referents(self.view)
        self._alone = getrefcount(self.view), getrefcount(self._shared)
        self.image: FileImage | None = None
        self.number = 0  # in the image

    def __repr__(self) -> str:
        return f"<Slab {len(self.view)} bytes, {'free' if self.image is None else f'{self.number} of {self.image}'}>"

    @property
    def is_viewed(self) -> bool:
        """Whether anybody has a view of it, or is about to make one. Only for a slab outside of any image."""
        return (getrefcount(self.view), getrefcount(self._shared)) != self._alone


class FileImage:
    """The bytes of one log file that memory holds. The event loop gives and takes its slabs; any thread may read."""

    __slots__ = ("_mask", "_shift", "_slab_bytes", "held", "index_bytes", "views", "written")

    def __init__(self, slab_bytes: int) -> None:
        self._slab_bytes = slab_bytes
        self._shift = slab_bytes.bit_length() - 1
        self._mask = slab_bytes - 1
        self.views: list[memoryview | None] = []  # by the slab's number in the file; None: the memory was taken
        self.held = 0  # slabs
        self.written = 0  # position up to which the file's bytes have left for the disk
        self.index_bytes = 0  # of the rows that lead to this file's entries, once it is complete

    def __repr__(self) -> str:
        return f"<FileImage {self.held} of {len(self.views)} slabs>"

    @property
    def layout(self) -> tuple[list[memoryview | None], int, int, int]:
        """`views`, shift and mask from a position to slab and place, bytes of a slab: for a reader of many entries."""
        return self.views, self._shift, self._mask, self._slab_bytes

    @property
    def room(self) -> int:
        """The position up to which there are slabs, or were."""
        return len(self.views) << self._shift

    def pieces(self, position: int, size: int) -> list[Buffer] | None:
        """Bytes [position, position + size), one piece up to `JOINED_BYTES_MAX`; None if memory lacks any of them."""
        found: list[Buffer] = []
        stop = position + size
        while position < stop:
            at = position & self._mask
            count = min(self._slab_bytes - at, stop - position)
            number = position >> self._shift
            view = self.views[number] if number < len(self.views) else None
            if view is None:
                return None
            found.append(view[at : at + count])
            position += count
        return found if size > JOINED_BYTES_MAX or len(found) == 1 else [b"".join(found)]

    def bytes_at(self, position: int, size: int) -> Buffer | None:
        """The bytes of `pieces` in one piece, whatever their size."""
        found = self.pieces(position, size)
        if found is None:
            return None
        return found[0] if len(found) == 1 else b"".join(found)

    # For the writer's thread

    def fill(self, position: int, data: Buffer) -> int:
        """Put bytes there; returns the position behind them. The slabs must be there."""
        size, at = len(data), position & self._mask
        if at + size <= self._slab_bytes:
            self._slab_of(position)[at : at + size] = data
            return position + size
        source, taken = memoryview(data).cast("B"), 0
        while taken < size:
            at = position & self._mask
            count = min(self._slab_bytes - at, size - taken)
            self._slab_of(position)[at : at + count] = source[taken : taken + count]
            position += count
            taken += count
        return position

    def stretch(self, position: int, size: int) -> list[memoryview]:
        """Bytes [position, position + size), whose slabs must be there, in as few pieces as they lie in."""
        stop = position + size
        pieces: list[memoryview] = []
        while position < stop:
            at = position & self._mask
            pieces.append(self._slab_of(position)[at : min(self._slab_bytes, at + stop - position)])
            position += len(pieces[-1])
        return pieces

    def _slab_of(self, position: int) -> memoryview:
        view = self.views[position >> self._shift]
        assert view is not None, "unwritten bytes are never taken"
        return view


class AtOnce:
    """The memory that all logs of a process may take as fast as they are written. For the event loop.

    Each has its share in any case, which may be less than what one needs, and more than what others leave.
    """

    def __init__(self, bytes_max: int = AT_ONCE_BYTES, share: int = AT_ONCE_BYTES) -> None:
        self._bytes_max = bytes_max
        self._share = share
        self.taken = 0  # bytes, by all logs

    def allows(self, own: int) -> bool:
        """Whether a log that has taken that many bytes may take more."""
        return self.taken < self._bytes_max or own < self._share


class Slabs:
    """All slabs of one log. For the event loop."""

    def __init__(self, bytes_max: int, name: str) -> None:
        size = SLAB_BYTES_MIN
        while size < SLAB_BYTES_MAX and size * 2 * SLABS_WISHED <= bytes_max:
            size *= 2
        self._slab_bytes = size
        self.limit = bytes_max
        self._at_once = AtOnce()
        self._made = 0  # slabs, wherever they are
        self._index_bytes = 0
        self._filled: deque[Slab] = deque()  # in images, in the order of the log
        self._viewed: deque[Slab] = deque()  # in no image, while somebody has a view of it
        self._free: list[Slab] = []
        self._grower = Grower(size, name)
        self.relieve: Callable[[], None] = _nobody
        """Called when too many slabs wait for their views: have some of these given up."""

    def __repr__(self) -> str:
        return f"<Slabs {self.used}/{self.limit} bytes, {len(self._free)} free, {len(self._viewed)} viewed>"

    @property
    def used(self) -> int:
        """Bytes of all slabs and of the rows that lead to them."""
        return self._made * self._slab_bytes + self._index_bytes

    @property
    def viewed(self) -> int:
        """Bytes of slabs that wait until nobody has a view of them."""
        return len(self._viewed) * self._slab_bytes

    def share(self, at_once: AtOnce) -> None:
        """Take memory beside other logs from here on."""
        self._at_once.taken -= self._made * self._slab_bytes
        self._at_once = at_once
        at_once.taken += self._made * self._slab_bytes

    def begin_image(self) -> FileImage:
        """The image of a file that is begun."""
        return FileImage(self._slab_bytes)

    def reach(self, image: FileImage, end: int) -> None:
        """Have slabs for the file's bytes up to `end`, which are written next."""
        while image.room < end:
            slab = self._take()
            slab.image, slab.number = image, len(image.views)
            image.views.append(slab.view)
            image.held += 1
            self._filled.append(slab)

    def completed(self, image: FileImage, index_bytes: int) -> None:
        """Note that the file has its final size, and the bytes of its rows."""
        image.index_bytes = index_bytes
        self._index_bytes += index_bytes

    def dropped(self, image: FileImage) -> None:
        """Note that the file's rows leave memory: nobody finds its bytes any more."""
        self._index_bytes -= image.index_bytes
        image.index_bytes = 0
        if image.held:
            mine = [slab for slab in self._filled if slab.image is image]
            self._filled = deque(slab for slab in self._filled if slab.image is not image)
            for slab in mine:
                self._let_go(slab)

    def close(self) -> None:
        """End the thread that makes memory. What was made leaves with this object."""
        self._grower.close()
        self._count(-self._made)

    def _take(self) -> Slab:
        """Memory for the next bytes: a free slab, a new one, or the oldest."""
        while len(self._viewed) and not self._viewed[0].is_viewed:
            self._free.append(self._viewed.popleft())
        self._count(self._grower.collect(self._free))
        allowed = max(SLABS_MIN, (self.limit - self._index_bytes) // self._slab_bytes)
        grows_at_once = self._made < allowed and self._at_once.allows(self._made * self._slab_bytes)
        if grows_at_once:
            wished = min(AHEAD_SLABS, 1 + len(self._filled)) - len(self._free) - self._grower.asked
        else:
            wished = 0 if self._free else 1
        self._grower.ask(min(wished, allowed - self._made - self._grower.asked))
        while self._made > allowed and self._evict():
            if self._free:
                self._free.pop()
                self._count(-1)
        if not (self._free or grows_at_once):
            self._evict()
        if self._free:
            return self._free.pop()
        self._count(1)
        return Slab(mapped(self._slab_bytes))

    def _count(self, made: int) -> None:
        self._made += made
        self._at_once.taken += made * self._slab_bytes

    def _evict(self) -> bool:
        """Take the oldest slab out of its image; False if its bytes are not written yet. It is free, or viewed."""
        if not self._filled:
            return False
        slab = self._filled[0]
        image = slab.image
        assert image is not None
        if (slab.number + 1) * self._slab_bytes > image.written:
            return False
        self._filled.popleft()
        self._let_go(slab)
        return True

    def _let_go(self, slab: Slab) -> None:
        image, slab.image = slab.image, None
        assert image is not None
        image.views[slab.number] = None
        image.held -= 1
        if slab.is_viewed:
            self._viewed.append(slab)
            if self.viewed > max(VIEWED_BYTES_MIN, self.limit // VIEWED_SHARE):
                self.relieve()
        else:
            self._free.append(slab)


def _nobody() -> None:
    """Free no views: there is nobody who could give some up."""


class Grower:
    """A thread that makes slabs and touches them once, without the interpreter's lock.

    It gives way: after a slab for which its thread had to wait for a processor, it rests for `REST` times as long.
    """

    REST: Final = 4
    REST_S_MAX: Final = 0.5

    def __init__(self, slab_bytes: int, name: str) -> None:
        self._slab_bytes = slab_bytes
        self.asked = 0  # slabs that were asked for and not collected
        self._wishes = threading.Semaphore(0)
        self._ready: deque[Slab] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-memory", daemon=True)

    def ask(self, count: int) -> None:
        """Have that many more made; none if the number is not positive."""
        if count <= 0:
            return
        if not self._thread.ident:
            self._thread.start()
        self.asked += count
        self._wishes.release(count)

    def collect(self, into: list[Slab]) -> int:
        """Take the slabs that were made meanwhile; returns their number."""
        count = 0
        while self._ready:
            into.append(self._ready.popleft())
            count += 1
        self.asked -= count
        return count

    def close(self) -> None:
        """End after the slab that is made now."""
        self._closing.set()
        self._wishes.release()

    def _run(self) -> None:
        while self._wishes.acquire() and not self._closing.is_set():
            began_s, used_s = time.perf_counter(), time.thread_time()
            try:
                memory = mapped(self._slab_bytes)
            except OSError:  # no memory: the oldest slab serves on
                self._wishes.release()
                self._closing.wait(self.REST_S_MAX)
                continue
            touch(memory)
            self._ready.append(Slab(memory))
            waited_s = (time.perf_counter() - began_s) - (time.thread_time() - used_s)
            self._closing.wait(min(self.REST_S_MAX, self.REST * waited_s))


def mapped(size: int) -> mmap.mmap:
    """Page-aligned memory that was never touched, in huge pages where it is large enough. Raises OSError."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= SLAB_BYTES_MAX and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def touch(memory: mmap.mmap) -> None:
    """Have the machine provide all of the memory, without the interpreter's lock."""
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, len(memory))
