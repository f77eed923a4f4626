"""Records over HTTP, from and to a running gateway, beside Kafka's own clients."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from gateway.http.desk import BODY_BYTES_MAX
from gateway.http.records import ANSWER_BYTES, WAIT_MS_MAX
from tests.gateway.forking import serving
from tests.gateway.http.calls import WITHIN_S, call, create_topic, get, produce
from tests.gateway.launching import PENSTOCK

pytestmark = pytest.mark.slow

Addresses = tuple[str, str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        yield ready["kafka"][0], ready["http"]


def records(http: str, topic: str, query: str) -> Any:
    return get(http, f"/api/v1/topics/{topic}/records?{query}")


def add(http: str, topic: str, partition: int, *new: dict[str, Any]) -> tuple[int, Any]:
    path = f"/api/v1/topics/{topic}/records?partition={partition}"
    status, _, answer = call(http, "POST", path, {"records": new})
    return status, answer


def values(page: dict[str, Any]) -> list[Any]:
    return [record["value"] for record in page["records"]]


def test_what_is_added_is_read_by_kafka(gateway: Addresses) -> None:
    """Keys, values and headers arrive as they were sent, text or bytes or none, with the given time."""
    kafka, http = gateway
    create_topic(kafka, "added", 2)
    raw = base64.b64encode(b"\xff\x00").decode()
    headers = [{"name": "trace", "value": "t-1"}, {"name": "none"}]

    status, answer = add(
        http,
        "added",
        1,
        {"key": "k", "value": "grüße", "headers": headers, "timestamp_ms": 1_000},
        {"value": {"base64": raw}},
        {"key": "gone"},
    )

    assert (status, answer) == (200, {"topic": "added", "partition": 1, "first_offset": 0, "next_offset": 3})
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "not-used"})
    consumer.assign([TopicPartition("added", 1, 0)])
    found = consumer.consume(3, WITHIN_S)
    consumer.close()
    assert [(m.key(), m.value()) for m in found] == [
        (b"k", "grüße".encode()),
        (None, b"\xff\x00"),
        (b"gone", None),
    ]
    assert (found[0].headers(), found[0].timestamp()[1]) == ([("trace", b"t-1"), ("none", None)], 1_000)
    page = records(http, "added", "partition=1&offset=0")
    assert values(page) == ["grüße", {"base64": raw}, None]
    assert (page["records"][0]["key"], page["records"][0]["timestamp_ms"]) == ("k", 1_000)
    assert page["records"][0]["headers"] == [{"name": "trace", "value": "t-1"}, {"name": "none", "value": None}]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_pages(gateway: Addresses, codec: str) -> None:
    """Each page begins at the last one's next_offset, also within a batch, until the end is reached."""
    kafka, http = gateway
    topic = f"paged-{codec}"
    create_topic(kafka, topic, 1)
    producer = Producer({"bootstrap.servers": kafka, "compression.type": codec, "linger.ms": 200})
    for number in range(25):
        producer.produce(topic, str(number), partition=0)
    assert producer.flush(WITHIN_S) == 0

    pages, at = [], 0
    for _ in range(4):
        page = records(http, topic, f"partition=0&offset={at}&max=10")
        pages.append(values(page))
        at = page["next_offset"]

    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [value for page in pages for value in page] == [str(number) for number in range(25)]
    assert (at, page["start_offset"], page["end_offset"]) == (25, 0, 25)


def test_from_a_time(gateway: Addresses) -> None:
    """The first record is the first at or after the time; after the newest there is none."""
    kafka, http = gateway
    create_topic(kafka, "timed", 1)
    add(http, "timed", 0, *({"value": str(n), "timestamp_ms": n * 1_000} for n in range(1, 6)))

    assert values(records(http, "timed", "partition=0&since_ms=2500")) == ["3", "4", "5"]
    assert records(http, "timed", "partition=0&since_ms=9000")["next_offset"] == 5


def test_waiting_at_the_end(gateway: Addresses) -> None:
    """Without an offset the end is read: at once and empty, or after a bounded wait."""
    kafka, http = gateway
    create_topic(kafka, "awaited", 1)
    produce(kafka, "awaited", 0, 2)

    at_once = records(http, "awaited", "partition=0")
    began_s = time.monotonic()
    waited = records(http, "awaited", "partition=0&wait_ms=300")

    assert (at_once["records"], at_once["next_offset"]) == ([], 2)
    assert waited["records"] == []
    assert 0.3 <= time.monotonic() - began_s < WITHIN_S


