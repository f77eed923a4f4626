"""Attacks of strangers, each as one function: well-formed requests that cost more than they seem to.

Every attack is bounded in time and count, and closes its connections.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from kio.schema.errors import ErrorCode

from bench.hostile.honest import TOPIC
from bench.hostile.wire import Stranger, bounded, frame
from gateway.records.record_batch import GZIP, LZ4, SNAPPY, ZSTD
from gateway.records.records import Record, build_batch
from gateway.wire.message import Message

NOW_MS: Final = 1_700_000_000_000
HALF_HEADS: Final = 256
MADE_UP: Final = 100_000
CONNECTIONS: Final = 4
AT_ONCE: Final = 250
"""Requests that one connection sends before it reads their answers."""
COORDINATOR_S_MAX: Final = 30
NO_HTTP: Final = "no HTTP port"
CODECS: Final = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


@dataclass(frozen=True, slots=True)
class Target:
    """The addresses of a server."""

    kafka: tuple[str, int]
    http: tuple[str, int] | None
    """Kafka has none."""
    seconds: float
    """Length of an attack that could go on for ever."""

    def url(self, path: str) -> str:
        assert self.http is not None
        return f"http://{self.http[0]}:{self.http[1]}{path}"

    def connect(self, receive_buffer: int | None = None) -> Stranger:
        return Stranger(self.kafka, receive_buffer)


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    prepare: Callable[[Target], None]
    run: Callable[[Target], str | None]
    """May return a note on the answers."""
    only_penstock: str = ""
    """The reason why the attack does not run on Kafka."""


def nothing(target: Target) -> None:
    """No preparation, or the row without an attack, for comparison."""


def calm(target: Target) -> None:
    time.sleep(target.seconds)


def _topics(target: Target) -> None:
    with contextlib.closing(target.connect()) as stranger:
        for first in range(0, 3_000, 1_000):
            stranger.create([(f"name.{n}", 1) for n in range(first, first + 1_000)])


def _ask_for(count: int) -> Callable[[Target], None]:
    def ask(target: Target) -> None:
        names = [{"topic_id": None, "name": f"name_{n % 3_000}{'' if n < 3_000 else f'.{n}'}"} for n in range(count)]
        with contextlib.closing(target.connect()) as stranger:
            going_on = bounded(target.seconds)
            while going_on():
                stranger.ask("Metadata", 12, {"topics": names, "allow_auto_topic_creation": False})

    return ask


def _compacted(target: Target) -> None:
    with contextlib.closing(target.connect()) as stranger:
        stranger.create([("compacted", 1)], **{"cleanup.policy": "compact"})
        stranger.create([("level22", 1)], **{"compression.type": "zstd", "compression.zstd.level": "22"})


def bomb(codec: int, records: int = 190_000) -> bytes:
    """A batch that is small on the wire, and has many records when opened."""
    return build_batch([Record(n, NOW_MS, b"k", b"") for n in range(records)], codec)


def _bombs(codec: int) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        batch = bomb(codec)
        with contextlib.closing(target.connect()) as stranger:
            stranger.send(*(stranger.produce_frame("compacted", batch) for _ in range(20)))
            for _ in range(20):
                stranger.skip()

    return run


def _conversion(target: Target) -> None:
    value = bytes(range(256)) * 4
    batch = build_batch([Record(n, NOW_MS, b"k", value) for n in range(900)], GZIP)
    with contextlib.closing(target.connect()) as stranger:
        stranger.send(*(stranger.produce_frame("level22", batch) for _ in range(20)))
        for _ in range(20):
            stranger.skip()


def _bombs_stored(target: Target) -> None:
    with contextlib.closing(target.connect()) as stranger:
        stranger.create([("bombs", 1)])
        batch = bomb(ZSTD)
        for _ in range(20):
            stranger.send(stranger.produce_frame("bombs", batch))
            stranger.skip()


def _by_time(target: Target) -> None:
    asked = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": NOW_MS}
    values = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": "bombs", "partitions": [asked]}]}
    request = frame("ListOffsets", 5, values)
    with contextlib.closing(target.connect()) as stranger:
        going_on = bounded(target.seconds)
        while going_on():
            stranger.send(request * 20)
            for _ in range(20):
                stranger.skip()


def _many_partitions(target: Target) -> None:
    with contextlib.closing(target.connect()) as stranger:
        stranger.create([(f"wide-{n}", 10_000) for n in range(10)])
        stranger.create([(f"wide-{n}", 10_000) for n in range(10, 20)])
        stranger.create([(f"wide-{n}", 10_000) for n in range(20, 30)])


def _unread(target: Target) -> None:
    request = frame("Metadata", 12, {"topics": None, "allow_auto_topic_creation": False})
    strangers = [target.connect(receive_buffer=4_096) for _ in range(8)]
    for stranger in strangers:
        stranger.send_some(request * 32)
    time.sleep(target.seconds)
    for stranger in strangers:
        stranger.close()


def _describe(target: Target) -> None:
    resources = [{"resource_type": 4, "resource_name": "1", "configuration_keys": None}] * 80_000
    values = {"resources": resources, "include_synonyms": True, "include_documentation": True}
    with contextlib.closing(target.connect()) as stranger:
        going_on = bounded(target.seconds)
        while going_on():
            stranger.ask("DescribeConfigs", 4, values)


def _one_record_batches(target: Target) -> None:
    with contextlib.closing(target.connect()) as stranger:
        stranger.create([("ones", 1)])
        batch = build_batch([Record(0, NOW_MS, None, b"")])
        for _ in range(20):
            stranger.send(*(stranger.produce_frame("ones", batch) for _ in range(1_000)))
            for _ in range(1_000):
                stranger.skip()


def _hang_up(target: Target) -> None:
    partition = {
        "partition": 0,
        "current_leader_epoch": -1,
        "fetch_offset": 0,
        "last_fetched_epoch": -1,
        "log_start_offset": -1,
        "partition_max_bytes": 1 << 20,
    }
    values = {
        "replica_id": -1,
        "max_wait": 0,
        "min_bytes": 1,
        "max_bytes": 1 << 20,
        "isolation_level": 0,
        "session_id": 0,
        "session_epoch": -1,
        "topics": [{"topic": "ones", "partitions": [partition]}],
        "forgotten_topics_data": [],
        "rack_id": "",
    }
    requests = frame("Fetch", 11, values) * 5
    strangers = []
    for _ in range(5_000):
        with contextlib.suppress(OSError):
            stranger = target.connect(receive_buffer=4_096)
            stranger.send_some(requests)
            strangers.append(stranger)
    time.sleep(1)
    for stranger in strangers:
        stranger.close()


def _half_heads(target: Target) -> str:
    """Open connections that send half a head; those that the gateway closed are opened again, twice a second."""
    assert target.http is not None
    opened = 0
    longest_s = 0.0
    halves: list[socket.socket] = []
    going_on = bounded(target.seconds)
    while going_on():
        halves = [half for half in halves if not _was_closed(half)]
        while len(halves) < HALF_HEADS:
            half = socket.create_connection(target.http, timeout=5)
            with contextlib.suppress(OSError):
                half.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            halves.append(half)
            opened += 1
        started_s = time.monotonic()
        with urllib.request.urlopen(target.url("/healthz"), timeout=10) as answer:
            answer.read()
        longest_s = max(longest_s, time.monotonic() - started_s)
        time.sleep(0.5)
    for half in halves:
        half.close()
    return f"{opened:,} opened, /healthz at most {longest_s * 1000:.0f} ms"


def _was_closed(half: socket.socket) -> bool:
    """Whether the other side closed the connection; the socket is closed then."""
    half.setblocking(False)
    try:
        half.recv(1_000)
    except BlockingIOError:
        return False
    except OSError:
        pass
    half.close()
    return True


def _coordinators(target: Target) -> None:
    """Look for a coordinator, upon which Kafka makes the topic of its transactions."""
    with contextlib.closing(target.connect()) as stranger:
        deadline = time.monotonic() + COORDINATOR_S_MAX
        while time.monotonic() < deadline:
            answer = stranger.ask("FindCoordinator", 4, {"key_type": 1, "coordinator_keys": ["made up"]})
            if answer.coordinators[0].error_code == 0:
                return
            time.sleep(0.2)


def _transactional_ids(target: Target) -> str:
    return _made_up(
        target, "InitProducerId", 4, lambda n: {"transactional_id": f"made up {n}", "transaction_timeout": 10_000}
    )


def _groups(target: Target) -> str:
    partition = {"partition_index": 0, "committed_offset": 1, "committed_leader_epoch": -1, "committed_metadata": ""}
    return _made_up(
        target,
        "OffsetCommit",
        8,
        lambda n: {
            "group_id": f"made up {n}",
            "generation_id_or_member_epoch": -1,
            "member_id": "",
            "topics": [{"name": TOPIC, "partitions": [partition]}],
        },
    )


def _producer_ids(target: Target) -> str:
    return _made_up(target, "InitProducerId", 4, lambda _: {"transactional_id": None, "transaction_timeout": 10_000})


def _made_up(target: Target, api: str, version: int, values: Callable[[int], dict[str, Any]]) -> str:
    """Send MADE_UP requests over a few connections, pipelined; returns a note on the answers. All are made before the
    first is sent, so that the strangers' own work does not slow them down."""
    shares = [
        [frame(api, version, values(n)) for n in range(first, MADE_UP, CONNECTIONS)] for first in range(CONNECTIONS)
    ]
    answers: Counter[str] = Counter()

    def send(frames: list[bytes]) -> None:
        with contextlib.closing(target.connect()) as stranger:
            for first in range(0, len(frames), AT_ONCE):
                some = frames[first : first + AT_ONCE]
                stranger.send(*some)
                answers.update(_error_of(stranger.answer(api, version), api) for _ in some)

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for sent in [threads.submit(send, share) for share in shares]:
            sent.result()
    return ", ".join(f"{count:,} {error}" for error, count in answers.most_common())


