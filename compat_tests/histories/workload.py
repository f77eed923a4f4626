"""One run: processes on a server that is being hurt, then a last look, then the verdict.

Keeps: the last look begins when every producer has ended its transactions, so nothing may hold a reader back any more.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import confluent_kafka
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from compat_tests.histories.analysis import Anomaly, check
from compat_tests.histories.backlog import Backlog
from compat_tests.histories.clients import (
    PAUSE_S_MAX,
    Client,
    Consumption,
    Copier,
    Follower,
    GroupReader,
    IdempotentWriter,
    Surroundings,
    Writer,
)
from compat_tests.histories.draining import Draining
from compat_tests.histories.history import COMMITTED, UNCOMMITTED, Ends, History, Operations, Place

WRITERS: Final = 3
PARTITIONS: Final = 3
FAULT_EVERY_S: Final = (0.5, 3.0)
STOPPED_WITHIN_S: Final = 120.0
PATIENCE_S: Final = 40.0
DRAINED_WITHIN: Final = 3
"""Copiers that go on are waited for as many times the patience."""
LOOK_WITHIN_S: Final = 60.0
"""Of a last look without a record. Nobody writes meanwhile, so it comes to an end."""
TICK_S: Final = 0.1


class Striking(Protocol):
    """What hurts the server."""

    @property
    def done(self) -> Mapping[str, int]:
        """How often each fault was done."""

    def strike(self) -> None:
        """Do one; return when the server serves again. Raises AssertionError if it does not."""


class Nothing:
    """Hurts nobody."""

    done: Mapping[str, int] = {}

    def strike(self) -> None:
        """Do nothing."""


@dataclass
class Result:
    history: History
    anomalies: list[Anomaly]
    problems: list[str]
    faults: Mapping[str, int] = field(default_factory=dict)
    told: Sequence[str] = ()  # by the client of the idempotent producer

    @property
    def is_clean(self) -> bool:
        return not self.anomalies and not self.problems

    def __str__(self) -> str:
        operations = Operations.of(self.history)
        outcomes = Counter(transaction.outcome for transaction in operations.transactions)
        reads = sum(len(step.reads) for steps in operations.steps.values() for step in steps)
        told = [*map(str, self.anomalies), *self.problems] or ["no anomaly"]
        return "\n".join((f"transactions {dict(outcomes)}, {reads} reads, faults {self.faults}", *told))

    def write_to(self, directory: Path) -> None:
        """All that may explain it."""
        self.history.write_to(directory / "history.jsonl")
        (directory / "client.log").write_text("\n".join(self.told), encoding="utf-8")


class Workload:
    def __init__(
        self,
        address: str,
        seed: str,
        prefix: str,
        faults_on: Callable[[Sequence[str]], Striking] = lambda topics: Nothing(),
        *,
        patience_s: float = PATIENCE_S,
        epoch_may_rise: bool = False,
        pause_s_max: float = PAUSE_S_MAX,
    ) -> None:
        """`faults_on` gets the topics and makes what hurts the server. `patience_s` bounds a standstill of the copiers,
        and the end of open transactions. `epoch_may_rise`: the server's answers may have an idempotent producer raise
        its epoch. `pause_s_max`: how long each client rests between two steps, at most."""
        self.address, self.seed, self._patience_s = address, seed, patience_s
        self._epoch_may_rise = epoch_may_rise
        self.history = History()
        self.source, self.target = f"{prefix}-source", f"{prefix}-target"
        self.around = Surroundings(address, self.history, seed, prefix, pause_s_max, Backlog(self.source))
        self.topics = [self.source, self.target]
        self.places: list[Place] = [(topic, p) for topic in self.topics for p in range(PARTITIONS)]
        self.copying = f"{prefix}-copying"
        self.faults = faults_on(self.topics)
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        self._tick = threading.Event()  # never set

    def run(self, seconds: float, strikes_max: int | None = None) -> Result:
        """Hurt the server for so long, or so often if that comes first."""
        for future in self._admin.create_topics([NewTopic(topic, PARTITIONS) for topic in self.topics]).values():
            future.result(30)
        targets = [place for place in self.places if place[0] == self.target]
        writers: list[Client] = [Writer(f"writer-{n}", self.around, self.places) for n in range(WRITERS)]
        sure = IdempotentWriter("sure", self.around, self.places)
        writers.append(sure)
        copiers = [Copier(f"copier-{n}", self.around, self.source, targets, self.copying) for n in range(2)]
        readers: list[Client] = [
            Follower("committed", self.around, self.places, COMMITTED),
            Follower("uncommitted", self.around, self.places, UNCOMMITTED),
            *(GroupReader(f"member-{n}", self.around, self.topics, f"{self.around.prefix}-reading") for n in range(2)),
        ]
        everyone = [*writers, *copiers, *readers]
        for client in everyone:
            client.start()
        try:
            return self._watched(writers, sure, copiers, readers, seconds, strikes_max)
        finally:  # a time-out of the test, too: clients that go on would keep the machine from all tests behind it
            for client in everyone:
                client.stopping.set()

    def _watched(
        self,
        writers: Sequence[Client],
        sure: IdempotentWriter,
        copiers: Sequence[Copier],
        readers: Sequence[Client],
        seconds: float,
        strikes_max: int | None,
    ) -> Result:
        problems = self._hurt([*writers, *copiers, *readers], seconds, strikes_max)
        problems += self._stop(writers)
        why = "" if problems else self._why_not_drained(copiers)
        drained = not problems and not why
        if not drained:
            problems.append(f"the copiers did not come to the end of their source{why and f': {why}'}")
        problems += self._stop([*copiers, *readers])
        for client in (*writers, *copiers):
            client.settle()
        self._look_once_more(drained)
        if not self._epoch_may_rise:
            problems += [f"{sure.name}: what was sent may be stored twice: {why}" for why in sure.log.raised]
        return Result(self.history, check(self.history), problems, self.faults.done, list(sure.log.lines))

    def _hurt(self, everyone: Sequence[Client], seconds: float, strikes_max: int | None) -> list[str]:
        """Returns how the server did not come back."""
        dice = random.Random(f"{self.seed}/times")
        end, strikes = time.monotonic() + seconds, 0
        while time.monotonic() < end and strikes != strikes_max and not any(client.problem for client in everyone):
            self._tick.wait(min(dice.uniform(*FAULT_EVERY_S), max(0.0, end - time.monotonic())))
            try:
                self.faults.strike()
            except AssertionError as error:
                return [f"after {dict(self.faults.done)}: {error}"]
            except Exception:  # of the harness: clients are to end all the same
                return [f"after {dict(self.faults.done)}: {traceback.format_exc()}"]
            strikes += 1
        self._tick.wait(FAULT_EVERY_S[0])
        return []

    def _stop(self, clients: Sequence[Client]) -> list[str]:
        for client in clients:
            client.stopping.set()
        deadline = time.monotonic() + STOPPED_WITHIN_S
        for client in clients:
            client.join(max(0.0, deadline - time.monotonic()))
        hanging = [f"{client.name} does not end\n{client.where()}" for client in clients if client.is_alive()]
        return [client.problem for client in clients if client.problem] + hanging

    def _why_not_drained(self, copiers: Sequence[Client]) -> str:
        """Why the group's offsets do not come to the last record of each partition of the source; empty if they do.

        Copiers are waited for as long as they go on; writers have left them a backlog that is bounded.
        """
        places = [place for place in self.places if place[0] == self.source]
        last = dict.fromkeys(places, -1)
        peek = Look(f"{self.around.prefix}-peek", self.around, places, COMMITTED)
        for place, offset in peek.to_the_end().items():
            last[place] = offset
        asking = confluent_kafka.Consumer({"bootstrap.servers": self.address, "group.id": self.copying, "log_level": 0})
        draining = Draining(last, time.monotonic(), self._patience_s, DRAINED_WITHIN * self._patience_s)
        try:
            while not (why := next((client.problem for client in copiers if client.problem), "")):
                with contextlib.suppress(confluent_kafka.KafkaException):  # the group's coordinator has just moved
                    found = asking.committed([TopicPartition(*place) for place in places], 10)
                    if draining.look(time.monotonic(), {(at.topic, at.partition): at.offset for at in found}):
                        return ""
                if why := draining.why_given_up(time.monotonic()):
                    break
                self._tick.wait(TICK_S)
            return why
        finally:
            asking.close()

    def _look_once_more(self, drained: bool) -> None:
        ends = self._ends()
        deadline = time.monotonic() + self._patience_s
        while any(stable < end for stable, end in ends.values()) and time.monotonic() < deadline:
            self._tick.wait(TICK_S)
            ends = self._ends()
        for isolation in (COMMITTED, UNCOMMITTED):
            Look(f"{self.around.prefix}-last-{isolation}", self.around, self.places, isolation).to_the_end()
        self.history.record("last", "ok", Ends(ends, drained, frozenset({self.source})))

    def _ends(self) -> dict[Place, tuple[int, int]]:
        def at(isolation: IsolationLevel) -> dict[Place, int]:
            wanted = {TopicPartition(*place): OffsetSpec.latest() for place in self.places}
            found = self._admin.list_offsets(wanted, isolation_level=isolation)
            return {(p.topic, p.partition): int(future.result(30).offset) for p, future in found.items()}

        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                stable = at(IsolationLevel.READ_COMMITTED)
                return {place: (stable[place], end) for place, end in at(IsolationLevel.READ_UNCOMMITTED).items()}
            except confluent_kafka.KafkaException:  # a partition has just moved, and this client asks once
                if time.monotonic() >= deadline:
                    raise
            self._tick.wait(TICK_S)


class Look:
    """A reader that goes from the beginning to the end of each partition, once."""

    def __init__(self, name: str, around: Surroundings, places: Sequence[Place], isolation: str) -> None:
        self._places = places
        self._input = Consumption(name, around, isolation, eof=True)

    def to_the_end(self) -> dict[Place, int]:
        """The last offset read of each partition that has any. Raises AssertionError if nothing more comes, and that
        is not all."""
        self._input.assign(dict.fromkeys(self._places, 0))
        last: dict[Place, int] = {}
        came_s = time.monotonic()
        try:
            while not self._input.at_end.issuperset(self._places):
                reads = self._input.poll(1_000)
                last |= {read.place: read.offset for read in reads}
                came_s = time.monotonic() if reads else came_s
                assert time.monotonic() < came_s + LOOK_WITHIN_S, f"{self._input.name} stands still at {last}"
        finally:
            self._input.consumer.close()
        return last