def test_news_end_the_wait(gateway: Addresses) -> None:
    """Who waits at the end gets the record that comes, before the wait is over."""
    kafka, http = gateway
    create_topic(kafka, "news", 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(records, http, "news", f"partition=0&offset=0&wait_ms={WAIT_MS_MAX}")
        produce(kafka, "news", 0, 1, size=3)
        page = waiting.result(WITHIN_S)

    assert (values(page), page["next_offset"]) == (["xxx"], 1)


def test_an_answer_is_bounded(gateway: Addresses) -> None:
    """An answer ends with the record that brings it to its bound in bytes; the next one goes on."""
    kafka, http = gateway
    create_topic(kafka, "large", 1)
    produce(kafka, "large", 0, 5, size=ANSWER_BYTES // 2)

    first = records(http, "large", "partition=0&offset=0")
    second = records(http, "large", f"partition=0&offset={first['next_offset']}")

    assert 1 <= len(first["records"]) <= 2
    assert second["records"][0]["offset"] == first["next_offset"]


def test_transactions(gateway: Addresses) -> None:
    """Aborted records and open transactions are hidden, unless they are asked for; markers are never shown."""
    kafka, http = gateway
    create_topic(kafka, "in-transactions", 1)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": "t"})
    producer.init_transactions(WITHIN_S)
    for value, ends in (("aborted", producer.abort_transaction), ("kept", producer.commit_transaction), ("open", None)):
        producer.begin_transaction()
        producer.produce("in-transactions", value, partition=0)
        assert producer.flush(WITHIN_S) == 0
        if ends is not None:
            ends(WITHIN_S)

    committed = records(http, "in-transactions", "partition=0&offset=0")
    everything = records(http, "in-transactions", "partition=0&offset=0&isolation=read_uncommitted")

    producer.abort_transaction(WITHIN_S)
    assert (values(committed), values(everything)) == (["kept"], ["aborted", "kept", "open"])


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("", 400, "partition=0 to 1"),
        ("partition=2", 404, "0 to 1, not 2"),
        ("partition=x", 400, "whole number"),
        ("partition=0&offset=7", 416, "from 0 up to 0"),
        ("partition=0&offset=0&since_ms=1", 400, "offset or since_ms"),
        ("partition=0&isolation=dirty", 400, "read_committed"),
    ],
)
def test_refused_questions(gateway: Addresses, query: str, status: int, told: str) -> None:
    """What cannot be answered is refused, and the refusal says what can."""
    kafka, http = gateway
    if call(http, "GET", "/api/v1/streams/asked")[0] == 404:
        create_topic(kafka, "asked", 2)

    found, _, problem = call(http, "GET", f"/api/v1/topics/asked/records?{query}")

    assert (found, told in problem["detail"]) == (status, True), problem


def test_refused_records(gateway: Addresses) -> None:
    """Nothing is stored of what cannot be stored as a whole."""
    kafka, http = gateway
    create_topic(kafka, "picky", 1, max_message_bytes="1000")
    create_topic(kafka, "keyed", 1, cleanup_policy="compact")

    assert add(http, "picky", 0)[0] == 400
    assert add(http, "picky", 0, {"value": "good"}, {"value": {"base64": "?"}})[0] == 400
    assert add(http, "picky", 0, {"value": "x" * 2_000})[0] == 413
    assert add(http, "picky", 0, {"value": "x" * BODY_BYTES_MAX})[0] == 413
    assert add(http, "keyed", 0, {"value": "without a key"})[0] == 400
    assert add(http, "absent", 0, {"value": "x"})[0] == 404
    assert records(http, "picky", "partition=0&offset=0")["end_offset"] == 0
    assert call(http, "POST", "/api/v1/streams/picky/seal")[0] == 200
    assert add(http, "picky", 0, {"value": "late"})[0] == 409


def test_records_of_a_key(gateway: Addresses) -> None:
    """Only these, from an offset on, before another one; a request that found none yet says where to go on."""
    kafka, http = gateway
    create_topic(kafka, "searched", 1)
    producer = Producer({"bootstrap.servers": kafka})
    for n in range(40):
        producer.produce("searched", str(n), f"k{n % 4}", partition=0)
    assert producer.flush(WITHIN_S) == 0

    of_key = records(http, "searched", "partition=0&offset=0&key=k1")
    assert (values(of_key), of_key["next_offset"]) == ([str(n) for n in range(1, 40, 4)], 40)
    assert values(records(http, "searched", "partition=0&offset=6&key=k1&max=2")) == ["9", "13"]
    before = records(http, "searched", "partition=0&offset=6&key=k1&until=13")
    assert (values(before), before["next_offset"]) == (["9"], 13)
    assert values(records(http, "searched", "partition=0&offset=10&until=12")) == ["10", "11"]
    none = records(http, "searched", "partition=0&offset=0&key=absent")
    assert (none["records"], none["next_offset"]) == ([], 40)


def test_quotas_of_bytes(tmp_path: Path) -> None:
    """What a user has written by Kafka's protocol counts over HTTP, too. A request that begins within the quota is
    answered whole; the next one is told when to come again."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "slow", 1)
        limits = ("--set", "producer_byte_rate=1000", "--set", "consumer_byte_rate=1000")
        command = [PENSTOCK, "quotas", "set", "user=ANONYMOUS", *limits, "--bootstrap", kafka]
        subprocess.run(command, check=True, capture_output=True, timeout=WITHIN_S)
        produce(kafka, "slow", 0, 1, 60_000)

        path = "/api/v1/topics/slow/records?partition=0"
        status, headers, problem = call(http, "POST", path, {"records": [{"value": "x"}]})
        assert (status, problem["title"]) == (429, "Too fast")
        assert 30 < int(headers["Retry-After"]) <= 51

        assert len(values(records(http, "slow", "partition=0&offset=0"))[0]) == 60_000
        status, headers, problem = call(http, "GET", f"{path}&offset=0")
        assert (status, problem["title"]) == (429, "Too fast")
        assert 30 < int(headers["Retry-After"]) <= 51


def test_a_write_over_http_uses_up_the_quota(tmp_path: Path) -> None:
    """Of two requests the first is carried out, whatever its size, and the second one changes nothing. Reading has a
    quota of its own."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        kafka, http = ready["kafka"][0], ready["http"]
        create_topic(kafka, "slow", 1)
        limit = ("user=ANONYMOUS", "--set", "producer_byte_rate=1000")
        subprocess.run([PENSTOCK, "quotas", "set", *limit, "--bootstrap", kafka], check=True, timeout=WITHIN_S)

        assert [add(http, "slow", 0, {"value": "x" * 60_000})[0] for _ in range(2)] == [200, 429]
        assert len(values(records(http, "slow", "partition=0&offset=0"))) == 1
