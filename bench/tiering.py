"""The cost and the rate of tiering: Penstock on a MinIO of the same machine, `python -m bench.tiering`.

Keeps: compared loads run in one go on the same disk; load, gateway and MinIO share the machine; a run in which a record
was not acknowledged is an error.

offered     30 MB/s with tiering and without: p99 of produce, share of the log that was waiting at most
saturated   as fast as possible with the log full: the rate of acknowledged records, beside that of the bare client
trickle     1,000 topics of 16 partitions with a record now and then: puts a minute, memory

Each writes its own rows of `results/tiering.json`, and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import urllib3
from confluent_kafka import Producer
from minio import Minio

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

RESULT: Final = Path(__file__).resolve().parent / "results" / "tiering.json"
MIB: Final = 1 << 20
KILOBYTE: Final = 1000
BUCKET: Final = "bench"
PUTS: Final = re.compile(r'^minio_s3_requests_total\{api="putobject(?:part)?",.*\} (\S+)$', re.MULTILINE)
CHUNK_BYTES: Final = 32 * MIB
UPLOADS: Final = 4
TAIL_BYTES: Final = 64 << 20
"""Memory for recent records, so that history comes from long-term storage, as what is older than memory does."""
SATURATED_LOG: Final = 2048 * MIB
WARM_UP_BYTES: Final = 2 * SATURATED_LOG
"""Bytes until the log is full, and as many for the bare client: bytes that fit into log or page cache cost less."""
MEASURED_BYTES: Final = 3 * SATURATED_LOG
SATURATED_QUEUE: Final = 30_000
"""Records that always wait in the load generator: if they exceed its cache, it needs a third more processor time."""
TRICKLE_TOPICS: Final = 1000
TRICKLE_PARTITIONS: Final = 16
TRICKLE_RATE: Final = 800
TRICKLE_WARM_UP_S: Final = 90  # until the first round by age is over
TRICKLE_MINUTES: Final = 4


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "tiering"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    results = Results(ratio_to=None)
    chosen = [measure for measure in MEASURES if not options.only or measure.__name__ in options.only]
    results.keep(RESULT, tuple(f"{measure.__name__}: " for measure in chosen))
    for _ in range(options.rounds):
        for measure in chosen:
            directory = scratch / measure.__name__
            directory.mkdir()
            print(f"{measure.__name__} …", file=sys.stderr, flush=True)
            measure(results, directory, options.seconds)
            shutil.rmtree(directory)
            results.write(RESULT)
    results.show()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tiering", description=__doc__)
    parser.add_argument("--only", action="append", choices=[m.__name__ for m in MEASURES])
    parser.add_argument("--seconds", type=int, default=300, help="how long the offered load lasts")
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


def offered(results: Results, directory: Path, seconds: int) -> None:
    """30 MB/s, first without tiering, then with it."""
    rate = 30_000
    p99: dict[str, float] = {}
    for name, tiered in (("tiering off", False), ("tiering on", True)):
        with (
            running_minio(directory / name) as minio,
            running_penstock(directory / name, minio if tiered else None) as server,
        ):
            server.create_topic("offered", 4)
            with _watched(server) as seen:
                load = loadgen.run(
                    "produce",
                    server.bootstrap,
                    "offered",
                    size=KILOBYTE,
                    count=rate * seconds,
                    rate=rate,
                    partitions=4,
                    latency=1,
                    seconds_max=2 * seconds,
                )
            p99[name] = load.p99_ms
            results.add(name, "offered: 30 MB/s", "MB/s", load.per_second * KILOBYTE / 1e6)
            results.add(name, "offered: p50", "ms", load.p50_ms)
            results.add(name, "offered: p99", "ms", load.p99_ms)
            results.add(name, "offered: log at most", "MB", seen.log_mb)
            results.add(name, "offered: memory at most", "MB", seen.rss_mb)
    results.add("tiering on", "offered: p99 against tiering off", "times", p99["tiering on"] / p99["tiering off"])


def saturated(results: Results, directory: Path, seconds: int) -> None:
    """Producers that outrun long-term storage, and the bare client's puts before them and after them."""
    with running_minio(directory) as minio:
        before = _bare_puts(minio, directory)
        disk.fill_page_cache(directory)
        settings = {"log.max.bytes": SATURATED_LOG, "tier2.verify.delay.ms": 3000}
        with running_penstock(directory, minio, settings) as server:
            server.create_topic("saturated", 4)

            def produce(total: int) -> loadgen.Load:
                return loadgen.run(
                    "produce",
                    server.bootstrap,
                    "saturated",
                    size=KILOBYTE,
                    count=total // KILOBYTE,
                    partitions=4,
                    seconds_max=600,
                    message_timeout_ms=600_000,
                    retries=100_000,
                    queue_buffering_max_messages=SATURATED_QUEUE,
                )

            with _watched(server) as seen:
                produce(WARM_UP_BYTES)
                load = produce(MEASURED_BYTES)
            rate = load.per_second * KILOBYTE / 1e6
            results.add("penstock", "saturated: log at most", "MB", seen.log_mb)
            results.add("penstock", "saturated: memory at most", "MB", seen.rss_mb)
        bare = (before + _bare_puts(minio, directory)) / 2
        results.add("minio client", f"saturated: puts of {CHUNK_BYTES // MIB} MiB, {UPLOADS} at a time", "MB/s", bare)
        results.add("penstock", "saturated: acknowledged with the log full", "MB/s", rate)
        results.add("penstock", "saturated: acknowledged, against the bare client", "times", rate / bare)


