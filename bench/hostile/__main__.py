"""What honest clients notice of strangers: `python -m bench.hostile`.

Keeps: each attack meets a gateway of its own, with an honest producer, consumer and group beside it, and the first row
is the same without an attack, in the same run. Figures go to `bench/results/hostile.json` and are shown as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.hostile.attacks import ATTACKS, Attack, Target
from bench.hostile.honest import TOPIC, Noticed, honest_clients, percentile
from bench.servers import Penstock

RESULT: Final = Path(__file__).resolve().parent.parent / "results" / "hostile.json"
BACK_TO_NORMAL_S: Final = 5.0
SAMPLE_S: Final = 0.05


@dataclass
class Row:
    """One attack. Times in milliseconds, of the honest clients."""

    attack: str
    seconds: float
    produce_p99_ms: float
    produce_max_ms: float
    consume_p99_ms: float
    rebalances: int
    failures: int
    memory_mb: float
    memory_peak_mb: float
    after_p99_ms: float
    """Of the five seconds after its end."""
    note: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has one of these words")
    parser.add_argument("--seconds", type=float, default=10, help="length of attacks that could go on for ever")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "hostile"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    rows = []
    for number, attack in enumerate(ATTACKS):
        if options.only and not any(word in attack.name for word in options.only):
            continue
        print(attack.name, file=sys.stderr, flush=True)
        rows.append(_row(attack, scratch / str(number), options.seconds))
        shutil.rmtree(scratch / str(number), ignore_errors=True)
        print(_line(rows[-1]), flush=True)
    if not options.only:
        RESULT.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print()
    print("| strangers | produce p99, max | consume p99 | rebalances | memory, peak | p99 after |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(_line(row))
    return 0


def _row(attack: Attack, directory: Path, seconds: float) -> Row:
    server = Penstock(directory, {"num.partitions": 4}, http="127.0.0.1:0")
    try:
        target = Target(_address(server.bootstrap), _address(server.ready["http"]), seconds)
        server.create_topic(TOPIC, 4)
        with honest_clients(server.bootstrap) as honest:
            attack.prepare(target)
            time.sleep(2)
            honest.look()
            memory_mb = server.rss_mb()
            note = ""
            with _Peak(server) as peak:
                began_s = time.monotonic()
                try:
                    attack.run(target)
                except Exception as error:
                    traceback.print_exc()
                    note = f"{type(error).__name__}: {error}"[:100]
                took_s = time.monotonic() - began_s
            during = honest.look()
            time.sleep(BACK_TO_NORMAL_S)
            after = honest.look()
        return _noticed(attack.name, took_s, during, after, memory_mb, peak.mb, note)
    finally:
        server.stop()


def _noticed(
    name: str, took_s: float, during: Noticed, after: Noticed, memory_mb: float, peak_mb: float, note: str
) -> Row:
    return Row(
        attack=name,
        seconds=round(took_s, 1),
        produce_p99_ms=_ms(percentile(during.acknowledged_s, 0.99)),
        produce_max_ms=_ms(max(during.acknowledged_s, default=0)),
        consume_p99_ms=_ms(percentile(during.received_s, 0.99)),
        rebalances=during.rebalances + after.rebalances,
        failures=during.failures + after.failures,
        memory_mb=round(memory_mb),
        memory_peak_mb=round(peak_mb),
        after_p99_ms=_ms(percentile(after.acknowledged_s, 0.99)),
        note=note,
    )


class _Peak:
    """The most memory that the gateway has while this is entered."""

    def __init__(self, server: Penstock) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mb = 0.0

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.mb = max(self.mb, self._server.rss_mb())


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    return host, int(port)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _line(row: Row) -> str:
    lost = f"{row.rebalances}" + (f", {row.failures} failures" if row.failures else "")
    return (
        f"| {row.attack} ({row.seconds:g} s) | {row.produce_p99_ms:g} ms, {row.produce_max_ms:g} ms "
        f"| {row.consume_p99_ms:g} ms | {lost} | {row.memory_mb:g}, {row.memory_peak_mb:g} MB "
        f"| {row.after_p99_ms:g} ms | {row.note}"
    ).rstrip()


if __name__ == "__main__":
    sys.exit(main())
