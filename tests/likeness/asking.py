"""A client that needs nothing of a server but its address, and answers as plain values that JSON can hold."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from kio.schema.index import api_key_map

from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible
from gateway.wire.message import Message
from gateway.wire.schema import versions_known
from tests.likeness.questions import LOG_DIR, Question

KEYS: Final = {name.replace("_", "").lower(): key for key, name in api_key_map.items()}
ANSWER_SECONDS_MAX: Final = 60
CLOSED: Final = "closes the connection"
SOME: Final = "*"
VOLATILE: Final = {
    "throttle_time",
    "host",
    "port",
    "leader_epoch",
    "high_watermark",
    "log_end_offset",
    "last_fetch_timestamp",
    "last_caught_up_timestamp",
    "replica_directory_id",
    "documentation",
    "topic_id",
    "client_instance_id",
    "subscription_id",
    "total_bytes",
    "usable_bytes",
}
"""Fields of which only the type counts: no two brokers say the same."""


def key_of(question: Question) -> int:
    return KEYS[question.api.lower()]


def versions_of(question: Question) -> range:
    return question.versions or versions_known(key_of(question))


class Server:
    """A server that is asked, one connection after another's end."""

    def __init__(self, address: str, own: dict[str, str] | None = None, within_s: float = ANSWER_SECONDS_MAX) -> None:
        """`own`: values of the server's own, by the names that stand for them; they are asked for if not given. An
        answer that takes longer than `within_s` is a TimeoutError."""
        host, port = address.rsplit(":", 1)
        self._address = host, int(port)
        self._connection: socket.socket | None = None
        self._within_s = within_s
        self._own = self._found() if own is None else own

    def _found(self) -> dict[str, str]:
        (directory,) = self._ask("describe_log_dirs", 1, {"topics": None})["results"]
        return {
            LOG_DIR: directory["log_dir"],
            "CLUSTER_ID": self._ask("describe_cluster", 0, {})["cluster_id"],
        }

    def answers(self, questions: list[Question]) -> Iterator[tuple[Question, int, Any]]:
        """All questions of a group in order, in every version."""
        for question in questions:
            for version in versions_of(question):
                yield question, version, self.ask(question, version)

    def ask(self, question: Question, version: int) -> Any:
        """The answer, or CLOSED. Values of the server's own are named, not told."""
        body = _replaced(question.body, {name: self._own[name] for name in (LOG_DIR,) if name in self._own})
        answer = _only_some(self._ask(question.api, version, body), question.some)
        return _replaced(answer, {value: name for name, value in self._own.items()})

    def said(self, api: str, version: int, body: dict[str, Any]) -> Any:
        """The whole answer to any request."""
        return self._ask(api, version, body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(self, api: str, version: int, body: dict[str, Any]) -> None:
        """A request whose answer nobody reads; nothing more can be asked of this server."""
        (self._connection or self._connected()).sendall(_framed(api, version, body))

    def _ask(self, api: str, version: int, body: dict[str, Any]) -> Any:
        key = KEYS[api.replace("_", "").lower()]
        answer = self._exchange(_framed(api, version, body))
        if answer is None:
            return CLOSED
        codec = response_codec(key, version)
        start = 5 if response_header_is_flexible(key, codec.flexible) else 4
        return plain(codec.decode(memoryview(answer), start))

    def _connected(self) -> socket.socket:
        self._connection = socket.create_connection(self._address, timeout=self._within_s)
        return self._connection

    def _exchange(self, request: bytes) -> bytes | None:
        """One answer's bytes; None when the connection was closed instead."""
        connection = self._connection or self._connected()
        try:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                if size := stream.read(4):
                    return stream.read(struct.unpack(">i", size)[0])
        except ConnectionResetError:
            pass
        self.close()
        return None


def _framed(api: str, version: int, body: dict[str, Any]) -> bytes:
    key = KEYS[api.replace("_", "").lower()]
    codec = request_codec(key, version)
    header = encode_request_header(RequestHeader(key, version, 1, "likeness"), codec.flexible)
    frame = header + bytes(codec.encode(body))
    return struct.pack(">i", len(frame)) + frame


def _only_some(value: Any, names: tuple[str, ...]) -> Any:
    """An answer with SOME in place of these fields."""
    if isinstance(value, dict):
        return {name: SOME if name in names else _only_some(item, names) for name, item in value.items()}
    return [_only_some(item, names) for item in value] if isinstance(value, list) else value


def _replaced(value: Any, texts: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(item, texts) for name, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, texts) for item in value]
    if isinstance(value, str):
        for text, instead in texts.items():
            value = value.replace(text, instead)
    return value


def _order(item: Any) -> tuple[str, int]:
    """The sort key of items with a name or an index, which Kafka gives in the order of a hash table."""
    return (item.get("name") or "", item.get("partition_index", 0)) if isinstance(item, dict) else ("", 0)


def plain(value: Any) -> Any:
    if isinstance(value, Message):
        return {
            name: SOME if name in VOLATILE and getattr(value, name) is not None else plain(getattr(value, name))
            for name in value.schema_fields
        }
    if isinstance(value, list):
        return sorted(map(plain, value), key=_order)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value) if isinstance(value, UUID) else value
