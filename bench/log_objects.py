"""The log in an object store, beside the store's bare client: `python -m bench.log_objects`.

Keeps: the bare client puts to the same MinIO; for latency at the same time, so that load, gateway and store share the
machine in both figures. A run in which a record was not acknowledged is an error.

near       5 MB/s on MinIO: the time of an acknowledgement against that of a bare put, puts a second
far        the same with a store whose answers take 100 ms longer, as S3's do: puts a second, and what they cost there
saturated  as fast as possible, against the bare client's puts of the largest object; without chunks and with them. The
           gateway's copy lies in memory, as the store's disk is another machine's where this matters

Each writes its own rows of `results/log_objects.json`, and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock
from bench.tiering import BUCKET, BareMinio, running_minio, running_penstock
from tests.tier2.fault_proxy import FaultProxy, Stall

RESULT: Final = Path(__file__).resolve().parent / "results" / "log_objects.json"
KILOBYTE: Final = 1000
RATE: Final = 5_000
"""Records a second, a kilobyte each."""
FAR_S: Final = 0.1
BARE_PAUSE_S: Final = 0.05
BARE_BYTES: Final = 16 << 10
"""About what a group has at this rate, when a put takes some milliseconds."""
QUIET_S: Final = 5.0
OBJECT_BYTES: Final = 4 << 20
INFLIGHT: Final = 4
SATURATED_BYTES: Final = 1_500_000_000
MEMORY: Final = "/dev/shm"
USD_A_PUT: Final = 0.005 / 1000
"""S3 Standard."""
MONTH_S: Final = 30 * 86_400


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "log-objects"
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
    parser = argparse.ArgumentParser(prog="python -m bench.log_objects", description=__doc__)
    parser.add_argument("--only", action="append", choices=[m.__name__ for m in MEASURES])
    parser.add_argument("--seconds", type=int, default=20, help="how long the offered load lasts")
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


def near(results: Results, directory: Path, seconds: int) -> None:
    """5 MB/s, and bare puts beside it."""
    with running_minio(directory) as minio, _penstock(directory, minio) as server:
        _warm(server, "near")
        cpu_s, minio_cpu_s, puts = server.cpu_seconds(), minio.cpu_seconds(), minio.puts()
        with _bare_puts_beside(minio) as bare:
            load = _offered(server, "near", seconds)
        puts = minio.puts() - puts - len(bare)
        cpu_s, minio_cpu_s = server.cpu_seconds() - cpu_s, minio.cpu_seconds() - minio_cpu_s
    p50, p99 = statistics.median(bare), statistics.quantiles(bare, n=100)[98]
    results.add("minio client", "near: p50", "ms", p50)
    results.add("minio client", "near: p99", "ms", p99)
    results.add("penstock", "near: p50", "ms", load.p50_ms)
    results.add("penstock", "near: p99", "ms", load.p99_ms)
    results.add("penstock", "near: p50 above the bare put's", "ms", load.p50_ms - p50)
    results.add("penstock", "near: p99 above the bare put's", "ms", load.p99_ms - p99)
    results.add("penstock", "near: puts", "1/s", puts / load.seconds)
    results.add("penstock", "near: processor", "% of a core", 100 * cpu_s / load.seconds)
    results.add("minio client", "near: the server's processor", "% of a core", 100 * minio_cpu_s / load.seconds)


def far(results: Results, directory: Path, seconds: int) -> None:
    """The same load on a store that is far away."""
    with running_minio(directory) as minio, FaultProxy(int(minio.endpoint.rpartition(":")[2])) as proxy:
        proxy.chooses = lambda line: Stall(FAR_S) if line.startswith("PUT") else None
        with _penstock(directory, minio, {"tier2.endpoint": f"http://127.0.0.1:{proxy.port}"}) as server:
            _warm(server, "far")
            puts = minio.puts()
            load = _offered(server, "far", seconds)
            puts_a_second = (minio.puts() - puts) / load.seconds
            quiet = minio.puts()
            time.sleep(QUIET_S)
            quiet = minio.puts() - quiet
    results.add("penstock", "far: p50", "ms", load.p50_ms)
    results.add("penstock", "far: p99", "ms", load.p99_ms)
    results.add("penstock", "far: puts", "1/s", puts_a_second)
    results.add("penstock", "far: price of the puts at S3", "USD/month", puts_a_second * MONTH_S * USD_A_PUT)
    results.add("penstock", "far: puts without load", "1/s", quiet / QUIET_S)


def saturated(results: Results, directory: Path, seconds: int) -> None:
    """Producers that outrun the store, and the bare client's puts before them and after them."""
    for name, chunk_bytes in (("log alone", 1 << 30), ("log and chunks", 32 << 20)):
        with running_minio(directory / name) as minio:
            before = _bare_rate(minio)
            with (
                tempfile.TemporaryDirectory(dir=MEMORY) as copy,
                _penstock(Path(copy), minio, {"chunk.bytes": chunk_bytes}) as server,
            ):
                _warm(server, "saturated")
                load = loadgen.run(
                    "produce",
                    server.bootstrap,
                    "saturated",
                    size=KILOBYTE,
                    count=SATURATED_BYTES // KILOBYTE,
                    partitions=4,
                    seconds_max=120,
                    queue_buffering_max_messages=30_000,
                )
            bare = (before + _bare_rate(minio)) / 2
        rate = load.per_second * KILOBYTE / 1e6
        results.add("minio client", f"saturated: puts of 4 MiB, {INFLIGHT} at a time", "MB/s", bare)
        results.add("penstock", f"saturated: {name}", "MB/s", rate)
        results.add("penstock", f"saturated: {name}, against the bare client", "times", rate / bare)
        shutil.rmtree(directory / name)


