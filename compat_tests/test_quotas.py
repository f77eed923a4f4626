"""Quotas beside a real Kafka: the same quota set by kafka-configs, the same load, at the same time.

A soak (SOAK=1), as a quota needs its eleven seconds to settle. What Penstock does by itself is in
`tests/gateway/quotas`.

The bounds: what goes by before the first pause, and single pauses, within a tenth of each other. Over a minute, what
goes by differs by no more than a window lets through at once, eleven seconds' worth: a server pauses for seconds, then
lets a burst through, and one of these falls within the minute or not. The quota is kept as nearly.

The time of requests differs: a request costs each server another time, of one thread or of many. The effect is alike:
a client that has used up a small share is muted nearly all of the time, for a second at most, and answered in between.
Of connections the first burst is alike, and the rate of those that are served; what is over it Penstock serves late,
and Kafka closes.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any, Final

import pytest

from compat_tests.harness.system import Kafka, Penstock, System, java_command
from compat_tests.harness.waiting import until
from gateway.records.records import Record, build_batch
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible

pytestmark = [
    pytest.mark.skipif(not os.environ.get("SOAK"), reason="a minute and a half, for a soak"),
    pytest.mark.timeout(400),
]

CONFIGS: Final = "kafka.admin.ConfigCommand"
PRODUCE, FETCH, METADATA, API_VERSIONS, CREATE_TOPICS = (0, 8), (1, 11), (3, 8), (18, 0), (19, 7)
TOPIC: Final = "measured"
RATE: Final = 100_000  # bytes a second
PIECE_BYTES: Final = 10_000
MEASURED_S: Final = 60.0
BURST: Final = 11 * RATE
WITHIN_S: Final = 60.0
MUTATIONS: Final = 2  # partitions a second
NEAR: Final = 0.1
QUOTAS: Final = {
    "writer": f"producer_byte_rate={RATE}",
    "reader": f"consumer_byte_rate={RATE}",
    "maker": f"controller_mutation_rate={MUTATIONS}",
    "burst": "producer_byte_rate=1000",
    "asker": "request_percentage=0.1",
    "idler": "request_percentage=100000",
}
CONNECTIONS: Final = 3  # a second
KNOCKING: Final = ("127.0.0.2", "127.0.0.3")
"""Addresses whose connections have a quota: of a burst, and of one who comes again and again."""
ASKED_S: Final = 20.0
PAUSE_MS_MAX: Final = 1_000
MUTED_MIN: Final = 0.8
AT_ONCE_S: Final = 1.0
THROTTLING_QUOTA_EXCEEDED: Final = 89


class Asking:
    """A connection of one client id, for one request at a time."""

    def __init__(self, server: System, client_id: str, source: str = "127.0.0.1") -> None:
        host, port = server.address.rsplit(":", 1)
        self._client_id = client_id
        self._socket = socket.create_connection((host, int(port)), WITHIN_S, (source, 0))
        self._answers = self._socket.makefile("rb")

    def ask(self, api: tuple[int, int], body: Mapping[str, Any]) -> Any:
        codec = request_codec(*api)
        head = encode_request_header(RequestHeader(*api, 1, self._client_id), codec.flexible)
        frame = head + bytes(codec.encode(body))
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)
        data = self._answers.read(struct.unpack(">i", self._answers.read(4))[0])
        answer = response_codec(*api)
        return answer.decode(memoryview(data), 5 if response_header_is_flexible(api[0], answer.flexible) else 4)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


Piece = tuple[int, int]
"""Bytes that went by, and the pause that the client is asked for, in ms."""


def produced(client: Asking, size: int = PIECE_BYTES) -> Piece:
    """Write that many bytes."""
    records = bytes(build_batch([Record(0, int(time.time() * 1000), None, bytes(size))]))
    partitions = [{"index": 0, "records": records}]
    answer = client.ask(
        PRODUCE, {"acks": 1, "timeout": 10_000, "topic_data": [{"name": TOPIC, "partition_data": partitions}]}
    )
    assert answer.responses[0].partition_responses[0].error_code == 0
    return size, int(answer.throttle_time)


def fetched(client: Asking) -> Piece:
    """Read a piece from the beginning."""
    wanted = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": PIECE_BYTES, "current_leader_epoch": -1}
    topics = [{"topic": TOPIC, "partitions": [wanted]}]
    fetch = {"replica_id": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": PIECE_BYTES, "session_epoch": -1}
    answer = client.ask(FETCH, {**fetch, "topics": topics})
    size = sum(len(part.records or b"") for topic in answer.responses for part in topic.partitions)
    return size, int(answer.throttle_time)


def made(client: Asking, name: str, partitions: int) -> tuple[int, int]:
    """Make a topic: the error and the pause in ms."""
    topic = {"name": name, "num_partitions": partitions, "replication_factor": 1, "assignments": [], "configs": []}
    answer = client.ask(CREATE_TOPICS, {"topics": [topic], "timeout": 30_000, "validate_only": False})
    return int(answer.topics[0].error_code), int(answer.throttle_time)


def configure(server: System, kind: str, name: str, quota: str) -> None:
    entity = ("--entity-type", kind, "--entity-name", name)
    command = [*java_command(CONFIGS), "--bootstrap-server", server.address, *entity]
    subprocess.run([*command, "--alter", "--add-config", quota], check=True, timeout=WITHIN_S, capture_output=True)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, System]]:
    started: list[System] = []
    try:
        for kind in (Penstock, Kafka):
            started.append(kind(tmp_path_factory.mktemp(kind.name)))
            started[-1].start()
            with closing(Asking(started[-1], "setup")) as client:
                assert made(client, TOPIC, 1)[0] == 0
                until(lambda client=client: written(client), within_s=WITHIN_S, what="the topic has a leader")
            for client_id, quota in QUOTAS.items():
                configure(started[-1], "clients", client_id, quota)
            for address in KNOCKING:
                configure(started[-1], "ips", address, f"connection_creation_rate={CONNECTIONS}")
        yield {server.name: server for server in started}
    finally:
        for server in started:
            server.stop()


def written(client: Asking) -> bool:
    """The piece that is read over and over."""
    try:
        produced(client, PIECE_BYTES - 200)
    except AssertionError:  # no leader yet
        return False
    return True


def on_both(servers: Mapping[str, System], client_id: str, load: Callable[[Asking], Any]) -> tuple[Any, Any]:
    """The same load on Penstock and Kafka at once."""

    def run(server: System) -> Any:
        with closing(Asking(server, client_id)) as client:
            return load(client)

    with ThreadPoolExecutor(2) as pool:
        penstock, kafka = pool.map(run, (servers["penstock"], servers["kafka"]))
    return penstock, kafka


def over_a_minute(piece: Callable[[], Piece]) -> tuple[int, int]:
    """Bytes before the first pause, and in all."""
    ends_s = time.monotonic() + MEASURED_S
    before = total = pauses = 0
    while time.monotonic() < ends_s:
        size, pause_ms = piece()
        total += size
        before += 0 if pauses else size
        pauses += pause_ms > 0
    return before, total


def near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * max(one, other)


@pytest.mark.parametrize(("client_id", "piece"), [("writer", produced), ("reader", fetched)])
def test_a_rate(servers: dict[str, System], client_id: str, piece: Callable[[Asking], Piece]) -> None:
    """Who writes, and who reads: the first burst and the rate."""
    penstock, kafka = on_both(servers, client_id, lambda client: over_a_minute(lambda: piece(client)))

    told = f"penstock {penstock}, kafka {kafka}"
    print(told)
    assert near(penstock[0], kafka[0]), told
    assert abs(penstock[1] - kafka[1]) <= BURST, told
    assert abs(penstock[1] - RATE * MEASURED_S) <= BURST, told


def test_a_burst(servers: dict[str, System]) -> None:
    """One request of sixty times the rate: the same pause, to a tenth."""
    penstock, kafka = on_both(servers, "burst", lambda client: produced(client, 60_000)[1])

    assert kafka > 10_000
    assert near(penstock, kafka), (penstock, kafka)


def test_changes_of_topics(servers: dict[str, System]) -> None:
    """More partitions than the bucket has tokens are made once; then a refusal with the same pause."""
    penstock, kafka = on_both(
        servers, "maker", lambda client: [made(client, f"made-{number}", 20 * MUTATIONS) for number in range(2)]
    )

    assert [code for code, _ in penstock] == [code for code, _ in kafka] == [0, THROTTLING_QUOTA_EXCEEDED]
    assert near(penstock[1][1], kafka[1][1]), (penstock, kafka)


def asked(client: Asking) -> tuple[int, int, float]:
    """Questions for some seconds: how often a pause was told, the longest one, and the share of time that was muted."""
    began_s = time.monotonic()
    pauses: list[int] = []
    while time.monotonic() - began_s < ASKED_S:
        answer = client.ask(METADATA, {"topics": []})
        if answer.throttle_time:
            pauses.append(int(answer.throttle_time))
    muted_s = sum(pauses[:-1]) / 1000  # the last one goes beyond the end
    return len(pauses), max(pauses, default=0), muted_s / (time.monotonic() - began_s)


def test_time_of_requests(servers: dict[str, System]) -> None:
    """A thousandth of a thread: muted nearly always, for a second at most; with plenty of time never."""
    penstock, kafka = on_both(servers, "asker", asked)
    told = f"penstock {penstock}, kafka {kafka}"
    print(told)
    for count, longest_ms, share in (penstock, kafka):
        assert count > ASKED_S / 2, told
        assert longest_ms <= PAUSE_MS_MAX, told
        assert MUTED_MIN < share <= 1, told

    for count, _, _ in on_both(servers, "idler", asked):
        assert count == 0


def is_served(server: System, source: str) -> bool:
    """Is a new connection answered, sooner or later?"""
    try:
        with closing(Asking(server, "knocker", source)) as client:
            client.ask(API_VERSIONS, {})
    except (OSError, struct.error):
        return False
    return True


def burst(server: System) -> int:
    """Connections that are answered of many that come at once."""
    host, port = server.address.rsplit(":", 1)
    frame = encode_request_header(RequestHeader(*API_VERSIONS, 1, "burst"), False)
    answered = 0
    with ExitStack() as opened:
        connections = []
        for _ in range(30 * CONNECTIONS):
            connection = socket.create_connection((host, int(port)), WITHIN_S, (KNOCKING[0], 0))
            connections.append(opened.enter_context(connection))
            with suppress(OSError):
                connection.sendall(struct.pack(">i", len(frame)) + frame)
        ends_s = time.monotonic() + AT_ONCE_S
        for connection in connections:
            connection.settimeout(max(0.001, ends_s - time.monotonic()))
            with suppress(OSError):
                answered += bool(connection.recv(4))
    return answered


def knocked(server: System) -> int:
    """Connections that are served to one who comes again and again."""
    ends_s = time.monotonic() + ASKED_S
    served = 0
    while time.monotonic() < ends_s:
        served += is_served(server, KNOCKING[1])
    return served


@pytest.mark.parametrize(
    ("come", "most"), [(burst, 11 * CONNECTIONS), (knocked, 11 * CONNECTIONS + ASKED_S * CONNECTIONS)]
)
def test_connections(servers: dict[str, System], come: Callable[[System], int], most: float) -> None:
    """Those that come at once, and those of twenty seconds: no more than the rate allows, and not far fewer."""
    with ThreadPoolExecutor(2) as pool:
        penstock, kafka = pool.map(come, (servers["penstock"], servers["kafka"]))
    told = f"{come.__name__}: penstock {penstock}, kafka {kafka}, at most {most:g}"
    print(told)
    for served in (penstock, kafka):
        assert most / 2 <= served <= most + AT_ONCE_S * CONNECTIONS, told
