"""The rate of a consumer that is far behind and reads from long-term storage, and its effect on others.

Keeps: every figure is taken in one run on one MinIO, with the objects that Penstock has put there; the bare client
reads the same objects in ranges of the same size, as many at a time as Penstock does.

alone       one consumer from the beginning, everything in chunks; the `minio` client by itself
tail        p99 of a consumer at the end: while no other reads, while another one catches up, and while the `minio`
            client by itself reads the same; that last increase is due to the processors, not to the gateway
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock
from bench.tiering import BUCKET, BareMinio, running_minio, running_penstock
from core.tiering.reading.pages import GET_BYTES_MAX

RESULT: Final = Path(__file__).resolve().parent / "results" / "catch_up.json"
MIB: Final = 1 << 20
KILOBYTE: Final = 1000
LOG_FILE_BYTES: Final = 64 * MIB
READ_AHEAD_BYTES: Final = 24 * MIB
AT_ONCE: Final = READ_AHEAD_BYTES // GET_BYTES_MAX - 1
TAIL_RATE: Final = 200
"""Records a second at the tail: the wait between two is long enough that each is a fetch of its own."""
TIERED_SECONDS_MAX: Final = 600
MEMORY: Final = "memory at most"


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "catch-up"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    results = Results(ratio_to=None)
    settings: dict[str, object] = {
        "tier2.verify.delay.ms": 1000,
        "log.file.bytes": LOG_FILE_BYTES,
        "tier2.read.ahead.bytes": READ_AHEAD_BYTES,
        "checkpoint.interval.ms": 2000,
        "tier2.snapshot.interval.ms": 2000,
    }
    with running_minio(scratch) as minio, running_penstock(scratch, minio, settings) as server:
        records = options.megabytes * 1_000_000 // KILOBYTE
        for topic in ("old", "new"):
            server.create_topic(topic, 1)
        _say(f"producing {options.megabytes} MB")
        loadgen.run("produce", server.bootstrap, "old", size=KILOBYTE, count=records, seconds_max=TIERED_SECONDS_MAX)
        _until_tiered(server)
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            bare = _bare(minio, AT_ONCE)
            one = _bare(minio, 1)
            rate = _catch_up(results, minio, server, records)
            results.add("minio client", f"ranges of {GET_BYTES_MAX // MIB} MiB, {AT_ONCE} at a time", "MB/s", bare)
            results.add("minio client", f"ranges of {GET_BYTES_MAX // MIB} MiB, one reader", "MB/s", one)
            results.add("penstock", "one consumer catching up", "MB/s", rate)
            results.add("penstock", "one consumer, against the bare client", "times", rate / bare)
            results.add("penstock", "one consumer, against one bare reader", "times", rate / one)
            alone = _tail_p99(server, options.seconds)
            with _catching_up(server, records):
                beside = _tail_p99(server, options.seconds)
            with _reading_bare(minio):
                contended = _tail_p99(server, options.seconds)
            results.add("penstock", "tail, p99 alone", "ms", alone)
            results.add("penstock", "tail, p99 while the bare client reads", "ms", contended)
            results.add("penstock", "tail, p99 while another catches up", "ms", beside)
            results.add("penstock", "tail, p99 against alone", "times", beside / alone)
            results.add("penstock", MEMORY, "MB", server.rss_mb())
            results.write(RESULT)
    shutil.rmtree(scratch)
    results.show()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.catch_up", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=4000, help="how far the consumer is behind")
    parser.add_argument("--seconds", type=int, default=10, help="how long the tail is watched")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _until_tiered(server: Penstock) -> None:
    """Wait until the log has only its open file, and the one prepared as the next."""
    deadline = time.monotonic() + TIERED_SECONDS_MAX
    while True:
        logs = list((server.directory / "data").rglob("log/*.log"))
        if len(logs) <= 2:
            return
        if time.monotonic() > deadline:
            raise loadgen.LoadFailed(f"{len(logs)} log files are left after {TIERED_SECONDS_MAX} s")
        time.sleep(0.2)


def _bare(minio: BareMinio, at_once: int) -> float:
    """MB/s of the client by itself over all chunks."""
    objects = sorted(minio.client.list_objects(BUCKET, prefix="a/chunks/", recursive=True), key=lambda o: o.object_name)
    ranges = [
        (info.object_name, start, min(GET_BYTES_MAX, info.size - start))
        for info in objects
        for start in range(0, info.size, GET_BYTES_MAX)
    ]

    def get(place: tuple[str, int, int]) -> int:
        name, start, length = place
        response = minio.client.get_object(BUCKET, name, offset=start, length=length)
        try:
            return len(response.read())
        finally:
            response.close()
            response.release_conn()

    begin = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        total = sum(pool.map(get, ranges))
    return total / (time.perf_counter() - begin) / 1e6


def _catch_up(results: Results, minio: BareMinio, server: Penstock, records: int) -> float:
    """MB/s of one consumer, and the servers' work for it, from which its rate on more processors follows."""
    worked_s = minio.cpu_seconds(), server.cpu_seconds()
    load = loadgen.run("consume", server.bootstrap, "old", count=records, seconds_max=TIERED_SECONDS_MAX)
    megabytes = records * KILOBYTE / 1e6
    for name, seconds in (
        ("minio", minio.cpu_seconds() - worked_s[0]),
        ("penstock", server.cpu_seconds() - worked_s[1]),
    ):
        results.add(name, "one consumer catching up: processor", "ms/MB", 1000 * seconds / megabytes)
    return load.per_second * KILOBYTE / 1e6


@contextmanager
def _catching_up(server: Penstock, records: int) -> Iterator[None]:
    """A consumer that reads everything, again and again."""
    command = [str(loadgen.build()), "consume", f"bootstrap={server.bootstrap}", "topic=old"]
    command += [f"count={records}", "rounds=1000", "seconds_max=3600"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _reading_bare(minio: BareMinio) -> Iterator[None]:
    """The client in a process of its own, one reader, again and again."""
    process = get_context("spawn").Process(target=_read_on, args=(minio.endpoint, minio.pid), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _read_on(endpoint: str, pid: int) -> None:
    minio = BareMinio(endpoint, pid)
    while True:
        _bare(minio, 1)


def _tail_p99(server: Penstock, seconds: int) -> float:
    """From produce to consume at the tail, ms."""
    consumer = Consumer(
        {
            "bootstrap.servers": server.bootstrap,
            "group.id": "tail",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 500,
        }
    )
    end = consumer.get_watermark_offsets(TopicPartition("new", 0), timeout=30)[1]
    consumer.assign([TopicPartition("new", 0, end)])
    latencies: list[float] = []
    ended = threading.Event()

    def listen() -> None:
        while not ended.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                latencies.append(time.monotonic() - float(message.value() or b""))

    listener = threading.Thread(target=listen)
    listener.start()
    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 0})
    begin = time.monotonic()
    for number in range(seconds * TAIL_RATE):
        producer.produce("new", repr(time.monotonic()).encode())
        producer.poll(0)
        time.sleep(max(0.0, begin + number / TAIL_RATE - time.monotonic()))
    if producer.flush(30):
        raise loadgen.LoadFailed("not every record at the tail was acknowledged")
    deadline = time.monotonic() + 30
    while len(latencies) < seconds * TAIL_RATE and time.monotonic() < deadline:
        time.sleep(0.05)
    ended.set()
    listener.join()
    consumer.close()
    if len(latencies) < seconds * TAIL_RATE:
        raise loadgen.LoadFailed("not every record at the tail was consumed")
    return sorted(latencies[TAIL_RATE:])[-len(latencies) // 100] * 1000


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
