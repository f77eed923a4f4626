"""A correct history never alarms; each anomaly, planted in a correct history, is found by its name."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compat_tests.histories.analysis import check
from compat_tests.histories.cycles import cycle_in
from compat_tests.histories.history import (
    COMMITTED,
    Ends,
    Event,
    History,
    Opened,
    Operations,
    Place,
    Poll,
    Read,
    Reader,
    Send,
    Transact,
    Transaction,
)
from tests.histories.simulated import correct_history

SEEDS = st.integers(0, 2**32)
STEPS = 150
LAST = "last read_committed"


class Planter:
    """A correct history and the tools to spoil it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.events = list(correct_history(seed, STEPS).events)
        self.operations = Operations.of(History(self.events))

    def some(self, outcome: str, sends: int = 1) -> Transaction:
        """A transaction with this end, and at least this number of values of known offsets."""
        fit = [
            t
            for t in self.operations.transactions
            if t.outcome == outcome and sum(send.offset is not None for send in t.sends) >= sends
        ]
        assume(fit)
        return self.dice.choice(fit)

    def rewrite_reads(self, change: Callable[[str, Read], Read | None]) -> None:
        """In every poll: a read may become another one, or nothing."""
        for at, event in enumerate(self.events):
            if isinstance(event.what, Poll):
                reads = tuple(r for old in event.what.reads if (r := change(event.process, old)) is not None)
                self.events[at] = dataclasses.replace(event, what=Poll(reads))

    def rewrite_transaction(self, one: Transaction, change: Callable[[Transact], Transact]) -> None:
        for at in self.events_of(one):
            what = self.events[at].what
            assert isinstance(what, Transact)
            self.events[at] = dataclasses.replace(self.events[at], what=change(what))

    def events_of(self, one: Transaction) -> Iterator[int]:
        for at in range(one.begun, len(self.events)):
            event = self.events[at]
            if event.process == one.process and isinstance(event.what, Transact):
                if at > one.begun and event.phase == "invoke":
                    return
                yield at

    def last_poll(self, place: Place) -> tuple[int, tuple[Read, ...]]:
        """The last poll of the last reader that gave something of a partition."""
        for at in reversed(range(len(self.events))):
            event = self.events[at]
            if event.process != LAST or not isinstance(event.what, Poll):
                continue
            if any(read.place == place for read in event.what.reads):
                return at, event.what.reads
        assume(False)
        raise AssertionError

    def add_read(self, read: Read) -> None:
        """Let the last reader be given this too."""
        at, reads = self.last_poll(read.place)
        self.events[at] = Event(LAST, "ok", Poll((*reads, read)))

    def kinds(self, **options: bool) -> set[str]:
        return {anomaly.kind for anomaly in check(History(self.events), **options)}


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 400))
def test_correct_histories(seed: int, steps: int) -> None:
    """A log that keeps its promises raises no alarm, whatever it does."""
    assert check(correct_history(seed, steps)) == []


def lose(planter: Planter) -> None:
    one = planter.some("ok")
    values = {send.value for send in one.sends}
    planter.rewrite_reads(lambda _, read: None if read.value in values else read)


def tear(planter: Planter) -> None:
    one = planter.some("ok", 2)
    value = next(send.value for send in one.sends if send.offset is not None)
    planter.rewrite_reads(lambda _, read: None if read.value == value else read)


def hide_the_tail(planter: Planter) -> None:
    """Values that nobody comes to, although the last look claims the end."""
    place = planter.dice.choice(planter.some("ok").sends).place
    visible = [
        send.offset
        for t in planter.operations.transactions
        for send in t.sends
        if t.outcome == "ok" and send.place == place and send.offset is not None
    ]
    assume(visible)
    planter.rewrite_reads(lambda _, read: None if read.place == place and read.offset >= max(visible) else read)


def double(planter: Planter) -> None:
    at, reads = planter.last_poll(planter.some("ok").sends[0].place)
    planter.events[at] = Event(LAST, "ok", Poll((*reads, dataclasses.replace(reads[-1], offset=10_000))))


def disagree(planter: Planter) -> None:
    one, other = planter.some("ok").sends[0], planter.some("ok").sends[-1]
    assume(one.value != other.value)
    planter.rewrite_reads(
        lambda process, read: (
            dataclasses.replace(read, value=other.value) if process == LAST and read.value == one.value else read
        )
    )


def read_aborted(planter: Planter) -> None:
    send = next(send for send in planter.some("fail").sends if send.offset is not None)
    assert send.offset is not None
    planter.add_read(Read(send.place, send.offset, send.value))


def read_early(planter: Planter, reader: str = LAST) -> None:
    one = planter.some("ok")
    send = next(send for send in one.sends if send.offset is not None)
    assert one.committing is not None
    assert send.offset is not None
    read = Event(reader, "ok", Poll((Read(send.place, send.offset, send.value),)))
    planter.events.insert(one.committing, read)


def read_its_own(planter: Planter) -> None:
    one = planter.some("ok")
    send = next(send for send in one.sends if send.offset is not None)
    assert one.committing is not None
    assert send.offset is not None
    read = Event(f"{one.process}/reader", "ok", Poll((Read(send.place, send.offset, send.value),)))
    planter.events.insert(one.committing, read)


def invent(planter: Planter) -> None:
    place = planter.some("ok").sends[0].place
    planter.add_read(Read(place, 10_000, "nobody-1-1"))


