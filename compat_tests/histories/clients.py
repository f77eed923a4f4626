"""The processes of a history, each a thread: writers (in transactions and without), copiers (consume and produce),
readers alone and in groups."""

from __future__ import annotations

import random
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition

from compat_tests.histories.backlog import Backlog
from compat_tests.histories.client_log import ClientLog
from compat_tests.histories.history import (
    COMMITTED,
    History,
    Move,
    Phase,
    Place,
    Poll,
    Read,
    Reader,
    Send,
    Transact,
)
from compat_tests.histories.session import CALL_S, CONNECTION, Broken, Session

SENDS_MAX: Final = 6
TAKE_MAX: Final = 20
POLL_S: Final = 0.1
PAUSE_S_MAX: Final = 0.02
"""Of a client, between two things that it does."""
SESSION_TIMEOUT_MS: Final = 6_000
SURE_WITHIN_S: Final = 100.0
SURE_WAITING_MAX: Final = 200
SEEK_SHARE: Final = 0.02
REJOIN_SHARE: Final = 0.01
RESET: Final = {confluent_kafka.KafkaError._AUTO_OFFSET_RESET, confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE}


@dataclass(frozen=True)
class Surroundings:
    """The shared state of all processes of one history."""

    address: str
    history: History
    seed: str
    prefix: str  # of groups and transactional ids
    pause_s_max: float = PAUSE_S_MAX
    backlog: Backlog = field(default_factory=Backlog)  # of the copiers' source


