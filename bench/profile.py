"""`python -m bench.profile WORKLOAD`: a running gateway's time by function, under one workload.

Prints the heaviest functions by own and by total share of each thread's samples, and leaves the collapsed stacks, which
any flame-graph tool reads.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import loadgen
from bench.comparison import WORKS, figures
from bench.servers import Penstock
from bench.systems import PENSTOCK, KafkaLike
from bench.workloads import WORKLOADS, Figure

SAMPLES_PER_S: Final = 500
ATTACH_SECONDS_MAX: Final = 10
LINES: Final = 25


def main() -> int:
    options = _options()
    directory = loadgen.BUILD / "profile"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    server = Penstock(directory, dict(pair.split("=", 1) for pair in options.set))
    try:
        stacks = directory / "stacks.txt"
        recorder = record(server.process.pid, stacks, native=options.native)
        for workload, unit, value in _run(options.workload, server):
            print(f"{workload}: {value:,.0f} {unit}")
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)
    finally:
        server.stop()
    _report(stacks)
    print(f"stacks: {stacks}")
    return 0


def _run(key: str, server: Penstock) -> Iterator[Figure]:
    """The workload of this key, of `bench-quick` or of the comparison."""
    for quick in WORKLOADS:
        if quick.key == key:
            server.create_topic(key, quick.partitions)
            yield from quick.run(server, key)
            return
    for work in WORKS:
        if work.key == key:
            yield from figures(work, KafkaLike(PENSTOCK, server), f"of-{key}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    keys = dict.fromkeys([*(work.key for work in WORKLOADS), *(work.key for work in WORKS)])
    parser.add_argument("workload", choices=list(keys), metavar="WORKLOAD", help=", ".join(keys))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--native", action="store_true", help="C frames too; slows the server")
    return parser.parse_args()


def record(
    pid: int, output: Path, *, kind: str = "raw", native: bool = False, rate: int = SAMPLES_PER_S
) -> subprocess.Popen[str]:
    """Attach py-spy and wait until it samples."""
    command = [str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(pid), "--threads"]
    command += ["--format", kind, "--output", str(output), "--rate", str(rate)]
    command.append("--native" if native else "--nonblocking")
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert recorder.stdout is not None
    for line in recorder.stdout:
        if "Sampling process" in line:
            return recorder
    raise RuntimeError(f"py-spy did not attach (exit {recorder.wait(ATTACH_SECONDS_MAX)})")


def _report(stacks: Path) -> None:
    own: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    total: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in stacks.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        thread, *calls = frames.split(";")
        if not calls:
            continue
        own[thread][calls[-1]] += int(count)
        for call in set(calls):
            total[thread][call] += int(count)
    everything = sum(counter.total() for counter in own.values())
    for thread, counter in sorted(own.items(), key=lambda item: -item[1].total()):
        samples = counter.total()
        print(f"\n{thread}: {samples / everything:.0%} of all samples")
        print("   own  total")
        for call, count in counter.most_common(LINES):
            print(f"  {count / samples:4.0%}  {total[thread][call] / samples:4.0%}  {call}")


if __name__ == "__main__":
    sys.exit(main())
