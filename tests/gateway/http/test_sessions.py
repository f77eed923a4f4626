"""TLS of the HTTP port against clients that make records of their own: floods end, and what others send comes whole."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gateway.config.loading import load
from gateway.http import handshakes
from gateway.http.server import HttpServer
from gateway.http.sessions import FEED_BYTES, BoundedSession
from gateway.http.small_records import PAID_BYTES, SMALL_RECORDS_MAX, TOO_SMALL
from gateway.network.idle_records import IDLE_RECORDS_MAX, TOO_MANY
from gateway.security.listeners import http_security
from tests.gateway.network.own_records import ALERT, DATA, HANDSHAKE, Sealing, Sealing12, Sealing13
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

FLOOD: Final = 4_000
BODIES: Final[list[int]] = []
"""Sizes of the bodies that came, of all tests."""
MAKERS: Final = {"TLSv1.2": Sealing12, "TLSv1.3": Sealing13}


def changed(client: Sealing) -> bytes:
    assert isinstance(client, Sealing13)
    return client.key_update()


KINDS: Final[dict[str, tuple[str, Callable[[Sealing], bytes]]]] = {
    "changes of keys": ("TLSv1.3", changed),
    "empty records": ("TLSv1.3", lambda client: client.record(DATA, b"")),
    "requests for a handshake": ("TLSv1.2", lambda client: client.record(HANDSHAKE, b"\x01\0\0\0")),
    "warnings": ("TLSv1.2", lambda client: client.record(ALERT, b"\x01\x5a")),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


async def counted(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of what it was sent."""
    body = await Request(scope, receive).body()
    BODIES.append(len(body))
    await PlainTextResponse(str(len(body)))(scope, receive, send)


@contextlib.asynccontextmanager
async def serving(files: Files) -> AsyncIterator[int]:
    keys = ("http.listen=localhost:0", f"http.tls.keystore.location={files.keystore}")
    listening = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(counted, [listening], tls=http_security(load(environ={}, assignments=keys)).tls)
    await server.start()
    try:
        yield listening.getsockname()[1]
    finally:
        await server.stop()


def run(files: Files, steps: Callable[[int], None]) -> None:
    """Serve, and do the steps beside the loop."""

    async def main() -> None:
        async with serving(files) as port:
            await asyncio.wait_for(asyncio.to_thread(steps, port), 20)

    uvloop.run(main())


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)


