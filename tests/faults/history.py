"""A history of events, and a check that it explains the state afterwards.

Every value written is unique: `writer/partition/number`. A writer numbers its values per partition from 0 without a
gap. The checker looks for what a log must never do: lose an acknowledged value, keep one twice, reorder, invent, give
a value another offset than it acknowledged, take back what a reader has seen, let a committed offset go back.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.faults.client import Connection, check, decode_batches

ANOMALIES_MAX: Final = 20
READ_BYTES: Final = 4 << 20

Partition = tuple[str, int]  # topic, number


@dataclass(frozen=True, slots=True)
class Value:
    """One value's identity."""

    writer: str
    partition: int
    number: int

    def encode(self, size: int = 0) -> bytes:
        """Padded to `size` bytes."""
        return f"{self.writer}/{self.partition}/{self.number}/".encode().ljust(size, b".")

    @classmethod
    def decode(cls, raw: bytes) -> Value:
        writer, partition, number, _ = raw.split(b"/", 3)
        return cls(writer.decode(), int(partition), int(number))


@dataclass(slots=True)
class Writer:
    """One writer's batches for one partition."""

    name: str
    partition: Partition
    idempotent: bool
    sent: int = 0  # numbers 0..sent-1 were tried
    acknowledged: dict[int, int | None] = field(default_factory=dict)  # number → offset, if told


class History:
    """All that clients know. Threads add to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.writers: dict[tuple[str, Partition], Writer] = {}
        self.seen: dict[Partition, dict[int, Value]] = {}
        self.commits: dict[tuple[str, Partition], tuple[int, int]] = {}  # acknowledged, attempted

    def writer(self, name: str, partition: Partition, *, idempotent: bool) -> Writer:
        with self.lock:
            return self.writers.setdefault((name, partition), Writer(name, partition, idempotent))

    def saw(self, partition: Partition, entries: Iterable[tuple[int, Value]]) -> None:
        """A reader was given these."""
        with self.lock:
            self.seen.setdefault(partition, {}).update(entries)

    def committing(self, group: str, partition: Partition, offset: int) -> None:
        with self.lock:
            done, _ = self.commits.get((group, partition), (-1, -1))
            self.commits[group, partition] = (done, offset)

    def committed(self, group: str, partition: Partition, offset: int) -> None:
        with self.lock:
            self.commits[group, partition] = (offset, self.commits[group, partition][1])

    def copy(self) -> History:
        other = History()
        with self.lock:
            other.writers = {
                key: dataclasses.replace(writer, acknowledged=dict(writer.acknowledged))
                for key, writer in self.writers.items()
            }
            other.seen = {partition: dict(seen) for partition, seen in self.seen.items()}
            other.commits = dict(self.commits)
        return other

    def acknowledged_count(self) -> int:
        with self.lock:
            return sum(len(writer.acknowledged) for writer in self.writers.values())


@dataclass(slots=True)
class Outcome:
    """The store's content: per partition its entries in the order read, and the committed offsets."""

    entries: dict[Partition, list[tuple[int, Value]]]
    commits: dict[tuple[str, Partition], int] = field(default_factory=dict)
    starts: Mapping[Partition, int] = field(default_factory=dict)


def check_history(history: History, outcome: Outcome) -> list[str]:
    """Every anomaly found, at most ANOMALIES_MAX, each a sentence that names what and where."""
    found: list[str] = []
    for partition, entries in outcome.entries.items():
        found += _check_offsets(partition, entries, outcome.starts.get(partition, 0))
        found += _check_seen(partition, entries, history.seen.get(partition, {}), outcome)
        by_writer: dict[str, list[tuple[int, int]]] = {}
        for offset, value in entries:
            by_writer.setdefault(value.writer, []).append((offset, value.number))
            if value.partition != partition[1]:
                found.append(f"stray: {value} lies in {partition}")
        for name in by_writer:
            if (name, partition) not in history.writers:
                found.append(f"invented: {partition} holds values of {name}, who never wrote there")
        for writer in history.writers.values():
            if writer.partition == partition:
                start = outcome.starts.get(partition, 0)
                found += _check_writer(writer, by_writer.get(writer.name, []), start)
    for (group, partition), (done, tried) in history.commits.items():
        offset = outcome.commits.get((group, partition), done)
        if not done <= offset <= tried:
            found.append(f"commit went back: {group} on {partition} has {offset}, acknowledged {done}, tried {tried}")
    return found[:ANOMALIES_MAX]


def _check_offsets(partition: Partition, entries: list[tuple[int, Value]], start: int) -> Iterable[str]:
    for expected, (offset, value) in enumerate(entries, start):
        if offset != expected:
            yield f"offsets: {partition} has {value} at {offset}, expected {expected}"
            return


def _check_seen(
    partition: Partition,
    entries: list[tuple[int, Value]],
    seen: Mapping[int, Value],
    outcome: Outcome,
) -> Iterable[str]:
    there = dict(entries)
    start = outcome.starts.get(partition, 0)
    for offset, value in seen.items():
        if offset >= start and there.get(offset) != value:
            yield f"taken back: {value} was read at {partition} {offset}, now {there.get(offset)}"


def _check_writer(writer: Writer, found: list[tuple[int, int]], start: int) -> Iterable[str]:
    who = f"{writer.name} on {writer.partition}"
    offsets: dict[int, int] = {}
    last = -1
    for offset, number in found:
        if number in offsets:
            yield f"duplicate: {who} number {number} at {offsets[number]} and {offset}"
        elif number < last:
            yield f"reordered: {who} number {number} at {offset} comes after {last}"
        if number >= writer.sent:
            yield f"invented: {who} number {number} at {offset} was never sent"
        if writer.idempotent and number > last + 1 and (last >= 0 or start == 0):
            yield f"gap: {who} jumps from {last} to {number} at {offset}"
        offsets.setdefault(number, offset)
        last = max(last, number)
    for number, told in writer.acknowledged.items():
        there = offsets.get(number)
        if there is None:
            if told is None or told >= start:
                yield f"lost: {who} number {number}, acknowledged at {told}"
        elif told is not None and there != told:
            yield f"moved: {who} number {number} acknowledged at {told}, found at {there}"


def read_partition(
    connection: Connection, partition: Partition, start: int | None = None
) -> tuple[int, list[tuple[int, Value]]]:
    """Log start, or the one given, and every entry from there to the high watermark."""
    topic, number = partition
    if start is None:
        start = connection.list_offset(topic, number, -2)
    position = start
    entries: list[tuple[int, Value]] = []
    while True:
        fetched = connection.fetch_some(topic, number, position, max_bytes=READ_BYTES)
        check(f"Fetch {partition} at {position}", fetched.code)
        if position >= fetched.high_watermark:
            return start, entries
        before = position
        for offset, raw in decode_batches(fetched.records):
            if offset >= position:
                entries.append((offset, Value.decode(raw)))
                position = offset + 1
        assert position > before, f"nothing to read at {partition} {position}"


def read_outcome(
    connection: Connection,
    partitions: Iterable[Partition],
    history: History,
    starts: Mapping[Partition, int] | None = None,
) -> Outcome:
    """The present content, for a reader that starts at the beginning, or at the given places."""
    outcome = Outcome({})
    found = {}
    for partition in partitions:
        start = (starts or {}).get(partition)
        found[partition], outcome.entries[partition] = read_partition(connection, partition, start)
    outcome.starts = found
    for group, partition in history.commits:
        outcome.commits[group, partition] = connection.committed_offset(group, *partition)
    return outcome
