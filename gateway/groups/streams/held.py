"""What somebody holds, with the epoch at which each part of it came.

Keeps: it never changes; each thing has one epoch, and no epoch is without things. What came at one epoch is one set,
shared with whoever gave it and with what is left of it later: there may be 100,000 things, and of a step's work on the
event loop most was to copy them. A set's own methods are used throughout, as they know the hashes of its things.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Held(Generic[T]):
    """See the module."""

    __slots__ = ("_by_epoch",)

    def __init__(self, by_epoch: Mapping[int, frozenset[T]] | None = None) -> None:
        """The sets have no thing in common."""
        self._by_epoch = {epoch: things for epoch, things in (by_epoch or {}).items() if things}

    @classmethod
    def of(cls, pairs: Iterable[tuple[T, int]]) -> Held[T]:
        """Things, each with its epoch."""
        by_epoch: dict[int, set[T]] = {}
        for thing, epoch in pairs:
            by_epoch.setdefault(epoch, set()).add(thing)
        return cls({epoch: frozenset(things) for epoch, things in by_epoch.items()})

    def __repr__(self) -> str:
        return f"<Held {len(self)} of {len(self._by_epoch)} epochs>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self._by_epoch == other._by_epoch

    __hash__ = None  # type: ignore[assignment]  # as a dictionary has none

    def __len__(self) -> int:
        return sum(map(len, self._by_epoch.values()))

    def __iter__(self) -> Iterator[T]:
        for things in self._by_epoch.values():
            yield from things

    @property
    def sets(self) -> list[frozenset[T]]:
        """All of it, a set for each epoch."""
        return list(self._by_epoch.values())

    def pairs(self) -> Iterator[tuple[T, int]]:
        """Each thing with its epoch."""
        for epoch, things in self._by_epoch.items():
            for thing in things:
                yield thing, epoch

    def epoch_of(self, thing: T) -> int | None:
        """The epoch at which it came; None for what is not held."""
        return next((epoch for epoch, things in self._by_epoch.items() if thing in things), None)

    def all(self) -> frozenset[T]:
        """All of it as one set."""
        sets = self.sets
        return sets[0] if len(sets) == 1 else frozenset[T]().union(*sets)

    def split(self, some: frozenset[T]) -> tuple[Held[T], Held[T]]:
        """What is among some things, and what is not."""
        inside = {epoch: common(things, some) for epoch, things in self._by_epoch.items()}
        outside = {epoch: without(things, inside[epoch]) for epoch, things in self._by_epoch.items()}
        return Held(inside), Held(outside)

    def plus(self, epoch: int, things: frozenset[T]) -> Held[T]:
        """With things more, none of which is held, that come at this epoch."""
        if not things:
            return self
        known = self._by_epoch.get(epoch)
        return Held({**self._by_epoch, epoch: things if known is None else known | things})

    def has_any_of(self, some: frozenset[T]) -> bool:
        return not all(some.isdisjoint(things) for things in self._by_epoch.values())


def common(things: frozenset[T], some: frozenset[T]) -> frozenset[T]:
    """Those in both; one of the two itself, if it has no others. To look costs half of what it costs to copy."""
    if things is some:
        return things
    less, more = (things, some) if len(things) <= len(some) else (some, things)
    return less if less <= more else less & more


def joined(first: frozenset[T], second: frozenset[T]) -> frozenset[T]:
    """Those in either; one of the two itself, if the other is empty."""
    return first | second if first and second else first or second


def without(things: frozenset[T], *parts: frozenset[T]) -> frozenset[T]:
    """Those that are in none of some parts of them, which have nothing in common."""
    gone = sum(map(len, parts))
    if not gone:
        return things
    return frozenset() if gone == len(things) else things.difference(*parts)
