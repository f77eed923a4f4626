"""What TLS costs: `python -m bench.tls`, with a Kafka beside unless `--without-kafka` is given.

Every server has two listeners, one in the clear and one with TLS (1.3, the certificate's key is P-256), and one topic.

produce    1 KB records by one librdkafka
unanswered the same without acknowledgements (acks=0)
tail       the same, read over and over at the end by one librdkafka
bare       the same, by a client that fetches a megabyte at a time and looks at nothing in it, so that servers show
handshakes connections a second that one client makes in sequence, each with a request: full ones and resumed ones. A
           server that does not resume has no figure for these

All but the last have the CPU of server and client, too. `--sink` also runs them against a broker that stores nothing
(`bench.sink`): the comparison shows what of the cost is the client's and TLS's own. Of `unanswered` it does not even
decrypt anything: that is the client's own speed.

Keeps: samples of all systems are taken in turn, with the order turned each time; a ratio is the median of the pairs'.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Kafka, Penstock, Sink
from bench.sink import whole_batches
from bench.workloads import KILOBYTE, TAIL_RECORDS, TAIL_ROUNDS, Figure
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header

ROOT: Final = Path(__file__).resolve().parent.parent
RESULT: Final = ROOT / "bench" / "results" / "tls.json"
MAKE_SECRETS: Final = ROOT / "deploy" / "compose" / "make-secrets"
TOPIC: Final = "sealed"
WRITTEN: Final = 150_000
"""Records that a sample of producing writes."""
FETCH_BYTES: Final = 1 << 20
FETCHES: Final = 400
HANDSHAKES: Final = 200
WITHIN_S: Final = 30.0
FETCH, API_VERSIONS = (1, 11), (18, 3)
_LENGTH: Final = struct.Struct(">i")
_ERROR_AT: Final = 4  # of ApiVersions, behind the correlation id
PAIRS: Final = {
    "penstock, TLS": ("penstock", "kafka, TLS", "sink, TLS"),
    "kafka, TLS": ("kafka",),
    "sink, TLS": ("sink", "penstock"),
}
WAYS: Final = ("plain", "tls")
WORKLOADS: Final = ("produce", "unanswered", "tail", "bare", "handshakes")


Measured = Penstock | Kafka | Sink


@dataclass(frozen=True, slots=True)
class System:
    """A listener of a running server, and what a client needs for it."""

    name: str
    address: str
    server: Measured
    authority: Path | None  # with TLS

    @property
    def client(self) -> Mapping[str, object]:
        """librdkafka's settings."""
        if self.authority is None:
            return {}
        return {"security_protocol": "SSL", "ssl_ca_location": self.authority}

    @contextmanager
    def connected(
        self, context: ssl.SSLContext | None, session: ssl.SSLSession | None = None
    ) -> Iterator[socket.socket]:
        host, port = self.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), WITHIN_S) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None:
                yield raw
                return
            with context.wrap_socket(raw, server_hostname=host, session=session) as sealed:
                yield sealed

    def context(self) -> ssl.SSLContext | None:
        return None if self.authority is None else ssl.create_default_context(cafile=str(self.authority))


@dataclass(slots=True)
class Work:
    """Bytes that a system moved, and the nanoseconds of CPU that server and client needed for that."""

    name: str
    bytes: int = 0
    server_ns: int = 0
    client_ns: int = 0

    def cpu(self) -> Iterator[Figure]:
        yield f"{self.name}, server CPU", "s/GB", self.server_ns / self.bytes
        yield f"{self.name}, client CPU", "s/GB", self.client_ns / self.bytes


@contextmanager
def counted(system: System, name: str) -> Iterator[Work]:
    """Count the CPU of what is done inside: the client is this process, or its children that end meanwhile."""
    work = Work(name, server_ns=-system.server.cpu_ns(), client_ns=-_own_ns())
    yield work
    work.server_ns += system.server.cpu_ns()
    work.client_ns += _own_ns()


