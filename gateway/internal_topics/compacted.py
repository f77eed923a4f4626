"""A compacted log of keys without their values: the newest change of each key, in the order of changes. Pure.

Keeps: offsets only rise, and each key has one: that of its newest change. So whoever has read up to an offset finds
behind it every key that has changed since, once. A deleted key stays, as a tombstone, until `TOMBSTONES_MAX` others
were deleted after it. Looking up an offset and noting a change cost about the same whatever the number of keys, and
there are never more than twice as many entries in memory as keys, but for two blocks of `BLOCK_ENTRIES`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K")

BLOCK_ENTRIES: Final = 1_024
TOMBSTONES_MAX: Final = 10_000
"""Deleted keys that one log remembers."""


class _Block(Generic[K]):
    """A run of entries, of which some may be stale."""

    __slots__ = ("keys", "live", "offsets")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.keys: list[K] = []
        self.live = 0


class CompactedLog(Generic[K]):
    """See the module. `first`: the offset of the first entry."""

    def __init__(self, first: int) -> None:
        self.end = first
        self._newest: dict[K, int] = {}
        self._gone: dict[K, None] = {}  # tombstones, oldest first
        self._firsts: list[int] = [first]  # of each block; an entry may lie behind it
        self._blocks: list[_Block[K]] = [_Block()]

    def __len__(self) -> int:
        return len(self._newest)

    def __contains__(self, key: K) -> bool:
        return key in self._newest

    @property
    def entries_held(self) -> int:
        """Entries in memory, stale ones included."""
        return sum(len(block.offsets) for block in self._blocks)

    def note(self, key: K, *, gone: bool = False) -> int:
        """A key has changed, or was deleted: the change's offset."""
        offset = self.end
        self.end += 1
        self._outdate(key)
        self._newest[key] = offset
        block = self._blocks[-1]
        if len(block.offsets) >= BLOCK_ENTRIES:
            block = _Block()
            self._blocks.append(block)
            self._firsts.append(offset)
            self._tidy_if_stale(len(self._blocks) - 2)
        block.offsets.append(offset)
        block.keys.append(key)
        block.live += 1
        self._gone.pop(key, None)
        if gone:
            self._gone[key] = None
            if len(self._gone) > TOMBSTONES_MAX:
                oldest = next(iter(self._gone))
                del self._gone[oldest]
                self._outdate(oldest)
        return offset

    def _outdate(self, key: K) -> None:
        """The key's entry, if it has one, is stale."""
        offset = self._newest.get(key)
        if offset is None:
            return
        index = bisect_right(self._firsts, offset) - 1
        del self._newest[key]
        self._blocks[index].live -= 1
        if index < len(self._blocks) - 1:
            self._tidy_if_stale(index)

    def _tidy_if_stale(self, index: int) -> None:
        """Drop the stale entries of a block if they are most; join it with the one before if both are small."""
        block = self._blocks[index]
        if 2 * block.live >= len(block.offsets) and block.offsets:
            return
        kept = [
            (offset, key)
            for offset, key in zip(block.offsets, block.keys, strict=True)
            if self._newest.get(key) == offset
        ]
        before = self._blocks[index - 1] if index else None
        if before is not None and len(before.offsets) + len(kept) <= BLOCK_ENTRIES // 2:
            before.offsets += [offset for offset, _ in kept]
            before.keys += [key for _, key in kept]
            before.live += len(kept)
            del self._blocks[index], self._firsts[index]
            return
        block.offsets = [offset for offset, _ in kept]
        block.keys = [key for _, key in kept]
        block.live = len(kept)

    def start(self) -> int:
        """The offset of the first entry; the end when there is none."""
        return next((offset for offset, _ in self.behind(0)), self.end)

    def behind(self, position: int) -> Iterator[tuple[int, K]]:
        """Entries at or behind an offset. Nothing may be noted while it is read."""
        for index in range(max(0, bisect_right(self._firsts, position) - 1), len(self._blocks)):
            block = self._blocks[index]
            for place in range(bisect_left(block.offsets, position), len(block.offsets)):
                offset, key = block.offsets[place], block.keys[place]
                if self._newest.get(key) == offset:
                    yield offset, key
