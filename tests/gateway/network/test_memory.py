"""The memory of connections is bounded, shared fairly, and given back."""

import gc
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.network.host import ServerLimits
from tests.gateway.network.harness import (
    HEARTBEAT,
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
    """A bounded number of requests of one connection are started and not answered."""

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
    """A bounded number of handler tasks of one connection run at a time."""

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
    """A peer that asks and never reads stops being served; its waiting answers stay bounded."""

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
    """Answers arrive whole, whatever the socket takes at a time, and whatever small ones stand between."""

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
    """When answers have used up their bound, a client that reads nothing is closed and others go on."""
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
            slot = gate.waiting["wait"]
            other = slot.connection
            assert other.output_room() == 0
            other.when_output_room(slot, lambda: room.append(other.output_room()))

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
    """A client's name costs an idle connection little, however long it is."""

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
