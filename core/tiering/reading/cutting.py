"""Cutting: where entries begin and end in the pages of a run, and which of them an answer takes. Pure.

The index names the first entry of each block. An answer is cut at such a point. Entries are looked at one by one only
between points: from a point to the requested offset, and if the answer ends before the next point.

**Invariants**

- An answer is whole entries, in order, and all their blocks passed their check.
- Nothing behind the beginning of a bad block is believed.
- Nothing here waits: `Needs` asks for missing pages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import CorruptChunk

if TYPE_CHECKING:
    from core.log.format import Buffer
    from core.tiering.reading.pages import OpenRun, Page
    from tier2.chunk import EntryHeadOf


NO_TIMESTAMP: Final = -(1 << 63)


class Needs(Exception):
    """Raised for pages that must be there before an answer can be given."""

    def __init__(self, pages: range) -> None:
        super().__init__(f"pages {pages.start} to {pages.stop - 1}")
        self.pages = pages


class Cut(NamedTuple):
    """Whole entries [start, stop) of a run; `end` is the sequence number to go on with."""

    start: int
    stop: int
    end: int


class Head(NamedTuple):
    """The header of an entry."""

    first: int
    span: int  # of sequence numbers
    max_timestamp: int
    size: int

    @property
    def end(self) -> int:
        return self.first + self.span


class View:
    """A run, seen through the pages that are there."""

    def __init__(self, run: OpenRun, find: Callable[[OpenRun, int], Page | None], head_of: EntryHeadOf) -> None:
        self.run = run
        self.held: dict[int, Page] = {}
        self._find = find
        self._head_of = head_of

    def page(self, number: int) -> Page:
        """Raises Needs."""
        page = self.held.get(number)
        if page is None:
            page = self._find(self.run, number)
            if page is None:
                raise Needs(range(number, number + 1))
            self.held[number] = page
        return page

    def require(self, start: int, stop: int) -> None:
        """Raises Needs for all pages of a stretch, from the first that is missing on."""
        pages = self.run.pages(start, stop)
        for number in pages:
            try:
                self.page(number)
            except Needs:
                raise Needs(range(number, pages.stop)) from None

    def bad_from(self, start: int, stop: int) -> int | None:
        """The beginning of the first bad block that touches a stretch. Raises Needs."""
        for number in self.run.pages(start, stop):
            for begin, end in self.page(number).bad:
                if end > start and begin < stop:
                    return begin
        return None

    def parts(self, start: int, stop: int) -> list[Buffer]:
        """The bytes of a stretch, as views of its pages. Raises Needs."""
        size = self.run.page_bytes
        first, last = start // size, (stop - 1) // size
        parts: list[Buffer] = []
        for number in range(first, last + 1):
            data = memoryview(self.page(number).data)
            low = start - number * size if number == first else 0
            parts.append(data[low : stop - number * size] if number == last else data[low:])
        return parts

    def head(self, position: int) -> Head:
        """The entry that begins at a position. Raises Needs, CorruptChunk."""
        number, at = divmod(position, self.run.page_bytes)
        data: bytes | memoryview = self._good(number, position)
        while True:
            try:
                head = Head(*self._head_of(memoryview(data), at))
                break
            except (struct.error, IndexError):
                reached = position - at + len(data)  # up to here the bytes are there, and good
                if reached >= self.run.packed.length:
                    raise self.damaged(position, "an entry is cut off") from None
                if reached % self.run.page_bytes:
                    raise self.damaged(reached) from None
                number = reached // self.run.page_bytes
                data, at = b"".join((data[at:], self._good(number, reached))), 0
        if head.size < 1 or head.span < 1 or position + head.size > self.run.packed.length:
            raise self.damaged(position, f"the entry at {head.first} contradicts the index")
        return head

    def _good(self, number: int, position: int) -> memoryview:
        """The bytes of a page up to the first bad block behind `position`."""
        page = self.page(number)
        data, begin = memoryview(page.data), number * self.run.page_bytes
        for bad, end in page.bad:
            if bad <= position < end:
                raise self.damaged(bad)
            if bad > position:
                return data[: bad - begin]
        return data

    def damaged(self, position: int, why: str = "a block fails its CRC") -> CorruptChunk:
        run, packed = self.run, self.run.packed
        offset = packed.point_first(packed.point_at(position))
        return CorruptChunk(run.key, packed.position + position, f"{why} (slot {packed.slot}, near offset {offset})")


def locate(view: View, offset: int) -> int:
    """The position of the first entry that ends behind `offset`, or the run's length. Raises as `head`."""
    packed = view.run.packed
    position = packed.point_position(packed.point_of(offset))
    while position < packed.length:
        head = view.head(position)
        if head.end > offset:
            break
        position += head.size
    return position


