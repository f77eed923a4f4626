"""Bytes in, whole requests out, however they arrive; bytes that are no request end their connection."""

import asyncio
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.network.host import SCRATCH_BYTES
from gateway.network.receiver import PEEK_BYTES
from tests.gateway.network.harness import (
    HEARTBEAT,
    PRODUCE,
    Client,
    Gate,
    produce,
    run,
    serving,
    until,
)

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024


def test_byte_by_byte() -> None:
    """A request that comes in single bytes is answered like any other."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            for byte in produce("a", 1) + produce("b", 2):
                client.send(bytes((byte,)))
                await asyncio.sleep(0)

            assert [(await client.frame())[0] for _ in range(2)] == [1, 2]
            assert server.host.receive_budget.used == server.host.request_budget.used == 0

    run(test())


@pytest.mark.parametrize("size", [SCRATCH_BYTES // 2 + n for n in (-200, -60, 0, 60)] + [SCRATCH_BYTES, 3 * MIB])
def test_large_requests_back_to_back(size: int) -> None:
    """Requests of any size relative to the receive buffers come through, small ones between them."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            for turn in range(3):
                client.send(*(produce("x", 3 * turn + n, size=size if n % 2 else 5) for n in range(3)))

            assert [(await client.frame())[0] for _ in range(9)] == list(range(9))
            assert server.host.receive_budget.used == server.host.request_budget.used == 0

    run(test())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0, PEEK_BYTES - 40, PEEK_BYTES, 40 * KIB, 100 * KIB, SCRATCH_BYTES]), max_size=12))
def test_bodies_arrive_as_they_were_sent(sizes: list[int]) -> None:
    """Frames come out whole, whichever buffers they came through, and whatever came before."""

    async def test() -> None:
        gate = Gate()
        seen: list[bytes] = []
        original = gate.raw

        def raw(connection, header, body, reply) -> None:  # type: ignore[no-untyped-def]
            seen.append(bytes(body))
            original(connection, header, body, reply)

        gate.raw = raw  # type: ignore[method-assign]
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            requests = [produce(f"request {number}", size=size) for number, size in enumerate(sizes)]
            client.send(*requests)
            for _ in requests:
                await client.frame()

            assert len(seen) == len(requests)
            assert all(
                sent.endswith(body) and len(sent) - len(body) < 40 for sent, body in zip(requests, seen, strict=True)
            )

    run(test())


def test_body_is_writable() -> None:
    """A handler may patch a batch in place: the body is its request's own."""

    async def test() -> None:
        gate = Gate()
        seen: list[bool] = []
        original = gate.raw

        def raw(connection, header, body, reply) -> None:  # type: ignore[no-untyped-def]
            seen.append(body.readonly)
            original(connection, header, body, reply)

        gate.raw = raw  # type: ignore[method-assign]
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(produce("a"), produce("b", size=MIB))
            await client.frame()
            await client.frame()

            assert seen == [False, False]

    run(test())


def test_declared_length_is_not_allocated() -> None:
    """A request that declares 90 MiB and sends little holds little."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            client.send(struct.pack(">ihhi", 90 * MIB, PRODUCE, 9, 1) + bytes(100))
            await until(lambda: server.host.receive_budget.used > 0, "the request has begun")

            assert server.host.receive_budget.used <= SCRATCH_BYTES

            client.send(bytes(200 * KIB))
            await until(lambda: server.host.receive_budget.used > SCRATCH_BYTES, "its buffer grew")
            assert server.host.receive_budget.used <= 512 * KIB
            client.close()
            await until(lambda: server.host.receive_budget.used == 0, "it was given back")

    run(test())


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (struct.pack(">i", -1), "a request of -1 bytes"),
        (struct.pack(">i", -(2**31)), "a request of -2147483648 bytes"),
        (struct.pack(">i", 2**31 - 1), "a request of 2147483647 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP, and this listener serves Kafka's clients"),
        (b"PRI * HTTP/2.0\r\n\r\n", "it speaks HTTP, and this listener serves Kafka's clients"),
        (b"GETX / HTTP/1.1\r\n\r\n", "a request of 1195725912 bytes"),
        (bytes.fromhex("16030102000100"), "it speaks TLS, and this listener does not"),
        (struct.pack(">ihhi", 17 * MIB, HEARTBEAT, 4, 1), "only Produce may have more"),
        (struct.pack(">i", 0), "a request of 0 bytes"),
        (struct.pack(">ihhi", 8, HEARTBEAT, 4, 1), "a request of 8 bytes"),
        (struct.pack(">ihhih", 10, 99, 0, 1, -1), "API key 99"),
        (struct.pack(">ihhih", 10, -1, -1, 1, -1), "API key -1"),
        (struct.pack(">ihhih", 10, HEARTBEAT, 5, 1, -1), "Heartbeat v5 is not served"),
        (struct.pack(">ihhih", 10, PRODUCE, 2, 1, -1), "Produce v2 is not served, only 3 to 13"),
        (struct.pack(">ihhih", 10, HEARTBEAT, 0, 1, 9), "header.client_id"),
        (struct.pack(">ihhih", 10, HEARTBEAT, 0, 1, -2), "header.client_id"),
        (struct.pack(">ihhih1s", 11, HEARTBEAT, 0, 1, 1, b"\xff"), "invalid UTF-8"),
        (struct.pack(">ihhih", 10, HEARTBEAT, 4, 1, -1), "header.tags"),
        (struct.pack(">ihhih", 10, HEARTBEAT, 0, 1, -1), "malformed: group_id"),
        (struct.pack(">ihhihb", 11, PRODUCE, 9, 1, -1, 0), "malformed: transactional_id"),
        (produce("x")[:-1] + b"\1", "malformed: tags"),
    ],
)
def test_refused_with_one_line(raw: bytes, reason: str, lines: Callable[[], list[str]]) -> None:
    """Bytes that are no request end in a closed connection and one log line with the reason."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            client = await Client.connect(port)
            client.send(raw)

            assert await client.closed() == b""
            assert [reason in line for line in lines()] == [True], lines()
            await until(lambda: not server.connections, "the connection is gone")
            assert server.host.request_budget.used == server.host.receive_budget.used == 0

    run(test())


def test_answers_before_a_refusal() -> None:
    """Requests before a broken one are answered if their answers are due."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            client.send(produce("a", 1), struct.pack(">i", -5))

            assert (await client.frame())[0] == 1
            assert await client.closed() == b""

    run(test())


def test_half_closed_peer_gets_its_answer() -> None:
    """A peer that stops sending (nc) still gets its answers, then the connection ends."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            client = await Client.connect(port)
            client.send(produce("wait", 7))
            client.writer.write_eof()
            await until(lambda: "wait" in gate.waiting, "begun")
            await asyncio.sleep(0.02)
            gate.waiting["wait"].send((b"late",))

            assert await client.frame() == (7, b"\0late")
            assert await client.closed() == b""

    run(test())
