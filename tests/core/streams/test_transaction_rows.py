"""A slot's rows of transactions, against all of its entries: in memory, saved, and read from the log."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.streams.transactions import Aborted, SlotTransactions, overlapping
from tests.core.transaction_model import Ended, walk
from tests.core.transaction_script import WRITERS

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Entry:
    base: int
    writer: int = -1
    ends: bool | None = None

    @property
    def end(self) -> int:
        return self.base + 1


@dataclass
class Waiting:
    """A marker on its way."""

    base: int
    first: int
    committed: bool


@dataclass
class Book:
    """The appended entries, the durable end, and the start."""

    entries: list[Entry] = field(default_factory=list)
    durable: int = 0
    start: int = 0


class Transactions(RuleBasedStateMachine):
    """Transactions of several writers in one slot, markers in flight, trims, crashes and saved states among them."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.transactions = SlotTransactions()
        self.waiting: list[Waiting] = []
        self.held: list[tuple[Any, list[Aborted]]] = []

    @property
    def end(self) -> int:
        return len(self.book.entries)

    @rule(writer=st.integers(1, 4), entries=st.integers(1, 3))
    def append(self, writer: int, entries: int) -> None:
        for _ in range(entries):
            self.transactions.began(writer, self.end, 10 * self.end)
            self.book.entries.append(Entry(self.end, writer))

    @rule()
    def append_plainly(self) -> None:
        self.book.entries.append(Entry(self.end))

    @precondition(lambda self: self.transactions.open)
    @rule(data=st.data(), committed=st.booleans())
    def mark(self, data: st.DataObject, committed: bool) -> None:
        writer = data.draw(st.sampled_from(sorted(self.transactions.open)))
        first = self.transactions.ending(writer)
        assert first is not None
        self.waiting.append(Waiting(self.end, first, committed))
        self.book.entries.append(Entry(self.end, writer, committed))

    @rule(writer=st.integers(5, 6))
    def mark_nothing(self, writer: int) -> None:
        assert self.transactions.ending(writer) is None

    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        self.book.durable = data.draw(st.integers(self.book.durable, self.end))
        while self.waiting and self.waiting[0].base < self.book.durable:
            marker = self.waiting.pop(0)
            self.transactions.ended(marker.first, marker.base, committed=marker.committed)

    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        rows = self.transactions.aborted
        self.held.append((rows, list(overlapping(rows, 0, 1 << 40))))
        self.book.start = data.draw(st.integers(self.book.start, self.book.durable))
        self.transactions.forget_before(self.book.start)

    @rule(lost=st.booleans())
    def crash(self, lost: bool) -> None:
        """The state is saved and loaded; transactions in flight are lost, or read from the log."""
        saved = b"\xaa" * 3 + self.transactions.encode(self.book.durable) + b"behind"
        loaded, position = SlotTransactions.decode(saved, 3)
        assert saved[position:] == b"behind"
        if loaded is None:
            assert not self.transactions.aborted
            assert not walk(self.book.entries[: self.book.durable]).open
        replayed, self.book.entries = self.book.entries[self.book.durable :], self.book.entries[: self.book.durable]
        self.transactions, self.waiting, self.held = loaded or SlotTransactions(), [], []
        for entry in [] if lost else replayed:
            if entry.ends is not None:
                first = self.transactions.ending(entry.writer)
                assert first is not None
                self.transactions.ended(first, entry.base, committed=entry.ends)
            elif entry.writer >= 0:
                self.transactions.began(entry.writer, entry.base, 10 * entry.base)
            self.book.entries.append(entry)
        self.book.durable = self.end

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        """A reader of any range gets exactly the aborted transactions in it."""
        first = data.draw(st.integers(self.book.start, self.end))
        end = data.draw(st.integers(first, self.end + 1))
        known = walk(self.book.entries[: self.book.durable]).aborted_in(first, end)
        found = overlapping(self.transactions.aborted, first, end)
        assert known == [Ended(row.last, row.first, row.writer_id) for row in found]

    @invariant()
    def agrees(self) -> None:
        entries, durable = self.book.entries, self.book.durable
        known = walk(entries[:durable])
        assert walk(entries).open == self.transactions.open
        unstable = self.transactions.unstable
        assert list(unstable) == sorted(unstable)
        assert known.stable_end(0, durable) == min(durable, next(iter(unstable), durable))
        assert [10 * first for first in unstable] == [each.bytes_before for each in unstable.values()]
        assert len(unstable) == len(self.transactions.open) + len(self.waiting)
        rows = [Ended(row.last, row.first, row.writer_id) for row in overlapping(self.transactions.aborted, 0, 1 << 40)]
        assert [row for row in known.aborted if row.last >= self.book.start] == rows

    @invariant()
    def holders_see_what_they_had(self) -> None:
        for rows, had in self.held:
            assert had == list(overlapping(rows, 0, 1 << 40))[: len(had)]


TestTransactions = Transactions.TestCase


@given(st.lists(st.sampled_from([".", "a", "b", "c", "a+", "a-", "b-", "c-"]), max_size=14))
def test_aborted_in_every_range(script: list[str]) -> None:
    """Whatever is read, exactly the aborted transactions that overlap it are listed, in the order of their markers."""
    transactions, entries = SlotTransactions(), []
    for base, token in enumerate(script):
        writer, ends = WRITERS.get(token[0], -1), token[1] == "+" if len(token) > 1 else None
        entries.append(Entry(base, writer, ends))
        if ends is not None:
            if (begun := transactions.ending(writer)) is not None:
                transactions.ended(begun, base, committed=ends)
        elif writer >= 0:
            transactions.began(writer, base, base)
    known = walk(entries)
    for first, end in itertools.combinations(range(len(entries) + 2), 2):
        found = [Ended(row.last, row.first, row.writer_id) for row in overlapping(transactions.aborted, first, end)]
        assert known.aborted_in(first, end) == found


def test_aborted_again_where_a_crash_has_cut() -> None:
    """Offsets that a crash takes are given again: what is aborted there is found, though a saved row was made when
    another transaction began further behind."""
    transactions = SlotTransactions()
    transactions.began(1, 0, 0)
    first = transactions.ending(1)
    assert first == 0
    transactions.began(2, 5, 50)  # in flight, behind entries of nobody's
    transactions.ended(first, 1, committed=False)
    loaded, _ = SlotTransactions.decode(transactions.encode(2), 0)
    assert loaded is not None
    loaded.began(3, 2, 20)
    loaded.ending(3)
    loaded.ended(2, 3, committed=False)

    assert [(row.first, row.last) for row in overlapping(loaded.aborted, 0, 5)] == [(0, 1), (2, 3)]