def _own_ns() -> int:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(sum(one.ru_utime + one.ru_stime for one in used) * 1e9)


def frame(api: tuple[int, int], body: dict[str, Any]) -> bytes:
    codec = request_codec(*api)
    request = encode_request_header(RequestHeader(*api, 1, "bench"), codec.flexible) + bytes(codec.encode(body))
    return _LENGTH.pack(len(request)) + request


def receive(connection: socket.socket, buffer: memoryview, size: int) -> None:
    at = 0
    while at < size:
        count = connection.recv_into(buffer[at:size])
        if not count:
            raise loadgen.LoadFailed("the server hung up")
        at += count


def answer(connection: socket.socket, buffer: memoryview) -> int:
    """The size of an answer, which is in the buffer."""
    receive(connection, buffer, _LENGTH.size)
    (size,) = _LENGTH.unpack_from(buffer)
    receive(connection, buffer, size)
    return int(size)


def produced(system: System, name: str = "produce, 1 KB", **settings: object) -> Iterator[Figure]:
    with counted(system, name) as work:
        options = {"size": KILOBYTE, "count": WRITTEN, **system.client, **settings}
        load = loadgen.run("produce", system.address, TOPIC, **options)
        work.bytes = load.records * KILOBYTE
    yield work.name, "MB/s", load.mb_s(KILOBYTE)
    yield from work.cpu()


def unanswered(system: System) -> Iterator[Figure]:
    yield from produced(system, "produce, 1 KB, acks=0", acks=0)


def read(system: System) -> Iterator[Figure]:
    offset = end_of(system) - TAIL_RECORDS
    with counted(system, "tail, 1 KB") as work:
        load = loadgen.run(
            "consume",
            system.address,
            TOPIC,
            count=TAIL_RECORDS,
            from_offset=offset,
            rounds=TAIL_ROUNDS,
            **system.client,
        )
        work.bytes = load.records * KILOBYTE
    yield work.name, "MB/s", load.mb_s(KILOBYTE)
    yield from work.cpu()


def fetch_request(offset: int) -> bytes:
    wanted = {"partition": 0, "fetch_offset": offset, "current_leader_epoch": -1}
    partitions = [{"topic": TOPIC, "partitions": [{**wanted, "partition_max_bytes": FETCH_BYTES}]}]
    fetch = {"replica_id": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": FETCH_BYTES, "session_epoch": -1}
    return frame(FETCH, {**fetch, "topics": partitions})


def stock(system: System) -> bytes:
    """Whole batches, of a megabyte together at most, as a server has them."""
    buffer = memoryview(bytearray(2 * FETCH_BYTES))
    with system.connected(None) as connection:
        connection.sendall(fetch_request(WRITTEN - TAIL_RECORDS))
        size = answer(connection, buffer)
    decoded = response_codec(*FETCH).decode(buffer[:size], _LENGTH.size)
    return whole_batches(bytes(decoded.responses[0].partitions[0].records))


def end_of(system: System) -> int:
    """The offset behind the last record: other workloads have written some, too."""
    buffer = memoryview(bytearray(2 * FETCH_BYTES))
    with system.connected(system.context()) as connection:
        connection.sendall(fetch_request(WRITTEN - TAIL_RECORDS))
        size = answer(connection, buffer)
    return int(response_codec(*FETCH).decode(buffer[:size], _LENGTH.size).responses[0].partitions[0].high_watermark)


def fetched(system: System) -> Iterator[Figure]:
    request = fetch_request(end_of(system) - 4 * TAIL_RECORDS // 5)
    buffer = memoryview(bytearray(2 * FETCH_BYTES))
    with system.connected(system.context()) as connection:
        for _ in range(FETCHES // 10):  # these find caches empty
            connection.sendall(request)
            answer(connection, buffer)
        with counted(system, "tail, bare client") as work:
            began = time.perf_counter()
            for _ in range(FETCHES):
                connection.sendall(request)
                work.bytes += answer(connection, buffer)
            seconds = time.perf_counter() - began
    if work.bytes < FETCHES * FETCH_BYTES // 2:
        raise loadgen.LoadFailed(f"{system.name}: {FETCHES} fetches gave {work.bytes} bytes")
    yield work.name, "MB/s", work.bytes / 1e6 / seconds
    yield from work.cpu()


def shaken(system: System) -> Iterator[Figure]:
    request = frame(API_VERSIONS, {"client_software_name": "bench", "client_software_version": "1"})
    buffer = memoryview(bytearray(1 << 16))
    context = system.context()
    if context is None:
        return
    session: ssl.SSLSession | None = None
    for kind in ("full", "resumed"):
        resumed = 0
        began = time.perf_counter()
        for _ in range(HANDSHAKES):
            with system.connected(context, session) as connection:
                connection.sendall(request)
                answer(connection, buffer)
                if _LENGTH.unpack_from(buffer, _ERROR_AT)[0] >> 16:
                    raise loadgen.LoadFailed(f"{system.name} refuses ApiVersions")
                assert isinstance(connection, ssl.SSLSocket)
                resumed += bool(connection.session_reused)
                last = connection.session
                if kind == "resumed":
                    session = last  # a ticket is for one time
        if resumed == (HANDSHAKES if kind == "resumed" else 0):
            yield f"handshakes, {kind}", "1/s", HANDSHAKES / (time.perf_counter() - began)
        else:
            print(f"{system.name}: {resumed} of {HANDSHAKES} were resumed", file=sys.stderr)
        session = last


MEASURES: Final = dict(zip(WORKLOADS, (produced, unanswered, read, fetched, shaken), strict=True))


def measure(results: Results, systems: list[System], chosen: list[str], rounds: int) -> None:
    """One round more than is counted: the first warms up."""
    for workload in chosen:
        for number in range(rounds + 1):
            print(f"{workload}, round {number} of {rounds}", file=sys.stderr, flush=True)
            for system in reversed(systems) if number % 2 else systems:
                for name, unit, value in MEASURES[workload](system):
                    if number:
                        results.add(system.name, name, unit, value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="one of them, for a profiler's sake"
    )
    parser.add_argument("--without-kafka", action="store_true")
    parser.add_argument("--sink", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "tls"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    secrets = scratch / "secrets"
    subprocess.run([MAKE_SECRETS, secrets, "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
    keys = {"ssl.keystore.location": str(secrets / "server.pem")}
    results = Results(pairs=PAIRS)
    with ExitStack() as running:
        running.callback(shutil.rmtree, scratch, ignore_errors=True)
        servers: list[Measured] = [Penstock(scratch / "penstock", {"tier2": "off"}, sealed=keys)]
        running.callback(servers[0].stop)
        if not options.without_kafka:
            servers.append(Kafka(scratch / "kafka", {"ssl.keystore.type": "PEM", **keys}))
            running.callback(servers[1].stop)
        for server in servers:
            server.create_topic(TOPIC, 1)
            loadgen.run("produce", server.bootstrap, TOPIC, size=KILOBYTE, count=WRITTEN)
        if options.sink:
            batches = stock(System("stock", servers[0].bootstrap, servers[0], None))
            servers.append(Sink(scratch / "sink", secrets / "server.pem", TOPIC, WRITTEN, batches))
            running.callback(servers[-1].stop)
        systems = []
        for server in servers:
            plain = System(server.name, server.bootstrap, server, None)
            sealed = System(f"{server.name}, TLS", server.sealed, server, secrets / "ca.pem")
            systems += [one for way, one in zip(WAYS, (plain, sealed), strict=True) if way in options.ways]
        measure(results, systems, options.only, options.rounds)
    results.show()
    results.write(options.result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
