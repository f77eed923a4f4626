"""`make bench`: Penstock, Apache Kafka and Pravega through the same workloads, in turn, and the report of it.

Keeps: all systems of a round are up on the same disk; each workload runs on one right after the other, the order turned
with each round, and only when the work of the one before is over. Latency and what was just written are measured with
one system up at a time, in turn. A run that is cut short leaves its figures so far, and `--more` adds rounds to them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import disk, flame, loadgen, machine
from bench.comparison import IDLE_CONNECTIONS, WORKS, Work, connections, figures
from bench.report import write_report
from bench.results import Results
from bench.systems import BARE, COMPARED, NAMES, PENSTOCK, KafkaLike, System, started, until_quiet

DIRECTORY: Final = Path(__file__).resolve().parent / "results"
FIGURES: Final = "latest.json"
ROUNDS: Final = 3
ROUNDS_SECONDS_MAX: Final = 37 * 60
"""The whole run takes less than 40 minutes; profiles and report need some of them."""
WARM_SECONDS: Final = 6.0
REST_SECONDS: Final = 2.0


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "compare"
    scratch.mkdir(parents=True, exist_ok=True)
    disk.require_disk(scratch)
    loadgen.build()
    began = time.monotonic()
    results = Results(pairs=COMPARED)
    earlier = results.go_on(options.output / FIGURES) if options.more else 0
    works = [work for work in WORKS if not options.only or _chosen(work.key, options.only)]
    for done in range(options.rounds):
        gone_s = time.monotonic() - began
        if done and gone_s * (done + 1) / done > ROUNDS_SECONDS_MAX:
            _say(
                f"no time for another round after {gone_s:.0f} s: other work is on this machine; --more adds one later"
            )
            break
        results.round = number = earlier + done
        _say(f"round {number + 1} of {earlier + options.rounds}, {gone_s:.0f} s gone")
        with _scratch(scratch / f"round-{number}") as directory:
            for workload, unit, value in machine.limits(directory):
                results.add(machine.SYSTEM, workload, unit, value)
            due = [work for work in works if number < work.rounds]
            _together(results, [work for work in due if not work.alone], options, directory / "together", number)
            _in_turn(results, [work for work in due if work.alone], options, directory / "alone", number)
        _write(results, options.output)
    if PENSTOCK in options.systems and not options.only and not options.more:
        _say("profiles")
        with _scratch(scratch / "profiles") as directory:
            flame.profile(options.output, directory)
    write_report(options.output)
    _say(f"{time.monotonic() - began:.0f} s; report in {options.output / 'report.md'}")
    for failure in results.failures:
        _say(f"failed: {failure}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    keys = ", ".join(work.key for work in WORKS)
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", help=f"these, or what begins so: {keys}")
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", choices=NAMES, default=list(NAMES), help=str(NAMES))
    baseline = os.environ.get("BASELINE")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        default=Path(baseline).resolve() if baseline else None,
        help=f"the program of the {BARE}, which is left out without one (BASELINE)",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="samples of each row")
    parser.add_argument("--more", action="store_true", help="add rounds to those that the output has")
    parser.add_argument("--output", type=Path, default=DIRECTORY, help="directory of latest.json and the report")
    options = parser.parse_args()
    if options.baseline is None:
        options.systems = [name for name in options.systems if name != BARE]
    return options


def _chosen(key: str, wanted: list[str]) -> bool:
    return any(key == start or key.startswith(f"{start}-") for start in wanted)


def _together(results: Results, works: list[Work], options: argparse.Namespace, directory: Path, number: int) -> None:
    """Works of one round with all systems up."""
    if not works:
        return
    with contextlib.ExitStack() as running:
        systems = started(directory, options.systems, running, options.baseline)
        time.sleep(REST_SECONDS)
        _at_rest(results, systems)
        for system in systems:
            _guarded(results, f"warm-up of {system.name}", lambda s=system: _warm_up(s))
        for work in works:
            _say(f"  {work.key}")
            for system in systems if number % 2 == 0 else reversed(systems):
                if work.is_for(system):
                    until_quiet(systems)
                    _sampled(results, work, system, number)
        for system in _once_each(systems):
            results.add(system.name, "memory after the load", "MB", system.server.rss_mb())


def _in_turn(results: Results, works: list[Work], options: argparse.Namespace, directory: Path, number: int) -> None:
    """Works of one round with one system up at a time. What each leaves is deleted when all are done."""
    if not works:
        return
    directory.mkdir(parents=True, exist_ok=True)
    time.sleep(REST_SECONDS)
    for work in works:
        if work.kind == "latency":
            for workload, unit, value in machine.paced(directory, work.mb_s):
                results.add(machine.SYSTEM, workload, unit, value)
    for name in options.systems if number % 2 == 0 else reversed(options.systems):
        with contextlib.ExitStack() as running:
            (system,) = started(directory / name.replace(" ", "-"), [name], running, options.baseline)
            chosen = [work for work in works if work.is_for(system)]
            if not chosen:
                continue
            _say(f"  {name} alone: {', '.join(work.key for work in chosen)}")
            _guarded(results, f"warm-up of {name}", lambda s=system: _warm_up(s))
            for work in chosen:
                until_quiet([system])
                _sampled(results, work, system, number)


def _sampled(results: Results, work: Work, system: System, number: int) -> None:
    topic = f"{work.key}-{number}-{NAMES.index(system.name)}"
    _guarded(results, f"{work.key} on {system.name}", lambda: _sample(results, work, system, topic))


def _sample(results: Results, work: Work, system: System, topic: str) -> None:
    for workload, unit, value in figures(work, system, topic):
        results.add(system.name, workload, unit, value)


def _at_rest(results: Results, systems: list[System]) -> None:
    for system in _once_each(systems):
        results.add(system.name, "start-up, empty directory", "s", system.server.ready_seconds)
        resting_mb = system.server.rss_mb()
        results.add(system.name, "memory at rest", "MB", resting_mb)
        if isinstance(system, KafkaLike):
            with connections(system.bootstrap, IDLE_CONNECTIONS):
                more_mb = system.server.rss_mb() - resting_mb
            results.add(system.name, f"{IDLE_CONNECTIONS:,} idle connections, memory", "MB", more_mb)


def _once_each(systems: list[System]) -> list[System]:
    """One system for each process: Kafka's settings share theirs, and the default stands for it."""
    first: dict[int, System] = {}
    for system in sorted(systems, key=lambda s: isinstance(s, KafkaLike) and bool(s.config)):
        first.setdefault(id(system.server), system)
    return list(first.values())


def _warm_up(system: System) -> None:
    """Warm up every system in the same way: a JVM needs some seconds before its figures mean anything."""
    topic = f"warm-up-{NAMES.index(system.name)}"
    system.create(topic, 1)
    batched = system.write(topic, size=1000, seconds=WARM_SECONDS / 3, rate=20_000, latency=1, warmup=0)
    if isinstance(system, KafkaLike):
        small: dict[str, object] = {"linger_ms": 0, "batch_num_messages": 1, "queue_buffering_max_messages": 2000}
        system.write(topic, size=100, seconds=WARM_SECONDS / 3, warmup=0, **small)
    system.read(topic, count=batched.acknowledged, seconds=WARM_SECONDS / 3)
    system.delete(topic)


def _guarded(results: Results, what: str, measure: Callable[[], None]) -> None:
    """Measure; a system that fails under a load has no sample of it, and the report says so."""
    try:
        measure()
    except Exception as error:
        results.failures.append(f"{what}: {error}")
        _say(f"  failed: {what}: {error}")


def _write(results: Results, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    figures_file = output / FIGURES
    content = {"machine": machine.described(), "rows": results.rows(), "failures": results.failures}
    figures_file.write_text(json.dumps(content, indent=1) + "\n")


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
