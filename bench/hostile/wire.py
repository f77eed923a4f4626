"""Requests as strangers send them: exact bytes, over sockets that need not be read."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.apis import discover
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible
from gateway.wire.message import Message

KEYS: Final = {api.name: api.key for api in discover()}
NAMES: Final = {api.key: api.name for api in discover()}
CLIENT_ID: Final = "stranger"
ANSWER_S: Final = 120.0


def frame(api: str, version: int, values: Mapping[str, Any], correlation_id: int = 1) -> bytes:
    """One request with its length in front."""
    codec = request_codec(KEYS[api], version)
    header = RequestHeader(KEYS[api], version, correlation_id, CLIENT_ID)
    body = encode_request_header(header, codec.flexible) + bytes(codec.encode(values))
    return struct.pack(">i", len(body)) + body


class Stranger:
    """One connection."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect(address)

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def send_some(self, data: bytes) -> None:
        """Send as much as the other side takes within a moment."""
        self.socket.settimeout(0.05)
        try:
            self.socket.sendall(data)
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(ANSWER_S)

    def skip(self) -> bytes:
        """Read the next answer, and return its bytes."""
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)

    def ask(self, api: str, version: int, values: Mapping[str, Any]) -> Message:
        self.send(frame(api, version, values))
        return self.answer(api, version)

    def answer(self, api: str, version: int) -> Message:
        """The next answer, to a request of this API."""
        codec = response_codec(KEYS[api], version)
        start = 5 if response_header_is_flexible(KEYS[api], codec.flexible) else 4
        return codec.decode(memoryview(self.skip()), start)

    def create(self, topics: Sequence[tuple[str, int]], **configs: str) -> None:
        wanted = [
            {
                "name": name,
                "num_partitions": partitions,
                "replication_factor": -1,
                "assignments": [],
                "configs": [{"name": key, "value": value} for key, value in configs.items()],
            }
            for name, partitions in topics
        ]
        self.ask("CreateTopics", 2, {"topics": wanted, "timeout": 60_000, "validate_only": False})

    def produce_frame(self, topic: str, batch: bytes, partition: int = 0) -> bytes:
        data = [{"name": topic, "partition_data": [{"index": partition, "records": batch}]}]
        return frame("Produce", 9, {"transactional_id": None, "acks": -1, "timeout": 60_000, "topic_data": data})

    def close(self) -> None:
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self.socket.recv(min(1 << 20, size - len(parts)))
            if not part:
                raise ConnectionError("closed by the gateway")
            parts += part
        return bytes(parts)


def bounded(seconds: float) -> Any:
    """A condition that is true for `seconds` from now."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline
