"""How fast members of a share group take records: `python -m bench.share_groups`.

Four members of a consumer group read a topic to its end, then four of a share group (KIP-932) read the same records.
Each is a process with librdkafka, and accepts what a poll gave it with the next poll. `--kafka` measures Kafka as well,
`--against` another checkout of Penstock. Beside the speed it tells where the time goes: the processor time of the
server, and that of the members.

Keeps: time is taken from the first record that any member gets to the last one. A run ends when as many records have
come as were written; if records come twice, it ends too early, and says so. All servers are up, and are measured in
turn: what else the machine does meets each of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ctypes import c_longlong
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from confluent_kafka import Consumer, Producer, ShareConsumer

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Kafka, Penstock, Server
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible

RESULT: Final = Path(__file__).resolve().parent / "results" / "share-groups.json"
MEMBERS: Final = 4
PARTITIONS: Final = 4
RECORD_BYTES: Final = 1_000
WITHIN_S: Final = 120.0
STARTS_WITHIN_S: Final = 30.0
ALTER_CONFIGS: Final = (44, 1)
GROUP: Final = 32
BEFORE: Final = "before"
"""The name of the other checkout."""
_LENGTH: Final = struct.Struct(">i")


class SharingKafka(Kafka):
    """A Kafka that keeps the state of share groups on its one broker."""

    SETTINGS: ClassVar[dict[str, str]] = Kafka.SETTINGS | {
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.share.assignment.interval.ms": "0",
        "group.consumer.assignment.interval.ms": "0",
    }


def _ask(bootstrap: str, api: tuple[int, int], body: Mapping[str, Any]) -> Any:
    """One request on a connection of its own."""
    key, version = api
    host, port = bootstrap.rsplit(":", 1)
    codec = request_codec(key, version)
    frame = encode_request_header(RequestHeader(key, version, 1, "bench"), codec.flexible) + bytes(codec.encode(body))
    with socket.create_connection((host, int(port)), timeout=WITHIN_S) as connection, connection.makefile("rb") as file:
        connection.sendall(_LENGTH.pack(len(frame)) + frame)
        data = file.read(_LENGTH.unpack(file.read(_LENGTH.size))[0])
    answer = response_codec(key, version)
    return answer.decode(memoryview(data), 5 if response_header_is_flexible(key, answer.flexible) else 4)


def _begin_early(bootstrap: str, group: str) -> None:
    """Have a share group begin at the start of its partitions."""
    config = {"name": "share.auto.offset.reset", "config_operation": 0, "value": "earliest"}
    resource = {"resource_type": GROUP, "resource_name": group, "configs": [config]}
    (told,) = _ask(bootstrap, ALTER_CONFIGS, {"resources": [resource]}).responses
    if told.error_code:
        raise SystemExit(f"the group's config: error {told.error_code}, {told.error_message}")


def _write(bootstrap: str, topic: str, records: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "batch.size": 262_144, "log_level": 0})
    value = os.urandom(RECORD_BYTES)
    for number in range(records):
        producer.produce(topic, value, partition=number % PARTITIONS)
        if not number % 1_000:
            producer.poll(0)
            while len(producer) > 50_000:
                producer.poll(0.05)
    if producer.flush(WITHIN_S):
        raise SystemExit("the records could not be written")


def _share(bootstrap: str, group: str, topic: str, note: Callable[[int], None], ended: Event) -> None:
    member = ShareConsumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    member.subscribe([topic])
    while not ended.is_set():
        note(len(member.poll(0.5) or ()))
    member.close()


def _consume(bootstrap: str, group: str, topic: str, note: Callable[[int], None], ended: Event) -> None:
    settings = {"group.protocol": "consumer", "auto.offset.reset": "earliest", "log_level": 0}
    member = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **settings})
    member.subscribe([topic])
    while not ended.is_set():
        note(len(member.consume(500, 0.5)))
    member.close()


class Counts(NamedTuple):
    """What all members note together: records, when the last ones came, and processor time since their first ones."""

    records: Synchronized[int]
    last_ns: Synchronized[int]
    cpu_ns: Synchronized[int]


class Rate(NamedTuple):
    """One run: its speed, and what a megabyte costs the server and the members of processor time."""

    mb_per_s: float
    server_ms_per_mb: float
    members_ms_per_mb: float


def _member(shares: bool, place: tuple[str, str, str], counts: Counts, ended: Event) -> None:
    """One member, until the run has ended."""
    first_ns = used_ns = 0

    def note(count: int) -> None:
        nonlocal first_ns, used_ns
        if not count:
            return
        with counts.records.get_lock():
            counts.records.value += count
        counts.last_ns.value = time.monotonic_ns()
        now_ns = time.process_time_ns()
        first_ns = first_ns or now_ns
        used_ns = now_ns - first_ns

    (_share if shares else _consume)(*place, note, ended)
    with counts.cpu_ns.get_lock():
        counts.cpu_ns.value += used_ns


def _read(server: Server, bootstrap: str, group: str, topic: str, wanted: int, *, shares: bool) -> Rate:
    """Four members read a topic to its end."""
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    counts = Counts(context.Value(c_longlong, 0), context.Value(c_longlong, 0), context.Value(c_longlong, 0))
    place = (bootstrap, group, topic)
    members = [context.Process(target=_member, args=(shares, place, counts, ended)) for _ in range(MEMBERS)]
    for member in members:
        member.start()
    began, deadline = 0.0, time.monotonic() + WITHIN_S
    before, used_s = 0, 0.0
    while (got := counts.records.value) < wanted:
        if not began and got:
            began, before, used_s = time.monotonic(), got, server.cpu_seconds()
        if time.monotonic() > deadline:
            raise SystemExit(f"{got} of {wanted} records within {WITHIN_S:g} s")
        time.sleep(0.002)
    seconds = counts.last_ns.value / 1e9 - began
    used_s = server.cpu_seconds() - used_s
    ended.set()
    for member in members:
        member.join(STARTS_WITHIN_S)
    if (got := counts.records.value) > wanted:
        print(f"{got - wanted} records came twice", file=sys.stderr)
    megabytes = (wanted - before) * RECORD_BYTES / 1e6
    return Rate(megabytes / seconds, used_s * 1e3 / megabytes, counts.cpu_ns.value / 1e6 / megabytes)


def measured(results: Results, server: Server, records: int, number: int) -> None:
    """One server's figures in one round."""
    bootstrap = server.bootstrap
    _begin_early(bootstrap, f"share-{number}")
    rates = {
        "consumer": _read(server, bootstrap, f"consumer-{number}", "shared", records, shares=False),
        "share": _read(server, bootstrap, f"share-{number}", "shared", records, shares=True),
    }
    for kind, rate in rates.items():
        results.add(server.name, f"{MEMBERS} members of a {kind} group, 1 KB", "MB/s", rate.mb_per_s)
        results.add(server.name, f"{kind} group: the server's processor time", "ms/MB", rate.server_ms_per_mb)
        results.add(server.name, f"{kind} group: the members' processor time", "ms/MB", rate.members_ms_per_mb)
    share = rates["share"].mb_per_s / rates["consumer"].mb_per_s * 100
    results.add(server.name, "a share group's speed", "% of a consumer group's", share)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.share_groups", description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kafka", action="store_true", help="measure Apache Kafka, too")
    parser.add_argument("--against", type=Path, help="measure another checkout, too, which has its own .venv")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "share-groups"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results(ratio_to=BEFORE if options.against else "kafka")
    with ExitStack() as cleanup:
        servers: list[Server] = [Penstock(scratch / "penstock")]
        cleanup.callback(servers[-1].stop)
        if options.against:
            servers.append(Penstock(scratch / BEFORE, program=options.against / ".venv" / "bin" / "penstock"))
            servers[-1].name = BEFORE
            cleanup.callback(servers[-1].stop)
        if options.kafka:
            servers.append(SharingKafka(scratch / "kafka"))
            cleanup.callback(servers[-1].stop)
        for server in servers:
            server.create_topic("shared", PARTITIONS)
            _write(server.bootstrap, "shared", options.records)
        for number in range(options.rounds):
            for server in servers if number % 2 == 0 else reversed(servers):
                print(f"measuring {server.name}", file=sys.stderr, flush=True)
                measured(results, server, options.records, number)
    results.show()
    if not options.against:
        results.write(RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