def _error_of(answer: Message, api: str) -> str:
    code = answer.topics[0].partitions[0].error_code if api == "OffsetCommit" else answer.error_code
    return ErrorCode(code).name


def _large_members(target: Target) -> None:
    strangers = []
    for n in range(12):
        values = {
            "group_id": "large",
            "session_timeout": 10_000,
            "rebalance_timeout": 10_000,
            "member_id": "",
            "protocol_type": "consumer",
            "protocols": [{"name": f"p{n}", "metadata": bytes(8 << 20)}],
        }
        stranger = target.connect()
        stranger.send(frame("JoinGroup", 3, values))
        strangers.append(stranger)
    time.sleep(target.seconds)
    for stranger in strangers:
        stranger.close()


def _reconnects(target: Target) -> None:
    request = frame("ApiVersions", 3, {"client_software_name": "stranger", "client_software_version": "1"})
    for _ in range(5_000):
        with contextlib.suppress(OSError), contextlib.closing(target.connect()) as stranger:
            stranger.send(request)
            stranger.skip()


def _scrapers(target: Target) -> None:
    going_on = bounded(target.seconds)
    url = target.url("/metrics")

    def scrape() -> None:
        while going_on():
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
                answer.read()

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ATTACKS: Final = (
    Attack("nothing", nothing, calm),
    Attack("2,000 colliding names beside 3,000 topics", _topics, _ask_for(2_000)),
    Attack("100,000 names in one request", nothing, _ask_for(100_000)),
    *(
        Attack(f"20 pipelined bombs of 190,000 records, {name}", _compacted, _bombs(codec))
        for name, codec in CODECS.items()
    ),
    Attack("20 batches of 0.9 MB to zstd level 22", _compacted, _conversion),
    Attack("ListOffsets by time over bombs", _bombs_stored, _by_time),
    Attack(
        "8 x 32 unread Metadata beside 300,000 partitions",
        _many_partitions,
        _unread,
        "300,000 partitions are as many directories there",
    ),
    Attack("DescribeConfigs of one broker 80,000 times", nothing, _describe),
    Attack("5,000 connections x 5 Fetches that hang up", _one_record_batches, _hang_up),
    Attack(f"{HALF_HEADS} half heads on HTTP", nothing, _half_heads, NO_HTTP),
    Attack("100,000 made-up transactional ids", _coordinators, _transactional_ids),
    Attack("100,000 made-up groups", nothing, _groups),
    Attack("100,000 producer ids", nothing, _producer_ids),
    Attack("12 members with 8 MiB of metadata", nothing, _large_members),
    Attack("5,000 reconnects", nothing, _reconnects),
    Attack("8 scrapers", _topics, _scrapers, NO_HTTP),
)
