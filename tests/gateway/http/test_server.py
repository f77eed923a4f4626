"""The HTTP server as strangers meet it: where a request comes from, which TLS it takes, whose certificate counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from gateway.config.loading import load
from gateway.http import handshakes
from gateway.http.server import CERTIFICATE, HttpServer
from gateway.security.listeners import http_security
from gateway.security.tls import ListenerTls
from tests.gateway.security.certificates import Authority, Files, make

pytestmark = pytest.mark.slow

REQUEST = b"GET /api HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what the server knows of the client."""
    known = {"client": scope["client"][0], "scheme": scope["scheme"], "has_certificate": CERTIFICATE in scope}
    await JSONResponse(known)(scope, receive, send)


def run(tls: ListenerTls | None, steps: Callable[[int], Awaitable[None]]) -> None:
    """Serve `told` at a port, and do the steps."""

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        listening = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(told, [listening], tls=tls)
        await server.start()
        try:
            yield listening.getsockname()[1]
        finally:
            await server.stop()

    async def main() -> None:
        async with serving() as port:
            await asyncio.wait_for(steps(port), 20)

    uvloop.run(main())


def answer(connection: socket.socket, *headers: bytes) -> Any:
    """What `told` tells. Raises ConnectionError."""
    connection.sendall(REQUEST + b"".join(header + b"\r\n" for header in headers) + b"\r\n")
    received = b""
    while part := connection.recv(65_536):
        received += part
    if not received:
        raise ConnectionError("it was closed without an answer")
    return json.loads(received.partition(b"\r\n\r\n")[2])


def asked(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[Any, ssl.SSLSession | None]:
    """The answer to a request by TLS, and the session. Raises ssl.SSLError, ConnectionError."""
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as secured:
        return answer(secured), secured.session


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make(tmp_path)


def security(files: Files, *settings: str) -> ListenerTls:
    """As a configuration asks for it."""
    given = ("http.listen=localhost:0", f"http.tls.keystore.location={files.keystore}", *settings)
    tls = http_security(load(environ={}, assignments=given)).tls
    assert tls is not None
    return tls


@pytest.mark.parametrize("header", [b"X-Forwarded-For: 10.1.2.3", b"Forwarded: for=10.1.2.3"])
@pytest.mark.parametrize("trusted", [None, "*"])
def test_no_header_gives_another_address(monkeypatch: pytest.MonkeyPatch, header: bytes, trusted: str | None) -> None:
    """An ACL that names an address is not for whoever says that they come from there."""
    if trusted is not None:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)

    def ask(port: int) -> Any:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            return answer(connection, header, b"X-Forwarded-Proto: https")

    async def steps(port: int) -> None:
        known = await asyncio.to_thread(ask, port)
        assert (known["client"], known["scheme"]) == ("127.0.0.1", "http")

    run(None, steps)


@pytest.mark.parametrize(
    ("setting", "version", "suites", "is_served"),
    [
        ("ssl.enabled.protocols=TLSv1.3", ssl.TLSVersion.TLSv1_2, "DEFAULT", False),
        ("ssl.enabled.protocols=TLSv1.3", ssl.TLSVersion.TLSv1_3, "DEFAULT", True),
        ("ssl.enabled.protocols=TLSv1.2", ssl.TLSVersion.TLSv1_3, "DEFAULT", False),
        (
            "ssl.cipher.suites=ECDHE-ECDSA-AES256-GCM-SHA384",
            ssl.TLSVersion.TLSv1_2,
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            False,
        ),
        ("ssl.cipher.suites=ECDHE-ECDSA-AES256-GCM-SHA384", ssl.TLSVersion.TLSv1_2, "DEFAULT", True),
        ("ssl.enabled.protocols=TLSv1.2,TLSv1.3", ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", True),
    ],
)
def test_what_all_listeners_allow(
    files: Files, setting: str, version: ssl.TLSVersion, suites: str, is_served: bool
) -> None:
    """Versions and suites that are set for all listeners hold over HTTP, too."""
    context = files.context()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(suites)

    async def steps(port: int) -> None:
        if is_served:
            await asyncio.to_thread(asked, port, context)
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(asked, port, context)

    run(security(files, setting), steps)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_outlives_its_authority(files: Files, version: ssl.TLSVersion) -> None:
    """Once an authority is no longer trusted, those that it has vouched for are nobody, by a resumed session, too."""
    tls = security(files, "http.auth=mtls", f"http.tls.truststore.location={files.truststore}")
    context = files.context(files.client("alice"))
    context.minimum_version = context.maximum_version = version

    async def steps(port: int) -> None:
        known, session = await asyncio.to_thread(asked, port, context)
        assert known["has_certificate"]

        files.truststore.write_text(Authority().pem)
        assert tls.renew()
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # without the session it is not let in at all
            known, _ = await asyncio.to_thread(asked, port, context, session)
            assert not known["has_certificate"]

    run(tls, steps)


def test_revoked_certificates(files: Files) -> None:
    """A list of revoked certificates that comes while the port serves keeps its clients out, by a session of before,
    too."""
    issued = files.authority.issue("alice")
    tls = security(files, "http.auth=mtls", f"http.tls.truststore.location={files.truststore}")
    context = files.context(files.kept(issued))

    async def steps(port: int) -> None:
        known, session = await asyncio.to_thread(asked, port, context)
        assert known["has_certificate"]
        files.truststore.write_text(files.authority.pem + files.authority.revoked(issued))
        assert tls.renew()
        for former in (None, session):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(asked, port, context, former)

    run(tls, steps)


def test_handshakes_that_nobody_ends(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that send nothing, or half a handshake, hold no more places than there are; a client that ends its
    own is answered all the same."""
    most = 8
    monkeypatch.setattr(handshakes, "HANDSHAKES_MAX", most)
    tls = security(files)
    begun: list[socket.socket] = []

    async def steps(port: int) -> None:
        try:
            for number in range(5 * most):
                one = socket.create_connection(("127.0.0.1", port), 10)
                begun.append(one)
                if number % 2:
                    one.sendall(b"\x16\x03\x01\x02\x00\x01")
            await asyncio.to_thread(asked, port, files.context())
            ended = sum([await asyncio.to_thread(has_ended, one) for one in begun])
            assert ended >= len(begun) - most
        finally:
            for one in begun:
                one.close()

    run(tls, steps)


def has_ended(connection: socket.socket) -> bool:
    """Has the server closed it?"""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_handshake_has_a_deadline(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins one and says no more is cut off."""
    monkeypatch.setattr(handshakes, "HANDSHAKE_S_MAX", 0.2)

    def wait(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
            try:
                return connection.recv(1)
            except ConnectionError:
                return b""

    async def steps(port: int) -> None:
        assert await asyncio.to_thread(wait, port) == b""

    run(security(files), steps)
