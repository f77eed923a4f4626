"""`make bench-quick`: Penstock, and with BASELINE=FILE that server too, alternating in one run.

Keeps: both servers of a pair are up, on the same disk, and each workload runs on one right after
the other (A B, then B A in the next round), each time on a new topic.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import disk, loadgen, size
from bench.results import Results
from bench.servers import Baseline, Penstock, Server
from bench.workloads import WORKLOADS, Workload

RESULT: Final = Path(__file__).resolve().parent / "results" / "quick.json"
ROUNDS: Final = 5


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    disk.require_disk(scratch)
    loadgen.build()
    started = time.monotonic()
    results = Results(ratio_to=options.baseline.stem if options.baseline else None)
    chosen = [work for work in WORKLOADS if not options.only or work.key in options.only]
    for number in range(options.rounds):
        _say(f"round {number + 1} of {options.rounds}")
        with _scratch(scratch / f"round-{number}") as directory:
            _disk_figures(results, directory)
            _speed_round(results, chosen, options.baseline, directory, number)
        results.write(RESULT)  # a run that is cut short leaves its figures so far
    if not options.only or "size" in options.only:
        for measure in size.MEASURES:
            _say(measure.__name__.replace("_", " "))
            with _scratch(scratch / measure.__name__) as directory:
                _guarded(results, measure.__name__, lambda m=measure, d=directory: m(results, d))
    results.write(RESULT)
    results.show()
    _say(f"{time.monotonic() - started:.0f} s; figures in {RESULT}")
    return 1 if results.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.quick", description=__doc__)
    keys = [work.key for work in WORKLOADS] + ["size"]
    parser.add_argument("--only", action="append", choices=keys, help="run these workloads only")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="samples of each speed row")
    baseline = os.environ.get("BASELINE")
    parser.add_argument("--baseline", type=Path, default=Path(baseline).resolve() if baseline else None)
    return parser.parse_args()


def _disk_figures(results: Results, directory: Path) -> None:
    big_mb_s, small_us = disk.synced_writes(directory)
    results.add("disk", "1 MiB writes, each synced", "MB/s", big_mb_s)
    results.add("disk", "4 KiB write and sync", "µs", small_us)


def _speed_round(results: Results, chosen: list[Workload], baseline: Path | None, directory: Path, number: int) -> None:
    """Every workload once on every system, the order of the systems turned with each round."""
    with contextlib.ExitStack() as running:
        penstock = Penstock(directory / "penstock")
        running.callback(penstock.stop)
        results.add(penstock.name, "start-up, empty directory", "s", penstock.ready_seconds)
        results.add(penstock.name, "memory when idle", "MB", penstock.rss_mb())
        baselines: dict[int, Server] = {}
        if baseline:
            for partitions in {work.partitions for work in chosen}:
                place = directory / f"baseline-{partitions}"
                server = Baseline(baseline, place, partitions)
                running.callback(server.stop)
                baselines[partitions] = server
        for work in chosen:
            systems: list[Server] = [penstock, *filter(None, [baselines.get(work.partitions)])]
            for system in systems if number % 2 == 0 else reversed(systems):
                _guarded(
                    results,
                    f"{work.key} on {system.name}",
                    lambda w=work, s=system: _measure(results, w, s, f"{w.key}-{number}"),
                )
        results.add(penstock.name, "memory after the load", "MB", penstock.rss_mb())


def _measure(results: Results, work: Workload, system: Server, topic: str) -> None:
    system.create_topic(topic, work.partitions)
    for workload, unit, value in work.run(system, topic):
        results.add(system.name, workload, unit, value)


def _guarded(results: Results, what: str, measure: Callable[[], None]) -> None:
    """A row that cannot be measured is reported and ends the run with status 1, at its end."""
    try:
        measure()
    except Exception as error:
        results.failures.append(f"{what}: {error}")
        _say(f"failed: {what}: {error}")


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
