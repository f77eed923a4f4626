"""What the records of a client's TLS take of the loop's time, and whose quota that counts to."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from struct import pack
from typing import Final, cast

import pytest

from core.clock import ManualClock
from core.store import Store
from gateway.network import tls
from gateway.network.connection import Connection
from gateway.network.server import Server
from gateway.quotas.quotas import TABLE, TIME, Quotas, encode_key
from tests.gateway.network.harness import HEARTBEAT, Gate, heartbeat, run, serving, until
from tests.gateway.network.own_records import DATA, Sealing13
from tests.gateway.network.test_tls import connect, security, way
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

__all__ = ["way"]

RECORD_S: Final = 0.25
"""What the clock of TLS shows for each reading of records, and for each sealing."""
SHARE: Final = 1.0
"""Per cent: a tenth of a second in ten, less than one reading of records, more than any request takes."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def slow_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records take a quarter of a second each time, by the clock of TLS alone."""
    ticks = itertools.count()
    monkeypatch.setattr(tls, "_now", lambda: next(ticks) * RECORD_S)


class Rows:
    """A store of which only the table of quotas is there."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._rows = rows

    @property
    def registry(self) -> Rows:
        return self

    def settings(self, kind: str) -> Mapping[bytes, bytes]:
        assert kind == TABLE
        return self._rows


def limited(server: Server, client_id: str) -> Quotas:
    """A server whose quota is about one client."""
    rows = Rows({encode_key(frozenset({("client-id", client_id)}), TIME): pack(">d", SHARE)})
    quotas = Quotas(cast(Store, rows), ManualClock())
    server.dispatcher.services.quotas = quotas
    return quotas


def counted_s(quotas: Quotas) -> float:
    """The seconds that were counted to the client of the quota."""
    return sum(rate.total for rate in quotas._rates.values()) / 100


def reached(connection: Connection, seconds: float) -> bool:
    return connection.records_s >= seconds


@pytest.mark.usefixtures("way")
def test_decryption_counts_to_the_client(files: Files) -> None:
    """The answer to a request names the pause for what its records took, as for what its handler takes; a client that
    no quota is about has none."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            quotas = limited(server, "busy")
            client, other = await connect(files, port), await connect(files, port)
            client.send(heartbeat("a", client_id="busy"))
            _, answer = await client.answer(HEARTBEAT, 4)
            assert answer.throttle_time == 1_000
            assert counted_s(quotas) >= RECORD_S
            other.send(heartbeat("b", client_id="idle"))
            _, answer = await other.answer(HEARTBEAT, 4)
            assert answer.throttle_time == 0
            client.close()
            other.close()

    run(scenario())


@pytest.mark.usefixtures("way")
def test_encryption_counts_to_the_client(files: Files) -> None:
    """What it takes to encrypt an answer is left for the client's next request."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            quotas = limited(server, "busy")
            client = await connect(files, port)
            client.send(heartbeat("a", client_id="busy"))
            await client.answer(HEARTBEAT, 4)
            (connection,) = server.connections
            assert connection.records_s == RECORD_S
            counted_before_s = counted_s(quotas)
            client.send(heartbeat("b", client_id="busy"))
            await client.answer(HEARTBEAT, 4)
            assert counted_s(quotas) >= counted_before_s + 2 * RECORD_S, "with what it takes to read the second one"
            client.close()

    run(scenario())


def test_a_request_byte_by_byte(files: Files, tmp_path: Path) -> None:
    """All readings of one request's records count, also those before its client id was known."""
    gate = Gate()

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            quotas = limited(server, "busy")
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                await until(lambda: server.tls.handshakes == 1, "the handshake")
                request = heartbeat("a", client_id="busy")
                (connection,) = server.connections
                for at in range(len(request) - 1):
                    plain.sendall(client.record(DATA, request[at : at + 1]))
                    least_s = (at + 1) * RECORD_S
                    await until(partial(reached, connection, least_s), "the byte was read")
                assert counted_s(quotas) == 0.0
                read_s = connection.records_s
                plain.sendall(client.record(DATA, request[-1:]))
                await until(lambda: gate.begun == ["a"], "the request has begun")
                await until(lambda: counted_s(quotas) >= read_s + RECORD_S, "all was counted")

    run(scenario())
