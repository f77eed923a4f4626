"""The operations of processes: each is invoked, and ends as ok, fail (nothing of it happened) or info.

Keeps: events are numbered in one order for all processes, and an event is recorded before its request leaves or after
its answer came. So whoever ended before another began comes first here too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

Place = tuple[str, int]  # topic, partition
Phase = Literal["invoke", "commit", "ok", "fail", "info"]
COMMITTED: Final = "read_committed"
UNCOMMITTED: Final = "read_uncommitted"


@dataclass(frozen=True, slots=True)
class Send:
    """A value on its way to a partition; its offset once that is acknowledged; `source` is the value it came of."""

    place: Place
    value: str
    offset: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    place: Place
    offset: int
    value: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A process became the producer of a transactional id; a later incarnation fences the earlier ones."""

    identity: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Transact:
    """All that one transaction wrote and read. Its phase "commit" is the moment before the commit is asked for."""

    identity: str
    incarnation: int
    sends: tuple[Send, ...] = ()
    reads: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class Poll:
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """A process begins to read."""

    isolation: str


@dataclass(frozen=True, slots=True)
class Move:
    """A reader gets new positions: these offsets, None where nobody knows. Other partitions it has lost."""

    positions: Mapping[Place, int | None]


@dataclass(frozen=True, slots=True)
class Ends:
    """The last look, when no transaction is open any more: per partition the stable end and the end."""

    ends: Mapping[Place, tuple[int, int]]
    drained: bool = True  # the consume-and-produce processes had come to the end of their source
    sources: frozenset[str] = frozenset()  # the topics that they read


What = Opened | Transact | Poll | Reader | Move | Ends


@dataclass(frozen=True, slots=True)
class Event:
    process: str
    phase: Phase
    what: What


class History:
    """Events in the order in which they were recorded. Threads add to it."""

    def __init__(self, events: Sequence[Event] = ()) -> None:
        self._lock = threading.Lock()
        self.events: list[Event] = list(events)

    def record(self, process: str, phase: Phase, what: What) -> None:
        with self._lock:
            self.events.append(Event(process, phase, what))

    def write_to(self, path: Path) -> None:
        """One line of JSON for each event."""
        with self._lock, path.open("w", encoding="utf-8") as lines:
            for event in self.events:
                what: dict[str, Any] = {"what": type(event.what).__name__}
                if isinstance(event.what, Move):
                    what["positions"] = [[*place, at] for place, at in event.what.positions.items()]
                elif isinstance(event.what, Ends):
                    what["ends"] = [[*place, *ends] for place, ends in event.what.ends.items()]
                else:
                    what |= asdict(event.what)
                lines.write(json.dumps({"process": event.process, "phase": event.phase, **what}) + "\n")


@dataclass(slots=True)
class Transaction:
    """One transaction, put together from its events; positions in the history where they matter."""

    process: str
    identity: str
    incarnation: int
    begun: int
    committing: int | None = None
    outcome: Literal["ok", "fail", "info"] = "info"
    sends: tuple[Send, ...] = ()
    reads: tuple[Read, ...] = ()

    def __str__(self) -> str:
        return f"transaction of {self.process} ({self.identity}/{self.incarnation}, event {self.begun}, {self.outcome})"


@dataclass(slots=True)
class Step:
    """The records that one poll gave to a reader, or the positions that were set before the next poll."""

    at: int
    reads: tuple[Read, ...] = ()
    moved: Mapping[Place, int | None] | None = None


@dataclass(slots=True)
class Operations:
    """The events of a history, by what they were part of."""

    transactions: list[Transaction] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=dict)  # by reader
    isolation: dict[str, str] = field(default_factory=dict)
    opened: dict[tuple[str, int], int] = field(default_factory=dict)  # when an incarnation was ready
    ends: Ends | None = None

    @classmethod
    def of(cls, history: History) -> Operations:
        found = cls()
        running: dict[str, Transaction] = {}
        for at, event in enumerate(history.events):
            match event.what:
                case Transact() as part:
                    found._transact(running, at, event, part)
                case Poll(reads) if event.phase == "ok":
                    found.steps.setdefault(event.process, []).append(Step(at, reads))
                case Move(positions):
                    found.steps.setdefault(event.process, []).append(Step(at, moved=positions))
                case Reader(isolation):
                    found.isolation[event.process] = isolation
                case Opened(identity, incarnation) if event.phase == "ok":
                    found.opened[identity, incarnation] = at
                case Ends() as ends:
                    found.ends = ends
                case _:
                    pass
        return found

    def _transact(self, running: dict[str, Transaction], at: int, event: Event, part: Transact) -> None:
        if event.phase == "invoke":
            running[event.process] = Transaction(event.process, part.identity, part.incarnation, at)
            self.transactions.append(running[event.process])
        transaction = running[event.process]
        transaction.sends, transaction.reads = part.sends, part.reads
        if event.phase == "commit":
            transaction.committing = at
        elif event.phase != "invoke":
            transaction.outcome = event.phase