def answered(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received.partition(b"\r\n\r\n")[2]


def asked(files: Files, port: int, *pieces: bytes) -> bytes:
    """The answer to a request in these pieces, each of which is a record at least."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with files.context().wrap_socket(plain, server_hostname="localhost") as secured:
        for piece in pieces:
            secured.sendall(piece)
        return answered(secured)


def refusals(lines: Callable[[], list[str]], why: str = TOO_MANY) -> int:
    """How many log lines tell of one; waits for the first."""
    deadline = time.monotonic() + 10
    while not (told := [line for line in lines() if why in line]):
        assert time.monotonic() < deadline, "nothing is told"
        time.sleep(0.01)
    return len(told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_ends_its_connection(files: Files, tmp_path: Path, lines: Callable[[], list[str]], kind: str) -> None:
    """Thousands of records without data: the connection ends, what stands behind them is not asked, others are
    answered."""
    version, record = KINDS[kind]

    def steps(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            client = MAKERS[version](files, plain, tmp_path / "keys")
            flood = b"".join(record(client) for _ in range(FLOOD)) + client.record(DATA, post(1))
            with contextlib.suppress(OSError):
                plain.sendall(flood)
            assert asked(files, port, post(10)) == b"10"
            seen = b""
            with contextlib.suppress(OSError):
                while part := plain.recv(65_536):
                    seen += part
            assert len(seen) < 31 * 10 * IDLE_RECORDS_MAX, "no more alerts than records that were looked at"
        if kind == "changes of keys":  # OpenSSL itself refuses some of the others
            assert refusals(lines) == 1

    run(files, steps)


def test_a_flood_with_some_data(files: Files, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    """Changes of keys between the bytes of a request end the connection as well."""

    def steps(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            client = Sealing13(files, plain, tmp_path / "keys")
            flood = b""
            for byte in post(1):
                flood += b"".join(client.key_update() for _ in range(IDLE_RECORDS_MAX - 1))
                flood += client.record(DATA, bytes([byte]))
            with contextlib.suppress(OSError):
                plain.sendall(flood)
            with contextlib.suppress(OSError):
                while plain.recv(65_536):
                    pass
        assert refusals(lines) == 1

    run(files, steps)


@pytest.mark.parametrize("version", MAKERS)
def test_a_request_byte_by_byte(files: Files, tmp_path: Path, lines: Callable[[], list[str]], version: str) -> None:
    """Thousands of records of one byte end their connection, and the request that they bring is not asked; others are
    answered."""
    request = post(3 * SMALL_RECORDS_MAX)

    def steps(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            client = MAKERS[version](files, plain, tmp_path / "keys")
            flood = b"".join(client.record(DATA, request[at : at + 1]) for at in range(len(request)))
            with contextlib.suppress(OSError):
                plain.sendall(flood)
            assert asked(files, port, post(10)) == b"10"
            with contextlib.suppress(OSError):
                while plain.recv(65_536):
                    pass
        assert refusals(lines, TOO_SMALL) == 1
        assert 3 * SMALL_RECORDS_MAX not in BODIES

    run(files, steps)


def test_small_requests_in_number(files: Files, lines: Callable[[], list[str]]) -> None:
    """A client that sends one request after the other, each with a body of one byte in a record of its own, sends as
    many as it likes: the records of a head pay for those of its body."""
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a-small-client/1.0\r\nAccept: */*\r\n"
    request = head + b"Content-Type: application/json\r\nContent-Length: 1\r\n\r\n"
    assert len(request) > 2 * PAID_BYTES, "as any client's head"

    def steps(port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with files.context().wrap_socket(plain, server_hostname="localhost") as secured:
            for _ in range(SMALL_RECORDS_MAX):
                secured.sendall(request)
                secured.sendall(b"1")
                answer = b""
                while not answer.endswith(b"\r\n\r\n1"):
                    part = secured.recv(65_536)
                    assert part, "the connection has ended"
                    answer += part
        assert not [line for line in lines() if TOO_SMALL in line]

    run(files, steps)


def test_a_handshake_in_crumbs(files: Files) -> None:
    """A first message in records of one byte is refused after some of them, without an answer."""
    context, incoming, outgoing = files.context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()[5:]

    def steps(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            with contextlib.suppress(OSError):
                plain.sendall(b"".join(b"\x16\x03\x01\0\1" + bytes([byte]) for byte in hello))
            with contextlib.suppress(ConnectionError):
                assert plain.recv(1_000)[:1] != b"\x16", "it gets no ServerHello"
        assert asked(files, port, post(1)) == b"1"

    run(files, steps)


@pytest.mark.parametrize("size", [0, 1, FEED_BYTES, 3_000_000])
def test_what_is_sent_comes_whole(files: Files, size: int) -> None:
    """In large records, and each part of a small request in one of its own."""
    request = post(size)

    def steps(port: int) -> None:
        assert asked(files, port, request) == str(size).encode()
        pieces = [request[at : at + 7] for at in range(0, min(len(request), 2_000), 7)]
        assert asked(files, port, *pieces, request[7 * len(pieces) :]) == str(size).encode()

    run(files, steps)


def test_records_that_are_cut_at_any_byte(files: Files, tmp_path: Path) -> None:
    """A request in two records with a change of keys between them, cut anywhere: it is asked."""

    def steps(port: int) -> None:
        at, size, request = 0, 1, post(3)
        while at < size:
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = Sealing13(files, plain, keys := tmp_path / f"keys-{at}")
                wire = client.record(DATA, request[:9]) + client.key_update() + client.record(DATA, request[9:])
                size = len(wire)
                asked_before = len(BODIES)
                plain.sendall(wire[:at])
                plain.sendall(wire[at:])
                deadline = time.monotonic() + 10
                while len(BODIES) == asked_before:
                    assert time.monotonic() < deadline, f"cut at {at} it is not asked"
                    time.sleep(0.002)
                assert BODIES[-1] == 3
                keys.unlink()
            at += 9

    run(files, steps)


def test_who_reads_is_told_of_what_waits(files: Files) -> None:
    """`pending` is more than 0 as long as a whole record waits, wherever it is: else nobody would ask for it."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.context()
    server.load_cert_chain(files.keystore)
    server.sslobject_class = BoundedSession
    arrived, leaving, sent = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(arrived, leaving, server_side=True)
    theirs = client.wrap_bio(leaving, sent, server_hostname="localhost")
    for side in (theirs, ours, theirs, ours):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
        arrived.write(sent.read())
    for number in range(3 * IDLE_RECORDS_MAX):
        theirs.write(b"%03d" % number)
    arrived.write(sent.read())
    came = []
    while arrived.pending or ours.pending():
        came.append(ours.read(100))
    assert came == [b"%03d" % number for number in range(3 * IDLE_RECORDS_MAX)]


def test_a_client_that_speaks_in_the_clear(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is turned away at once, and does not wait for the end of its time for a handshake."""
    monkeypatch.setattr(handshakes, "HANDSHAKE_S_MAX", 3_600.0)

    def steps(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                answered(connection)

    run(files, steps)
