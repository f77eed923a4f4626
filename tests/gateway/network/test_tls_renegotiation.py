"""Clients of TLS 1.2 that ask for another handshake in their session: they get none, and pay for asking."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from gateway.network import idle_records
from gateway.network.host import ServerLimits
from gateway.network.tls import WIRE_BYTES
from tests.gateway.network.harness import Gate, quiet_socket, run, serving, unchanged, until
from tests.gateway.network.own_records import HANDSHAKE, Sealing12
from tests.gateway.network.test_tls import security
from tests.gateway.security.certificates import make

ASKS: Final = 100_000
CLIENT_HELLO: Final = b"\x01\0\0\0"
"""Without content: it is refused before it is read."""


def test_refusals_that_nobody_reads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request for a handshake is answered with an alert. A client that sends as many as it may, for days, and
    reads none is not read any more once the alerts have reached the bound on answers, and they are charged like these.
    """
    files, bound = make(tmp_path), 100_000
    monkeypatch.setattr(idle_records, "IDLE_RECORDS_MAX", ASKS)  # those of days at once

    async def scenario() -> None:
        limits = ServerLimits(connection_output_bytes_max=bound)
        secured = security(files, ssl_enabled_protocols=["TLSv1.2"])
        async with serving(Gate(), limits, secured=secured) as (server, port):
            loop = asyncio.get_running_loop()
            with quiet_socket(port) as plain:
                client = await loop.run_in_executor(None, Sealing12, files, plain, tmp_path / "keys")
                plain.setblocking(False)
                flood = b"".join(client.record(HANDSHAKE, CLIENT_HELLO) for _ in range(ASKS))
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
