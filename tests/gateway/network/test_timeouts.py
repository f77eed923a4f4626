"""Connections that make no progress end; bounds on connections hold."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.network.host import ServerLimits
from tests.gateway.network.harness import (
    Client,
    Gate,
    produce,
    run,
    serving,
    until,
)

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024


IMPATIENT = ServerLimits(receive_progress_ms=400, first_request_ms=400, sweep_ms=50)


@pytest.mark.parametrize("drip", [False, True])
@pytest.mark.parametrize("size", [200, 100 * KIB])
def test_slow_loris(size: int, drip: bool, lines: Callable[[], list[str]]) -> None:
    """A request that stops in the middle, or drips on by bytes, ends with its connection."""

    async def test() -> None:
        async with serving(Gate(), IMPATIENT) as (server, port):
            client = await Client.connect(port)
            client.send(produce("a"))
            await client.frame()
            client.send(produce("b", size=size)[: size - 100])
            while drip and server.connections:
                client.send(b"\0")
                await asyncio.sleep(0.02)

            assert await client.closed() == b""
            assert ["does not arrive" in line for line in lines()] == [True]
            await until(lambda: not server.connections, "gone")
            assert server.host.receive_budget.used == 0

    run(test())


def test_large_request_that_goes_on_is_not_slow() -> None:
    """A large request may take longer than the time-out while its bytes keep coming."""

    async def test() -> None:
        async with serving(Gate(), IMPATIENT) as (_, port):
            client = await Client.connect(port)
            raw = produce("a", 9, size=640 * KIB)
            for start in range(0, len(raw), 70 * KIB):
                client.send(raw[start : start + 70 * KIB])
                await asyncio.sleep(0.06)

            assert (await client.frame())[0] == 9

    run(test())


def test_silent_connection(lines: Callable[[], list[str]]) -> None:
    """A client that connects and sends nothing is not kept for ever."""

    async def test() -> None:
        async with serving(Gate(), IMPATIENT) as (_, port):
            client = await Client.connect(port)

            assert await client.closed() == b""
            assert ["no request within" in line for line in lines()] == [True]

    run(test())


def test_idle_connection_is_closed() -> None:
    """A connection that asks nothing for connections.max.idle.ms is closed, one that waits is not."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate, ServerLimits(idle_ms=400, sweep_ms=50)) as (server, port):
            idle, waiting = await Client.connect(port), await Client.connect(port)
            idle.send(produce("a"))
            waiting.send(produce("wait"))
            await idle.frame()

            assert await idle.closed() == b""
            await asyncio.sleep(0.4)
            assert len(server.connections) == 1

    run(test())


def test_max_connections(lines: Callable[[], list[str]]) -> None:
    """Connections over the limit are closed; there is room again when one leaves."""

    async def test() -> None:
        async with serving(Gate(), ServerLimits(connections_max=2)) as (server, port):
            first, second = await Client.connect(port), await Client.connect(port)
            third = await Client.connect(port)

            assert await third.closed() == b""
            assert ["max.connections=2" in line for line in lines()] == [True]

            first.close()
            await until(lambda: len(server.connections) == 1, "one left")
            fourth = await Client.connect(port)
            for client in (second, fourth):
                client.send(produce("a", 1))
                assert (await client.frame())[0] == 1

    run(test())


def test_max_connections_per_ip(lines: Callable[[], list[str]]) -> None:
    """The limit per address holds."""

    async def test() -> None:
        async with serving(Gate(), ServerLimits(connections_per_ip_max=1)) as (_, port):
            await Client.connect(port)
            second = await Client.connect(port)

            assert await second.closed() == b""
            assert ["max.connections.per.ip=1" in line for line in lines()] == [True]

    run(test())


def test_mute() -> None:
    """A throttled client is answered at once and its next request waits."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            client.send(produce("a"))
            await client.frame()
            server.connections[0].mute(150)
            client.send(produce("b"))
            loop = asyncio.get_running_loop()
            asked = loop.time()
            await client.frame()

            assert loop.time() - asked >= 0.14
            assert gate.begun == ["a", "b"]

    run(test())


class HeldUp:
    """The server's loop in a process that loses its processor whenever it has read the time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        read_s = self._loop.time()
        while self._loop.time() < read_s + 0.005:
            pass
        return read_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_a_pause_that_is_over_at_once() -> None:
    """A pause whose time has come before its timer is made ends, and the next pause is as good as the first."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            client.send(produce("a"))
            await client.frame()
            server.host.loop = HeldUp(server.host.loop)  # type: ignore[assignment]
            for name in "bcd":
                server.connections[0].mute(1)
                client.send(produce(name))
                await client.frame()

            assert gate.begun == ["a", "b", "c", "d"]

    run(test())
