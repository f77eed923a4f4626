"""What workers cost and give: `python -m bench.workers [turns] [profile] [same] [halves] [killed] [many] [rest]`, with
8 containers.

- `turns`: bursts of requests on 1, 2, 4 and 8 workers, as many in a turn of a worker's loop and in a group of its log
  whatever the number of workers, see `bench.turns`. What processes use at rest is a row of its own, and is taken off.
- `profile`: a request of such a burst by function, on 1 and on 8 workers. What is shared on its way would grow.

- `same`: the same load, as fast as it goes, on 1, 2, 4 and 8 workers in turned order. What counts is the CPU time of
  all processes of the gateway, for each request and for each GB. Once the topic lies in one container, so that one
  worker has all of the load and the others are only there: what is shared on the way of a record would show. Once it is
  spread over all: then each worker meets smaller groups of requests and syncs them by itself. (One worker is one
  process, without a supervisor.)
- `halves`: what a second worker gives, on a machine with two cores. The load has one core to itself. The other belongs
  to the gateway: to one worker at half of it, or to two workers at half each (a quota of a cgroup each, and all pinned
  to that core). So every worker has the same share of a core, however many there are, and the load is in nobody's way.
  Needs root.
- `killed`: kill -9 of one of two workers, right behind 300 MB of records: how long until a record to one of its
  partitions is acknowledged again.
- `many`: 100,000 partitions over the containers: their creation, Metadata of all, and CPU at rest; then, with a record
  in each, the same after a restart, and a restart after a kill.
- `rest`: one process with 1, 2, 4 and 8 containers and nothing in them: memory, disk and CPU.

Keeps: a worker is counted with all its threads. Every figure of `turns`, `same` and `halves` is the median of rounds in
which all were measured one right after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from bench import disk, loadgen
from bench.results import Results
from bench.servers import create_topics
from bench.turns import TURNS, Turns, heaviest, measure, profile
from bench.worker_gateway import SETTLE_S, Gateway, settle

RESULT: Final = Path(__file__).resolve().parent / "results" / "workers.json"
COUNTS: Final = (1, 2, 4, 8)
PARTITIONS: Final = 16
KILOBYTE: Final = 1024
SINGLES: Final = 40_000
KILOBYTES: Final = 300_000
READ_ROUNDS: Final = 3
WARM_SINGLES: Final = 3_000
WARM_KILOBYTES: Final = 100_000
HALVES: Final = (1, 2)
HALVES_SINGLES: Final = 30_000
LOAD_CORE, GATEWAY_CORE = 0, 1
PERIOD_US: Final = 10_000
CGROUP_1: Final = Path("/sys/fs/cgroup/cpu")
CGROUP_2: Final = Path("/sys/fs/cgroup")
MANY_TOPICS: Final = 100
MANY_PARTITIONS: Final = 1_000
MANY_WORKERS: Final = (1, 2)
METADATA_TIMES: Final = 5
REST_S: Final = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*TITLES, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    parts = options.parts or list(TITLES)
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "workers"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    results = Results(ratio_to="1 worker")
    results.keep(RESULT, tuple(TITLES[part] for part in parts))
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        if "turns" in parts:
            for count in COUNTS[:: -1 if number % 2 else 1]:
                with served(scratch, count) as gateway:
                    _turns(results, gateway, named(count))
        if "same" in parts:
            for count in COUNTS[:: -1 if number % 2 else 1]:
                with served(scratch, count) as gateway:
                    _same(results, gateway, named(count))
        if "halves" in parts:
            for count in HALVES[:: -1 if number % 2 else 1]:
                with served(scratch, count) as gateway:
                    _halves(results, gateway, named(count))
        if "killed" in parts:
            with served(scratch, 2) as gateway:
                _killed(results, gateway, named(2))
    if "profile" in parts:
        _profile(results, scratch)
    if "rest" in parts:
        for count in COUNTS:
            _rest(results, scratch / f"rest-{count}", count)
    if "many" in parts:
        for count in MANY_WORKERS:
            _many(results, scratch / f"many-{count}", count)
    results.write(RESULT)
    results.show()
    return 0


def named(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


@contextlib.contextmanager
def served(scratch: Path, workers: int) -> Iterator[Gateway]:
    directory = scratch / str(workers)
    gateway = Gateway(directory, workers)
    try:
        yield gateway
    finally:
        gateway.stop()
        shutil.rmtree(directory)


# --- The same turns -----------------------------------------------------------------------------

PROFILE: Final = "by function: "


def _turns(results: Results, gateway: Gateway, system: str) -> None:
    turns = Turns(gateway, "turns")
    for workload, (unit, value) in measure(gateway, turns).items():
        results.add(system, workload, unit, value)
    turns.close()


def _profile(results: Results, scratch: Path) -> None:
    profiles = {}
    for count in (COUNTS[0], COUNTS[-1]):
        with served(scratch, count) as gateway:
            turns = Turns(gateway, "turns")
            profiles[named(count)] = profile(gateway, turns, scratch)
            turns.close()
    for system, functions in heaviest(profiles).items():
        for function, us in functions.items():
            results.add(system, f"{PROFILE}{function}", "CPU µs/request", us)


# --- The same load ------------------------------------------------------------------------------

SAME: Final = "same load: "


def _same(results: Results, gateway: Gateway, system: str) -> None:
    for where, placement in (("at one of them", "one"), ("spread", "spread")):
        singles, kilobytes = (f"{kind}-{placement}" for kind in ("singles", "kilobytes"))
        create_topics(gateway.bootstrap, [singles, kilobytes], PARTITIONS, {"penstock.placement": placement})
        _singles(gateway, singles, WARM_SINGLES)  # connections, and what is made at the first request
        _kilobytes(gateway, kilobytes, WARM_KILOBYTES)  # memory, and files that are prepared once
        settle(gateway)
        before = gateway.cpu_seconds()
        load = _singles(gateway, singles, SINGLES)
        used_s = gateway.cpu_seconds() - before
        results.add(system, f"{SAME}single-record requests, {where}", "µs/request", used_s / load.records * 1e6)
        before = gateway.cpu_seconds()
        load = _kilobytes(gateway, kilobytes, KILOBYTES)
        _per_gb(results, gateway, system, f"1 KB written, {where}", before, load)
        before = gateway.cpu_seconds()
        load = loadgen.run(
            "consume", gateway.bootstrap, kilobytes, count=KILOBYTES, rounds=READ_ROUNDS, partitions=PARTITIONS
        )
        _per_gb(results, gateway, system, f"1 KB read, {where}", before, load)


def _per_gb(results: Results, gateway: Gateway, system: str, what: str, before_s: float, load: loadgen.Load) -> None:
    used_s = gateway.cpu_seconds() - before_s
    results.add(system, f"{SAME}{what}", "CPU s/GB", used_s / (load.records * KILOBYTE / 1e9))


def _kilobytes(gateway: Gateway, topic: str, count: int) -> loadgen.Load:
    return loadgen.run("produce", gateway.bootstrap, topic, size=KILOBYTE, count=count, partitions=PARTITIONS)


def _singles(gateway: Gateway, topic: str, count: int) -> loadgen.Load:
    """One record in each request, 64 requests on the way to each worker."""
    return loadgen.run(
        "produce",
        gateway.bootstrap,
        topic,
        size=100,
        count=count,
        partitions=PARTITIONS,
        linger_ms=0,
        batch_num_messages=1,
        max_in_flight=64,
    )


# --- Half a core each ---------------------------------------------------------------------------

HALF: Final = "half a core each: "


def _halves(results: Results, gateway: Gateway, system: str) -> None:
    gateway.create_topic("singles", PARTITIONS)
    mine = os.sched_getaffinity(0)
    with contextlib.ExitStack() as undo:
        for pid in gateway.pids:
            subprocess.run(["taskset", "-a", "-p", "-c", str(GATEWAY_CORE), str(pid)], check=True, capture_output=True)
        for pid in gateway.workers:
            undo.enter_context(at_half_a_core(pid))
        os.sched_setaffinity(0, {LOAD_CORE})
        undo.callback(os.sched_setaffinity, 0, mine)
        _singles(gateway, "singles", WARM_SINGLES)
        before = gateway.cpu_seconds()
        load = _singles(gateway, "singles", HALVES_SINGLES)
        results.add(system, f"{HALF}single-record requests", "requests/s", load.per_second)
        busy = (gateway.cpu_seconds() - before) / load.seconds
        results.add(system, f"{HALF}cores that the gateway used", "cores", busy)


@contextlib.contextmanager
def at_half_a_core(pid: int) -> Iterator[None]:
    """A process with all its threads in a control group of its own."""
    first = CGROUP_1.is_dir()
    group = (CGROUP_1 if first else CGROUP_2) / f"penstock-bench-{pid}"
    group.mkdir()
    try:
        if first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(PERIOD_US // 2))
        else:
            (group / "cpu.max").write_text(f"{PERIOD_US // 2} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


# --- A worker that is killed ------------------------------------------------------------------

KILLED: Final = "kill -9 of one of two workers: "


def _killed(results: Results, gateway: Gateway, system: str) -> None:
    gateway.create_topic("kilobytes", PARTITIONS)
    turns = Turns(gateway, "turns")
    for pid, served_at in zip(gateway.workers, gateway.ready["kafka"], strict=True):
        _kilobytes(gateway, "kilobytes", KILOBYTES)
        host, _, port = served_at.rpartition(":")
        os.kill(pid, signal.SIGKILL)
        results.add(system, f"{KILLED}its partitions answer", "s", turns.until_answered((host, int(port))))
    turns.close()


# --- Many partitions ----------------------------------------------------------------------------

MANY: Final = "100,000 partitions: "


def _many(results: Results, directory: Path, workers: int) -> None:
    system = named(workers)
    gateway = Gateway(directory, workers)
    try:
        began = time.perf_counter()
        create_topics(gateway.bootstrap, [f"many-{n}" for n in range(MANY_TOPICS)], MANY_PARTITIONS, {})
        results.add(system, f"{MANY}created", "s", time.perf_counter() - began)
        _at_rest(results, gateway, system, "")
        _fill(gateway)
        gateway.stop()
        gateway = Gateway(directory, workers)
        results.add(system, f"{MANY}restarted", "s", gateway.ready_seconds)
        _at_rest(results, gateway, system, " after a restart")
        gateway.kill()
        gateway = Gateway(directory, workers)
        results.add(system, f"{MANY}restarted after a kill", "s", gateway.ready_seconds)
    finally:
        gateway.stop()
        shutil.rmtree(directory)


def _fill(gateway: Gateway) -> None:
    """A record in each partition: a start has as many to find."""
    failed: list[object] = []
    for topic in range(MANY_TOPICS):  # a client each: librdkafka takes its time with many partitions
        producer = Producer({"bootstrap.servers": gateway.bootstrap})
        for partition in range(MANY_PARTITIONS):
            producer.produce(
                f"many-{topic}",
                b"x" * 100,
                partition=partition,
                on_delivery=lambda error, _: None if error is None else failed.append(error),
            )
        if producer.flush(loadgen.RUN_SECONDS_MAX) or failed:
            raise loadgen.LoadFailed(f"not every partition has its record: {failed[:1]}")


def _at_rest(results: Results, gateway: Gateway, system: str, when: str) -> None:
    admin = AdminClient({"bootstrap.servers": gateway.bootstrap, "log_level": 0})
    for _ in range(METADATA_TIMES):
        began = time.perf_counter()
        found = admin.list_topics(timeout=30)
        took_s = time.perf_counter() - began
        count = sum(len(topic.partitions) for name, topic in found.topics.items() if name.startswith("many-"))
        if count != MANY_TOPICS * MANY_PARTITIONS:
            raise loadgen.LoadFailed(f"Metadata has {count} partitions")
        results.add(system, f"{MANY}Metadata of all{when}", "s", took_s)
    del admin
    time.sleep(SETTLE_S)
    before, began = gateway.cpu_seconds(), time.perf_counter()
    time.sleep(REST_S)
    used = (gateway.cpu_seconds() - before) / (time.perf_counter() - began)
    results.add(system, f"{MANY}CPU at rest{when}", "% of a core", used * 100)
    results.add(system, f"{MANY}memory{when}", "MB", sum(map(_rss_mb, gateway.pids)))


# --- Containers at rest -------------------------------------------------------------------------

REST: Final = "one process at rest: "


def _rest(results: Results, directory: Path, containers: int) -> None:
    system = f"{containers} container{'s' if containers > 1 else ''}"
    gateway = Gateway(directory, 1, containers)
    try:
        settle(gateway)
        before, began = gateway.cpu_seconds(), time.perf_counter()
        time.sleep(REST_S)
        used = (gateway.cpu_seconds() - before) / (time.perf_counter() - began)
        results.add(system, f"{REST}CPU", "% of a core", used * 100)
        results.add(system, f"{REST}memory", "MB", gateway.rss_mb())
        on_disk = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
        results.add(system, f"{REST}disk", "MB", on_disk / 1e6)
    finally:
        gateway.stop()
        shutil.rmtree(directory)


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


TITLES: Final = {
    "turns": TURNS,
    "profile": PROFILE,
    "same": SAME,
    "halves": HALF,
    "killed": KILLED,
    "many": MANY,
    "rest": REST,
}
"""What a part's workloads begin with."""


if __name__ == "__main__":
    sys.exit(main())
