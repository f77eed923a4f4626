"""The way from a command's wish to records.

Keeps: the end is taken when the command starts, so a busy topic does not keep it; a partition's records come in its
order. With `--tail` and `--follow` those of several partitions come in the order of their times, as far as they are
there together. With a group, offsets are committed only behind records that were printed.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.cli.client.cluster import PartitionId, Reader, Record
from gateway.cli.client.session import Session
from gateway.cli.kafka import positions
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

POLL_MS: Final = 500
IDLE_S: Final = 10.0
"""Longest wait of a group's member for its first records, and for more, without --follow."""
STUCK_S: Final = 30.0
"""Longest time without progress before the promised end."""
TOGETHER_S: Final = 0.2
"""How long `--follow` waits for records of other partitions, to put them in order with those that have come."""
TOGETHER_MAX: Final = 10_000
"""Records that it puts in order at a time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A command's flags."""

    topics: tuple[str, ...]
    begin: str
    """A place; empty: not given."""
    until: str | None
    count: int | None
    tail: int | None
    follow: bool
    group: str | None
    partitions: tuple[int, ...]
    key: bytes | None
    newest: bool
    committed: bool

    def check(self) -> None:
        """Raises Refused for flags that contradict one another."""
        apart = [
            (self.group is not None and (self.until is not None or self.tail is not None), "--until and --tail"),
            (self.group is not None and bool(self.partitions), "--partition"),
        ]
        for wrong, flags in apart:
            if wrong:
                raise Refused(f"--group: a group's members share partitions: leave out {flags}", ExitCode.CONFIGURATION)
        if self.group is not None and positions.parse(self.place, "--from", 0).kind not in ("start", "end"):
            where = "a group goes on where it stopped, and begins at --from start or --from end"
            raise Refused(f"--group: {where}; `penstock groups reset` moves it", ExitCode.CONFIGURATION)
        if self.tail is not None and (self.begin or self.until is not None or self.count is not None):
            why = "--tail says where to begin and how much to read: leave out --from, --until and --count"
            raise Refused(why, ExitCode.CONFIGURATION)
        if self.newest and self.count is not None:
            raise Refused("--newest is one record: leave out --count", ExitCode.CONFIGURATION)
        if self.newest and self.follow:
            raise Refused("--newest looks at what is there: leave out --follow", ExitCode.CONFIGURATION)
        if self.follow and self.until is not None:
            raise Refused("--follow has no end: leave out --until", ExitCode.CONFIGURATION)

    @property
    def place(self) -> str:
        """Where to begin."""
        return self.begin or ("end" if self.follow and self.group is None else "start")

    @property
    def is_silent(self) -> bool:
        """Nothing is printed while partitions are read, but afterwards."""
        return self.newest or self.tail is not None


