"""Whether a history can be explained by a log that keeps its promises; every anomaly has a kind and names its evidence.

Values are unique, so a value read tells which transaction wrote it. "Visible" is a value that any read_committed reader
was given. What a transaction without a known end ("info") wrote may be visible or not, but all of it or nothing.

Kafka does not keep apart the writes of transactions that run at the same time: cycles of ww edges (G0) are legal there,
so they are looked for only when asked (`write_cycles`). A cycle of wr edges never is legal.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from compat_tests.histories.cycles import cycle_in
from compat_tests.histories.history import COMMITTED, History, Operations, Place, Read, Send, Transaction

EACH_MAX: Final = 5  # anomalies of one kind that are told


@dataclass(frozen=True, slots=True)
class Anomaly:
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def check(history: History, *, write_cycles: bool = False) -> list[Anomaly]:
    """Every kind of anomaly that is there, each at most EACH_MAX times."""
    found = Facts(Operations.of(history))
    checks = {
        "inconsistent offset": inconsistent_offsets(found),
        "duplicate": duplicates(found),
        "invented": invented(found),
        "aborted read": aborted_reads(found),
        "uncommitted read": uncommitted_reads(found),
        "zombie": zombies(found),
        "torn": torn(found),
        "lost": lost(found),
        "unseen": unseen(found),
        "stuck": stuck(found),
        "consumed twice": consumed_twice(found),
        "never consumed": never_consumed(found),
        "poll order": poll_order(found),
        "poll skip": poll_skips(found),
        "send order": send_order(found),
        "G1c": read_cycles(found),
    }
    if write_cycles:
        checks["G0"] = write_cycles_of(found)
    return [Anomaly(kind, text) for kind, texts in checks.items() for text in itertools.islice(texts, EACH_MAX)]


class Facts:
    """The facts that follow from the operations before anything is judged."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.writer: dict[str, tuple[Transaction, Send]] = {}
        for transaction in operations.transactions:
            for send in transaction.sends:
                self.writer[send.value] = transaction, send
        self.committed: dict[Place, dict[int, str]] = defaultdict(dict)  # what read_committed readers were given
        self.due: dict[Place, dict[int, str]] = defaultdict(dict)  # that, and what else was committed
        self.known: dict[Place, dict[int, str]] = defaultdict(dict)  # that, what others read, what was acknowledged
        self.first_seen: dict[str, tuple[int, str]] = {}  # by read_committed readers: when, and by whom
        for process, at, read in self.all_reads():
            self.known[read.place][read.offset] = read.value
            if self.is_committed(process):
                self.committed[read.place][read.offset] = self.due[read.place][read.offset] = read.value
                self.first_seen[read.value] = min((at, process), self.first_seen.get(read.value, (at, process)))
        for transaction, send in self.writer.values():
            if send.offset is not None:
                self.known[send.place].setdefault(send.offset, send.value)
                if transaction.outcome == "ok" or self.is_visible(send):
                    self.due[send.place][send.offset] = send.value
        self.last_read = {place: max(offsets) for place, offsets in self.committed.items()}
        self.is_over = operations.ends is not None

    def is_committed(self, process: str) -> bool:
        return self.operations.isolation.get(process) == COMMITTED

    def all_reads(self) -> Iterator[tuple[str, int, Read]]:
        for process, steps in self.operations.steps.items():
            for step in steps:
                for read in step.reads:
                    yield process, step.at, read

    def is_visible(self, send: Send) -> bool:
        return send.value in self.first_seen

    def is_passed(self, send: Send) -> bool:
        """Whether readers have gone on beyond it."""
        return send.offset is not None and send.offset < self.last_read.get(send.place, -1)

    def missing(self, transaction: Transaction) -> list[Send]:
        """Values that no reader got although readers passed their place, or the last look is over."""
        return [s for s in transaction.sends if not self.is_visible(s) and (self.is_over or self.is_passed(s))]


def inconsistent_offsets(facts: Facts) -> Iterator[str]:
    """One offset shows two values."""
    values: dict[tuple[Place, int], set[str]] = defaultdict(set)
    for _, _, read in facts.all_reads():
        values[read.place, read.offset].add(read.value)
    for _, send in facts.writer.values():
        if send.offset is not None:
            values[send.place, send.offset].add(send.value)
    for (place, offset), there in values.items():
        if len(there) > 1:
            yield f"{place} has {sorted(there)} at {offset}"


