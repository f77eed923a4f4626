"""The effect of strangers on honest clients: `python -m bench.hostile`.

Keeps: each attack meets a gateway of its own, with an honest producer, consumer and group beside it, and the first row
is the same without an attack, in the same run. Figures of a whole run go to `bench/results/hostile.json`, others to the
file of `--result`, and are shown as a table; Kafka's stand beside ours. Each row has the part of the machine's other
work.
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
from typing import Any, Final

from bench import disk, loadgen
from bench.hostile.attacks import ATTACKS, Attack, Target
from bench.hostile.gateway import Counted, longest_turn, look, sync_at_most
from bench.hostile.honest import TOPIC, honest_clients, percentile
from bench.hostile.starved import OtherWork, Starved
from bench.servers import Kafka, Penstock

RESULT: Final = Path(__file__).resolve().parent.parent / "results" / "hostile.json"
BACK_TO_NORMAL_S: Final = 5.0
SAMPLE_S: Final = 0.05
SERVERS: Final = (Penstock.name, Kafka.name)
HEAD: Final = (
    "| strangers | server (seconds) | produce p99, max | consume p99 | syncs' p99, longest, at most | longest turn "
    "| rebalances | memory before, at most | p99 after | wait for a processor, others' work | answers |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass
class Row:
    """One attack on one server. Times in milliseconds, of the honest clients."""

    server: str
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
    """p99 of the five seconds after the attack's end."""
    cpu_wait_ms: float
    """The longest wait of one thread, of the server or of the honest clients, for a processor."""
    others_busy: float
    """The share of all processors that other work had, 0 to 1."""
    note: str = ""
    sync_p99_ms: float = 0
    """Of the gateway's log, at most; 0: not known. A record is acknowledged after such a sync."""
    sync_max_ms: float = 0
    turn_ms: float = 0
    """The longest turn of the event loop that began in this row; 0: no turn was longer than those before."""
    turn_api: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has one of these words")
    parser.add_argument("--seconds", type=float, default=10, help="length of attacks that could go on for ever")
    parser.add_argument("--server", nargs="+", choices=SERVERS, default=["penstock"], help="each attack meets each")
    parser.add_argument("--result", type=Path, help="file of the figures")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "hostile"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    result: Path | None = options.result or (None if options.only else RESULT)
    rows = []
    for number, attack in enumerate(ATTACKS):
        if options.only and not any(word in attack.name for word in options.only):
            continue
        for name in options.server:
            if name == Kafka.name and attack.only_penstock:
                continue
            print(name, attack.name, file=sys.stderr, flush=True)
            rows.append(_row(name, attack, scratch / str(number), options.seconds))
            shutil.rmtree(scratch / str(number), ignore_errors=True)
            print(_line(rows[-1]), flush=True)
            if result is not None:
                result.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print("\n" + HEAD)
    for row in rows:
        print(_line(row))
    return 0


def _row(server_name: str, attack: Attack, directory: Path, seconds: float) -> Row:
    server = _start(server_name, directory)
    try:
        http = _address(server.ready["http"]) if isinstance(server, Penstock) else None
        target = Target(_address(server.bootstrap), http, seconds)
        server.create_topic(TOPIC, 4)
        with honest_clients(server.bootstrap) as honest:
            attack.prepare(target)
            time.sleep(2)
            before = look(target.url("/metrics")) if http else None
            honest.look()
            memory_mb = server.rss_mb()
            others = OtherWork()
            with _Watch(server, Starved([server.process.pid, *honest.pids])) as watch:
                began_s = time.monotonic()
                try:
                    note = attack.run(target) or ""
                except Exception as error:
                    traceback.print_exc()
                    note = f"{type(error).__name__}: {error}"[:100]
                took_s = time.monotonic() - began_s
            during = honest.look()
            others_busy = others.share()
            figures = {} if before is None else _own(before, look(target.url("/metrics")))
            time.sleep(BACK_TO_NORMAL_S)
            after = honest.look()
        return Row(
            server=server_name,
            attack=attack.name,
            seconds=round(took_s, 1),
            produce_p99_ms=_ms(percentile(during.acknowledged_s, 0.99)),
            produce_max_ms=_ms(max(during.acknowledged_s, default=0)),
            consume_p99_ms=_ms(percentile(during.received_s, 0.99)),
            rebalances=during.rebalances + after.rebalances,
            failures=during.failures + after.failures,
            memory_mb=round(memory_mb),
            memory_peak_mb=round(watch.memory_mb),
            after_p99_ms=_ms(percentile(after.acknowledged_s, 0.99)),
            cpu_wait_ms=_ms(watch.starved.longest_s),
            others_busy=round(others_busy, 2),
            note=note,
            **figures,
        )
    finally:
        server.stop()


def _own(before: Counted, after: Counted) -> dict[str, Any]:
    """The gateway's own figures between two looks, as fields of a row."""
    api, turn_s = longest_turn(before, after)
    return {
        "sync_p99_ms": _ms(sync_at_most(before, after, 0.99)),
        "sync_max_ms": _ms(sync_at_most(before, after, 1)),
        "turn_ms": _ms(turn_s),
        "turn_api": api,
    }


def _start(name: str, directory: Path) -> Penstock | Kafka:
    if name == Kafka.name:
        return Kafka(directory)
    return Penstock(directory, {"num.partitions": 4}, http="127.0.0.1:0")


class _Watch:
    """The server's peak memory, and the threads' waits for a processor, while this is entered."""

    def __init__(self, server: Penstock | Kafka, starved: Starved) -> None:
        self._server = server
        self.starved = starved
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory_mb = 0.0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.memory_mb = max(self.memory_mb, self._server.rss_mb())
            self.starved.look()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    return host, int(port)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _line(row: Row) -> str:
    lost = f"{row.rebalances}" + (f", {row.failures} failures" if row.failures else "")
    syncs = f"{row.sync_p99_ms:g} ms, {row.sync_max_ms:g} ms" if row.sync_max_ms else ""
    turn = f"{row.turn_ms:g} ms, {row.turn_api}" if row.turn_ms else ""
    return (
        f"| {row.attack} | {row.server} ({row.seconds:g}) | {row.produce_p99_ms:g} ms, {row.produce_max_ms:g} ms "
        f"| {row.consume_p99_ms:g} ms | {syncs} | {turn} | {lost} | {row.memory_mb:g}, {row.memory_peak_mb:g} MB "
        f"| {row.after_p99_ms:g} ms | {row.cpu_wait_ms:g} ms, {row.others_busy:.0%} | {row.note} |"
    )


if __name__ == "__main__":
    sys.exit(main())
