"""`make bench-pair A=CHECKOUT B=CHECKOUT`: one row of the table for each figure, as a ratio of B to A.

For changes of a few per cent, which two runs one after the other cannot show: their disk and their machine differ by
more. CPU time is that of the server itself: other work on the machine changes it least, so it is the figure to go by.
Each checkout needs its `.venv`. It may be the same one, with other settings: `ARGS="--set-b containers=4"`.

Keeps: both servers are up all the time, and each sample of one is taken right beside one of the other, with the order
turned each time (A B, B A, A B, ...). A load that fails ends the run, says at whose server, and leaves that server's
log, metrics and stacks in `paired-lost` beside the scratch directory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench import disk, evidence, loadgen
from bench.comparison import BATCH_RECORDS, LINGER_MS
from bench.servers import Penstock, create_topics
from bench.workloads import KILOBYTE, WIDE_PARTITIONS, produce_singles

PAIRS: Final = 12
SERVERS: Final = 3
"""Pairs of servers, one after the other: the layout of a process's memory is worth a per cent or two."""
SINGLE_RECORDS: Final = 10_000
KILOBYTE_RECORDS: Final = 50_000
WIDE_RECORDS: Final = 50_000
TAIL_RECORDS: Final = 24_000
TAIL_ROUNDS: Final = 4
SMALL_RECORDS: Final = 300_000
MEMORY_RECORDS: Final = 150_000
"""What memory holds in any case."""
MANY_RECORDS: Final = 160_000
MANY_TOPICS: Final = 100

T = TypeVar("T")
Side = tuple[Path, dict[str, object]]
"""A checkout, and settings of its gateway."""
Samples = dict[str, dict[str, list[float]]]
"""Values by figure and checkout, pair by pair."""


Run = Callable[[Penstock, str], loadgen.Load]


@dataclass(frozen=True, slots=True)
class Row:
    """One load; a sample of it takes about half a second, each on a new topic. With `first` all samples have the same
    topic, which was written by that load."""

    key: str
    name: str
    partitions: int
    run: Run
    topics: int = 1
    first: Run | None = None


def _produce(size: int, count: int, **options: object) -> Run:
    return lambda server, topic: loadgen.run("produce", server.bootstrap, topic, size=size, count=count, **options)


def _consume(count: int, **options: object) -> Run:
    return lambda server, topic: loadgen.run("consume", server.bootstrap, topic, count=count, **options)


TAIL_FROM: Final = KILOBYTE_RECORDS - TAIL_RECORDS
MANY: Final = _produce(
    KILOBYTE,
    MANY_RECORDS,
    writers=MANY_TOPICS,
    topics=MANY_TOPICS,
    partitions=50,
    run=BATCH_RECORDS,
    linger_ms=LINGER_MS,
)
ROWS: Final = (
    Row("single", "single-record requests", 1, lambda server, topic: produce_singles(server, topic, SINGLE_RECORDS)),
    Row("small", "100 B, batched", 1, _produce(100, SMALL_RECORDS)),
    Row("kilobyte", "1 KB, one partition", 1, _produce(KILOBYTE, KILOBYTE_RECORDS)),
    Row(
        "tail",
        "consumer at the tail, 1 KB",
        1,
        _consume(TAIL_RECORDS, from_offset=TAIL_FROM, rounds=TAIL_ROUNDS),
        first=_produce(KILOBYTE, KILOBYTE_RECORDS),
    ),
    Row(
        "behind",
        "consumer catching up, 1 KB",
        1,
        _consume(KILOBYTE_RECORDS),
        first=_produce(KILOBYTE, KILOBYTE_RECORDS),
    ),
    Row(
        "memory",
        "1 reader of memory, 1 KB",
        1,
        _consume(MEMORY_RECORDS),
        first=_produce(KILOBYTE, MEMORY_RECORDS),
    ),
    Row(
        "readers",
        "10 readers of memory, 16 partitions",
        16,
        _consume(MEMORY_RECORDS, readers=10, partitions=16),
        first=_produce(KILOBYTE, MEMORY_RECORDS, writers=10, partitions=16, run=BATCH_RECORDS),
    ),
    Row("wide", "1 KB over 1,000 partitions", WIDE_PARTITIONS, _produce(KILOBYTE, WIDE_RECORDS, partitions=1000)),
    Row("many", "5,000 partitions, 100 writers", 50, MANY, topics=MANY_TOPICS, first=MANY),
)
START: Final = "start"


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "paired"
    scratch.mkdir(parents=True, exist_ok=True)
    lost = scratch.with_name("paired-lost")
    shutil.rmtree(lost, ignore_errors=True)
    disk.require_disk(scratch)
    loadgen.build()
    chosen = options.only or [START, *(row.key for row in ROWS)]
    samples: Samples = defaultdict(lambda: defaultdict(list))
    for number in range(options.servers):
        with _pair(options, scratch, number, samples if START in chosen else None) as servers:
            for row in ROWS:
                if row.key in chosen:
                    _measure(row, servers, options.pairs, samples, lost)
    print(f"{'B to A: median [quartiles] of pairs':46} {'A':>12} {'B':>12}")
    for name, values in samples.items():
        _tell(name, values["A"], values["B"])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.paired", description=__doc__)
    parser.add_argument("a", type=Path, help="the checkout before")
    parser.add_argument("b", type=Path, help="the checkout after")
    for flag, side in (("--set-a", "A"), ("--set-b", "B")):
        parser.add_argument(flag, action="append", default=[], metavar="KEY=VALUE", help=f"a setting of {side}")
    parser.add_argument("--only", action="append", choices=[START, *(row.key for row in ROWS)])
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of each row and pair of servers")
    parser.add_argument("--servers", type=int, default=SERVERS, help="pairs of servers that are started")
    return parser.parse_args()