MEASURES: Final[tuple[Callable[[Results, Path, int], None], ...]] = (near, far, saturated)


def _penstock(
    directory: Path, minio: BareMinio, settings: dict[str, object] | None = None
) -> AbstractContextManager[Penstock]:
    return running_penstock(
        directory, minio, {"log.store": "object", "log.object.inflight": INFLIGHT} | (settings or {})
    )


def _warm(server: Penstock, topic: str) -> None:
    server.create_topic(topic, 4)
    _offered(server, topic, 3)


def _offered(server: Penstock, topic: str, seconds: int) -> loadgen.Load:
    return loadgen.run(
        "produce",
        server.bootstrap,
        topic,
        size=KILOBYTE,
        count=RATE * seconds,
        rate=RATE,
        partitions=4,
        latency=1,
        linger_ms=1,
        seconds_max=2 * seconds + 10,
    )


@contextmanager
def _bare_puts_beside(minio: BareMinio) -> Iterator[list[float]]:
    """Puts one by one for as long as this lasts; their times, ms."""
    times: list[float] = []
    over = threading.Event()
    data = os.urandom(BARE_BYTES)

    def put() -> None:
        while not over.wait(BARE_PAUSE_S):
            began = time.perf_counter()
            minio.client.put_object(BUCKET, f"bare/{len(times)}", io.BytesIO(data), len(data))
            times.append(1000 * (time.perf_counter() - began))

    thread = threading.Thread(target=put)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()


def _bare_rate(minio: BareMinio) -> float:
    """What the bare client puts, MB/s."""
    data = os.urandom(OBJECT_BYTES)
    count = SATURATED_BYTES // OBJECT_BYTES // 2

    def put(number: int) -> None:
        minio.client.put_object(BUCKET, f"bare/{number}", io.BytesIO(data), len(data))

    began = time.perf_counter()
    with ThreadPoolExecutor(INFLIGHT) as pool:
        list(pool.map(put, range(count)))
    return count * OBJECT_BYTES / (time.perf_counter() - began) / 1e6


if __name__ == "__main__":
    sys.exit(main())
