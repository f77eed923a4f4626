"""The cost of transactions: `python -m bench.transactions [one] [several]`.

Keeps: every figure stands beside the same gateway's in the same run without transactions, taken in turn.

- 1,000 records of 1 KB over 10 partitions in a transaction, and the same records from an idempotent producer, both
  from 10 producers and from 4. A producer waits at the end of each of its transactions, for the log and for a timer of
  librdkafka; an idempotent one never does. Ten keep two cores busy in both cases, so they compare the cost of the work;
  four leave the cores idle for a quarter of the time with transactions, so they also show the cost of waiting.
- Transactions of 100 records of 100 B back to back from 10 producers: commits per second in all.
- `several`: transactions of 100 records of 100 B over ten partitions from six producers, on a gateway with four
  containers and on one with one, both up at the same time, in turn.
- One reader from the beginning, read_committed beside read_uncommitted, where one transaction in ten was aborted.

Producers and readers are processes of librdkafka under Python.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock

RESULT: Final = Path(__file__).resolve().parent / "results" / "transactions.json"
PARTITIONS: Final = 10
KILOBYTE: Final = b"x" * 1_000
SMALL: Final = b"x" * 100
TIMEOUT_S: Final = 60.0
PRODUCERS: Final = 10
"""Producers in parallel, in both cases: others use the time for which one waits at the end of a transaction."""
FEW_PRODUCERS: Final = 4
SIX_PRODUCERS: Final = 6
SEVERAL: Final = 4
PAIRS_A_ROUND: Final = 4
PAIR_SECONDS: Final = 2.5
OVER_CONTAINERS: Final = f"over containers: 100-record transactions, {SIX_PRODUCERS} producers"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.transactions", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["one", "several", []], help="default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "transactions"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    parts = options.parts or ["one", "several"]
    results = Results(pairs={"transactions": ["without transactions"], "4 containers": ["1 container"]})
    if len(parts) == 1:
        others = ("over containers",) if "several" in parts else ("1,000", "100-record", "one reader")
        results.keep(RESULT, others)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        if "one" in parts:
            with _served(scratch / str(number), 1) as server:
                _round(results, server, options.seconds, swapped=bool(number % 2))
        if "several" in parts:
            with _served(scratch / "1", 1) as one, _served(scratch / "4", SEVERAL) as several:
                _over_containers(results, one, several)
    results.write(RESULT)
    results.show()
    return 0


@contextlib.contextmanager
def _served(directory: Path, containers: int) -> Iterator[Penstock]:
    server = Penstock(directory, {"tier2": "off", "containers": containers})
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def _over_containers(results: Results, one: Penstock, several: Penstock) -> None:
    pair = [("1 container", one), ("4 containers", several)]
    for number in range(PAIRS_A_ROUND):
        topic = f"short-{number}"
        for system, server in reversed(pair) if number % 2 else pair:
            server.create_topic(topic, PARTITIONS)
            before = server.cpu_seconds()
            records = _counted(_transactional, SIX_PRODUCERS, server.bootstrap, topic, SMALL, 100, PAIR_SECONDS)
            used_s = server.cpu_seconds() - before
            commits = sum(count for count, _ in records) / 100
            per_second = sum(count / seconds for count, seconds in records) / 100
            results.add(system, OVER_CONTAINERS, "commits/s", per_second)
            results.add(system, f"{OVER_CONTAINERS}: CPU", "ms/commit", used_s / commits * 1e3)


def _round(results: Results, server: Penstock, seconds: float, *, swapped: bool) -> None:
    for topic in ("plain", "transactional", "short", "mixed"):
        server.create_topic(topic, PARTITIONS)
    kilobytes: list[tuple[str, Callable[..., None], str]] = [
        ("without transactions", _idempotent, "plain"),
        ("transactions", _transactional, "transactional"),
    ]
    for count in (PRODUCERS, FEW_PRODUCERS):
        for system, worker, topic in reversed(kilobytes) if swapped else kilobytes:
            records = _measured(worker, count, server.bootstrap, topic, KILOBYTE, 1_000, seconds)
            workload = f"1,000 records of 1 KB over 10 partitions, {count} producers"
            results.add(system, workload, "MB/s", records * len(KILOBYTE) / 1e6)
    commits = _measured(_transactional, PRODUCERS, server.bootstrap, "short", SMALL, 100, seconds) / 100
    results.add("transactions", f"100-record transactions, {PRODUCERS} producers", "commits/s", commits)
    _measured(_with_aborts, 1, server.bootstrap, "mixed", KILOBYTE, 1_000, seconds)
    isolations = [("without transactions", "read_uncommitted"), ("transactions", "read_committed")]
    for system, isolation in reversed(isolations) if swapped else isolations:
        results.add(system, "one reader, 1 KB", "MB/s", _read(server.bootstrap, "mixed", isolation))


def _measured(worker: Callable[..., None], count: int, *args: Any) -> float:
    """Records per second of `count` worker processes together, from the time when all are ready."""
    return sum(records / seconds for records, seconds in _counted(worker, count, *args))


def _counted(worker: Callable[..., None], count: int, *args: Any) -> list[tuple[int, float]]:
    """The records of each of `count` worker processes, and its seconds."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(count), context.Queue()
    workers = [context.Process(target=worker, args=(ready, results, number, *args)) for number in range(count)]
    for process in workers:
        process.start()
    found: list[tuple[int, float]] = [results.get(timeout=2 * TIMEOUT_S) for _ in workers]
    for process in workers:
        process.join(TIMEOUT_S)
    return found


