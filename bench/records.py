"""The cost of looking at records: `python -m bench.records`.

Keeps: each pair is taken in turn in one run, so its ratio is not that of two moments of the machine.

- Records of 100 B from one producer, batched, uncompressed and lz4: `record.validation=full` beside `header`.
- Compaction of records of 1 KB, uncompressed and zstd, half of whose keys come again: records a second of CPU, by the
  native extension beside Python.
- The longest that another client's request, sent every 2 ms, waits while one batch is opened: 190,000 records in 266 KB
  for a topic of another codec, and 60 MiB in 61 KB; natively, in Python and by Kafka, and without any such batch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Kafka, Penstock, create_topic
from core.tiering.filters import CompactionScope
from gateway.records.compaction import Compactor
from gateway.records.record_batch import GZIP, NONE, ZSTD
from gateway.records.records import Record, build_batch
from gateway.records.walking import PYTHON_VARIABLE
from gateway.wire.codec import request_codec
from gateway.wire.headers import RequestHeader, encode_request_header

RESULT: Final = Path(__file__).resolve().parent / "results" / "records.json"
PRODUCE, API_VERSIONS = 0, 18
SMALL_RECORDS: Final = 1_000_000
BATCHES: Final = 2_000
IN_A_BATCH: Final = 16
PING_S: Final = 0.002
BATCHES_SENT: Final = 5
TIMEOUT_S: Final = 60.0
TOPIC: Final = "another-codec"
PYTHON: Final = {PYTHON_VARIABLE: "1"}
ENVIRONMENTS: Final[dict[str, dict[str, str]]] = {"native": {}, "Python": PYTHON}
KAFKA: Final = Kafka.name
CODECS: Final = {"uncompressed": NONE, "zstd": ZSTD}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.records", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--compact", choices=CODECS, help="print records a second of CPU, and end")
    options = parser.parse_args()
    if options.compact:
        print(_compacted_a_second(CODECS[options.compact]))
        return 0
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "records"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results(pairs={"full": ("header",), "native": ("Python", KAFKA)})
    chosen = options.only or list(PARTS)
    results.keep(RESULT, tuple(word for part in chosen for word in BEGIN_WITH[part]))
    for part in chosen:
        PARTS[part](results, scratch / part, options.rounds)
        results.write(RESULT)
    shutil.rmtree(scratch, ignore_errors=True)
    results.show()
    return 0


def _validation(results: Results, scratch: Path, rounds: int) -> None:
    for codec in ("none", "lz4"):
        _validated(results, scratch / codec, rounds, codec)


def _validated(results: Results, scratch: Path, rounds: int, codec: str) -> None:
    servers = {name: Penstock(scratch / name, {"record.validation": name}) for name in ("full", "header")}
    try:
        for number in range(-1, rounds):  # the first round finds all caches empty
            for name in list(servers)[:: -1 if number % 2 else 1]:
                server, topic = servers[name], f"small-{number}"
                server.create_topic(topic, 1)
                before = server.cpu_ns()
                load = loadgen.run(
                    "produce", server.bootstrap, topic, size=100, count=SMALL_RECORDS, compression_codec=codec
                )
                used = server.cpu_ns() - before
                if number >= 0:
                    results.add(name, f"100 B, one producer, {codec}", "records/s", load.per_second)
                    results.add(name, f"100 B, server CPU, {codec}", "ns/record", used / load.records)
    finally:
        for server in servers.values():
            server.stop()


def _compaction(results: Results, scratch: Path, rounds: int) -> None:
    for number in range(rounds):
        for codec in CODECS:
            for name, environment in list(ENVIRONMENTS.items())[:: -1 if number % 2 else 1]:
                command = [sys.executable, "-m", "bench.records", "--compact", codec]
                done = subprocess.run(
                    command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
                )
                results.add(name, f"compaction of 1 KB, {codec}", "records/s of CPU", float(done.stdout))


def _compacted_a_second(codec: int) -> float:
    """In this process: one pass that learns, one that filters."""
    value, end = os.urandom(750) + bytes(250), BATCHES * IN_A_BATCH
    at, keys = time.time_ns() // 1_000_000, end // 2
    batches = []
    for base in range(0, end, IN_A_BATCH):
        places = range(base, base + IN_A_BATCH)
        # Of each batch some records stay: every second key comes again.
        made = [Record(n, at, b"key-%d" % (n % keys if n % 2 else n), value) for n in places]
        batches.append(memoryview(bytes(build_batch(made, codec))))
    compactor = Compactor(CompactionScope(begin=0, end=end, now_ms=at, tombstone_ms=1))
    begun = time.process_time()
    for batch in batches:
        compactor.learn(batch)
    for batch in batches:
        compactor.keep(batch)
    return end / (time.process_time() - begun)


def _stops(results: Results, scratch: Path, rounds: int) -> None:
    at = time.time_ns() // 1_000_000
    sent = {
        "no batch": b"",
        "190,000 records in 266 KB": bytes(build_batch([Record(n, at, b"k", b"") for n in range(190_000)], GZIP)),
        "60 MiB in 61 KB": bytes(build_batch([Record(0, at, b"k", bytes(60 << 20))], GZIP)),
    }
    for number in range(rounds):
        for name in [*ENVIRONMENTS, KAFKA][:: -1 if number % 2 else 1]:
            place = scratch / f"{name}-{number}"
            server = Kafka(place) if name == KAFKA else Penstock(place, environment=ENVIRONMENTS[name])
            try:
                create_topic(server.bootstrap, TOPIC, 1, {"compression.type": "zstd"})
                for what, batch in sent.items():
                    longest, taken = _longest_wait(server, batch)
                    results.add(name, f"another client waits, {what}", "ms, longest", longest * 1e3)
                    if batch:
                        results.add(name, f"the batch is answered, {what}", "ms", taken * 1e3)
            finally:
                server.stop()


def _longest_wait(server: Penstock | Kafka, batch: bytes) -> tuple[float, float]:
    """Seconds that a small request waits at the longest while a batch is sent some times, and that the batch takes."""
    waits: list[float] = []
    done = threading.Event()

    def ping() -> None:
        with _connected(server) as connection:
            while not done.is_set():
                begun = time.perf_counter()
                _ask(connection, API_VERSIONS, 0, b"")
                waits.append(time.perf_counter() - begun)
                time.sleep(PING_S)

    pinging = threading.Thread(target=ping)
    pinging.start()
    try:
        with _connected(server) as connection:
            partition = {"index": 0, "records": batch}
            topic = {"name": TOPIC, "partition_data": [partition]}
            body = bytes(
                request_codec(PRODUCE, 8).encode(
                    {"transactional_id": None, "acks": -1, "timeout": 30_000, "topic_data": [topic]}
                )
            )
            begun = time.perf_counter()
            for _ in range(BATCHES_SENT):
                if batch:
                    _ask(connection, PRODUCE, 8, body)
                else:
                    time.sleep(0.2)
            taken = (time.perf_counter() - begun) / BATCHES_SENT
    finally:
        done.set()
        pinging.join()
    return max(waits), taken


def _connected(server: Penstock | Kafka) -> socket.socket:
    host, _, port = server.bootstrap.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> None:
    message = encode_request_header(RequestHeader(key, version, 1, "bench"), False) + body
    connection.sendall(struct.pack(">i", len(message)) + message)
    (left,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
    while left:
        left -= len(connection.recv(left))


PARTS: Final[dict[str, Callable[[Results, Path, int], None]]] = {
    "validation": _validation,
    "compaction": _compaction,
    "stops": _stops,
}
BEGIN_WITH: Final = {
    "validation": ("100 B",),
    "compaction": ("compaction",),
    "stops": ("another client", "the batch"),
}
"""The words with which each part's rows begin: a run of one part keeps the rows of the others."""


if __name__ == "__main__":
    sys.exit(main())
