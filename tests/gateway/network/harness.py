"""A real server on a real socket with handlers of the test's own, and a client that speaks bytes."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import uvloop

from gateway.apis.api_versions import API as API_VERSIONS
from gateway.config.addresses import ListenAddress
from gateway.dispatch.context import RequestContext
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.registry import Api, Registry
from gateway.metrics.counters import Metrics
from gateway.network.binding import Binding, bind
from gateway.network.connection import Connection
from gateway.network.host import ServerLimits
from gateway.network.response_slot import ResponseSlot
from gateway.network.server import Server
from gateway.network.tls import ServerTls
from gateway.security.listeners import SecuredListener
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible
from gateway.wire.message import Message
from gateway.wire.produce_request import decode_produce
from gateway.wire.responses import encode_produce_response

PRODUCE, HEARTBEAT, LIST_GROUPS = 0, 12, 16
DEADLINE_S = 60.0


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on the loop that the gateway runs on."""
    uvloop.run(asyncio.wait_for(test, 3 * DEADLINE_S))


async def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until the condition holds; fail after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def unchanged(value: Callable[[], object], seconds: float = 0.2) -> None:
    """Poll until a value has been the same for so long; fail after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    seen, since = value(), time.monotonic()
    while time.monotonic() - since < seconds:
        assert time.monotonic() < deadline, f"never settled: {seen}"
        await asyncio.sleep(0.005)
        if value() != seen:
            seen, since = value(), time.monotonic()


class Gate:
    """Handlers that answer when the test says so, and remember in which order they began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.waiting: dict[str, ResponseSlot] = {}
        self.released: dict[str, asyncio.Event] = {}
        self.answer_bytes = 0
        self.answers: dict[str, Sequence[bytes]] = {}  # by name: the rest of its answer, instead of zeros

    def raw(self, connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
        """Produce: the transactional id is the request's name; acks=0 gets no answer, -7 an error."""
        name, acks, _, _ = decode_produce(body, header.api_version)
        assert name is not None
        self.begun.append(name)
        hold(name)
        if acks == 0:
            reply.none()
        elif acks == -7:
            reply.close("refused by the test")
        elif name.startswith("wait"):
            self.waiting[name] = reply
        elif name.startswith("room") and connection.output_room() <= 0:
            connection.when_output_room(reply, lambda: reply.send((produced(name),)))
        else:
            reply.send((produced(name), *self.answers.get(name, (bytes(self.answer_bytes),))))

    async def task(self, ctx: RequestContext, request: Message) -> Mapping[str, Any]:
        """Heartbeat: the group id is the request's name."""
        name = request.group_id
        self.begun.append(name)
        hold(name)
        if name.startswith("wait"):
            event = self.released[name] = asyncio.Event()
            await event.wait()
        if name.startswith("fail"):
            raise RuntimeError("failed by the test")
        return {"error_code": len(name)}


def hold(name: str) -> None:
    """Keep the event loop for as many milliseconds as a name like "hold015-a" says."""
    if name.startswith("hold"):
        ends_at = time.perf_counter() + int(name[4:7]) / 1000
        while time.perf_counter() < ends_at:
            pass


def produced(name: str) -> bytes:
    """An answer to Produce from which `name` can be read."""
    return encode_produce_response(9, [(name, [(0, 0, 0, -1, 0)])])


class Features:
    """What ApiVersions asks of the only service that it reads."""

    supported = {"transaction.version": (0, 2)}
    levels = {"transaction.version": 2}
    epoch = 2


@asynccontextmanager
async def serving(
    gate: Gate,
    limits: ServerLimits | None = None,
    *,
    secured: Mapping[str, SecuredListener] | None = None,
    binding: Binding | None = None,
    rate_of: Callable[[str], int | None] = lambda host: None,
    inner: ServerTls | None = None,
    **api: Any,
) -> AsyncIterator[tuple[Server, int]]:
    """A server on a free port; `secured`: its listener PLAINTEXT, if it is to have TLS or SASL."""
    apis = Registry(
        [
            API_VERSIONS,
            Api(key=PRODUCE, name="Produce", versions=range(3, 14), handle_raw=gate.raw, advertise_from=0),
            Api(key=HEARTBEAT, name="Heartbeat", versions=range(5), handle=gate.task, **api),
        ]
    )
    metrics = Metrics()
    services = SimpleNamespace(features=Features(), quotas=SimpleNamespace(is_timed=False))
    server = Server(limits or ServerLimits(), Dispatcher(services, apis, metrics), metrics, secured, rate_of, inner)
    binding = binding or bind(ListenAddress("127.0.0.1", 0))
    await server.start([binding])
    try:
        yield server, binding.port
    finally:
        await server.stop(grace_s=0.2)


def request(
    key: int, version: int, values: Mapping[str, Any], correlation_id: int = 0, client_id: str = "tester"
) -> bytes:
    """A whole request with its length in front."""
    codec = request_codec(key, version)
    header = RequestHeader(key, version, correlation_id, client_id)
    frame = encode_request_header(header, codec.flexible) + codec.encode(values)
    return struct.pack(">i", len(frame)) + frame


def produce(name: str, correlation_id: int = 0, *, size: int = 10, acks: int = -1, client_id: str = "tester") -> bytes:
    topic = {"name": "t", "partition_data": [{"index": 0, "records": bytes(size)}]}
    values = {"transactional_id": name, "acks": acks, "timeout": 1, "topic_data": [topic]}
    return request(PRODUCE, 9, values, correlation_id, client_id)


def heartbeat(name: str, correlation_id: int = 0, *, client_id: str = "tester", size: int = 0) -> bytes:
    """`size`: bytes that the member id has, to make the request large."""
    return request(HEARTBEAT, 4, {"group_id": name, "member_id": "m" * size}, correlation_id, client_id)


class Client:
    """One connection, in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, *requests: bytes) -> None:
        self.writer.write(b"".join(requests))

    async def frame(self) -> tuple[int, bytes]:
        """The next answer: correlation id, and what follows it (header tags and body)."""
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        raw = await self.reader.readexactly(size)
        return struct.unpack_from(">i", raw)[0], raw[4:]

    async def answer(self, key: int, version: int) -> tuple[int, Message]:
        correlation_id, raw = await self.frame()
        codec = response_codec(key, version)
        tags = response_header_is_flexible(key, codec.flexible)
        return correlation_id, codec.decode(raw, int(tags))

    async def closed(self) -> bytes:
        """The bytes that came before the server closed the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), DEADLINE_S)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.close()


def quiet_socket(port: int) -> socket.socket:
    """A blocking socket with small buffers that nobody reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(("127.0.0.1", port))
    return peer
