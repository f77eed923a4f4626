"""Clients that go on whatever happens to the gateway, and record its answers.

Keeps: a number is marked as sent before its bytes leave, and as acknowledged only by an answer without error.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import confluent_kafka

from tests.faults.client import (
    OUT_OF_RANGE,
    STORAGE_ERROR,
    Connection,
    Disconnected,
    Produced,
    Refused,
    decode_batches,
    encode_batch,
)
from tests.faults.history import History, Partition, Value, Writer

RECONNECT_S: Final = 0.01
TICK_S: Final = 0.05
PAUSE_S_MAX: Final = 0.006
IN_FLIGHT_MAX: Final = 5  # what an idempotent producer may have on its way
RECORDS_MAX: Final = 5
SMALL_BYTES: Final = (40, 1_500)
BIG_BYTES: Final = (20_000, 60_000)  # beyond what the gateway copies into one buffer
BIG_SHARE: Final = 0.02
DRAIN_SECONDS_MAX: Final = 90.0
EARLIEST: Final = -2
CATCH_UP_BYTES: Final = 256 << 10
READ_AGAIN: Final = {STORAGE_ERROR}  # what a Fetch says of a range whose storage is away


class Client(threading.Thread):
    """A thread with a connection that comes back after every kill."""

    def __init__(self, name: str, address: Callable[[], str], seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._address = address
        self.random = random.Random(f"{seed}/{name}")
        self.stopping = threading.Event()
        self.problem: str | None = None

    def run(self) -> None:
        while not self.finished():
            try:
                with Connection(self._address()) as connection:
                    self.session(connection)
            except Disconnected:
                self.stopping.wait(RECONNECT_S)
            except Exception as error:
                self.problem = f"{self.name}: {type(error).__name__}: {error}"
                return

    def finished(self) -> bool:
        return self.stopping.is_set()

    def session(self, connection: Connection) -> None:
        raise NotImplementedError

    def pause(self) -> None:
        self.stopping.wait(self.random.random() * PAUSE_S_MAX)


class BatchWriter(Client):
    """Writes batches to some partitions, several on their way at a time."""

    idempotent = False

    def __init__(
        self,
        name: str,
        address: Callable[[], str],
        history: History,
        partitions: Sequence[Partition],
        seed: str,
    ) -> None:
        super().__init__(name, address, seed)
        self.writers = [history.writer(name, partition, idempotent=self.idempotent) for partition in partitions]
        self.waiting: deque[tuple[Writer, int, int, bytes]] = deque()  # first, count, batch

    def new_batch(self) -> tuple[Writer, int, int, bytes]:
        writer = self.random.choice(self.writers)
        count = self.random.randint(1, RECORDS_MAX)
        sizes = BIG_BYTES if self.random.random() < BIG_SHARE else SMALL_BYTES
        first, writer.sent = writer.sent, writer.sent + count
        values = [
            Value(writer.name, writer.partition[1], number).encode(self.random.randint(*sizes))
            for number in range(first, first + count)
        ]
        return writer, first, count, self.encode(writer, first, values)

    def encode(self, writer: Writer, first: int, values: list[bytes]) -> bytes:
        return encode_batch(values)

    def session(self, connection: Connection) -> None:
        self.begin(connection)
        while not self.finished():
            while len(self.waiting) < IN_FLIGHT_MAX and not self.stopping.is_set():
                batch = self.new_batch()
                self.waiting.append(batch)
                connection.send_produce(*batch[0].partition, batch[3])
                self.pause()
            if self.waiting:
                self.answered(connection.receive_produced())

    def begin(self, connection: Connection) -> None:
        """The batches in flight when the connection broke are given up: their outcome is unknown."""
        self.waiting.clear()

    def finished(self) -> bool:
        return self.stopping.is_set() and not self.waiting

    def answered(self, produced: Produced) -> None:
        writer, first, count, _ = self.waiting.popleft()
        if produced.code == 0:
            for index in range(count):
                writer.acknowledged[first + index] = produced.offset + index
        else:
            self.refused(writer, first, produced.code)

    def refused(self, writer: Writer, first: int, code: int) -> None:
        """A plain writer goes on with the next value."""


class IdempotentWriter(BatchWriter):
    """Resend unacknowledged batches in order; the gateway must recognise those that it has."""

    idempotent = True

    def __init__(
        self,
        name: str,
        address: Callable[[], str],
        history: History,
        partitions: Sequence[Partition],
        seed: str,
    ) -> None:
        super().__init__(name, address, history, partitions, seed)
        self._identity: tuple[int, int] | None = None

    def encode(self, writer: Writer, first: int, values: list[bytes]) -> bytes:
        assert self._identity is not None
        return encode_batch(values, *self._identity, sequence=first)

    def begin(self, connection: Connection) -> None:
        if self._identity is None:
            self._identity = connection.init_producer_id()
        for writer, _, _, batch in self.waiting:
            connection.send_produce(*writer.partition, batch)

    def refused(self, writer: Writer, first: int, code: int) -> None:
        raise AssertionError(f"error {code} for {writer.partition}, numbers from {first}")


class RealWriter(threading.Thread):
    """librdkafka's idempotent producer: its own retries, its own epochs."""

    def __init__(self, name: str, address: str, history: History, partition: Partition, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._writer = history.writer(name, partition, idempotent=True)
        self._random = random.Random(f"{seed}/{name}")
        self.stopping = threading.Event()
        self.problem: str | None = None
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": address,
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.timeout.ms": 600_000,  # on a busy machine one start takes 20 s, and kills come in a row
                "reconnect.backoff.ms": 10,
                "reconnect.backoff.max.ms": 100,
                "retry.backoff.ms": 10,
                "retry.backoff.max.ms": 100,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        topic, partition = self._writer.partition
        while not self.stopping.is_set():
            number = self._writer.sent
            self._writer.sent += 1
            value = Value(self._writer.name, partition, number)
            self._producer.produce(
                topic,
                value.encode(self._random.randint(*SMALL_BYTES)),
                partition=partition,
                on_delivery=lambda error, message, number=number: self._told(error, message, number),
            )
            self._producer.poll(0)
            self.stopping.wait(self._random.random() * PAUSE_S_MAX)
        if left := self._producer.flush(DRAIN_SECONDS_MAX):
            self.problem = f"{self.name}: {left} records still not acknowledged"

    def _told(self, error: object, message: confluent_kafka.Message, number: int) -> None:
        if error is not None:
            self.problem = f"{self.name}: {error} for number {number}"
            return
        # An idempotent producer that is told "duplicate" knows no offset.
        offset = message.offset()
        self._writer.acknowledged[number] = offset if offset is not None and offset >= 0 else None


class TailReader(Client):
    """Follows a partition and remembers the records that it got."""

    def __init__(self, address: Callable[[], str], history: History, partition: Partition, seed: str) -> None:
        super().__init__(f"reader-{partition[0]}-{partition[1]}", address, seed)
        self._history, self._partition, self._position = history, partition, 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            fetched = connection.fetch(*self._partition, self._position, max_wait_ms=100)
            if fetched.code:
                raise Refused(f"Fetch {self._partition} at {self._position}", fetched.code)
            entries = [(offset, Value.decode(raw)) for offset, raw in decode_batches(fetched.records)]
            self._history.saw(self._partition, entries)
            if entries:
                self._position = entries[-1][0] + 1
            self.pause()


class CatchUpReader(Client):
    """A reader of a partition from its beginning, again and again, which retries records that it cannot read."""

    def __init__(self, address: Callable[[], str], history: History, partition: Partition, seed: str) -> None:
        super().__init__(f"catch-up-{partition[0]}-{partition[1]}", address, seed)
        self._history, self._partition = history, partition
        self._position: int | None = None
        self.rounds = 0  # how often it came from the beginning to the end
        self.refusals = 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            if self._position is None:
                self._position = connection.list_offset(*self._partition, EARLIEST)
            fetched = connection.fetch(*self._partition, self._position, max_wait_ms=100, max_bytes=CATCH_UP_BYTES)
            if fetched.code == OUT_OF_RANGE:
                self._position = None  # what lies there was deleted
            elif fetched.code in READ_AGAIN:
                self.refusals += 1
                self.stopping.wait(TICK_S)
            elif fetched.code:
                raise Refused(f"Fetch {self._partition} at {self._position}", fetched.code)
            elif self._position >= fetched.high_watermark:
                self._position = None
                self.rounds += 1
                self.pause()
            else:
                entries = [(offset, Value.decode(raw)) for offset, raw in decode_batches(fetched.records)]
                self._history.saw(self._partition, entries)
                if entries:
                    self._position = entries[-1][0] + 1


class Committer(Client):
    """Commits ever larger offsets for a group without members."""

    def __init__(self, address: Callable[[], str], history: History, partition: Partition, seed: str) -> None:
        super().__init__(f"group-{partition[1]}", address, seed)
        self._history, self._partition, self._offset = history, partition, 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            self._offset += 1
            self._history.committing(self.name, self._partition, self._offset)
            connection.commit_offset(self.name, *self._partition, self._offset)
            self._history.committed(self.name, self._partition, self._offset)
            self.pause()


class Load:
    """A set of clients, started and stopped together."""

    def __init__(self, clients: Sequence[Client | RealWriter]) -> None:
        self._clients = clients
        self._tick = threading.Event()  # never set: waits are of random length by design

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.stopping.set()

    def run_for(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let them work, or until that is so; comes back early when one has met what must not happen."""
        deadline = time.monotonic() + seconds
        while not self.problems() and not until() and (left := deadline - time.monotonic()) > 0:
            self._tick.wait(min(left, TICK_S))

    def problems(self) -> list[str]:
        return [client.problem for client in self._clients if client.problem]

    def drain(self) -> None:
        """Stop them once everything that waits is acknowledged; the gateway must be up."""
        self.__exit__()
        for client in self._clients:
            client.join(DRAIN_SECONDS_MAX)
            assert not client.is_alive(), f"{client.name} is not done"
