"""Connections: order, patience with slow peers, and none with broken ones. Over real sockets."""

import asyncio
import gc
import logging
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.network.host import ServerLimits
from gateway.network.receiver import PEEK_BYTES, SCRATCH_BYTES
from tests.gateway.network.harness import (
    HEARTBEAT,
    PRODUCE,
    Client,
    Gate,
    heartbeat,
    produce,
    quiet_socket,
    request,
    run,
    serving,
    unchanged,
    until,
)

pytestmark = pytest.mark.slow

API_VERSIONS = 18
KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "gateway")
    return lambda: [record.getMessage() for record in caplog.records]


# --- Order ----------------------------------------------------------------------------------------


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


# --- Frames ---------------------------------------------------------------------------------------


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
    """Whichever buffers they came through, behind whatever came before."""

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
        (b"GET / HTTP/1.1\r\n\r\n", "a request of 1195725856 bytes"),
        (bytes.fromhex("16030102000100"), "a request of 369295618 bytes"),
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
    """What is no request ends in a closed connection and one log line that says why."""

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
    """A peer that stops sending (nc) still gets what it asked for, then the connection ends."""

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


# --- ApiVersions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(5))
def test_api_versions(version: int) -> None:
    """Exactly what is registered is advertised, but Produce from 0."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            software = {"client_software_name": "apache-kafka-java", "client_software_version": "4.3.1"}
            client.send(request(API_VERSIONS, version, software, 5))
            correlation_id, answer = await client.answer(API_VERSIONS, version)

            assert (correlation_id, answer.error_code) == (5, 0)
            assert [(k.api_key, k.min_version, k.max_version) for k in answer.api_keys] == [
                (PRODUCE, 0, 13),
                (HEARTBEAT, 0, 4),
                (API_VERSIONS, 0, 4),
            ]
            assert {f.name for f in answer.finalized_features} <= {"metadata.version", "transaction.version"}

    run(test())


@pytest.mark.parametrize("version", [5, 99, 2**15 - 1, -1])
def test_api_versions_unsupported(version: int) -> None:
    """A version that we do not know, with whatever header and body, is answered in version 0's form."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            client.send(struct.pack(">ihhi", 20, API_VERSIONS, version, 42) + b"\xff" * 12)
            correlation_id, answer = await client.answer(API_VERSIONS, 0)

            assert (correlation_id, answer.error_code) == (42, 35)
            assert [(k.api_key, k.min_version, k.max_version) for k in answer.api_keys] == [(API_VERSIONS, 0, 4)]

            client.send(request(API_VERSIONS, 0, {}, 43))
            assert (await client.answer(API_VERSIONS, 0))[0] == 43

    run(test())


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("a b", "1"), ("ok", "-1"), ("ok", ""), ("é", "1")])
def test_api_versions_bad_software(name: str, version: str) -> None:
    """A client that names itself against the rules is told INVALID_REQUEST."""

    async def test() -> None:
        async with serving(Gate()) as (_, port):
            client = await Client.connect(port)
            software = {"client_software_name": name, "client_software_version": version}
            client.send(request(API_VERSIONS, 3, software))
            _, answer = await client.answer(API_VERSIONS, 3)

            assert (answer.error_code, answer.api_keys) == (42, [])

    run(test())


# --- Handlers that fail ---------------------------------------------------------------------------


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


# --- Time-outs and limits -------------------------------------------------------------------------

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
    """Whoever connects and says nothing is not kept for ever."""

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


# --- Memory ---------------------------------------------------------------------------------------


