"""The workloads of the comparison: a table, and a function for each kind of row.

Keeps: a workload is data; a kind is the one function that carries out all rows of its kind.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.loadgen import Load
from bench.systems import BareSystem, KafkaLike, PravegaSystem, System, until_quiet

Figure = tuple[str, str, float]  # workload, unit, value

KB: Final = 1000
SECONDS: Final = 1.5
WARMUP: Final = 0.5
READ_SECONDS: Final = 0.8
QUEUE_KB_MAX: Final = 65536
"""Queued KB of all writers together: records sent in the measured time are also acknowledged in about that time."""
BATCH_RECORDS: Final = 16
"""Records in a row to one partition by each of many writers: 16 KB, as Kafka's Java producer batches by default."""
LATENCY_SECONDS: Final = 4.0
"""At 1,000 requests a second the slowest 0.1 % are four: the median of the rounds is what a p99.9 is worth."""
SLOW_SECONDS_MAX: Final = 25
TAIL_BYTES: Final = 48_000_000
TAIL_ROUNDS: Final = 6
FRESH_RECORDS_MIN: Final = 16_000
FRESH_SECONDS_MAX: Final = 80
SETTLE_SECONDS_MAX: Final = 20
PROMPT_LINGER_MS: Final = 1
"""Linger where latency is measured: behind the client's own 5 ms, a server's part would not show."""
LINGER_MS: Final = 50
"""Linger of 100 writers: waking them more often would measure their scheduling."""
CATCH_UP_RECORDS: Final = 300_000
CATCH_UP_RATE: Final = 10_000
IDLE_CONNECTIONS: Final = 2000
IDLE_RATE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One line of the table."""

    key: str
    kind: str
    title: str
    size: int = KB
    writers: int = 1
    partitions: int = 1
    """Partitions of all topics together."""
    topics: int = 1
    mb_s: int = 0
    readers: int = 1
    mb: int = 0
    """MB that are written before they are read."""
    pravega: bool = False
    bare: bool = False
    alone: bool = False
    """Is one server up at a time? Several on one disk would measure one another's work."""
    rounds: int = 99
    """Samples at most: a load of minutes is not run in every round."""

    def is_for(self, system: System) -> bool:
        if isinstance(system, PravegaSystem):
            return self.pravega
        return self.bare if isinstance(system, BareSystem) else True

    @property
    def rate(self) -> int:
        return self.mb_s * 1_000_000 // self.size


def label(size: int) -> str:
    return f"{size // KB} KB" if size >= KB else f"{size} B"


RATES: Final = (10, 30, 50)
"""MB/s at which latency is measured."""
SIZES: Final = (10, 100, 1000, 10_000, 100_000)
WORKS: Final = (
    *(
        Work(
            key=f"size-{size}-{writers}",
            kind="throughput",
            title=f"{label(size)}, {writers} writer{'s' if writers > 1 else ''}, {partitions} partition"
            f"{'s' if partitions > 1 else ''}",
            size=size,
            writers=writers,
            partitions=partitions,
            pravega=True,
        )
        for size in SIZES
        for writers, partitions in ((1, 1), (10, 16))
    ),
    *(
        Work(
            key=f"latency-{mb_s}",
            kind="latency",
            title=f"{mb_s} MB/s of 1 KB",
            partitions=4,
            mb_s=mb_s,
            pravega=True,
            alone=True,
        )
        for mb_s in RATES
    ),
    *(
        Work(
            key=f"written-{size}-{readers}",
            kind="written",
            title=f"{mb} MB of {label(size)} just written, {readers} reader{'s' if readers > 1 else ''}, {partitions} "
            f"partition{'s' if partitions > 1 else ''}",
            size=size,
            writers=readers,
            readers=readers,
            partitions=partitions,
            mb=mb,
            bare=True,
            alone=True,
        )
        for size, readers, partitions, mb in ((KB, 1, 1, 800), (KB, 10, 16, 400), (10 * KB, 10, 16, 400))
    ),
    *(
        Work(
            key=f"end-to-end-{size}",
            kind="end-to-end",
            title=f"{label(size)} end to end",
            size=size,
            mb_s={10: 1, 100: 2, 1000: 10, 10_000: 10, 100_000: 20}[size],
        )
        for size in SIZES
    ),
    *(
        Work(
            key=f"partitions-{partitions}",
            kind="partitions",
            title=f"{partitions:,} partition{'s' if partitions > 1 else ''}, 100 writers",
            writers=100,
            partitions=partitions,
            topics=min(100, partitions),
            rounds=1 if partitions == 5000 else 2,
        )
        for partitions in (1, 100, 1000, 5000)
    ),
    Work(key="single", kind="single", title="single-record requests", size=100, bare=True),
    Work(key="tail", kind="tail", title="tail consumer, 1 KB"),
    Work(key="catch-up", kind="catch-up", title="catch-up while writing"),
    Work(key="idle", kind="idle", title=f"{IDLE_CONNECTIONS:,} idle connections"),
)