class Consumption:
    """A consumer that writes down where it is set and what it is given."""

    def __init__(
        self, name: str, around: Surroundings, isolation: str, group: str | None = None, *, eof: bool = False
    ) -> None:
        self.name, self._around = name, around
        self.at_end: set[Place] = set()  # where `eof` was asked for
        self._settings = {
            **CONNECTION,
            "bootstrap.servers": around.address,
            "group.id": group or f"{around.prefix}-{name}",
            "isolation.level": isolation,
            "auto.offset.reset": "earliest" if group else "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "heartbeat.interval.ms": 500,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 20,
            "enable.partition.eof": eof,
        }
        self.consumer = confluent_kafka.Consumer(self._settings)
        around.history.record(name, "ok", Reader(isolation))

    def _moved(self, positions: dict[Place, int | None]) -> None:
        self._around.history.record(self.name, "ok", Move(positions))

    def assign(self, positions: dict[Place, int]) -> None:
        self._moved(dict(positions))
        self.consumer.assign([TopicPartition(*place, offset) for place, offset in positions.items()])

    def subscribe(self, topics: list[str]) -> None:
        self.consumer.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _assigned(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        self._moved({(p.topic, p.partition): None for p in partitions})

    def _revoked(self, _consumer: Any, _partitions: list[TopicPartition]) -> None:
        self._moved({})

    def poll(self, count: int = TAKE_MAX) -> list[Read]:
        reads = []
        messages = self.consumer.consume(1, POLL_S)
        if messages and count > 1:
            messages += self.consumer.consume(count - 1, 0.001)
        for message in messages:
            if message.error() is None:
                place = message.topic(), message.partition()
                reads.append(Read(place, message.offset(), message.value().decode()))
            elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                self.at_end.add((message.topic(), message.partition()))
            elif message.error().code() in RESET:
                raise AssertionError(f"{self.name}: {message.error()}")
        if reads:
            self._around.history.record(self.name, "ok", Poll(tuple(reads)))
        return reads

    def rewind(self) -> None:
        """Go back to what the group has committed. Raises KafkaException."""
        for place in self.consumer.committed(self.consumer.assignment(), CALL_S):
            offset = place.offset if place.offset >= 0 else confluent_kafka.OFFSET_BEGINNING
            self._moved_one(place, max(0, place.offset))
            self.consumer.seek(TopicPartition(place.topic, place.partition, offset))

    def _moved_one(self, place: TopicPartition, offset: int) -> None:
        held = {(p.topic, p.partition): None for p in self.consumer.assignment()}
        self._moved({**held, (place.topic, place.partition): offset})

    def reopen(self) -> None:
        self.consumer.close()
        self._moved({})
        self.consumer = confluent_kafka.Consumer(self._settings)


class Client(threading.Thread):
    """Works until it is told to stop; a failed assertion is kept as its problem."""

    def __init__(self, name: str, around: Surroundings) -> None:
        super().__init__(name=name, daemon=True)
        self.around = around
        self.dice = random.Random(f"{around.seed}/{name}")
        self.stopping = threading.Event()
        self.problem: str | None = None

    def run(self) -> None:
        try:
            self.begin()
            while not self.stopping.is_set():
                self.step()
                self.stopping.wait(self.dice.random() * self.around.pause_s_max)
            self.finish()
        except Exception as error:
            self.problem = f"{self.name}: {type(error).__name__}: {error}"

    def where(self) -> str:
        """Its present action."""
        frame = sys._current_frames().get(self.ident or 0)
        return "".join(traceback.format_stack(frame)[-4:]) if frame else "it has ended"

    def begin(self) -> None:
        """Before the first step."""

    def step(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """After the last step."""

    def settle(self) -> None:
        """Long after it has ended: write down what is known of what hangs."""


class Producing(Client):
    """A client with a transactional producer, which the next incarnation succeeds when it is broken."""

    def __init__(self, name: str, around: Surroundings) -> None:
        super().__init__(name, around)
        self.identity = f"{around.prefix}-{name}"
        self.incarnation = 0
        self.session = self.succeed()

    def succeed(self) -> Session:
        self.incarnation += 1
        around = self.around
        return Session(around.address, self.identity, self.incarnation, around.history, around.backlog.written)

    def open(self) -> None:
        while True:
            self.session = self.succeed()
            try:
                self.session.open()
                return
            except Broken:
                if self.incarnation > 10_000:
                    raise

    def begin(self) -> None:
        self.open()

    def settle(self) -> None:
        self.session.settle()


class IdempotentWriter(Client):
    """Writes one value after the other without a transaction, with several on their way.

    To the history each is a transaction of its own, whose commit is asked for at once: so an acknowledged one is to be
    read, once and behind the one before, and one that failed may be read or not.

    No value is given up for its age: librdkafka would raise its epoch, and store twice what it had sent and was not
    answered. So what is stored twice, or raises the epoch, is the server's doing.
    """

    def __init__(self, name: str, around: Surroundings, places: Sequence[Place]) -> None:
        super().__init__(name, around)
        self._identity = f"{around.prefix}-{name}"
        self._places = places
        self._incarnation = self._values = 0
        self.log = ClientLog()
        self._producer = self._succeed()

    def _succeed(self) -> confluent_kafka.Producer:
        self._incarnation += 1
        return confluent_kafka.Producer(
            {
                **CONNECTION,
                **self.log.settings,
                "bootstrap.servers": self.around.address,
                "enable.idempotence": True,
                "linger.ms": 1,
                "message.timeout.ms": 0,
            }
        )

    def step(self) -> None:
        if len(self._producer) < SURE_WAITING_MAX:
            self._values += 1
            value = f"{self._identity}/{self._incarnation}/{self._values}"
            self._send(Send(self.dice.choice(self.around.backlog.open_of(self._places)), value), self._incarnation)
        try:
            self._producer.poll(0)
        except KafkaException:
            self._producer = self._succeed()

    def _send(self, send: Send, incarnation: int) -> None:
        def record(phase: Phase, offset: int | None = None) -> None:
            part = Transact(self._identity, incarnation, (Send(send.place, send.value, offset),))
            self.around.history.record(send.value, phase, part)

        def delivered(error: Any, message: Any) -> None:
            if error is None:
                offset = message.offset()  # None: it was stored by a former attempt, the answer to which was lost
                record("ok", offset)
                if offset is not None:
                    self.around.backlog.written(send.place, offset)
            else:
                record("info")

        record("invoke")
        record("commit")
        topic, partition = send.place
        try:
            self._producer.produce(topic, send.value.encode(), partition=partition, on_delivery=delivered)
        except (KafkaException, BufferError):  # a fatal error: what waits comes to nothing
            record("fail")
            self._producer.flush(0)
            self._producer = self._succeed()

    def finish(self) -> None:
        left = self._producer.flush(SURE_WITHIN_S)
        assert not left, f"after {SURE_WITHIN_S:g} s {left} values are not delivered: {list(self.log.lines)[-10:]}"


class Writer(Producing):
    """Writes a few values to some partitions, and commits, aborts, crashes, or haunts its successor."""

    def __init__(self, name: str, around: Surroundings, places: Sequence[Place]) -> None:
        super().__init__(name, around)
        self._places = places
        self._reader = Consumption(f"{self.identity}/reader", around, COMMITTED)

    def begin(self) -> None:
        self._reader.assign(dict.fromkeys(self._places, 0))
        super().begin()

    def step(self) -> None:
        try:
            self.transact(self.dice.choices(("commit", "abort", "crash", "haunt"), (70, 20, 5, 5))[0])
        except Broken:
            self.open()

    def transact(self, fate: str) -> None:
        session = self.session
        session.begin()
        self.send_some(session)
        if self.dice.random() < 0.2:
            session.read(self._reader.poll())
        if self.dice.random() < 0.8:
            session.await_delivery()
        match fate:
            case "commit":
                if session.commit() == "info":
                    self.open()
            case "abort":
                if not session.abort():
                    self.open()
            case "crash":
                session.abandon()
                self.open()
            case _:
                self.haunt(session)

    def send_some(self, session: Session) -> None:
        for _ in range(self.dice.randint(1, SENDS_MAX)):
            session.send(self.dice.choice(self.around.backlog.open_of(self._places)))

    def haunt(self, zombie: Session) -> None:
        """The successor is in the middle of a transaction when the one before it tries to commit."""
        self.open()
        self.session.begin()
        self.send_some(self.session)
        self.session.await_delivery()
        if self.dice.random() < 0.5:
            zombie.commit()
        else:
            self.continue_as(zombie)
        if not self.session.abort():
            self.open()

    def continue_as(self, zombie: Session) -> None:
        try:
            self.send_some(zombie)
            zombie.await_delivery()
        except Broken:
            return
        zombie.commit()

    def finish(self) -> None:
        self._reader.consumer.close()


class Copier(Producing):
    """A member of a group that takes from the source topic and writes to the target, offsets included."""

    def __init__(self, name: str, around: Surroundings, source: str, targets: Sequence[Place], group: str) -> None:
        super().__init__(name, around)
        self._source, self._targets = source, targets
        self._input = Consumption(f"{self.identity}/reader", around, COMMITTED, group)

    def begin(self) -> None:
        super().begin()
        self._input.subscribe([self._source])

    def step(self) -> None:
        reads = self._input.poll()
        if not reads:
            return
        try:
            outcome = self.copy(reads)
        except Broken:
            outcome = "info"
        if outcome == "info":
            self.open()
        if outcome != "ok":
            self.rewind()

    def copy(self, reads: list[Read]) -> str:
        session = self.session
        session.begin()
        session.read(reads)
        for read in reads:
            self.emit(read)
        ends = {read.place: read.offset + 1 for read in reads}
        session.send_offsets(ends, self._input.consumer.consumer_group_metadata())
        session.await_delivery()
        if self.dice.random() < 0.1:
            return "fail" if session.abort() else "info"
        outcome = session.commit()
        if outcome == "ok":
            for place, end in ends.items():
                self.around.backlog.copied(place, end)
        return outcome

    def emit(self, read: Read) -> None:
        self.session.send(self.dice.choice(self._targets), read.value)

    def rewind(self) -> None:
        try:
            self._input.rewind()
        except KafkaException:
            self._input.reopen()
            self._input.subscribe([self._source])

    def finish(self) -> None:
        self._input.consumer.close()


class Follower(Client):
    """A reader of all partitions without a group, which now and then goes back to an earlier place."""

    def __init__(self, name: str, around: Surroundings, places: Sequence[Place], isolation: str) -> None:
        super().__init__(name, around)
        self._places = places
        self._seen = dict.fromkeys(places, 0)
        self._input = Consumption(f"{around.prefix}-{name}", around, isolation)

    def begin(self) -> None:
        self._input.assign(dict.fromkeys(self._places, 0))

    def step(self) -> None:
        if self.dice.random() < SEEK_SHARE:
            self._input.assign({place: self.dice.randint(0, seen) for place, seen in self._seen.items()})
        for read in self._input.poll():
            self._seen[read.place] = max(self._seen[read.place], read.offset)

    def finish(self) -> None:
        self._input.consumer.close()


class GroupReader(Client):
    """A member of a reading group, that commits as it goes, and leaves and comes back."""

    def __init__(self, name: str, around: Surroundings, topics: list[str], group: str) -> None:
        super().__init__(name, around)
        self._topics = topics
        self._input = Consumption(f"{around.prefix}-{name}", around, COMMITTED, group)

    def begin(self) -> None:
        self._input.subscribe(self._topics)

    def step(self) -> None:
        reads = self._input.poll()
        if reads and self.dice.random() < 0.5:
            ends = {read.place: read.offset + 1 for read in reads}
            try:
                offsets = [TopicPartition(*place, offset) for place, offset in ends.items()]
                self._input.consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException:
                return  # it reads some of it again then
        if self.dice.random() < REJOIN_SHARE:
            self._input.reopen()
            self._input.subscribe(self._topics)

    def finish(self) -> None:
        self._input.consumer.close()
