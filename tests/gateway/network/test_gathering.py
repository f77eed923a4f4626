"""The kernel gathers a large request's bytes: nobody waits for one that came, and an end is seen at once."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest

from gateway.network.host import ServerLimits
from gateway.network.receiver import WAKE_BYTES
from gateway.network.server import Server
from tests.gateway.network.harness import Client, Gate, heartbeat, produce, run, serving, until
from tests.gateway.network.test_tls import connect, security
from tests.gateway.security.certificates import Files, make

SIZE = 300_000


@pytest.fixture(params=["in the clear", "TLS"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files | None:
    return make(tmp_path) if request.param == "TLS" else None


def gathered(server: Server) -> int:
    """How many bytes the kernel gathers for the only connection."""
    (connection,) = server.connections
    told: int = connection._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
    return told


async def streaming(files: Files | None, port: int) -> Client:
    """A client that has sent a large request before."""
    client = await (Client.connect(port) if files is None else connect(files, port))
    client.send(produce("first", 1, size=SIZE))
    assert (await client.frame())[0] == 1
    return client


def test_only_within_a_request_as_large_as_one_before(files: Files | None) -> None:
    """Not in the first one, whose end nobody can know yet; nor near the end of one, nor between two."""

    async def scenario() -> None:
        gate, request = Gate(), produce("second", 2, size=SIZE)
        secured = None if files is None else security(files)
        async with serving(gate, secured=secured) as (server, port):
            client = await streaming(files, port)
            assert gathered(server) == 1
            client.send(request[: SIZE // 3])
            await until(lambda: gathered(server) == WAKE_BYTES, "the kernel gathers")
            client.send(request[SIZE // 3 : -1])
            await until(lambda: gathered(server) == 1, "the end is near")
            assert "second" not in gate.begun
            client.send(request[-1:], heartbeat("small", 3))
            assert [(await client.frame())[0] for _ in range(2)] == [2, 3]
            client.close()

    run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_requests_in_pieces_of_any_size(files: Files | None, seed: int) -> None:
    """However a client cuts large requests, each is answered before the next one begins: no byte is waited for that
    came."""
    chance = random.Random(seed)

    async def scenario() -> None:
        secured = None if files is None else security(files)
        async with serving(Gate(), secured=secured) as (_, port):
            client = await streaming(files, port)
            for number in range(2, 12):
                request = produce("next", number, size=chance.choice((10, WAKE_BYTES, 100_000, SIZE)))
                at = 0
                while at < len(request):
                    size = chance.choice((1, 1_000, 20_000, WAKE_BYTES))
                    client.send(request[at : at + size])
                    await client.writer.drain()
                    await asyncio.sleep(0)
                    at += size
                assert (await asyncio.wait_for(client.frame(), 5))[0] == number
            client.close()

    run(scenario())


def test_a_client_that_hangs_up_meanwhile(files: Files | None) -> None:
    """Its connection ends at once, although fewer bytes came than the kernel was to gather."""

    async def scenario() -> None:
        gate, request = Gate(), produce("second", 2, size=SIZE)
        secured = None if files is None else security(files)
        async with serving(gate, secured=secured) as (server, port):
            client = await streaming(files, port)
            client.send(request[: SIZE // 3])
            await until(lambda: gathered(server) == WAKE_BYTES, "the kernel gathers")
            client.send(request[SIZE // 3 : SIZE // 3 + 10])
            client.close()
            await until(lambda: not server.connections, "it has ended")
            assert gate.begun == ["first"]
            assert server.host.receive_budget.used == 0

    run(scenario())


def test_a_client_that_stops_meanwhile_has_a_deadline(files: Files | None) -> None:
    """As in any request that does not arrive."""

    async def scenario() -> None:
        limits = ServerLimits(receive_progress_ms=100, sweep_ms=50)
        secured = None if files is None else security(files)
        async with serving(Gate(), limits, secured=secured) as (server, port):
            client = await streaming(files, port)
            client.send(produce("second", 2, size=SIZE)[: SIZE // 3])
            await client.closed()
            await until(lambda: not server.connections, "it is gone")

    run(scenario())
