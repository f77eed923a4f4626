"""A handler that fails ends in an answer or in a closed connection, and in one log line."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.network.host import ServerLimits
from tests.gateway.network.harness import (
    HEARTBEAT,
    Client,
    Gate,
    heartbeat,
    produce,
    run,
    serving,
    until,
)

pytestmark = pytest.mark.slow


def test_failed_handler_closes(lines: Callable[[], list[str]]) -> None:
    """Without an error response the connection of a failed handler is closed."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            client.send(heartbeat("fail"))

            assert await client.closed() == b""
            assert lines() == ["Heartbeat v4 failed", "connection closed: Heartbeat v4: the handler failed"]
            assert server.host.metrics.request_failures == {HEARTBEAT: 1}

    run(test())


def test_failed_handler_with_error_response() -> None:
    """With one, the client gets UNKNOWN_SERVER_ERROR and the connection goes on."""

    async def test() -> None:
        options = {"error_response": lambda request, version, code: {"error_code": code}}
        async with serving(Gate(), **options) as (_, port):
            client = await Client.connect(port)
            client.send(heartbeat("fail"), heartbeat("fine"))

            assert (await client.answer(HEARTBEAT, 4))[1].error_code == -1
            assert (await client.answer(HEARTBEAT, 4))[1].error_code == 4

    run(test())


def test_reply_close(lines: Callable[[], list[str]]) -> None:
    """A raw handler may close instead of answering."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            client.send(produce("a", acks=-7))

            assert await client.closed() == b""
            assert lines() == ["connection closed: Produce v9: refused by the test"]

    run(test())


def test_answer_after_the_connection_is_gone() -> None:
    """A handler that answers too late disturbs nothing; budgets come back."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate, ServerLimits(sweep_ms=50)) as (server, port):
            client = await Client.connect(port)
            gone: list[bool] = []
            client.send(produce("wait"), heartbeat("wait-h"))
            await until(lambda: "wait" in gate.waiting and "wait-h" in gate.released, "begun")
            server.connections[0].on_close(lambda: gone.append(True))
            client.close()
            await until(lambda: not server.connections, "gone")
            gate.waiting["wait"].send((b"late",))
            gate.released["wait-h"].set()
            await asyncio.sleep(0.01)

            assert gone == [True]
            assert server.host.request_budget.used == server.host.output_budget.used == 0

    run(test())
