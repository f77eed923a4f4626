"""A broker that stores nothing: `python -m bench.sink PORT SEALED_PORT PEM TOPIC END BATCHES`, for `bench.tls`.

It reads requests and drops them, and answers each fetch with the same records. It is a server in Python that decrypts
record by record: its speed over TLS is a comparison for a server that stores, and no bound of all servers.

A producer that wants no acknowledgements shows such a bound: from its first records on the sink takes bytes off the
socket and looks at nothing, not even to decrypt it. No server gets records of that client faster.

Keeps: what it does for a byte is to receive, or to send, and to decrypt or encrypt it, in blocking calls of OpenSSL.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import FIXED, decode_client_id

PRODUCE, FETCH, METADATA, API_VERSIONS = 0, 1, 3, 18
SERVED: Final = {PRODUCE: (3, 7), FETCH: (4, 11), METADATA: (0, 4), API_VERSIONS: (0, 3)}
"""Versions: none has a flexible header but that of ApiVersions."""
NODE: Final = 1
END_WAIT_S: Final = 0.05
"""Pause of a fetch at the end."""
SLICE_BYTES: Final = 256 * 1024
HEAD_BYTES: Final = 512
"""More than any request has but Produce; what follows is dropped."""
_LENGTH: Final = struct.Struct(">i")
_OFFSET: Final = struct.Struct(">q")
_BATCH: Final = struct.Struct(">qi")
_BATCH_HEAD_BYTES: Final = 61
_LAST_DELTA: Final = struct.Struct(">i")
_SHORT: Final = struct.Struct(">h")
_LAST_DELTA_AT: Final = 23


@dataclass(frozen=True, slots=True)
class Stock:
    """What a sink gives to those who fetch: whole batches, from offset 0 on, up to the partition's `end`."""

    topic: str
    batches: bytes
    end: int


def whole_batches(records: bytes) -> bytes:
    """The batches that are there to their ends."""
    at = 0
    while at + _BATCH_HEAD_BYTES <= len(records):
        size = _BATCH.size + _BATCH.unpack_from(records, at)[1]
        if at + size > len(records):
            break
        at += size
    return records[:at]


def _batch_places(batches: bytes) -> Iterator[tuple[int, int]]:
    """Where each batch's offset stands, and how far it is from the first one's."""
    at = delta = 0
    while at < len(batches):
        yield at, delta
        delta += _LAST_DELTA.unpack_from(batches, at + _LAST_DELTA_AT)[0] + 1
        at += _BATCH.size + _BATCH.unpack_from(batches, at)[1]


