"""Transactions by the book: which of a slot's entries belong to which, found by walking over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class ModelEntry(Protocol):
    """An entry as a test remembers it."""

    @property
    def base(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def writer(self) -> int:
        """The writer whose transaction it belongs to or ends; -1: none."""

    @property
    def ends(self) -> bool | None:
        """A marker: whether it commits. None: no marker."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An aborted transaction, from its first entry to its marker."""

    last: int
    first: int
    writer: int


@dataclass(frozen=True, slots=True)
class Walked:
    """The transactions of the model."""

    open: dict[int, int]  # writer: first sequence number
    aborted: list[Ended]  # by their markers

    def stable_end(self, start: int, end: int) -> int:
        return max(start, min(self.open.values(), default=end))

    def aborted_in(self, first: int, end: int) -> list[Ended]:
        return [each for each in self.aborted if each.first < end and each.last >= first]


def walk(entries: Iterable[ModelEntry]) -> Walked:
    """All transactions of a slot that holds these and nothing else."""
    found = Walked({}, [])
    for entry in entries:
        if entry.ends is None and entry.writer >= 0:
            found.open.setdefault(entry.writer, entry.base)
        elif entry.ends is not None:
            first = found.open.pop(entry.writer, None)
            if first is not None and not entry.ends:
                found.aborted.append(Ended(entry.base, first, entry.writer))
    return found
