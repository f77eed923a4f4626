"""Clients that make work for what happens behind the log: records to delete, topics to drop, keys to compact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.faults.client import Connection, Refused, decode_keyed, encode_batch
from tests.faults.history import Partition
from tests.faults.load import Client

KEPT_RECORDS: Final = 400  # a trimmed partition keeps about so many
TRIM_PAUSE_S: Final = 0.3
TOPIC_RECORDS: Final = 30
TOPIC_BYTES: Final = 8_000
KEYS: Final = 40
KEYED_BYTES: Final = 1_500
READ_BYTES: Final = 1 << 20


class Trimmer(Client):
    """A client that deletes records, so that chunks die."""

    def __init__(self, address: Callable[[], str], partition: Partition, seed: str) -> None:
        super().__init__(f"trimmer-{partition[1]}", address, seed)
        self._partition = partition
        self.trims = 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            latest = connection.list_offset(*self._partition, -1)
            if latest > KEPT_RECORDS:
                connection.delete_records(*self._partition, latest - KEPT_RECORDS)
                self.trims += 1
            self.stopping.wait(TRIM_PAUSE_S)


class TopicChurn(Client):
    """A client that makes topics, writes to them, and drops them."""

    def __init__(self, address: Callable[[], str], seed: str) -> None:
        super().__init__("churn", address, seed)
        self._number = 0
        self.dropped = 0

    def session(self, connection: Connection) -> None:
        while not self.finished():
            self._number += 1
            topic = f"churn-{self._number}"
            connection.create_topic(topic, 2)
            for record in range(TOPIC_RECORDS):
                connection.produce(topic, record % 2, encode_batch([bytes(TOPIC_BYTES)]))
                self.pause()
            connection.delete_topic(topic)
            self.dropped += 1


class KeyWriter(Client):
    """Writes values of a few keys again and again to a compacted topic; remembers each key's last ones."""

    def __init__(self, address: Callable[[], str], partition: Partition, seed: str) -> None:
        super().__init__(f"keys-{partition[1]}", address, seed)
        self._partition = partition
        self._number = 0
        self.written = 0  # acknowledged
        self.records_found = 0
        self.acknowledged: dict[bytes, int] = {}  # the largest number that was acknowledged
        self.sent: dict[bytes, int] = {}  # the largest number that was tried

    def session(self, connection: Connection) -> None:
        while not self.finished():
            key = b"key-%d" % self.random.randrange(KEYS)
            self._number += 1
            self.sent[key] = self._number
            value = (b"%d/" % self._number).ljust(KEYED_BYTES, b".")
            produced = connection.produce(*self._partition, encode_batch([value], keys=[key]))
            if produced.code == 0:
                self.acknowledged[key] = self._number
                self.written += 1
            self.pause()

    def check(self, connection: Connection) -> list[str]:
        """The faults in a reader's present view: each key's last value is there, values are in order."""
        last: dict[bytes, int] = {}
        found: list[str] = []
        newest = self.records_found = 0
        position = connection.list_offset(*self._partition, -2)
        while True:
            fetched = connection.fetch_some(*self._partition, position, max_bytes=READ_BYTES)
            if fetched.code:
                raise Refused(f"Fetch {self._partition} at {position}", fetched.code)
            if position >= fetched.high_watermark:
                break
            before = position
            for first, end, records in decode_keyed(fetched.records):
                assert first >= before or end > before
                for offset, key, value in records:
                    written = int(value.split(b"/", 1)[0])
                    if offset >= before and written <= newest:
                        found.append(f"reordered: {written} at {offset} comes after {newest}")
                    newest, last[key or b""] = written, written
                    self.records_found += 1
                position = end
            assert position > before, f"nothing to read at {self._partition} {position}"
        for key, acknowledged in self.acknowledged.items():
            if not acknowledged <= last.get(key, -1) <= self.sent[key]:
                found.append(f"key {key!r} has {last.get(key)}, acknowledged {acknowledged}, tried {self.sent[key]}")
        return found
