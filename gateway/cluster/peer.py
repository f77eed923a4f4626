"""Requests from this node to another one, in Kafka's own protocol, as brokers ask one another.

One connection a node, made at the first request and made anew after it broke: to a socket file on the same machine, or
over TLS on which both sides prove to be nodes (`gateway.cluster.authority`). Requests are pipelined; each has its own
deadline.

Invariants:

- A request is answered, or fails with PeerAway: also when it was sent and the connection broke. Whether the other node
  did what it says is then unknown, so only requests that may be repeated belong here.
- At most IN_FLIGHT_MAX requests wait for one node, and no answer is longer than ANSWER_BYTES_MAX.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.cluster.authority import NodeTls, name_of
from gateway.config.addresses import ListenAddress
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.errors import MalformedRequest
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible
from gateway.wire.message import Message
from gateway.wire.primitives import skip_tags

logger = logging.getLogger(__name__)

IN_FLIGHT_MAX: Final = 512
"""Requests that wait for one node. Further ones wait here, within their deadlines."""
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
CONNECT_S_MAX: Final = 2.0
UNTAKEN_S_MAX: Final = 10.0
"""A connection ends when the other machine's kernel has not taken what was sent for so long."""
TAGS_MAX: Final = 16
CLIENT_ID: Final = "penstock"

_LENGTH: Final = struct.Struct(">i")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]


class PeerAway(Exception):
    """Another node does not answer; the request may have had its effect there or not."""

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(f"node at {peer} does not answer: {why}")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that was sent."""

    key: int
    version: int
    answer: asyncio.Future[Message]


def by_socket_file(path: str) -> Dial:
    """The way to a node on this machine, through a directory that nobody else may enter. Raises OSError."""
    return lambda: asyncio.open_unix_connection(path)


def by_tls(node_id: int, address: str, tls: NodeTls) -> Dial:
    """The way to this very node at HOST:PORT. Raises OSError, ValueError."""

    async def dial() -> Streams:
        place = ListenAddress.parse(address)
        streams = await asyncio.open_connection(
            place.host, place.port, ssl=tls.dialling, server_hostname=name_of(node_id)
        )
        taken = streams[1].get_extra_info("socket")
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNTAKEN_S_MAX * 1_000))
        return streams

    return dial


class Peer:
    """Another node, to which `dial` makes a connection. All methods are for the event loop."""

    def __init__(self, address: str, dial: Dial) -> None:
        self.address = address
        self._dial = dial
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "connected" if self._writer is not None else "not connected"
        return f"<Peer {self.address} {state}, {len(self._waiting)} in flight>"

    async def ask(self, key: int, version: int, values: Mapping[str, Any], timeout_s: float) -> Message:
        """The answer to one request, whose fields `values` gives by name. Raises PeerAway."""
        try:
            async with asyncio.timeout(timeout_s), self._room:
                writer = await self._connected()
                number = next(self._numbers) & 0x7FFFFFFF
                answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
                self._waiting[number] = _Waiting(key, version, answer)
                try:
                    writer.write(_framed(key, version, number, values))
                    return await answer
                finally:
                    self._waiting.pop(number, None)
        except TimeoutError:
            raise PeerAway(self.address, f"no answer within {timeout_s:g} s") from None

    async def close(self) -> None:
        """Hang up for good; requests under way fail."""
        self._is_closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                try:
                    async with asyncio.timeout(CONNECT_S_MAX):
                        reader, self._writer = await self._dial()
                except (OSError, ValueError, TimeoutError) as error:
                    raise PeerAway(self.address, str(error) or "no connection in time") from error
                if self._is_closed:
                    self._writer.close()
                    raise PeerAway(self.address, "it was closed here")
                self._reading = asyncio.create_task(self._read(reader, self._writer), name=f"peer-{self.address}")
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "it was closed here"
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if not _LENGTH.size <= length <= ANSWER_BYTES_MAX:
                    raise ValueError(f"an answer of {length} bytes")
                self._take(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, ValueError, MalformedRequest) as error:
            why = "it hung up" if isinstance(error, asyncio.IncompleteReadError) else str(error)
            logger.debug("connection to another node ended", extra={"peer": self.address, "reason": why})
        finally:
            self._writer = None
            writer.close()
            for waiting in self._waiting.values():
                if not waiting.answer.done():
                    waiting.answer.set_exception(PeerAway(self.address, why))

    def _take(self, frame: bytes) -> None:
        (number,) = _LENGTH.unpack_from(frame)
        waiting = self._waiting.get(number)
        if waiting is None or waiting.answer.done():
            return  # its deadline passed
        codec = response_codec(waiting.key, waiting.version)
        position = _LENGTH.size
        if response_header_is_flexible(waiting.key, codec.flexible):
            position = skip_tags(memoryview(frame), position, len(frame), [TAGS_MAX], "header.tags")
        waiting.answer.set_result(codec.decode(frame, position))


def _framed(key: int, version: int, number: int, values: Mapping[str, Any]) -> bytes:
    codec = request_codec(key, version)
    header = encode_request_header(RequestHeader(key, version, number, CLIENT_ID), codec.flexible)
    body = codec.encode(values)
    return b"".join((_LENGTH.pack(len(header) + len(body)), header, body))