class Newest:
    """The newest records of many, by their times; at most twice as many are kept."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[Record] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, records: Iterable[Record]) -> None:
        self._kept.extend(records)
        if len(self._kept) > 2 * self._count:
            self._kept = self.in_order()

    def in_order(self) -> list[Record]:
        """The oldest of them first."""
        return sorted(self._kept, key=_moment)[-self._count :]


def _moment(record: Record) -> tuple[int, str, int, int]:
    return record.timestamp_ms, record.topic, record.partition, record.offset


def in_order_of_time(records: Iterable[Record]) -> list[Record]:
    """Those of several partitions merged by their times; each partition keeps its own order, whatever its times say."""
    apart: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        apart.setdefault((record.topic, record.partition), []).append(record)
    return list(heapq.merge(*apart.values(), key=lambda record: record.timestamp_ms))


class Reading:
    """One run of `consume`."""

    def __init__(self, session: Session, wanted: Wanted, show: Callable[[list[Record]], None]) -> None:
        wanted.check()
        self._session = session
        self._wanted = wanted
        self._show = show
        self._left = wanted.count
        self._newest: Record | None = None

    def run(self) -> None:
        """Print what is wanted. Ctrl-C is an orderly end."""
        try:
            if self._wanted.group is not None:
                self._read_group(self._wanted.group)
            else:
                self._read_partitions()
        except KeyboardInterrupt:
            pass
        if self._newest is not None:
            self._show([self._newest])
        elif self._wanted.newest:
            raise Refused("no such record was found")

    # All partitions

    def _read_partitions(self) -> None:
        partitions = self._partitions()
        starts = self._session.cluster.offsets(partitions, "start")
        ends = self._session.cluster.offsets(partitions, "end")
        if self._wanted.tail is not None:
            begin = {one: max(starts[one], ends[one] - self._wanted.tail) for one in partitions}
            last = Newest(self._wanted.tail)
            self._read(begin, ends, lambda records: last.add(filter(self._fits, records)))
            self._take(last.in_order())
            begin = ends
        else:
            begin = self._places(self._wanted.place, "--from", partitions, starts, ends)
            if not self._wanted.follow:
                until = self._wanted.until
                until_at = ends if until is None else self._places(until, "--until", partitions, starts, ends)
                self._read(begin, until_at, self._take_fitting)
        if self._wanted.follow:
            self._follow(self._session.cluster.reader(begin, committed=self._wanted.committed))

    def _read(
        self, begin: Mapping[PartitionId, int], ends: Mapping[PartitionId, int], take: Callable[[list[Record]], object]
    ) -> None:
        """Read each partition from its begin up to its end."""
        open_ones = {one: end for one, end in ends.items() if begin[one] < end}
        if not open_ones or self._left == 0:
            return
        reader = self._session.cluster.reader({one: begin[one] for one in open_ones}, committed=self._wanted.committed)
        total = sum(end - begin[one] for one, end in open_ones.items())
        progressed = time.monotonic()
        places = {one: begin[one] for one in open_ones}
        try:
            garbles = sys.stdout.isatty() and not self._wanted.is_silent
            with self._session.output.progress("offsets", total, shown=not garbles) as advance:
                while open_ones and self._left != 0:
                    records = reader.poll(POLL_MS)
                    take([one for one in records if one.offset < ends[PartitionId(one.topic, one.partition)]])
                    for one in list(open_ones):
                        at = reader.position(one)
                        if at > places[one]:
                            advance(at - places[one])
                            places[one], progressed = at, time.monotonic()
                        if at >= open_ones[one]:
                            reader.pause(one)
                            del open_ones[one]
                    if open_ones and time.monotonic() - progressed > STUCK_S:
                        one, end = next(iter(open_ones.items()))
                        raise Refused(
                            f"{one}: no answer beyond offset {places[one]} for {STUCK_S:g} s; its end is {end}"
                        )
        finally:
            reader.close()

    def _follow(self, reader: Reader) -> None:
        try:
            while self._left != 0:
                self._take_fitting(in_order_of_time(self._arrived(reader)))
        finally:
            reader.close()

    def _arrived(self, reader: Reader) -> list[Record]:
        """The next records, with those of other partitions that come soon after them."""
        records = reader.poll(POLL_MS)
        end = time.monotonic() + TOGETHER_S
        while records and len(records) < TOGETHER_MAX and (left := end - time.monotonic()) > 0:
            records += reader.poll(int(left * 1000) + 1)
        return records

    def _partitions(self) -> list[PartitionId]:
        found = [one for topic in self._session.cluster.topics(self._wanted.topics) for one in topic.ids]
        if not self._wanted.partitions:
            return found
        chosen = [one for one in found if one.partition in self._wanted.partitions]
        if missing := set(self._wanted.partitions) - {one.partition for one in found}:
            raise Refused(f"--partition {min(missing)}: there is no such partition", ExitCode.CONFIGURATION)
        return chosen

    def _places(
        self,
        text: str,
        flag: str,
        partitions: list[PartitionId],
        starts: Mapping[PartitionId, int],
        ends: Mapping[PartitionId, int],
    ) -> dict[PartitionId, int]:
        place = positions.parse(text, flag, time.time_ns() // 1_000_000)
        at_time = self._session.cluster.offsets(partitions, place.value) if place.kind == "time" else {}
        return {one: positions.resolve(place, starts[one], ends[one], at_time.get(one, -1)) for one in partitions}

    # A group

    def _read_group(self, group: str) -> None:
        self._session.cluster.topics(self._wanted.topics)
        from_start = positions.parse(self._wanted.place, "--from", 0).kind == "start"
        reader = self._session.cluster.group_reader(
            self._wanted.topics, group, committed=self._wanted.committed, from_start=from_start
        )
        heard = time.monotonic()
        try:
            while self._left != 0 and (self._wanted.follow or time.monotonic() - heard < IDLE_S):
                if records := reader.poll(POLL_MS):
                    heard = time.monotonic()
                    looked_at = self._take_fitting(records)
                    reader.commit({PartitionId(one.topic, one.partition): one.offset + 1 for one in looked_at})
        finally:
            reader.close()

    # What is printed

    def _fits(self, record: Record) -> bool:
        return self._wanted.key is None or record.key == self._wanted.key

    def _take_fitting(self, records: list[Record]) -> list[Record]:
        """Take what fits until there is enough; those that were looked at."""
        looked_at: list[Record] = []
        fitting: list[Record] = []
        for record in records:
            if self._left == 0:
                break
            looked_at.append(record)
            if self._fits(record):
                fitting.append(record)
                self._left = None if self._left is None else self._left - 1
        self._take(fitting)
        return looked_at

    def _take(self, records: list[Record]) -> None:
        if self._wanted.newest:
            for record in records:
                if self._newest is None or record.timestamp_ms >= self._newest.timestamp_ms:
                    self._newest = record
        elif records:
            self._show(records)
