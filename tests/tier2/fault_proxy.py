"""A small HTTP proxy before an S3 server, that misbehaves as told: refuses, cuts bodies, dawdles, loses answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

BLOCK = 64 << 10


@dataclass(frozen=True)
class Refuse:
    """Answer this instead of asking the server."""

    status: int
    body: bytes = b""
    content_type: str = "application/xml"


@dataclass(frozen=True)
class CutAnswer:
    """Close the connection after this number of bytes of the answer's body."""

    after: int


@dataclass(frozen=True)
class LoseAnswer:
    """Let the server act, then close the connection without a word."""


@dataclass(frozen=True)
class CutRequest:
    """Pass on so much of the request's body, then close both connections."""

    share: float


@dataclass(frozen=True)
class Trickle:
    """Send the answer's body byte by byte, with pauses."""

    pause_s: float


@dataclass(frozen=True)
class Stall:
    """The server gets the request so much later."""

    pause_s: float


@dataclass(frozen=True)
class FlipABit:
    """The server gets a request body that differs from the sent one."""


Fault = Refuse | CutAnswer | CutRequest | LoseAnswer | Trickle | Stall | FlipABit


def slow_down() -> Refuse:
    return Refuse(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")


class FaultProxy:
    """Runs in a thread with a loop of its own. Each fault hits the next request that `matches`, in order.

    `chooses` decides about requests that no such fault was kept for.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._faults: deque[tuple[Callable[[str], bool], Fault]] = deque()
        self.chooses: Callable[[str], Fault | None] = lambda line: None
        self.requests: list[str] = []
        self.heads: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        async def stop() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fail_next(self, method: str, *faults: Fault) -> None:
        """The next requests whose line begins so fare like this, one fault each."""
        self._faults.extend((lambda line: line.startswith(method), fault) for fault in faults)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._one_request(reader, writer)
        writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0].decode()
        body = await reader.readexactly(_content_length(head))
        self.requests.append(line)
        self.heads.append(head.decode())
        fault = None
        if self._faults and self._faults[0][0](line):
            fault = self._faults.popleft()[1]
        else:
            fault = self.chooses(line)
        if isinstance(fault, Refuse):
            writer.write(
                f"HTTP/1.1 {fault.status} Refused\r\nContent-Type: {fault.content_type}\r\n"
                f"Content-Length: {len(fault.body)}\r\nConnection: close\r\n\r\n".encode()
                + fault.body
            )
            await writer.drain()
            return
        if isinstance(fault, Stall):
            await asyncio.sleep(fault.pause_s)
        if isinstance(fault, FlipABit):
            body = bytes([body[0] ^ 1]) + body[1:]
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            if isinstance(fault, CutRequest):
                up_writer.write(_closing(head) + body[: int(fault.share * len(body))])
                await up_writer.drain()
                return
            up_writer.write(_closing(head) + body)
            await self._answer(line, up_reader, writer, fault)
        finally:
            up_writer.close()

    async def _answer(
        self, line: str, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> None:
        head = await upstream.readuntil(b"\r\n\r\n")
        if isinstance(fault, LoseAnswer):
            await upstream.read()
            return
        writer.write(_closing(head))
        left = fault.after if isinstance(fault, CutAnswer) else 1 << 62
        while left and (block := await upstream.read(min(left, BLOCK))):
            left -= len(block)
            if isinstance(fault, Trickle):
                for byte in block:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(fault.pause_s)
            else:
                writer.write(block)
                await writer.drain()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _closing(head: bytes) -> bytes:
    """The same head, on a connection that ends with this exchange."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines[:-2], b"Connection: close", b"", b""])
