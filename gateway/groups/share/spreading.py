"""Which members of a share group read which partitions.

Keeps: every partition has a reader and every reader a partition; the numbers of readers of two partitions differ by one
at most, and so do those of two readers' partitions. Within that, a reader keeps what it had.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar
from uuid import UUID

Partitions = Mapping[UUID, frozenset[int]]
Place = tuple[UUID, int]

_T = TypeVar("_T", bound=Hashable)


def spread(
    readers: Sequence[str], places: Sequence[Place], before: Mapping[str, Partitions]
) -> Iterator[tuple[str, Place]]:
    """Pairs of readers and partitions; one at least of each. `before`: what readers had."""
    pairs = max(len(readers), len(places))
    of_readers, of_places = _Quota(readers, pairs), _Quota(places, pairs)
    for reader in readers:
        for topic, numbers in before.get(reader, {}).items():
            for number in sorted(numbers):
                if of_places.has_room((topic, number)) and of_readers.has_room(reader):
                    of_places.take((topic, number))
                    of_readers.take(reader)
                    yield reader, (topic, number)
    # Either a reader or a partition has one pair only, so no pair comes twice.
    yield from zip(of_readers.rest(), of_places.rest(), strict=True)


class _Quota(Generic[_T]):
    """How many pairs each item gets: a number, or for some of them one more."""

    def __init__(self, items: Sequence[_T], pairs: int) -> None:
        self._least, self._extra = divmod(pairs, len(items))
        self._taken = dict.fromkeys(items, 0)

    def has_room(self, item: _T) -> bool:
        taken = self._taken.get(item)
        return taken is not None and (taken < self._least or (taken == self._least and self._extra > 0))

    def take(self, item: _T) -> None:
        self._extra -= self._taken[item] == self._least
        self._taken[item] += 1

    def rest(self) -> Iterator[_T]:
        """What is left to take."""
        extra = self._extra
        for item, taken in self._taken.items():
            for _ in range(self._least - taken):
                yield item
            if extra > 0 and taken <= self._least:
                extra -= 1
                yield item
