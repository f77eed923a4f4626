"""Histories of clients of a log that does everything right, made by dice: writers, consume-and-produce, readers."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from compat_tests.histories.history import (
    COMMITTED,
    UNCOMMITTED,
    Ends,
    Event,
    History,
    Move,
    Opened,
    Place,
    Poll,
    Read,
    Reader,
    Send,
    Transact,
)

SOURCE: Final = [("source", 0), ("source", 1)]
TARGET: Final = [("target", 0), ("target", 1)]
PLACES: Final = SOURCE + TARGET
BATCH_MAX: Final = 4


@dataclass
class Entry:
    value: str | None  # None: a marker
    transaction: int


@dataclass
class Broker:
    """Partitions, and the fate of each transaction: it is open while it is in neither of the two sets."""

    logs: dict[Place, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    committed: set[int] = field(default_factory=set)
    aborted: set[int] = field(default_factory=set)
    offsets: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(SOURCE, 0))

    def append(self, place: Place, value: str | None, transaction: int) -> int:
        self.logs[place].append(Entry(value, transaction))
        return len(self.logs[place]) - 1

    def end(self, transaction: int, commit: bool) -> None:
        (self.committed if commit else self.aborted).add(transaction)
        for place, log in self.logs.items():
            if any(entry.transaction == transaction for entry in log):
                self.append(place, None, transaction)

    def stable_end(self, place: Place) -> int:
        ended = self.committed | self.aborted
        log = self.logs[place]
        return next((n for n, entry in enumerate(log) if entry.transaction not in ended), len(log))

    def read(self, place: Place, position: int, isolation: str, count: int) -> tuple[list[Read], int]:
        """The result of a poll, and the position after it."""
        log = self.logs[place]
        end = self.stable_end(place) if isolation == COMMITTED else len(log)
        found: list[Read] = []
        while position < end and len(found) < count:
            entry = log[position]
            shown = entry.transaction in self.committed or isolation == UNCOMMITTED
            if entry.value is not None and shown:
                found.append(Read(place, position, entry.value))
            position += 1
        return found, position


class Process:
    """Dice decide what it does next; `events` is everybody's."""

    def __init__(self, name: str, broker: Broker, events: list[Event], dice: random.Random) -> None:
        self.name, self.broker, self.events, self.dice = name, broker, events, dice
        self.positions: dict[Place, int] = {}

    def poll(self, isolation: str, reader: str) -> tuple[Read, ...]:
        found: list[Read] = []
        for place in self.positions:
            part, self.positions[place] = self.broker.read(
                place, self.positions[place], isolation, self.dice.randint(1, BATCH_MAX)
            )
            found += part
        self.events.append(Event(reader, "ok", Poll(tuple(found))))
        return tuple(found)

    def step(self) -> None:
        raise NotImplementedError


class SomeReader(Process):
    def __init__(self, name: str, isolation: str, *shared: object) -> None:
        super().__init__(name, *shared)  # type: ignore[arg-type]
        self.isolation = isolation
        self.events.append(Event(name, "ok", Reader(isolation)))
        self.move()

    def move(self) -> None:
        """Anywhere; sometimes it does not know where that is."""
        self.positions = {p: self.dice.randint(0, len(self.broker.logs[p])) for p in PLACES if self.dice.random() < 0.8}
        known = self.dice.random() < 0.5
        self.events.append(Event(self.name, "ok", Move({p: at if known else None for p, at in self.positions.items()})))

    def step(self) -> None:
        if self.dice.random() < 0.1:
            self.move()
        self.poll(self.isolation, self.name)


