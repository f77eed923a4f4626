"""The bare server that others are measured beside: it stores and returns records, and keeps to its clients' limits."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.servers import Baseline
from bench.systems import BARE_WITHIN_FILE
from gateway.records.record_batch import read_header
from gateway.records.records import Record, build_batch
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header

pytestmark = pytest.mark.slow

TOPIC, BATCHES = "bare", 4
PRODUCE, FETCH = (0, 7), (1, 11)


class Client:
    """Speaks to a server on one connection, one request at a time."""

    def __init__(self, server: Baseline) -> None:
        host, port = server.bootstrap.split(":")
        self._connection = socket.create_connection((host, int(port)), timeout=10)
        self._answers = self._connection.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._connection.close()

    def ask(self, api: tuple[int, int], values: dict[str, Any]) -> Any:
        request = encode_request_header(RequestHeader(*api, 1, "test"), False) + request_codec(*api).encode(values)
        self._connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", self._answers.read(4))
        return response_codec(*api).decode(self._answers.read(length)[4:])

    def produce(self, batch: bytes) -> int:
        partitions = [{"index": 0, "records": batch}]
        topics = [{"name": TOPIC, "partition_data": partitions}]
        answer = self.ask(PRODUCE, {"acks": -1, "timeout": 10_000, "topic_data": topics})
        offset: int = answer.responses[0].partition_responses[0].base_offset
        return offset

    def fetch(self, offset: int, partition_bytes: int, max_bytes: int) -> bytes:
        """The records of an answer."""
        wanted = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": partition_bytes}
        topics = [{"topic": TOPIC, "partitions": [wanted]}]
        limits = {"max_wait": 100, "min_bytes": 1, "max_bytes": max_bytes, "session_id": 0, "session_epoch": -1}
        answer = self.ask(FETCH, {"replica_id": -1, **limits, "topics": topics, "forgotten_topics_data": []})
        return bytes(answer.responses[0].partitions[0].records or b"")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    server = Baseline(BARE_WITHIN_FILE, tmp_path, 1)
    try:
        made = Client(server)
        yield made
        made.close()
    finally:
        server.stop()


def batch() -> bytes:
    return bytes(build_batch([Record(0, 0, None, b"x" * 1000)]))


def test_what_is_acknowledged_is_read_back(client: Client) -> None:
    """Batches have the next offsets, and come back in their order."""
    assert [client.produce(batch()) for _ in range(BATCHES)] == list(range(BATCHES))

    read = client.fetch(0, 1 << 20, 1 << 20)

    assert len(read) == BATCHES * len(batch())
    assert [read_header(read, n * len(batch())).base_offset for n in range(BATCHES)] == list(range(BATCHES))


@pytest.mark.parametrize(("partition_bytes", "max_bytes"), [(2.5, 100), (100, 2.5)])
def test_no_answer_is_beyond_a_limit(client: Client, partition_bytes: float, max_bytes: float) -> None:
    """Neither the partition's nor the whole answer's: of two and a half batches two come."""
    for _ in range(BATCHES):
        client.produce(batch())

    read = client.fetch(1, int(partition_bytes * len(batch())), int(max_bytes * len(batch())))

    assert len(read) == 2 * len(batch())
    assert read_header(read).base_offset == 1


def test_the_first_batch_comes_whatever_the_limit(client: Client) -> None:
    """Or a client with a small limit would stand still (KIP-74)."""
    client.produce(batch())

    assert len(client.fetch(0, 1, 1)) == len(batch())


def test_nothing_new_is_an_empty_answer_after_the_wait(client: Client) -> None:
    client.produce(batch())

    assert client.fetch(1, 1 << 20, 1 << 20) == b""
