"""One connection to one member of etcd, on which one exchange goes at a time: HTTP/1.1 by h11, bytes by asyncio.

**Invariants**

- A connection is used again only after an answer that was read to its end, whose server keeps it open. Whatever else
  happens during an exchange, a cancelled caller included, closes it: no answer is ever taken for another call's.
- No answer, no line of a stream and no header is longer than its bound.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import h11

from core.cluster.etcd.wire import Unanswered, read_error

ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Longest answer, and longest line of a watch. Callers read in pages of some hundred KiB; a watch's line has up to a
thousand revisions."""
HEADER_BYTES_MAX: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024
SILENT_S: Final = 3
"""A peer whose machine is gone is noticed after about this many seconds without an acknowledgement, twice."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a member of etcd serves clients."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection:
    """See the module. Make it with `open`."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.endpoint = endpoint
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)

    def __repr__(self) -> str:
        return f"<Connection {self.endpoint} {self._http.our_state}>"

    @classmethod
    async def open(cls, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Connection:
        """Connect. Raises Unanswered."""
        try:
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls, limit=READ_BYTES)
        except (OSError, ssl.CertificateError, UnicodeError) as error:  # the last one: no host has such a name
            raise Unanswered(f"{endpoint} cannot be reached: {error}") from error
        _notice_silence(writer)
        return cls(endpoint, reader, writer)

    @property
    def is_reusable(self) -> bool:
        return self._http.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """Close it at once; an exchange under way ends with Unanswered."""
        self._writer.transport.abort()

    async def exchange(self, path: str, body: bytes, token: str) -> tuple[int, bytes]:
        """Ask, and read the whole answer: its HTTP status and its body. Raises Unanswered."""
        answered = False
        try:
            status = await self._ask(path, body, token)
            answer = b"".join([part async for part in self._body(ANSWER_BYTES_MAX)])
            answered = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        except (OSError, h11.ProtocolError) as error:
            raise Unanswered(f"{self.endpoint} has cut the connection: {error}") from error
        finally:
            if not answered:
                self.close()
        if answered:
            self._http.start_next_cycle()
        return status, answer

    async def lines(self, path: str, body: bytes, token: str) -> AsyncGenerator[bytes, None]:
        """Ask, and read an answer line by line as it comes; at the end the connection is closed.

        A line that was cut is not returned. Raises EtcdError, or Unanswered, also when the answer ends.
        """
        parts: list[bytes] = []
        try:
            status = await self._ask(path, body, token)
            if status != 200:
                error_answer = b"".join([part async for part in self._body(ANSWER_BYTES_MAX)])
                raise read_error(status, error_answer)
            async for part in self._body(None):
                parts.append(part)
                if b"\n" in part:
                    *whole, rest = b"".join(parts).split(b"\n")
                    parts = [rest]
                    for line in whole:
                        yield line
                elif sum(map(len, parts)) > ANSWER_BYTES_MAX:
                    raise Unanswered(f"{self.endpoint} sends more than {ANSWER_BYTES_MAX} bytes in one line")
            raise Unanswered(f"{self.endpoint} has ended the watch")
        except (OSError, h11.ProtocolError) as error:
            raise Unanswered(f"{self.endpoint} has cut the connection: {error}") from error
        finally:
            self.close()

    async def _ask(self, path: str, body: bytes, token: str) -> int:
        headers = [
            ("Host", str(self.endpoint)),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Grpc-Metadata-Hasleader", "true"),  # a member without a leader refuses, and ends its watches
        ]
        if token:
            headers.append(("Authorization", token))
        request = h11.Request(method="POST", target=path, headers=headers)
        data = self._http.send(request), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage())
        self._writer.write(b"".join(part for part in data if part))
        await self._writer.drain()
        event = await self._event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._event()
        if not isinstance(event, h11.Response):
            raise Unanswered(f"{self.endpoint} has closed the connection")
        return event.status_code

    async def _body(self, bytes_max: int | None) -> AsyncGenerator[bytes, None]:
        count = 0
        while isinstance(event := await self._event(), h11.Data):
            count += len(event.data)
            if bytes_max is not None and count > bytes_max:
                raise Unanswered(f"{self.endpoint} answers with more than {bytes_max} bytes")
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise Unanswered(f"{self.endpoint} has cut its answer")

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(READ_BYTES))
        return event


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """Let the kernel close a connection whose peer does not acknowledge any more."""
    connected: socket.socket | None = writer.get_extra_info("socket")
    if connected is None:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENT_S), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", SILENT_S)):
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2 * SILENT_S * 1000)