def test_request_bytes_are_bounded_fairly() -> None:
    """When the bytes of requests are at their bound, connections wait and all go on in turn."""

    async def test() -> None:
        gate = Gate()
        limits = ServerLimits(queued_request_bytes_max=MIB)  # half of it for requests being handled
        async with serving(gate, limits) as (server, port):
            clients = [await Client.connect(port) for _ in range(8)]
            for index, client in enumerate(clients):
                client.send(*(produce(f"wait-{index}-{n}", n, size=200 * KIB) for n in range(4)))

            seen = 0
            while seen < 32:
                await until(lambda: bool(gate.waiting), f"another request after {seen}")
                assert server.host.request_budget.used <= MIB // 2 + 201 * KIB
                assert server.host.receive_budget.used <= MIB // 2 + 8 * 512 * KIB
                name, reply = gate.waiting.popitem()
                reply.send((name.encode(),))
                seen += 1
            for client in clients:
                assert [(await client.frame())[0] for _ in range(4)] == [0, 1, 2, 3]
            assert server.host.request_budget.used == server.host.receive_budget.used == 0

    run(test())


def test_half_requests_do_not_block_each_other_for_ever() -> None:
    """When halves of requests have used up their bound, they are completed one after the other."""

    async def test() -> None:
        limits = ServerLimits(queued_request_bytes_max=MIB)
        async with serving(Gate(), limits) as (server, port):
            clients = [await Client.connect(port) for _ in range(8)]
            raw = produce("big", 3, size=500 * KIB)
            for client in clients:
                client.send(raw[: 300 * KIB])
            await until(lambda: any(c.blocked for c in server.connections), "the bound is reached")
            for client in clients:
                client.send(raw[300 * KIB :])

            assert [(await client.frame())[0] for client in clients] == [3] * 8

    run(test())


def test_in_flight_limit() -> None:
    """No more than so many requests of one connection are started and not answered."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate, ServerLimits(in_flight_requests_max=8)) as (server, port):
            client = await Client.connect(port)
            client.send(*(produce(f"wait-{n}", n) for n in range(50)))
            for n in range(50):
                await until(lambda n=n: f"wait-{n}" in gate.waiting, f"request {n}")
                assert server.connections[0].in_flight <= 8
                gate.waiting.pop(f"wait-{n}").send((b"",))

            assert [(await client.frame())[0] for _ in range(50)] == list(range(50))

    run(test())


def test_tasks_limit() -> None:
    """No more than so many handler tasks of one connection run at a time."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate, ServerLimits(tasks_max=4)) as (_, port):
            client = await Client.connect(port)
            client.send(*(heartbeat(f"wait-{n}", n) for n in range(10)))
            for n in range(10):
                await until(lambda n=n: f"wait-{n}" in gate.released, f"request {n}")
                assert len(gate.begun) <= n + 4
                gate.released[f"wait-{n}"].set()

            assert [(await client.frame())[0] for _ in range(10)] == list(range(10))

    run(test())


def test_peer_that_never_reads() -> None:
    """A peer that asks and never reads stops being served; what waits for it stays bounded."""

    async def test() -> None:
        gate = Gate()
        gate.answer_bytes = 256 * KIB
        async with serving(gate, ServerLimits(connection_output_bytes_max=MIB)) as (server, port):
            peer = quiet_socket(port)
            peer.setblocking(False)
            asked = produce("a") * 200
            peer.send(asked)
            await until(lambda: server.host.output_budget.used > 0, "the peer's socket is full")
            await unchanged(lambda: len(gate.begun))

            (connection,) = server.connections
            assert len(gate.begun) < 100
            assert connection.output_room() == 0
            assert 0 < server.host.output_budget.used <= 20 * MIB
            assert "peer-does-not-read" in repr(connection)
            other = await Client.connect(port)
            other.send(produce("other", 5))
            assert (await other.frame())[0] == 5
            peer.close()
            await until(lambda: server.host.output_budget.used == 0, "given back")

    run(test())


def test_peer_that_reads_again() -> None:
    """A peer that stopped reading and goes on gets every answer, in order."""

    async def test() -> None:
        gate = Gate()
        gate.answer_bytes = 100 * KIB
        async with serving(gate, ServerLimits(connection_output_bytes_max=200 * KIB)) as (server, port):
            client = await Client.connect(port)
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            client.send(*(produce("a", n) for n in range(300)))
            await until(lambda: any(c.blocked for c in server.connections), "not read any more")
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]

            assert [(await client.frame())[0] for _ in range(300)] == list(range(300))
            assert server.host.output_budget.used == 0

    run(test())


