"""A short life of a gateway in which everything happens that must survive a crash, and what may be said after one.

Writes by an idempotent producer until the log has rolled several times, commits, topics created, grown and deleted,
records deleted so that the log is truncated, a clean stop. It may be cut off anywhere.
"""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path
from typing import Final

from tests.faults.client import UNKNOWN_TOPIC, Connection, Disconnected, Refused, encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Value, check_history, read_outcome
from tests.faults.questions import ask_everything
from tests.faults.settings import SEED

SETTINGS: Final = {
    "log.file.bytes": 1 << 20,
    "checkpoint.interval.ms": 100,
    "checkpoint.bytes": 1 << 20,
    "log.retention.check.interval.ms": 100,
}
BATCHES: Final = 11  # of 120 KB: more than a log file
BATCH_RECORDS: Final = 2
VALUE_BYTES: Final = 60_000
TRUNCATION_SECONDS_MAX: Final = 60.0
POLL_S: Final = 0.01
GROUP: Final = "script"
MAIN: Final = ("main", 0)


class Script:
    """One run with the gateway's answers. Every attribute holds acknowledged values."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.history = History()
        self.writer = self.history.writer("w", MAIN, idempotent=True)
        self.created: dict[str, int] = {}  # topic → partitions
        self.deleted: set[str] = set()
        self.in_doubt: set[str] = set()  # topics whose creation or deletion was under way
        self.trimmed = 0
        self.trying_to_trim = 0
        self.finished = False
        self._identity: tuple[int, int] | None = None

    def run(self) -> None:
        """Until the end or until the gateway is gone."""
        try:
            with self._gateway.connect() as connection:
                self._first_half(connection)
                self._second_half(connection)
            self.finished = self._gateway.stop() == 0  # else it was killed while stopping
        except Disconnected:
            pass

    def _first_half(self, connection: Connection) -> None:
        self._create(connection, "main", 2)
        self._identity = connection.init_producer_id()
        self._create(connection, "doomed", 2)
        connection.produce("doomed", 0, encode_batch([b"gone soon"]))
        for _ in range(BATCHES):
            self._write(connection)
        self._commit(connection, 10)
        self._delete(connection, "doomed")

    def _second_half(self, connection: Connection) -> None:
        self._create(connection, "late", 1)
        self._grow(connection, "late", 4)
        for _ in range(BATCHES):
            self._write(connection)
        oldest = min(log_files(self._gateway.data))
        self._trim(connection, self.writer.sent - 6)
        self._commit(connection, 20)
        self._await_truncation(oldest)
        for _ in range(BATCHES):
            self._write(connection)
        self._commit(connection, 30)

    def _write(self, connection: Connection) -> None:
        assert self._identity is not None
        first = self.writer.sent
        self.writer.sent += BATCH_RECORDS
        numbers = range(first, first + BATCH_RECORDS)
        values = [Value("w", 0, number).encode(VALUE_BYTES) for number in numbers]
        produced = connection.produce(*MAIN, encode_batch(values, *self._identity, sequence=first))
        assert produced.code == 0, f"error {produced.code} for number {first}"
        self.writer.acknowledged.update((n, produced.offset + n - first) for n in numbers)

    def _create(self, connection: Connection, topic: str, partitions: int) -> None:
        self.in_doubt.add(topic)
        connection.create_topic(topic, partitions)
        self.in_doubt.remove(topic)
        self.created[topic] = partitions

    def _grow(self, connection: Connection, topic: str, partitions: int) -> None:
        connection.create_partitions(topic, partitions)
        self.created[topic] = partitions

    def _delete(self, connection: Connection, topic: str) -> None:
        self.in_doubt.add(topic)
        connection.delete_topic(topic)
        self.in_doubt.remove(topic)
        del self.created[topic]
        self.deleted.add(topic)

    def _trim(self, connection: Connection, before: int) -> None:
        self.trying_to_trim = before
        self.trimmed = connection.delete_records(*MAIN, before)

    def _commit(self, connection: Connection, offset: int) -> None:
        self.history.committing(GROUP, MAIN, offset)
        connection.commit_offset(GROUP, *MAIN, offset)
        self.history.committed(GROUP, MAIN, offset)

    def _await_truncation(self, oldest: Path) -> None:
        """Until the log file has gone, or the gateway has."""
        deadline = time.monotonic() + TRUNCATION_SECONDS_MAX
        while oldest.exists():
            if self._gateway.process is not None and self._gateway.process.poll() is not None:
                raise Disconnected("ended")
            assert time.monotonic() < deadline, "the log is not truncated"
            time.sleep(POLL_S)

    # Afterwards

    def copy(self) -> Script:
        """The same memories, for another future."""
        other = Script(self._gateway)
        for name, value in vars(self).items():
            if name not in ("_gateway", "history", "writer"):
                setattr(other, name, copy.copy(value))
        other.history = self.history.copy()
        other.writer = other.history.writer("w", MAIN, idempotent=True)
        return other

    def verify(self, gateway: Gateway) -> list[str]:
        """The faults of a gateway that was started on the directory of this run."""
        with gateway.connect() as connection:
            found = list(self._check_topics(connection))
            if "main" not in self.created:
                return found
            outcome = read_outcome(connection, [MAIN], self.history)
            found += check_history(self.history, outcome)
            found += ask_everything(connection, [MAIN], random.Random(SEED))
            start = outcome.starts[MAIN]
            if not self.trimmed <= start <= max(self.trying_to_trim, self.trimmed):
                found.append(f"start {start}, acknowledged {self.trimmed}, tried {self.trying_to_trim}")
            found += self._check_going_on(connection)
            return found

    def _check_topics(self, connection: Connection) -> list[str]:
        found = []
        for topic, partitions in self.created.items():
            if topic not in self.in_doubt and not exists(connection, topic, partitions - 1):
                found.append(f"topic {topic} is not there with {partitions} partitions")
        found += [f"topic {topic} is back" for topic in self.deleted if exists(connection, topic, 0)]
        return found

    def _check_going_on(self, connection: Connection) -> list[str]:
        """The producer resends batches without an answer; they and later ones are there once."""
        if self._identity is None:
            return []
        unknown = [n for n in range(self.writer.sent) if n not in self.writer.acknowledged]
        if unknown:
            self.writer.sent = unknown[0]
        self._write(connection)
        self._write(connection)
        return check_history(self.history, read_outcome(connection, [MAIN], self.history))


def exists(connection: Connection, topic: str, partition: int) -> bool:
    try:
        connection.list_offset(topic, partition, -1)
    except Refused as refused:
        if refused.code != UNKNOWN_TOPIC:
            raise
        return False
    return True


def log_files(data: Path) -> list[Path]:
    """The durable log's files; RocksDB's own carry the same suffix elsewhere."""
    return sorted(data.glob("store/container-*/log/*.log"))