class Writer(Process):
    """Begins, writes, reads, and commits, aborts, or gives way to its next incarnation; some ends it never learns."""

    source = False

    def __init__(self, name: str, *shared: object) -> None:
        super().__init__(name, *shared)  # type: ignore[arg-type]
        self.incarnation = 0
        self.values = 0
        self.transaction: int | None = None
        self.part = Transact(name, 0)
        self.reader = f"{name}/reader"
        self.events.append(Event(self.reader, "ok", Reader(COMMITTED)))
        self.rejoin()
        self.open()

    def rejoin(self) -> None:
        self.positions = dict.fromkeys(PLACES, 0) if not self.source else dict(self.broker.offsets)
        self.events.append(Event(self.reader, "ok", Move(dict(self.positions))))

    def open(self) -> None:
        self.incarnation += 1
        self.events.append(Event(self.name, "ok", Opened(self.name, self.incarnation)))

    def record(self, phase: str) -> None:
        self.events.append(Event(self.name, phase, self.part))  # type: ignore[arg-type]

    def step(self) -> None:
        if self.transaction is None:
            self.begin()
        elif len(self.part.sends) < 6 and self.dice.random() < 0.7:
            self.work()
        else:
            self.end()

    def begin(self) -> None:
        self.transaction = len(self.events)
        self.part = Transact(self.name, self.incarnation)
        self.record("invoke")

    def work(self) -> None:
        if self.dice.random() < 0.3:
            self.add(reads=self.poll(COMMITTED, self.reader))
        else:
            self.send(self.dice.choice(PLACES), None)

    def send(self, place: Place, source: str | None) -> None:
        assert self.transaction is not None
        value = f"{self.name}-{self.incarnation}-{self.values}"
        self.values += 1
        offset = self.broker.append(place, value, self.transaction)
        self.add(sends=(Send(place, value, offset if self.dice.random() < 0.9 else None, source),))

    def add(self, sends: tuple[Send, ...] = (), reads: tuple[Read, ...] = ()) -> None:
        part = self.part
        self.part = Transact(part.identity, part.incarnation, part.sends + sends, part.reads + reads)

    def end(self) -> None:
        assert self.transaction is not None
        fate = self.dice.choice(["ok", "ok", "ok", "fail", "info, done", "info, undone", "crash"])
        commit = fate in ("ok", "info, done")
        if fate.startswith(("ok", "info")):
            self.record("commit")
        self.broker.end(self.transaction, commit)
        if commit and self.source:
            self.broker.offsets = dict(self.positions)
        self.record("fail" if fate == "crash" else fate.split(",")[0])
        self.transaction = None
        if fate != "ok":
            if self.source:
                self.rejoin()
            if fate != "fail":
                self.open()


class Copier(Writer):
    """A copier from the source to the target, which moves its group's offsets along."""

    source = True

    def work(self) -> None:
        reads = self.poll(COMMITTED, self.reader)
        self.add(reads=reads)
        for read in reads:
            self.send(self.dice.choice(TARGET), read.value)

    def drain(self) -> None:
        while any(self.broker.offsets[p] < self.broker.stable_end(p) for p in SOURCE):
            self.step()


def correct_history(seed: int, steps: int) -> History:
    """The steps of a few processes, and the last look at the result."""
    dice, broker, events = random.Random(seed), Broker(), list[Event]()
    shared = broker, events, dice
    writers = [Writer(f"w{n}", *shared) for n in range(dice.randint(1, 3))]
    copier = Copier("copier", *shared)
    readers = [SomeReader(f"r{n}", dice.choice([COMMITTED, UNCOMMITTED]), *shared) for n in range(3)]
    for _ in range(steps):
        dice.choice([*writers, *writers, copier, *readers]).step()
    for writer in writers:
        if writer.transaction is not None:
            writer.end()
    copier.drain()
    if copier.transaction is not None:
        copier.end()
    copier.drain()
    look(broker, events, dice)
    ends = {place: (broker.stable_end(place), len(broker.logs[place])) for place in PLACES}
    events.append(Event("last", "ok", Ends(ends, sources=frozenset({"source"}))))
    return History(events)


def look(broker: Broker, events: list[Event], dice: random.Random) -> None:
    """Two readers from the beginning to the end."""
    for isolation in (COMMITTED, UNCOMMITTED):
        last = Process(f"last {isolation}", broker, events, dice)
        events.append(Event(last.name, "ok", Reader(isolation)))
        last.positions = dict.fromkeys(PLACES, 0)
        events.append(Event(last.name, "ok", Move(dict(last.positions))))
        while any(last.positions[place] < len(broker.logs[place]) for place in PLACES):
            last.poll(isolation, last.name)