@pytest.mark.parametrize("parts", [[MIB], [64 * KIB] * 40, [5 * MIB, 1, 3 * MIB], [200] * 5000])
def test_large_answers_arrive_byte_for_byte(parts: list[int]) -> None:
    """Whatever the socket takes of them at a time, and whatever small ones stand between."""

    async def test() -> None:
        gate = Gate()
        gate.answers["large"] = [bytes([number % 251]) * size for number, size in enumerate(parts)]
        async with serving(gate, ServerLimits()) as (_, port):
            client = await Client.connect(port)
            client.send(*(produce("large" if n % 3 else "small", n) for n in range(12)))
            expected = b"".join(gate.answers["large"])
            for number in range(12):
                correlation_id, body = await client.frame()
                assert correlation_id == number
                assert body.endswith(expected) == bool(number % 3)

    run(test())


def test_stalled_peer_makes_room(monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]) -> None:
    """When answers have used up their bound, whoever takes nothing is closed and others go on."""
    monkeypatch.setattr("gateway.network.server.STALLED_UNDER_PRESSURE_S", 0.2)

    async def test() -> None:
        gate = Gate()
        gate.answer_bytes = 8 * MIB
        limits = ServerLimits(queued_response_bytes_max=MIB, sweep_ms=50)
        async with serving(gate, limits) as (server, port):
            peer = quiet_socket(port)
            peer.send(produce("a"))
            await until(lambda: server.host.output_budget.exhausted, "the bound is reached")
            room: list[int] = []
            waiter = await Client.connect(port)
            waiter.send(produce("wait"))
            await until(lambda: "wait" in gate.waiting, "begun")
            other = gate.waiting["wait"].connection
            assert other.output_room() == 0
            other.when_output_room(lambda: room.append(other.output_room()))

            await until(lambda: bool(room), "room again")
            assert room == [MIB]
            assert ["are not taken" in line for line in lines()] == [True]
            peer.close()

    run(test())


def test_idle_connections_cost_little() -> None:
    """Two thousand connections that have asked once and wait hold a few KiB each."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            warm = await Client.connect(port)
            warm.send(produce("a"))
            await warm.frame()
            gc.collect()
            before = resident()
            peers = []
            for _ in range(2_000):
                peer = quiet_socket(port)
                peer.send(produce("a"))
                peers.append(peer)
                if len(peers) % 100 == 0:
                    await until(lambda: len(gate.begun) > len(peers), "answered")
            gc.collect()

            assert len(server.connections) == 2_001
            assert (resident() - before) / 2_000 < 8 * KIB
            for peer in peers:
                peer.close()

    run(test())


def test_long_names_are_not_remembered() -> None:
    """What a client calls itself costs an idle connection little, however long it is."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            client = await Client.connect(port)
            long = "x" * 30_000
            client.send(request(API_VERSIONS, 3, {"client_software_name": long, "client_software_version": long}))
            await client.frame()
            name = long.encode()
            frame = struct.pack(">hhih", HEARTBEAT, 0, 1, len(name)) + name + b"\0\1g" + bytes(6)
            for _ in range(2):
                client.send(struct.pack(">i", len(frame)) + frame)
                assert (await client.answer(HEARTBEAT, 0))[1].error_code == 1

            (connection,) = server.connections
            assert len(connection.client_field) + len(connection.client_id or "") < 600
            assert len(f"{connection.client_software_name}{connection.client_software_version}") < 600

    run(test())


# --- Stopping -------------------------------------------------------------------------------------


def test_stop_lets_requests_finish() -> None:
    """A clean stop answers what has begun, begins nothing further, and closes."""

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