def _idempotent(
    ready: Barrier, results: Any, number: int, bootstrap: str, topic: str, value: bytes, batch: int, seconds: float
) -> None:
    producer = Producer(_settings(bootstrap) | {"enable.idempotence": True})
    producer.list_topics(topic, TIMEOUT_S)
    ready.wait(TIMEOUT_S)
    begin, records = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        _produce(producer, topic, value, batch)
        records += batch
    producer.flush(TIMEOUT_S)
    results.put((records, time.perf_counter() - begin))


def _transactional(
    ready: Barrier, results: Any, number: int, bootstrap: str, topic: str, value: bytes, batch: int, seconds: float
) -> None:
    producer = _transactional_producer(bootstrap, f"{topic}-{number}")
    ready.wait(TIMEOUT_S)
    begin, records = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        producer.begin_transaction()
        _produce(producer, topic, value, batch)
        producer.commit_transaction(TIMEOUT_S)
        records += batch
    results.put((records, time.perf_counter() - begin))


def _with_aborts(
    ready: Barrier, results: Any, number: int, bootstrap: str, topic: str, value: bytes, batch: int, seconds: float
) -> None:
    """One transaction in ten is aborted."""
    producer = _transactional_producer(bootstrap, f"{topic}-{number}")
    ready.wait(TIMEOUT_S)
    begin, transactions = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        producer.begin_transaction()
        _produce(producer, topic, value, batch)
        if transactions % 10 == 9:
            producer.flush(TIMEOUT_S)
            producer.abort_transaction(TIMEOUT_S)
        else:
            producer.commit_transaction(TIMEOUT_S)
        transactions += 1
    results.put((transactions * batch, time.perf_counter() - begin))


def _settings(bootstrap: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "linger.ms": 5,
        "batch.size": 1_000_000,
        "queue.buffering.max.kbytes": 65_536,
    }


def _transactional_producer(bootstrap: str, transactional_id: str) -> Producer:
    producer = Producer(_settings(bootstrap) | {"transactional.id": transactional_id})
    producer.init_transactions(TIMEOUT_S)
    return producer


def _produce(producer: Producer, topic: str, value: bytes, count: int) -> None:
    for number in range(count):
        while True:
            try:
                producer.produce(topic, value, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.01)
    producer.poll(0)


def _read(bootstrap: str, topic: str, isolation: str) -> float:
    """MB/s of all records; those of aborted transactions count if they are delivered."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    size, ended, begin = 0, 0, time.perf_counter()
    while ended < PARTITIONS and time.perf_counter() - begin < TIMEOUT_S:
        for message in consumer.consume(10_000, 1.0):
            if message.error():
                ended += 1
            else:
                size += len(message.value())
    seconds = time.perf_counter() - begin
    consumer.close()
    return size / 1e6 / seconds


if __name__ == "__main__":
    sys.exit(main())
