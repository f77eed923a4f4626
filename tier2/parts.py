"""An object's bytes as the parts of an upload, without a copy of large pieces.

Invariants:
- All parts except the last are full; none is empty unless the object is.
- A piece is kept by reference only if it is large: a view keeps its whole buffer alive, which may be many times as
  large as a small entry between others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tier2.storage import Buffer

COPIED_BELOW: Final = 128 << 10
"""Pieces of fewer bytes are copied together, as each piece is a write to the socket."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part's bytes, piece by piece: a body for urllib3, which takes anything that it can iterate over."""

    pieces: tuple[Buffer, ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self.pieces)

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that has begun; whether the server checks each part's CRC-32C."""

    id: str
    is_checked: bool


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part of an upload that the server has."""

    number: int
    etag: str
    size: int
    crc: str


def cut(source: Iterator[Buffer], part_bytes: int) -> Iterator[Part]:
    """The bytes of `source` in parts of `part_bytes`; an empty source has one empty part."""
    building = _Building()
    count = 0
    for piece in source:
        view = memoryview(piece).cast("B")
        while view:
            room = part_bytes - building.size
            building.add(view[:room])
            view = view[room:]
            if building.size == part_bytes:
                yield building.done()
                building, count = _Building(), count + 1
    if building.size or not count:
        yield building.done()


class _Building:
    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[Buffer] = []
        self._small = bytearray()  # the newest ones

    def add(self, piece: memoryview) -> None:
        self.size += len(piece)
        if len(piece) < COPIED_BELOW:
            self._small += piece
            return
        self._join()
        self._pieces.append(piece)

    def done(self) -> Part:
        self._join()
        return Part(tuple(self._pieces), self.size)

    def _join(self) -> None:
        if self._small:
            self._pieces.append(self._small)
            self._small = bytearray()
