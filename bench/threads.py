"""`python -m bench.threads written-1000-10`: the gateway's CPU by thread, while what was just written is read back.

Besides the processors' time of each thread it tells for how long the thread was ready and had none: two processors
have two seconds a second, for clients and server together.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.comparison import BATCH_RECORDS, WORKS, Work
from bench.servers import Penstock
from bench.systems import PENSTOCK, KafkaLike, until_quiet

WRITTEN: Final = {work.key: work for work in WORKS if work.kind == "written"}
THREAD: Final = re.compile(r'^Thread (\d+) \([^)]*\): "([^"]*)"')
NUMBER: Final = re.compile(r"[_-]\d+$")
WHOLE: Final = "all threads"

Times = dict[str, tuple[float, float]]
"""By the thread's name: seconds on a processor, and seconds without one."""


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "threads"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    work, rates = WRITTEN[options.workload], []
    used: dict[str, list[tuple[float, float]]] = defaultdict(list)
    server = Penstock(scratch, dict(pair.split("=", 1) for pair in options.set))
    try:
        for number in range(options.rounds):
            rate, times = _sample(KafkaLike(PENSTOCK, server), work, f"{work.key}-{number}", rested=options.rested)
            rates.append(rate)
            for name, both in times.items():
                used[name].append(both)
    finally:
        server.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    gigabytes = work.mb / 1000
    print(f"{work.title}: {', '.join(f'{rate:,.0f}' for rate in rates)} MB/s; medians of s a GB:")
    print(f"  {'thread':24} {'processor':>10} {'ready, without one':>20}")
    for name, samples in sorted(used.items(), key=lambda one: -statistics.median(cpu for cpu, _ in one[1])):
        ran, waited = (statistics.median(one) / gigabytes for one in zip(*samples, strict=True))
        print(f"  {name:24} {ran:10.3f} {waited:20.3f}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("workload", choices=list(WRITTEN), metavar="WORKLOAD", help=", ".join(WRITTEN))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rested", action="store_true", help="read when the gateway rests, not at once")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the gateway")
    return parser.parse_args()


def _sample(system: KafkaLike, work: Work, topic: str, *, rested: bool) -> tuple[float, Times]:
    """MB/s of the reading, and what each thread used meanwhile."""
    count = work.mb * 1_000_000 // work.size
    run = BATCH_RECORDS if work.writers > 1 else 1
    pid = system.server.process.pid
    for name in (f"{topic}-before", topic):
        system.create(name, work.partitions)
        until_quiet([system])
        names = _names(pid)
        system.write(name, count=count, run=run, size=work.size, writers=work.writers, partitions=work.partitions)
    if rested:
        until_quiet([system])
    before = _times(pid)
    read = system.read(topic, count=count, readers=work.readers, partitions=work.partitions)
    after = _times(pid)
    times: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for thread, (ran, waited) in after.items():
        ran_before, waited_before = before.get(thread, (0.0, 0.0))
        for name in (names.get(thread, "threads that began since"), WHOLE):
            times[name] = times[name][0] + ran - ran_before, times[name][1] + waited - waited_before
    return read.mb_s(work.size), times


def _names(pid: int) -> dict[int, str]:
    """The names of the threads that are there, by their ids; those of one pool have one."""
    spy = str(Path(sys.executable).parent / "py-spy")
    dumped = subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True, check=True, timeout=60)
    found = (THREAD.match(line) for line in dumped.stdout.splitlines())
    return {int(one[1]): NUMBER.sub("", one[2]) for one in found if one}


def _times(pid: int) -> dict[int, tuple[float, float]]:
    return dict(_read_times(Path(f"/proc/{pid}/task")))


def _read_times(tasks: Path) -> Iterator[tuple[int, tuple[float, float]]]:
    for task in tasks.iterdir():
        ran, waited, _ = (task / "schedstat").read_text().split()
        yield int(task.name), (int(ran) / 1e9, int(waited) / 1e9)


if __name__ == "__main__":
    sys.exit(main())
