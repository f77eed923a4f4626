"""Clients of TLS 1.2 that ask for another handshake in their session: they get none, and pay for asking."""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
import struct
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.network.host import ServerLimits
from gateway.network.tls import WIRE_BYTES
from tests.gateway.network.harness import Gate, quiet_socket, run, serving, unchanged, until
from tests.gateway.network.test_tls import security
from tests.gateway.security.certificates import Files, make

SUITES: Final = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
CLIENT_HELLO: Final = b"\x01\0\0\0"
"""Without content: it is refused before it is read."""


class Asking:
    """A client after its handshake, which makes records of its own."""

    def __init__(self, files: Files, plain: socket.socket, key_log: Path) -> None:
        context = files.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(SUITES)
        context.keylog_filename = str(key_log)
        incoming, outgoing, seen = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
        session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(came := plain.recv(65_536))
                seen += came
        line = next(line for line in key_log.read_text().splitlines() if line.startswith("CLIENT_RANDOM"))
        client_random, master = map(bytes.fromhex, line.split()[1:])
        server_random = seen[11:43]  # of the ServerHello, behind the heads of its record and message, and a version
        keys = _stretched(master, b"key expansion" + server_random + client_random, 72)
        self._cipher, self._salt = AESGCM(keys[:32]), keys[64:68]
        self._number = 0

    def record(self) -> bytes:
        """The next record (RFC 5288): it asks for a handshake."""
        self._number += 1  # 0 was the end of the handshake
        number, size = struct.pack(">Q", self._number), struct.pack(">H", len(CLIENT_HELLO))
        sealed = self._cipher.encrypt(self._salt + number, CLIENT_HELLO, number + b"\x16\x03\x03" + size)
        return b"\x16\x03\x03" + struct.pack(">H", len(number + sealed)) + number + sealed


def _stretched(secret: bytes, seed: bytes, size: int) -> bytes:
    """TLS 1.2's pseudo-random function (RFC 5246, section 5)."""
    step, out = seed, b""
    while len(out) < size:
        step = hmac.digest(secret, step, "sha384")
        out += hmac.digest(secret, step + seed, "sha384")
    return out[:size]


def test_refusals_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    """Each request for a handshake is answered with an alert. A client that sends them without end and reads none is
    not read any more once the alerts have reached the bound on answers, and they are charged like these."""
    files, bound = make(tmp_path), 100_000

    async def scenario() -> None:
        limits = ServerLimits(connection_output_bytes_max=bound)
        secured = security(files, ssl_enabled_protocols=["TLSv1.2"])
        async with serving(Gate(), limits, secured=secured) as (server, port):
            loop = asyncio.get_running_loop()
            with quiet_socket(port) as plain:
                client = await loop.run_in_executor(None, Asking, files, plain, tmp_path / "keys")
                plain.setblocking(False)
                flood = b"".join(client.record() for _ in range(100_000))
                sending = asyncio.create_task(loop.sock_sendall(plain, flood))
                (connection,) = server.connections
                await until(lambda: "peer-does-not-read" in repr(connection), "it is not read")
                await unchanged(lambda: server.host.output_budget.used)
                assert bound < server.host.output_budget.used < bound + 2 * WIRE_BYTES
                sending.cancel()
            await until(lambda: not server.connections, "it has ended")
            assert server.host.output_budget.used == 0

    run(scenario())


def test_renegotiation_is_refused(tmp_path: Path) -> None:
    """A client of TLS 1.2 that asks for another handshake in its session, each of which would cost the server ten times
    what it costs the client, gets none."""

    async def scenario() -> None:
        secured = security(make(tmp_path), ssl_enabled_protocols=["TLSv1.2"])
        async with serving(Gate(), secured=secured) as (server, port):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", "-no_ign_eof"]
            client = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert client.stdin is not None
            await until(lambda: server.tls.handshakes == 1, "the first")
            client.stdin.write(b"R\n")
            await client.stdin.drain()
            told, _ = await asyncio.wait_for(client.communicate(), 10)
            assert b"RENEGOTIATING" in told
            assert b"no renegotiation" in told
            assert server.tls.handshakes == 1

    run(scenario())
