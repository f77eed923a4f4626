"""The scaler's cost for producers: `python -m bench.scaler`.

Keeps: two gateways of the same code take turns on one machine; one takes rates every second and decides every 15 s, as
by default, the other does so once in an hour.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Penstock
from bench.workloads import WORKLOADS

RESULT: Final = Path(__file__).resolve().parent / "results" / "scaler.json"
HOUR_MS: Final = 3_600_000
SYSTEMS: Final[dict[str, dict[str, object]]] = {
    "scaler off": {"scaler.sample.ms": HOUR_MS, "scaler.time.factor": 1000},
    "scaler on": {},
}
CHOSEN: Final = ("small", "kilobyte", "wide")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scaler", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "scaler"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    results = Results(ratio_to="scaler off")
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name in sorted(SYSTEMS, reverse=bool(number % 2)):
            _round(results, name, scratch / f"{number}-{name.replace(' ', '-')}")
    results.write(RESULT)
    results.show()
    return 0


def _round(results: Results, name: str, directory: Path) -> None:
    server = Penstock(directory, {"tier2": "off"} | SYSTEMS[name])
    try:
        for work in WORKLOADS:
            if work.key in CHOSEN:
                server.create_topic(work.key, work.partitions)
                for workload, unit, value in work.run(server, work.key):
                    results.add(name, workload, unit, value)
    finally:
        server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
