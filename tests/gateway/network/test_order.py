"""Requests of one connection start in order, and their answers leave in order."""

import pytest

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


def test_answers_in_order() -> None:
    """Answers leave in the order of the requests, whichever is ready first."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(produce("wait-a", 1), produce("wait-b", 2), produce("c", 3), heartbeat("d", 4))
            await until(lambda: gate.begun == ["wait-a", "wait-b", "c", "d"], "all begun")

            gate.waiting["wait-b"].send((b"bb",))
            gate.waiting["wait-a"].send((b"aa",))

            assert await client.frame() == (1, b"\0aa")
            assert await client.frame() == (2, b"\0bb")
            assert (await client.frame())[0] == 3
            assert (await client.answer(HEARTBEAT, 4))[1].error_code == 1

    run(test())


def test_starts_in_order() -> None:
    """Handlers begin in the order of arrival, those that run as tasks and those that do not alike."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            names = [f"{n}" for n in range(40)]
            client.send(*(produce(n) if int(n) % 3 else heartbeat(n) for n in names))
            for _ in names:
                await client.frame()

            assert gate.begun == names

    run(test())


def test_waiting_request_lets_later_ones_start() -> None:
    """A handler that waits (JoinGroup) delays the later answers of its connection, not their handlers."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(heartbeat("wait", 1), heartbeat("next", 2))
            await until(lambda: gate.begun == ["wait", "next"], "both begun")
            gate.released["wait"].set()

            assert [(await client.frame())[0] for _ in range(2)] == [1, 2]

    run(test())


def test_acks_zero_has_no_answer() -> None:
    """A request without an answer leaves no gap in the line."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            client.send(produce("a", 1, acks=0), produce("b", 2), produce("c", 3, acks=0), produce("d", 4))

            assert [(await client.frame())[0] for _ in range(2)] == [2, 4]

    run(test())


def test_answers_are_coalesced() -> None:
    """Answers that become due in one turn of the loop leave in one write, in order."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(*(produce(f"wait-{n}", n) for n in range(100)))
            await until(lambda: len(gate.waiting) == 100, "all begun")
            for n in reversed(range(100)):
                gate.waiting[f"wait-{n}"].send((bytes(n),))

            frames = [await client.frame() for _ in range(100)]
            assert frames == [(n, bytes(n + 1)) for n in range(100)]

    run(test())