def duplicates(facts: Facts) -> Iterator[str]:
    """One value shows at two offsets."""
    places: dict[str, set[tuple[Place, int]]] = defaultdict(set)
    for _, _, read in facts.all_reads():
        places[read.value].add((read.place, read.offset))
    for value, found in places.items():
        if len(found) > 1:
            yield f"{value} lies at {sorted(found)}"


def invented(facts: Facts) -> Iterator[str]:
    """A value that nobody sent, or that was sent elsewhere."""
    for process, _, read in facts.all_reads():
        if read.value not in facts.writer:
            yield f"{process} read {read.value} at {read.place} {read.offset}, which nobody sent"
        elif facts.writer[read.value][1].place != read.place:
            yield f"{process} read {read.value} at {read.place}, sent to {facts.writer[read.value][1].place}"


def aborted_reads(facts: Facts) -> Iterator[str]:
    """A read_committed reader was given what has been aborted."""
    for value, (at, process) in facts.first_seen.items():
        transaction, send = facts.writer.get(value, (None, None))
        if transaction is not None and transaction.outcome == "fail":
            yield f"{process} read {value} at {send and send.place} (event {at}), aborted by the {transaction}"


def uncommitted_reads(facts: Facts) -> Iterator[str]:
    """A read_committed reader was given a value before its commit was asked for: somebody's, or its own."""
    for value, (at, process) in facts.first_seen.items():
        transaction, _ = facts.writer.get(value, (None, None))
        if transaction is None or transaction.outcome == "fail":
            continue
        if transaction.committing is None or at < transaction.committing:
            own = " of its own" if process.startswith(f"{transaction.identity}/") else ""
            yield f"{process} read {value}{own} (event {at}) before the {transaction} was to be committed"


def zombies(facts: Facts) -> Iterator[str]:
    """A producer committed although another one had taken over its transactional id."""
    opened = facts.operations.opened
    for transaction in facts.operations.transactions:
        if transaction.committing is None:
            continue
        visible = any(facts.is_visible(send) for send in transaction.sends)
        if transaction.outcome != "ok" and not visible:
            continue
        for (identity, incarnation), at in opened.items():
            is_newer = identity == transaction.identity and incarnation > transaction.incarnation
            if is_newer and at < transaction.committing:
                yield f"{transaction} was committed after incarnation {incarnation} was ready (event {at})"


def torn(facts: Facts) -> Iterator[str]:
    """A part of one transaction is visible and another is not."""
    for transaction in facts.operations.transactions:
        missing = facts.missing(transaction)
        shown = [send for send in transaction.sends if facts.is_visible(send)]
        if missing and shown and transaction.outcome != "fail":
            yield f"{transaction} shows {_named(shown)} and lacks {_named(missing)}"


def lost(facts: Facts) -> Iterator[str]:
    """A committed value was passed and never read."""
    for transaction in facts.operations.transactions:
        passed = [send for send in facts.missing(transaction) if facts.is_passed(send)]
        if transaction.outcome == "ok" and passed:
            yield f"{_named(passed)} of the {transaction}; readers came to {_lasts(facts, passed)}"


def unseen(facts: Facts) -> Iterator[str]:
    """A committed value was never read, although the last look came to the end."""
    for transaction in facts.operations.transactions:
        beyond = [send for send in facts.missing(transaction) if not facts.is_passed(send)]
        if transaction.outcome == "ok" and beyond:
            yield f"{_named(beyond)} of the {transaction}; readers came to {_lasts(facts, beyond)}"


def stuck(facts: Facts) -> Iterator[str]:
    """After everything has ended, something still holds back the read_committed readers."""
    if facts.operations.ends is not None:
        for place, (stable, end) in facts.operations.ends.ends.items():
            if stable < end:
                yield f"{place} is stable up to {stable} and ends at {end}"