class Answers:
    """The bodies of all answers."""

    def __init__(self, stock: Stock, port: int) -> None:
        """`port`: where clients of this listener find the only node."""
        self._stock = stock
        versions = [{"api_key": key, "min_version": low, "max_version": high} for key, (low, high) in SERVED.items()]
        self._versions = {"error_code": 0, "api_keys": versions, "throttle_time": 0}
        partition = {"error_code": 0, "partition_index": 0, "leader_id": NODE}
        partition |= {"replica_nodes": [NODE], "isr_nodes": [NODE]}
        topics = [{"error_code": 0, "name": stock.topic, "is_internal": False, "partitions": [partition]}]
        brokers = [{"node_id": NODE, "host": "127.0.0.1", "port": port, "rack": None}]
        self._metadata = {"brokers": brokers, "cluster_id": "sink", "controller_id": NODE, "topics": topics}
        self._places = list(_batch_places(stock.batches))
        self._batches = bytearray(stock.batches)

    def of(self, frame: memoryview) -> list[bytes | bytearray]:
        """The answer to a request, without its length, in parts."""
        key, version, correlation_id, _ = FIXED.unpack_from(frame)
        parts: list[bytes | bytearray] = [_LENGTH.pack(correlation_id)]
        if key == API_VERSIONS:
            return [*parts, response_codec(key, version).encode(self._versions)]
        if key == METADATA:
            return [*parts, response_codec(key, version).encode({"throttle_time": 0, **self._metadata})]
        if key == PRODUCE:
            partition = {"partition_index": 0, "error_code": 0, "base_offset": 0}
            partition |= {"log_append_time": -1, "log_start_offset": 0}
            responses = [{"name": self._stock.topic, "partition_responses": [partition]}]
            return [*parts, response_codec(key, version).encode({"responses": responses, "throttle_time": 0})]
        _, position = decode_client_id(frame)
        return parts + self._fetched(version, request_codec(key, version).decode(frame, position))

    def _fetched(self, version: int, request: Any) -> list[bytes | bytearray]:
        offset = request.topics[0].partitions[0].fetch_offset
        records = self._batches if offset < self._stock.end else bytearray()
        if not records:
            time.sleep(END_WAIT_S)
        for at, delta in self._places:
            _OFFSET.pack_into(self._batches, at, offset + delta)
        name = self._stock.topic.encode()
        head = bytearray(_LENGTH.pack(0))  # the pause
        if version >= 7:
            head += struct.pack(">hi", 0, 0)  # no error, no session
        head += struct.pack(f">ih{len(name)}si", 1, len(name), name, 1)
        log_start = struct.pack(">q", 0) if version >= 5 else b""
        head += struct.pack(">ihqq", 0, 0, self._stock.end, self._stock.end) + log_start + struct.pack(">i", 0)
        if version >= 11:
            head += struct.pack(">i", -1)  # no other replica
        return [head + _LENGTH.pack(len(records)), records]


def wants_no_answer(frame: memoryview) -> bool:
    """Is it a Produce with acks=0?"""
    if FIXED.unpack_from(frame)[0] != PRODUCE:
        return False
    _, position = decode_client_id(frame)
    (transactional_id_bytes,) = _SHORT.unpack_from(frame, position)
    return _SHORT.unpack_from(frame, position + _SHORT.size + max(0, transactional_id_bytes)) == (0,)


def drop(connection: socket.socket, buffer: memoryview) -> None:
    """Take what comes off the socket, past TLS, until the client leaves."""
    while socket.socket.recv_into(connection, buffer):
        pass


def serve(connection: socket.socket, answers: Answers) -> None:
    """Answer until the client leaves."""
    buffer = memoryview(bytearray(SLICE_BYTES))
    while _received(connection, length := buffer[: _LENGTH.size]):
        left = int(_LENGTH.unpack(length)[0])
        head = buffer[: min(left, HEAD_BYTES)]
        if not _received(connection, head):
            return
        if wants_no_answer(head):
            drop(connection, buffer)
            return
        parts = answers.of(head)
        left -= len(head)
        while left:
            count = connection.recv_into(buffer[:left])
            if not count:
                return
            left -= count
        connection.sendall(_LENGTH.pack(sum(map(len, parts))) + b"".join(parts[:-1]))
        connection.sendall(parts[-1])


def _received(connection: socket.socket, part: memoryview) -> bool:
    """Fill it; False if the client left before."""
    at = 0
    while at < len(part):
        count = connection.recv_into(part[at:])
        if not count:
            return False
        at += count
    return True


def accept(port: int, context: ssl.SSLContext | None, stock: Stock) -> None:
    """Serve each connection in a thread, until the process ends."""

    def begin(connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                serve(connection, Answers(stock, port))
        except OSError:
            return  # the client is gone

    with socket.create_server(("127.0.0.1", port)) as listening:
        while True:
            threading.Thread(target=begin, args=(listening.accept()[0],), daemon=True).start()


def main(port: str, sealed_port: str, pem: str, topic: str, end: str, batches: str) -> None:
    stock = Stock(topic, Path(batches).read_bytes(), int(end))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    threading.Thread(target=accept, args=(int(port), None, stock), daemon=True).start()
    accept(int(sealed_port), context, stock)


if __name__ == "__main__":
    main(*sys.argv[1:])