def trickle(results: Results, directory: Path, seconds: int) -> None:
    """16,000 partitions, each with a record every 20 s; records of a minute go into chunks."""
    with running_minio(directory) as minio, running_penstock(directory, minio, {"chunk.age.ms": 60_000}) as server:
        for number in range(TRICKLE_TOPICS):
            server.create_topic(f"trickle-{number}", TRICKLE_PARTITIONS)
        results.add("penstock", "trickle: memory with 16,000 empty partitions", "MB", server.rss_mb())
        with _watched(server) as seen:
            _trickled(server, TRICKLE_WARM_UP_S)
            puts, cpu_s = minio.puts(), server.cpu_seconds()
            sent = _trickled(server, TRICKLE_MINUTES * 60)
            puts, cpu_s = minio.puts() - puts, server.cpu_seconds() - cpu_s
        results.add("penstock", "trickle: records", "1/s", sent / (TRICKLE_MINUTES * 60))
        results.add("penstock", "trickle: puts", "1/min", puts / TRICKLE_MINUTES)
        results.add("penstock", "trickle: memory at most", "MB", seen.rss_mb)
        results.add("penstock", "trickle: processor", "% of a core", 100 * cpu_s / (TRICKLE_MINUTES * 60))


def _trickled(server: Penstock, seconds: int) -> int:
    """Write a record to each partition in turn, for `seconds`; returns their number."""
    producer = Producer({"bootstrap.servers": server.bootstrap, "linger.ms": 50})
    begin, sent = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        number = sent // TRICKLE_PARTITIONS % TRICKLE_TOPICS
        producer.produce(f"trickle-{number}", b"." * 100, partition=sent % TRICKLE_PARTITIONS)
        sent += 1
        producer.poll(0)
        time.sleep(max(0.0, begin + sent / TRICKLE_RATE - time.monotonic()))
    if producer.flush(60):
        raise loadgen.LoadFailed("not every record of the trickle was acknowledged")
    return sent


MEASURES: Final[tuple[Callable[[Results, Path, int], None], ...]] = (offered, saturated, trickle)


class BareMinio:
    """A running server, and the package's own client for it."""

    def __init__(self, endpoint: str, pid: int) -> None:
        self.endpoint = endpoint
        self.pid = pid
        self.client = Minio(
            endpoint.removeprefix("http://"), access_key=ROOT_USER, secret_key=ROOT_PASSWORD, secure=False
        )

    def cpu_seconds(self) -> float:
        """The server's processor time so far."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def puts(self) -> int:
        """Requests that put an object or a part of one, from all clients."""
        text = urllib3.request("GET", f"{self.endpoint}/minio/v2/metrics/cluster").data.decode()
        return sum(int(float(count)) for count in PUTS.findall(text))


@contextmanager
def running_minio(directory: Path) -> Iterator[BareMinio]:
    place = directory / "minio"
    place.mkdir(parents=True)
    server = MinioServer(place)
    server.start()
    try:
        minio = BareMinio(server.endpoint, server.pid)
        minio.client.make_bucket(BUCKET)
        yield minio
    finally:
        server.kill()


@contextmanager
def running_penstock(
    directory: Path, minio: BareMinio | None, settings: dict[str, object] | None = None
) -> Iterator[Penstock]:
    chosen: dict[str, object] = {"tier2": "off"}
    environment: dict[str, str] = {}
    if minio is not None:
        chosen = {
            "tier2": f"s3://{BUCKET}/a",
            "tier2.endpoint": minio.endpoint,
            "chunk.bytes": CHUNK_BYTES,
            "tier2.uploads": UPLOADS,
            "log.cache.bytes": TAIL_BYTES,
        }
        environment = {"PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER, "PENSTOCK_TIER2_SECRET_KEY": ROOT_PASSWORD}
    server = Penstock(directory / "penstock", chosen | (settings or {}), environment)
    try:
        yield server
    finally:
        server.stop()


class _Seen:
    """The largest values seen."""

    log_mb = 0.0
    rss_mb = 0.0


@contextmanager
def _watched(server: Penstock) -> Iterator[_Seen]:
    seen, ended = _Seen(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            logs = (server.directory / "data").rglob("log/*.log")
            seen.log_mb = max(seen.log_mb, sum(_size(path) for path in logs) / 1e6)
            seen.rss_mb = max(seen.rss_mb, server.rss_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _bare_puts(minio: BareMinio, directory: Path) -> float:
    """MB/s of the client by itself: as many bytes as the producers send, as many at a time as the gateway puts."""
    data = os.urandom(CHUNK_BYTES)

    def put(number: int) -> None:
        minio.client.put_object(BUCKET, f"bare/{number}", io.BytesIO(data), len(data), part_size=64 * MIB)

    disk.fill_page_cache(directory)
    first, total = WARM_UP_BYTES // CHUNK_BYTES, (WARM_UP_BYTES + MEASURED_BYTES) // CHUNK_BYTES
    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(put, range(first)))
        begin = time.perf_counter()
        list(pool.map(put, range(first, total)))
        seconds = time.perf_counter() - begin
        list(pool.map(lambda number: minio.client.remove_object(BUCKET, f"bare/{number}"), range(total)))
    return (total - first) * CHUNK_BYTES / seconds / 1e6


if __name__ == "__main__":
    sys.exit(main())
