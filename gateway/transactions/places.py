"""A transaction's partitions: a set that grows, of which every former state goes on to be read.

A transaction's next state holds the partitions of the state before and a few more. Both share one table, and each knows
how much of it is its own, so that a further partition costs the same whether there are ten before it or 150,000.

Keeps: what a set holds never changes. Only a set that holds all of its table adds to it; any other one copies its part
first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

_PLACE: Final = struct.Struct("<II")
PLACE_BYTES: Final = _PLACE.size
READ_AT_ONCE: Final = 1_024


class Place(NamedTuple):
    """A partition, by numbers that never change."""

    stream_id: int
    slot: int


class Places(Set[Place]):
    """See the module. Iterates in the order of arrival."""

    __slots__ = ("_count", "_numbers", "_packed")

    def __init__(self, places: Iterable[Place] = ()) -> None:
        self._numbers: dict[Place, int] = {}  # in the order of arrival
        self._packed = bytearray()  # the same, as they are stored
        self._count = 0
        self._extend(places)

    def __repr__(self) -> str:
        return f"<Places {self._count} partitions>"

    def __contains__(self, place: object) -> bool:
        return self._numbers.get(place, self._count) < self._count  # type: ignore[call-overload,no-any-return]

    def __iter__(self) -> Iterator[Place]:
        return (place for first in range(0, self._count, READ_AT_ONCE) for place in self.some(first, READ_AT_ONCE))

    def __len__(self) -> int:
        return self._count

    __hash__ = Set._hash

    def has_all(self, places: Iterable[Place]) -> bool:
        return all(place in self for place in places)

    def some(self, first: int, count: int) -> list[Place]:
        """Those from the number `first` on, `count` at most."""
        end = min(self._count, first + count)
        return list(map(Place._make, _PLACE.iter_unpack(self._packed[first * PLACE_BYTES : end * PLACE_BYTES])))

    def packed(self) -> bytes:
        """u32 stream, u32 slot of each."""
        return bytes(self._packed[: self._count * PLACE_BYTES])

    def adding(self, places: Iterable[Place]) -> Places:
        """With more of them."""
        following = Places()
        if self._count and self._count == len(self._numbers):
            following._numbers, following._packed = self._numbers, self._packed
        elif self._count:  # another state grew from this one
            following._numbers = {place: n for place, n in self._numbers.items() if n < self._count}
            following._packed = self._packed[: self._count * PLACE_BYTES]
        following._count = self._count
        following._extend(places)
        return following

    def _extend(self, places: Iterable[Place]) -> None:
        numbers, pack = self._numbers, _PLACE.pack
        for place in places:
            if place not in numbers:
                numbers[place] = self._count
                self._packed += pack(*place)
                self._count += 1

    @classmethod
    def unpack(cls, packed: bytes) -> Places:
        return cls(map(Place._make, _PLACE.iter_unpack(packed)))


NO_PLACES: Final = Places()
