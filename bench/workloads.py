"""The speed rows: each one's load on a server, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench import loadgen
from bench.servers import Server

# Sizes: every run takes 0.5-3 s on two cores, long enough for thousands of syncs to average out
# and short enough that the two runs of a pair meet the same disk.
SMALL_RECORDS: Final = 2_000_000
KILOBYTE: Final = 1024
KILOBYTE_RECORDS: Final = 300_000
SINGLE_RECORDS: Final = 40_000
WIDE_RECORDS: Final = 300_000
WIDE_PARTITIONS: Final = 1000
TAIL_RECORDS: Final = 48_000  # 48 MB: any sensible tail cache has room for it
TAIL_ROUNDS: Final = 6

Figure = tuple[str, str, float]  # workload, unit, value


@dataclass(frozen=True, slots=True)
class Workload:
    """One run against one server, on a new topic. `key` is its name for `--only` and the profiler."""

    key: str
    partitions: int
    run: Callable[[Server, str], Iterator[Figure]]


def small_batched(server: Server, topic: str) -> Iterator[Figure]:
    load = loadgen.run("produce", server.bootstrap, topic, size=100, count=SMALL_RECORDS)
    yield "100 B, one producer, batched", "records/s", load.per_second


def kilobyte_one_partition(server: Server, topic: str) -> Iterator[Figure]:
    """Write, read the last 48 MB over and over, then read everything from the beginning."""
    written = loadgen.run("produce", server.bootstrap, topic, size=KILOBYTE, count=KILOBYTE_RECORDS)
    yield "1 KB, one partition", "MB/s", written.per_second * KILOBYTE / 1e6
    tail = loadgen.run(
        "consume",
        server.bootstrap,
        topic,
        count=TAIL_RECORDS,
        from_offset=KILOBYTE_RECORDS - TAIL_RECORDS,
        rounds=TAIL_ROUNDS,
    )
    yield "consumer at the tail, 1 KB", "MB/s", tail.per_second * KILOBYTE / 1e6
    behind = loadgen.run("consume", server.bootstrap, topic, count=KILOBYTE_RECORDS)
    yield "consumer catching up, 1 KB", "MB/s", behind.per_second * KILOBYTE / 1e6


def single_records(server: Server, topic: str) -> Iterator[Figure]:
    before = server.cpu_seconds()
    load = produce_singles(server, topic)
    cpu_us = (server.cpu_seconds() - before) / load.records * 1e6
    yield "single-record requests, 64 in flight", "requests/s", load.per_second
    yield "single-record requests, server CPU", "µs/request", cpu_us


def many_partitions(server: Server, topic: str) -> Iterator[Figure]:
    load = loadgen.run(
        "produce",
        server.bootstrap,
        topic,
        size=KILOBYTE,
        count=WIDE_RECORDS,
        partitions=WIDE_PARTITIONS,
    )
    yield "1 KB over 1,000 partitions", "MB/s", load.per_second * KILOBYTE / 1e6


def produce_singles(server: Server, topic: str, count: int = SINGLE_RECORDS) -> loadgen.Load:
    """One record in each request, 64 requests on the way."""
    return loadgen.run(
        "produce",
        server.bootstrap,
        topic,
        size=100,
        count=count,
        linger_ms=0,
        batch_num_messages=1,
        max_in_flight=64,
    )


WORKLOADS: Final = (
    Workload("small", 1, small_batched),
    Workload("kilobyte", 1, kilobyte_one_partition),
    Workload("single", 1, single_records),
    Workload("wide", WIDE_PARTITIONS, many_partitions),
)