@contextlib.contextmanager
def _pair(
    options: argparse.Namespace, scratch: Path, number: int, starts: Samples | None
) -> Iterator[dict[str, Penstock]]:
    """A server of each checkout, on empty directories."""
    shutil.rmtree(scratch, ignore_errors=True)
    with contextlib.ExitStack() as running:
        running.callback(shutil.rmtree, scratch, ignore_errors=True)
        if starts is not None:
            _measure_start(options, scratch, starts)
        servers = {}
        for name, side in _ordered(_sides(options), number):
            servers[name] = _started(side, scratch / name, http="127.0.0.1:0")
            running.callback(servers[name].stop)
        yield servers


def _measure_start(options: argparse.Namespace, scratch: Path, samples: Samples) -> None:
    for number in range(options.pairs):
        for name, side in _ordered(_sides(options), number):
            directory = scratch / f"start-{name}"
            server = _started(side, directory)
            samples["start-up, ms"][name].append(server.ready_seconds * 1e3)
            samples["start-up, CPU ms"][name].append(server.cpu_ns() / 1e6)
            server.stop()
            shutil.rmtree(directory)


def _sides(options: argparse.Namespace) -> dict[str, Side]:
    given = {"A": (options.a, options.set_a), "B": (options.b, options.set_b)}
    return {name: (checkout, dict(pair.split("=", 1) for pair in pairs)) for name, (checkout, pairs) in given.items()}


def _started(side: Side, directory: Path, http: str = "off") -> Penstock:
    checkout, settings = side
    return Penstock(directory, settings, http=http, program=checkout.resolve() / ".venv/bin/penstock")


def _measure(row: Row, servers: dict[str, Penstock], pairs: int, samples: Samples, lost: Path) -> None:
    """Measure one pair more than is counted: the first finds all caches empty. `lost`: a directory for what there is
    about a load that failed."""
    for number in range(pairs + 1):
        for name, server in _ordered(servers, number):
            topic = f"{row.key}-{number}" if row.first is None else row.key
            if row.first is None or not number:
                names = [topic] if row.topics == 1 else [f"{topic}-{n}" for n in range(row.topics)]
                create_topics(server.bootstrap, names, row.partitions, {})
                if row.first is not None:
                    with evidence.kept(server, f"{name}, {row.name}, the first load", lost / name):
                        row.first(server, topic)
            before = server.cpu_ns()
            with evidence.kept(server, f"{name}, {row.name}", lost / name):
                load = row.run(server, topic)
            used = server.cpu_ns() - before
            if number:
                samples[f"{row.name}, records/s"][name].append(load.per_second)
                samples[f"{row.name}, CPU ns/record"][name].append(used / load.records)


def _ordered(pair: dict[str, T], number: int) -> list[tuple[str, T]]:
    both = list(pair.items())
    return both[::-1] if number % 2 else both


def _tell(name: str, a: list[float], b: list[float]) -> None:
    ratios = [after / before for before, after in zip(a, b, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    print(f"{name:46} {statistics.median(a):12,.0f} {statistics.median(b):12,.0f}  {middle:.3f} [{low:.3f}-{high:.3f}]")


if __name__ == "__main__":
    sys.exit(main())