def consumed_twice(facts: Facts) -> Iterator[str]:
    """Two visible values came of the same source."""
    made: dict[str, list[str]] = defaultdict(list)
    for _, send in facts.writer.values():
        if send.source is not None and facts.is_visible(send):
            made[send.source].append(send.value)
    for source, values in made.items():
        if len(values) > 1:
            yield f"{source} became {sorted(values)}"


def never_consumed(facts: Facts) -> Iterator[str]:
    """A visible value of a source topic became nothing, although its consumers came to the end."""
    ends = facts.operations.ends
    if ends is None or not ends.drained:
        return
    made = {send.source for _, send in facts.writer.values() if facts.is_visible(send)}
    for value in facts.first_seen:
        _, send = facts.writer.get(value, (None, None))
        if send is not None and send.place[0] in ends.sources and value not in made:
            yield f"{value} at {send.place} {send.offset}"


def poll_order(facts: Facts) -> Iterator[str]:
    """A reader went back, inside a poll or from one to the next, without its position being set."""
    for process, before, read in _progress(facts):
        if read.offset < before:
            yield f"{process} read {read.place} {read.offset} when it was at {before}"


def poll_skips(facts: Facts) -> Iterator[str]:
    """A reader went past a value that is there for it."""
    due = facts.due, facts.known
    offsets = [{place: sorted(there) for place, there in which.items()} for which in due]
    for process, before, read in _progress(facts):
        there = offsets[0 if facts.is_committed(process) else 1].get(read.place, [])
        between = there[bisect_left(there, before) : bisect_right(there, read.offset - 1)]
        if between:
            value = facts.known[read.place][between[0]]
            yield f"{process} went from {read.place} {before} to {read.offset} past {value} at {between[0]}"


def _progress(facts: Facts) -> Iterator[tuple[str, int, Read]]:
    """Each read with the offset that its reader had come to before."""
    for process, steps in facts.operations.steps.items():
        positions: dict[Place, int | None] = {}
        for step in steps:
            if step.moved is not None:
                positions = dict(step.moved)
            for read in step.reads:
                before = positions.get(read.place)
                if before is not None:
                    yield process, before, read
                positions[read.place] = read.offset + 1


def send_order(facts: Facts) -> Iterator[str]:
    """The later of two values that a producer sent one after the other lies before the earlier."""
    last: dict[tuple[str, int, Place], Send] = {}
    for transaction in facts.operations.transactions:
        for send in transaction.sends:
            if send.offset is None:
                continue
            key = transaction.identity, transaction.incarnation, send.place
            before = last.get(key)
            if before is not None and before.offset is not None and send.offset <= before.offset:
                yield f"{transaction.process} sent {before.value} and then {send.value}: {before.offset}, {send.offset}"
            last[key] = send


def read_cycles(facts: Facts) -> Iterator[str]:
    """Transactions that read from each other in a circle."""
    edges: dict[int, set[int]] = defaultdict(set)
    transactions = _numbered(facts)
    for number, transaction in transactions.items():
        for read in transaction.reads:
            writer, _ = facts.writer.get(read.value, (None, None))
            if writer is not None and writer is not transaction:
                edges[writer.begun].add(number)
    yield from _cycle_text(transactions, edges)


def write_cycles_of(facts: Facts) -> Iterator[str]:
    """Transactions whose writes follow each other in a circle."""
    edges: dict[int, set[int]] = defaultdict(set)
    for there in facts.committed.values():
        writers = [facts.writer[v][0].begun for _, v in sorted(there.items()) if v in facts.writer]
        for one, other in itertools.pairwise(writers):
            if one != other:
                edges[one].add(other)
    yield from _cycle_text(_numbered(facts), edges)


def _numbered(facts: Facts) -> dict[int, Transaction]:
    return {transaction.begun: transaction for transaction in facts.operations.transactions}


def _cycle_text(transactions: dict[int, Transaction], edges: dict[int, set[int]]) -> Iterator[str]:
    if cycle := cycle_in(edges):
        yield " -> ".join(str(transactions[number]) for number in cycle)


def _named(sends: Iterable[Send]) -> str:
    return ", ".join(f"{send.value} at {send.place} {send.offset}" for send in sends)


def _lasts(facts: Facts, sends: Iterable[Send]) -> str:
    return ", ".join(f"{place} {facts.last_read.get(place)}" for place in sorted({send.place for send in sends}))
