"""A stop lets requests finish, within its grace."""

import asyncio
from collections.abc import Callable

import pytest

from tests.gateway.network.harness import (
    Client,
    Gate,
    heartbeat,
    produce,
    run,
    serving,
    until,
)

pytestmark = pytest.mark.slow


def test_stop_lets_requests_finish() -> None:
    """A clean stop answers requests that have begun, begins no others, and closes."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            client.send(produce("wait", 1), heartbeat("wait-h", 2))
            await until(lambda: "wait" in gate.waiting and "wait-h" in gate.released, "begun")
            stopping = asyncio.ensure_future(server.stop(grace_s=5))
            await asyncio.sleep(0.02)
            client.send(produce("too late", 3))
            gate.waiting["wait"].send((b"x",))
            gate.released["wait-h"].set()

            assert [(await client.frame())[0] for _ in range(2)] == [1, 2]
            assert await client.closed() == b""
            await stopping
            assert "too late" not in gate.begun
            with pytest.raises(ConnectionRefusedError):
                await Client.connect(port)

    run(test())


def test_stop_does_not_wait_for_ever(lines: Callable[[], list[str]]) -> None:
    """Handlers that never end are cancelled after the grace."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            client.send(heartbeat("wait"))
            await until(lambda: "wait" in gate.released, "begun")
            await asyncio.wait_for(server.stop(grace_s=0.1), 2)

            assert await client.closed() == b""

    run(test())
