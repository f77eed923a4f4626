"""The plan of a run, checked once, then split into one share for each worker process.

Keeps: the shares of a plan add up to the plan, in writers, readers, records and rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

STAMP_BYTES: Final = 8
PROCESSES_MAX: Final = 16
"""Most processes of writers, and of readers, by default: with more, a machine measures its own scheduler."""

Mode = Literal["write", "read", "end-to-end"]


class PlanError(ValueError):
    """Options that contradict each other; the message names them and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run, or a worker's share of one. A `rate` of None is a burst: as fast as possible."""

    bootstrap: str
    topic: str
    partitions: int = 1
    writers: int = 1
    readers: int = 0
    size: int = 100
    seconds: float = 10.0
    records: int | None = None
    rate: float | None = None
    warmup: float = 3.0
    keys: int = 0
    compression: str = "none"
    acks: str = "all"
    idempotence: bool = False
    transactions: int = 0
    client: str = "confluent"
    settings: dict[str, str] = field(default_factory=dict)
    first_reader: int = 0
    """The number of this share's first reader among all readers, which decides its partitions."""
    stamped: bool = False
    """Each record carries its due time, for the reader."""

    @property
    def mode(self) -> Mode:
        if not self.readers:
            return "write"
        return "end-to-end" if self.writers else "read"

    def check(self) -> Plan:
        if not self.writers and not self.readers:
            raise PlanError("neither writers nor readers: give --writers or --readers")
        if self.mode == "end-to-end" and self.size < STAMP_BYTES:
            raise PlanError(
                f"--size {self.size}: end to end a record carries its time, which takes {STAMP_BYTES} bytes"
            )
        if self.mode == "read" and self.rate is not None:
            raise PlanError("--rate and --throughput are the writers': a reader takes what there is")
        if self.transactions and not self.writers:
            raise PlanError("--transactions needs writers")
        if self.acks != "all" and (self.idempotence or self.transactions):
            raise PlanError(f"--acks {self.acks}: idempotence and transactions need --acks all")
        return self

    def writer_shares(self, processes: int) -> list[Plan]:
        """Each writer process's part of the load."""
        counts = _parts(self.writers, min(processes, self.writers)) if self.writers else []
        shares = []
        stamped = self.mode == "end-to-end"
        records_left, writers_left = self.records, self.writers
        for count in counts:
            records = None
            if records_left is not None:
                records = records_left * count // writers_left
                records_left -= records
                writers_left -= count
            rate = None if self.rate is None else self.rate * count / self.writers
            shares.append(replace(self, writers=count, readers=0, records=records, rate=rate, stamped=stamped))
        return shares

    def reader_shares(self, processes: int) -> list[Plan]:
        """Each reader process's part: the number of its readers, and of the first one."""
        counts = _parts(self.readers, min(processes, self.readers)) if self.readers else []
        stamped = self.mode == "end-to-end"
        return [
            replace(self, writers=0, readers=count, first_reader=sum(counts[:number]), rate=None, stamped=stamped)
            for number, count in enumerate(counts)
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def partitions_of(reader: int, readers: int, partitions: int) -> list[int]:
    """Readers share the partitions; further readers read partitions that others read too."""
    if readers >= partitions:
        return [reader % partitions]
    return list(range(reader, partitions, readers))


def _parts(total: int, count: int) -> list[int]:
    return [total // count + (number < total % count) for number in range(count)]