def skip(planter: Planter) -> None:
    """One reader, in the middle of one poll."""
    acknowledged = {
        send.value
        for one in planter.operations.transactions
        for send in one.sends
        if one.outcome == "ok" and send.offset is not None
    }
    polls = [
        (at, event.what.reads)
        for at, event in enumerate(planter.events)
        if event.process == LAST and isinstance(event.what, Poll)
    ]
    inner = [
        (at, n)
        for at, reads in polls
        for n in range(1, len(reads) - 1)
        if reads[n - 1].place == reads[n].place == reads[n + 1].place and reads[n].value in acknowledged
    ]
    assume(inner)
    at, n = planter.dice.choice(inner)
    reads = next(reads for where, reads in polls if where == at)
    planter.events[at] = Event(LAST, "ok", Poll(reads[:n] + reads[n + 1 :]))


def go_back(planter: Planter) -> None:
    at, reads = planter.last_poll(planter.some("ok").sends[0].place)
    planter.events.insert(at + 1, Event(LAST, "ok", Poll(reads[-1:])))


def swap_sends(planter: Planter) -> None:
    def swapped(part: Transact) -> Transact:
        sends = list(part.sends)
        for one in range(len(sends)):
            for other in range(one):
                a, b = sends[one], sends[other]
                if a.place == b.place and None not in (a.offset, b.offset):
                    sends[one] = dataclasses.replace(a, offset=b.offset)
                    sends[other] = dataclasses.replace(b, offset=a.offset)
                    return dataclasses.replace(part, sends=tuple(sends))
        return part

    one = planter.some("ok", 2)
    assume(swapped(Transact("", 0, one.sends)).sends != one.sends)
    planter.rewrite_transaction(one, swapped)


def get_stuck(planter: Planter) -> None:
    last = planter.events[-1]
    assert isinstance(last.what, Ends)
    place, (_, end) = planter.dice.choice(sorted(last.what.ends.items()))
    assume(end > 0)
    stuck = dataclasses.replace(last.what, ends={**last.what.ends, place: (planter.dice.randrange(end), end)})
    planter.events[-1] = dataclasses.replace(last, what=stuck)


def commit_as_a_zombie(planter: Planter) -> None:
    one = planter.some("ok")
    planter.events.insert(one.begun + 1, Event("usurper", "ok", Opened(one.identity, one.incarnation + 100)))


def consume_twice(planter: Planter) -> None:
    made = [s for t in planter.operations.transactions if t.outcome == "ok" for s in t.sends if s.source is not None]
    assume(len({send.source for send in made}) > 1)
    one, other = made[0], next(send for send in made if send.source != made[0].source)

    def as_if_from_the_other(part: Transact) -> Transact:
        return dataclasses.replace(
            part,
            sends=tuple(dataclasses.replace(s, source=other.source) if s.value == one.value else s for s in part.sends),
        )

    for transaction in planter.operations.transactions:
        planter.rewrite_transaction(transaction, as_if_from_the_other)


def read_in_a_circle(planter: Planter) -> None:
    one, other = planter.some("ok"), planter.some("ok")
    assume(one is not other)
    for reader, writer in ((one, other), (other, one)):
        read = Read(writer.sends[0].place, 0, writer.sends[0].value)
        planter.rewrite_transaction(
            reader, lambda part, read=read: dataclasses.replace(part, reads=(*part.reads, read))
        )


PLANTED: list[tuple[Callable[[Planter], None], set[str]]] = [
    (lose, {"lost", "unseen"}),
    (tear, {"torn"}),
    (hide_the_tail, {"unseen", "lost"}),
    (double, {"duplicate"}),
    (disagree, {"inconsistent offset"}),
    (read_aborted, {"aborted read"}),
    (read_early, {"uncommitted read"}),
    (read_its_own, {"uncommitted read"}),
    (invent, {"invented"}),
    (skip, {"poll skip"}),
    (go_back, {"poll order"}),
    (swap_sends, {"send order"}),
    (get_stuck, {"stuck"}),
    (commit_as_a_zombie, {"zombie"}),
    (consume_twice, {"consumed twice"}),
    (consume_twice, {"never consumed"}),
    (read_in_a_circle, {"G1c"}),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTED, ids=[f"{p.__name__}-{min(e)}" for p, e in PLANTED])
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_planted_anomalies(plant: Callable[[Planter], None], expected: set[str], seed: int) -> None:
    """A fault put into a correct history is found, under its name."""
    planter = Planter(seed)
    plant(planter)

    assert planter.kinds() & expected


def test_write_cycles() -> None:
    """Two transactions whose writes enclose each other are a G0: told when asked for, as Kafka allows it."""
    history = History()
    a, b = ("t", 0), ("t", 1)
    parts = {
        "one": Transact("one", 1, (Send(a, "one-a", 0), Send(b, "one-b", 1))),
        "two": Transact("two", 1, (Send(a, "two-a", 1), Send(b, "two-b", 0))),
    }
    for phase in ("invoke", "commit", "ok"):
        for name, part in parts.items():
            history.record(name, phase, part)  # type: ignore[arg-type]
    reads = (Read(a, 0, "one-a"), Read(a, 1, "two-a"), Read(b, 0, "two-b"), Read(b, 1, "one-b"))
    history.events += correct_reader(reads)

    assert {anomaly.kind for anomaly in check(history, write_cycles=True)} == {"G0"}
    assert check(history) == []


def correct_reader(reads: tuple[Read, ...]) -> list[Event]:
    return [Event("reader", "ok", Reader(COMMITTED)), Event("reader", "ok", Poll(reads))]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 8), st.sets(st.integers(0, 8))))
def test_cycles(edges: dict[int, set[int]]) -> None:
    """A cycle is found where there is one: when leaves are taken away again and again and something is left."""
    left = {node: set(onward) for node, onward in edges.items()}
    while leaves := [node for node, onward in left.items() if not onward & left.keys()]:
        for leaf in leaves:
            del left[leaf]

    cycle = cycle_in(edges)

    assert bool(cycle) == bool(left)
    assert all(b in edges[a] for a, b in itertools.pairwise(cycle))
