"""A defect ends the connection whose request met it: nobody waits for an answer that cannot come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.dispatch.route import ASIDE_BYTES_MIN
from gateway.network.connection import Connection
from gateway.network.response_slot import ResponseSlot
from gateway.network.tls import TlsTransport
from gateway.wire.headers import RequestHeader
from tests.gateway.network.harness import Client, Gate, heartbeat, produce, run, serving
from tests.gateway.network.test_tls import connect, security
from tests.gateway.security.certificates import make

pytestmark = pytest.mark.slow


class NoQuota:
    """Quotas with a defect."""

    is_timed = True

    def spend(self, user: str, client_id: str | None, seconds: float) -> int:
        raise ValueError("no such quota")


class Muting(Gate):
    """Mutes its client with the first request, and meets the defect with the second."""

    def raw(self, connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
        super().raw(connection, header, body, reply)
        if len(self.begun) == 1:
            connection.mute(20)
        else:
            connection.services.quotas = NoQuota()  # type: ignore[assignment]


def test_behind_a_pause(lines: Callable[[], list[str]]) -> None:
    """A request that begins when a pause ends is begun by the loop, not by bytes that arrive."""

    async def test() -> None:
        gate = Muting()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(produce("a"), produce("b"), produce("c"))

            await client.closed()
            assert gate.begun == ["a", "b"]
            assert "a defect: a request does not begin, and its connection ends. Please report it" in lines()

    run(test())


def test_behind_a_pause_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    """What waits to be decrypted goes on by the loop, too."""

    def broken(_: TlsTransport) -> bool:
        raise ValueError("a defect")

    class Pausing(Gate):
        def raw(self, connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
            super().raw(connection, header, body, reply)
            connection.mute(20)
            asyncio.get_running_loop().call_soon(monkeypatch.setattr, TlsTransport, "_is_held", property(broken))

    async def test() -> None:
        gate, files = Pausing(), make(tmp_path)
        async with serving(gate, secured=security(files)) as (_, port):
            client = await connect(files, port)
            client.send(produce("a"))

            await client.closed()
            monkeypatch.undo()
            assert gate.begun == ["a"]
            told = "a defect: a request over TLS does not begin, and its connection ends. Please report it"
            assert told in lines()

    run(test())


def test_in_the_thread(lines: Callable[[], list[str]]) -> None:
    """A large request that the thread does not take, as at a stop."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            await server.dispatcher.finish(0.0)
            client.send(heartbeat("a", size=ASIDE_BYTES_MIN))

            assert await client.closed() == b""
            assert "connection closed: Heartbeat v4: it could not be decoded" in lines()

    run(test())