def cut(view: View, position: int, end: int, max_bytes: int, at_least_one: bool) -> Cut:
    """Entries from a position on that begin before `end`, up to `max_bytes`. Raises as `head`."""
    packed = view.run.packed
    last, last_end = packed.length, packed.end
    if end < packed.end:
        last, last_end = _first_from(view, position, end)
    if position >= last:
        return Cut(position, position, last_end)
    found = _cut(view, position, last, last_end, max_bytes, at_least_one)
    view.require(position, found.stop)
    bad = view.bad_from(position, found.stop)
    if bad is not None:
        if bad > position:
            found = _cut(view, position, last, last_end, bad - position, False)
        if bad <= position or found.stop == position:
            raise view.damaged(bad)
    return found


def _cut(view: View, position: int, last: int, last_end: int, max_bytes: int, at_least_one: bool) -> Cut:
    packed = view.run.packed
    limit = position + max_bytes
    if limit >= last:
        return Cut(position, last, last_end)
    point = packed.point_at(limit)
    at = packed.point_position(point)
    if position < at <= limit:
        return Cut(position, at, packed.point_first(point))
    stop, reached = position, -1
    while stop < min(last, limit) or (at_least_one and stop == position):
        head = view.head(stop)
        if stop + head.size > limit and not (at_least_one and stop == position):
            break
        stop, reached = stop + head.size, head.end
    return Cut(position, stop, reached)


def _first_from(view: View, position: int, end: int) -> tuple[int, int]:
    """The position of the first entry from `end` on, and its sequence number."""
    packed = view.run.packed
    at = max(position, packed.point_position(packed.point_of(end)))
    while at < packed.length:
        head = view.head(at)
        if head.first >= end:
            return at, head.first
        at += head.size
    return at, packed.end


# Looking for entries


def located(view: View, offset: int, max_bytes: int) -> int:
    """The same as `locate`, but `Needs` asks for all pages that an answer from there takes."""
    begin = view.run.packed.point_position(view.run.packed.point_of(offset))
    view.require(begin, begin + max(1, max_bytes))
    return locate(view, offset)


def first_at_time(view: View, timestamp: int, offset: int) -> int | None:
    """The position of the first entry that ends behind `offset` and is at least that new."""
    packed = view.run.packed
    point = packed.point_at_time(timestamp, packed.point_of(offset))
    while point is not None:
        for position, head in _heads(view, point):
            if head.end > offset and head.max_timestamp >= timestamp:
                return position
        point = packed.point_at_time(timestamp, point + 1)
    return None


def newest_entry(view: View, offset: int) -> int | None:
    """The position of the first entry with the largest timestamp among those that end behind `offset`."""
    packed, best, newest = view.run.packed, None, NO_TIMESTAMP
    first = packed.point_of(offset)
    points = [first]
    if first + 1 < packed.points:
        points.append(max(range(first + 1, packed.points), key=packed.point_timestamp))
    for point in points:  # only the entries behind the offset count in the first block, so the index cannot tell
        for position, head in _heads(view, point):
            if head.end > offset and (best is None or head.max_timestamp > newest):
                best, newest = position, head.max_timestamp
    return best


def _heads(view: View, point: int) -> Iterator[tuple[int, Head]]:
    """The entries from a point to the next, and their positions."""
    position, stop = view.run.packed.point_position(point), view.run.packed.point_position(point + 1)
    while position < stop:
        head = view.head(position)
        yield position, head
        position += head.size
