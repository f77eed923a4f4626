"""The broker that stores nothing: what clients need to take it for one, and that it spares itself all else."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from bench.sink import SLICE_BYTES, Answers, Stock, drop, serve, whole_batches
from gateway.records.record_batch import read_header
from gateway.records.records import Record, build_batch
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header
from tests.gateway.security.certificates import make

TOPIC: Final = "sunk"
PORT: Final = 9_092
END: Final = 1_000
PRODUCE, FETCH, METADATA, API_VERSIONS = (0, 7), (1, 11), (3, 4), (18, 3)
BATCH: Final = bytes(build_batch([Record(offset, 0, None, bytes(100)) for offset in range(2)]))
STOCK: Final = Stock(TOPIC, BATCH * 3, END)
WITHIN_S: Final = 10.0


class Client:
    """Speaks to a sink on one connection, one request at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(WITHIN_S)
        self._answers = connection.makefile("rb")

    def send(self, api: tuple[int, int], values: dict[str, Any]) -> None:
        codec = request_codec(*api)
        request = encode_request_header(RequestHeader(*api, 1, "test"), codec.flexible) + bytes(codec.encode(values))
        self.connection.sendall(struct.pack(">i", len(request)) + request)

    def ask(self, api: tuple[int, int], values: dict[str, Any]) -> Any:
        self.send(api, values)
        (length,) = struct.unpack(">i", self._answers.read(4))
        return response_codec(*api).decode(memoryview(self._answers.read(length)), 4)


@pytest.fixture
def client() -> Iterator[Client]:
    near, far = socket.socketpair()

    def served() -> None:
        with far:
            serve(far, Answers(STOCK, PORT))

    serving = threading.Thread(target=served)
    serving.start()
    with near:
        yield Client(near)
        near.shutdown(socket.SHUT_RDWR)
        serving.join(WITHIN_S)
    assert not serving.is_alive(), "it serves somebody who has left"


def produce(size: int, acks: int = 1) -> dict[str, Any]:
    partitions = [{"index": 0, "records": bytes(size)}]
    return {"acks": acks, "timeout": 1_000, "topic_data": [{"name": TOPIC, "partition_data": partitions}]}


def fetch(offset: int) -> dict[str, Any]:
    wanted = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20, "current_leader_epoch": -1}
    asked = {"replica_id": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20, "session_epoch": -1}
    return {**asked, "topics": [{"topic": TOPIC, "partitions": [wanted]}]}


def test_clients_find_it(client: Client) -> None:
    """Its versions, itself as the only node, and its topic."""
    assert client.ask(API_VERSIONS, {"client_software_name": "test", "client_software_version": "1"}).error_code == 0
    answer = client.ask(METADATA, {"topics": [{"name": TOPIC}]})
    assert [(broker.host, broker.port) for broker in answer.brokers] == [("127.0.0.1", PORT)]
    assert [topic.name for topic in answer.topics] == [TOPIC]


@pytest.mark.parametrize("size", [10, 3 * SLICE_BYTES + 7])
def test_records_are_acknowledged_and_gone(client: Client, size: int) -> None:
    """Whatever their size, the next request is found behind them."""
    for _ in range(2):
        (topic,) = client.ask(PRODUCE, produce(size)).responses
        assert topic.partition_responses[0].error_code == 0


def test_readers_get_the_stock_again_and_again(client: Client) -> None:
    """Whole batches, numbered from the offset that was asked for; none at the end."""
    for offset in (0, 6, 500):
        (part,) = client.ask(FETCH, fetch(offset)).responses[0].partitions
        assert len(part.records) == len(STOCK.batches)
        offsets = [read_header(part.records, at).base_offset for at in range(0, len(part.records), len(BATCH))]
        assert offsets == [offset, offset + 2, offset + 4]
        assert part.high_watermark == END
    assert not client.ask(FETCH, fetch(END)).responses[0].partitions[0].records


def test_whole_batches() -> None:
    """What a fetch cut off is left out."""
    assert whole_batches(BATCH * 2 + BATCH[:-1]) == BATCH * 2
    assert whole_batches(BATCH[:50]) == b""


def test_records_without_acknowledgements_are_not_looked_at(client: Client) -> None:
    """What comes behind them is dropped, whatever it is."""
    client.send(PRODUCE, produce(10, acks=0))
    client.connection.sendall(b"nothing that Kafka knows" * 100_000)
    client.send(METADATA, {"topics": []})
    client.connection.shutdown(socket.SHUT_WR)
    assert client.connection.recv(1) == b""


def test_they_are_not_decrypted(tmp_path: Path) -> None:
    """Over TLS, what is dropped comes off the socket as it is: a record that no key of the session made is taken."""
    files = make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.keystore)
    near, far = socket.socketpair()
    taken: list[str] = []

    def take() -> None:
        with context.wrap_socket(far, server_side=True) as sealed:
            drop(sealed, memoryview(bytearray(100)))
            taken.append("all")

    taking = threading.Thread(target=take)
    taking.start()
    with files.context().wrap_socket(near, server_hostname="localhost") as sealed:
        socket.socket.sendall(sealed, b"\x17\x03\x03\x00\x10" + bytes(16))
        socket.socket.shutdown(sealed, socket.SHUT_WR)
        taking.join(WITHIN_S)
    assert taken == ["all"]