def figures(work: Work, system: System, topic: str) -> Iterator[Figure]:
    """Run a workload on a new topic, and delete the topic afterwards."""
    system.create(topic, work.partitions // work.topics, work.topics)
    try:
        yield from KINDS[work.kind](work, system, topic)
    finally:
        with contextlib.suppress(Exception):  # the failure that matters is the load's
            system.delete(topic, work.topics)


def _burst(work: Work) -> dict[str, Any]:
    queue_kb = max(1024, QUEUE_KB_MAX // work.writers)
    return {
        "size": work.size,
        "writers": work.writers,
        "partitions": work.partitions,
        "run": BATCH_RECORDS if work.writers > 1 else 1,
        "seconds": SECONDS,
        "warmup": WARMUP,
        "seconds_max": SLOW_SECONDS_MAX,
        "queue_buffering_max_kbytes": queue_kb,
    }


def _throughput(work: Work, system: System, topic: str) -> Iterator[Figure]:
    before = system.server.cpu_seconds()
    load = system.write(topic, **_burst(work))
    cpu_s = system.server.cpu_seconds() - before
    yield f"write {work.title}", *_rate(load, work.size)
    yield f"write {work.title}, server CPU", "s/GB", cpu_s / (load.acknowledged * work.size / 1e9)
    before, title = system.server.cpu_seconds(), f"read {work.title.replace('writer', 'reader')}"
    read = system.read(
        topic, count=load.acknowledged, readers=work.writers, partitions=work.partitions, seconds=READ_SECONDS
    )
    cpu_s = system.server.cpu_seconds() - before
    yield title, *_rate(read, work.size)
    yield f"{title}, server CPU", "s/GB", cpu_s / (read.records * work.size / 1e9)


def _written(work: Work, system: System, topic: str) -> Iterator[Figure]:
    """All of what was just written is read back, from the beginning to the end.

    As much was written before, as on a server that has run for a while: its caches have had time to take memory.
    """
    count = work.mb * 1_000_000 // work.size
    options = {"size": work.size, "writers": work.writers, "partitions": work.partitions}
    run = BATCH_RECORDS if work.writers > 1 else 1
    earlier = f"{topic}-before"
    system.create(earlier, work.partitions)
    system.write(earlier, count=count, run=run, **options)
    until_quiet([system])
    system.write(topic, count=count, run=run, **options)
    before = system.server.cpu_seconds()
    read = system.read(topic, count=count, readers=work.readers, partitions=work.partitions)
    cpu_s = system.server.cpu_seconds() - before
    yield f"read back {work.title}", *_rate(read, work.size)
    yield f"read back {work.title}, server CPU", "s/GB", cpu_s / (count * work.size / 1e9)


def _rate(load: Load, size: int) -> tuple[str, float]:
    return ("MB/s", load.mb_s(size)) if size >= KB else ("records/s", load.per_second)


def _latency(work: Work, system: System, topic: str) -> Iterator[Figure]:
    load = system.write(
        topic,
        size=work.size,
        rate=work.rate,
        partitions=work.partitions,
        latency=1,
        linger_ms=PROMPT_LINGER_MS,
        seconds=LATENCY_SECONDS,
        warmup=WARMUP,
        seconds_max=SLOW_SECONDS_MAX,
    )
    yield from _percentiles(f"produce at {work.title}", load)


def _percentiles(title: str, load: Load) -> Iterator[Figure]:
    yield f"{title}, p50", "ms", load.p50_ms
    yield f"{title}, p99", "ms", load.p99_ms
    yield f"{title}, p99.9", "ms", load.p99_9_ms


def _end_to_end(work: Work, system: System, topic: str) -> Iterator[Figure]:
    assert isinstance(system, KafkaLike)
    options = {
        "size": work.size,
        "rate": work.rate,
        "seconds": SECONDS,
        "warmup": WARMUP,
        "linger_ms": PROMPT_LINGER_MS,
    }
    yield from _percentiles(work.title, system.end_to_end(topic, **options, seconds_max=SLOW_SECONDS_MAX))


def _partitions(work: Work, system: System, topic: str) -> Iterator[Figure]:
    """The first records that the partitions ever get, then the same partitions warm."""
    burst = {
        **_burst(work),
        "topics": work.topics,
        "partitions": work.partitions // work.topics,
        "linger_ms": LINGER_MS,
    }
    count = max(FRESH_RECORDS_MIN, work.partitions * BATCH_RECORDS)
    fresh = {**burst, "seconds": 0, "warmup": 0, "count": count}
    yield f"{work.title}, first writes", "MB/s", system.write(topic, **fresh).mb_s(work.size)
    until_quiet([system], seconds_max=SETTLE_SECONDS_MAX)
    system.write(topic, **burst)  # Kafka is still busy with new partitions after each has taken its first batch
    before = system.server.cpu_seconds()
    warm = system.write(topic, **burst)
    cpu_s = system.server.cpu_seconds() - before
    yield f"{work.title}, warm", "MB/s", warm.mb_s(work.size)
    yield f"{work.title}, warm, server CPU", "s/GB", cpu_s / (warm.acknowledged * work.size / 1e9)


def _single(work: Work, system: System, topic: str) -> Iterator[Figure]:
    before = system.server.cpu_seconds()
    load = system.write(
        topic,
        size=work.size,
        seconds=SECONDS,
        warmup=WARMUP,
        linger_ms=0,
        batch_num_messages=1,
        max_in_flight=64,
        queue_buffering_max_messages=2000,
    )
    cpu_s = system.server.cpu_seconds() - before
    yield f"{work.title}, 64 in flight", "requests/s", load.per_second
    yield f"{work.title}, server CPU", "s/million", cpu_s / load.acknowledged * 1e6


def _tail(work: Work, system: System, topic: str) -> Iterator[Figure]:
    count = 3 * TAIL_BYTES // work.size
    tail = TAIL_BYTES // work.size
    system.write(topic, size=work.size, count=count)
    load = system.read(topic, count=tail, from_offset=count - tail, rounds=TAIL_ROUNDS)
    yield work.title, "MB/s", load.mb_s(work.size)


def _catch_up(work: Work, system: System, topic: str) -> Iterator[Figure]:
    """A consumer reads all records, while a producer goes on at a fixed rate."""
    system.write(topic, size=work.size, count=CATCH_UP_RECORDS)
    written: list[Load | Exception] = []

    def write() -> None:
        try:
            written.append(system.write(topic, size=work.size, rate=CATCH_UP_RATE, latency=1, seconds=2.0, warmup=0.2))
        except Exception as error:
            written.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    read = system.read(topic, count=CATCH_UP_RECORDS, rounds=2)
    writer.join()
    if isinstance(written[0], Exception):
        raise written[0]
    yield f"{work.title}, reader", "MB/s", read.mb_s(work.size)
    yield f"{work.title}, writer's p99", "ms", written[0].p99_ms


def _idle(work: Work, system: System, topic: str) -> Iterator[Figure]:
    assert isinstance(system, KafkaLike)
    with connections(system.bootstrap, IDLE_CONNECTIONS):
        load = system.write(topic, size=work.size, rate=IDLE_RATE, latency=1, seconds=SECONDS, warmup=WARMUP)
    yield f"{work.title}, p99 of a producer", "ms", load.p99_ms


@contextlib.contextmanager
def connections(bootstrap: str, count: int) -> Iterator[None]:
    """`count` connections, each of which was answered once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * count)), hard))
    host, port = bootstrap.rsplit(":", 1)
    api_versions = struct.pack(">hhih4s", 18, 0, 1, 4, b"idle")
    with contextlib.ExitStack() as open_ones:
        for _ in range(count):
            connection = open_ones.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(struct.pack(">i", len(api_versions)) + api_versions)
            connection.recv(4096)
        yield


KINDS: Final[dict[str, Callable[[Work, System, str], Iterator[Figure]]]] = {
    "throughput": _throughput,
    "written": _written,
    "latency": _latency,
    "end-to-end": _end_to_end,
    "partitions": _partitions,
    "single": _single,
    "tail": _tail,
    "catch-up": _catch_up,
    "idle": _idle,
}
