"""One node asks another: answers find their requests, and none waits for ever."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.cluster import peer as peers
from gateway.cluster.peer import Peer, PeerAway
from tests.gateway.network.harness import HEARTBEAT, Gate, run, serving, until

ANSWER_S = 10.0


def heartbeat(name: str) -> dict[str, object]:
    return {"group_id": name, "member_id": "m"}


def test_answers_find_their_requests() -> None:
    """Many requests at a time over one connection: each gets its own answer, in every version of the header."""

    async def test() -> None:
        async with serving(Gate()) as (server, port):
            peer = Peer("127.0.0.1", port)
            asked = [peer.ask(HEARTBEAT, n % 5, heartbeat("g" * n), ANSWER_S) for n in range(1, 50)]
            answers = await asyncio.gather(*asked)
            assert [answer.error_code for answer in answers] == list(range(1, 50))
            assert len(server.connections) == 1
            await peer.close()

    run(test())


def test_an_answer_that_does_not_come() -> None:
    """A request without an answer fails at its deadline, and those behind it are answered all the same once it is."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            peer = Peer("127.0.0.1", port)
            with pytest.raises(PeerAway, match=r"no answer within 0\.1 s"):
                await peer.ask(HEARTBEAT, 4, heartbeat("wait"), 0.1)
            gate.released["wait"].set()
            assert (await peer.ask(HEARTBEAT, 4, heartbeat("abc"), ANSWER_S)).error_code == 3
            await peer.close()

    run(test())


def test_nobody_there() -> None:
    """A port where nobody listens: the request fails at once, not at its deadline, and the next one tries again."""

    async def test() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        peer = Peer("127.0.0.1", port)
        for _ in range(2):
            with pytest.raises(PeerAway, match="does not answer"):
                await peer.ask(HEARTBEAT, 4, heartbeat("a"), 600)

    run(test())


def test_a_node_that_ends() -> None:
    """Requests under way fail when the other node ends; the next request connects again."""

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (server, port):
            peer = Peer("127.0.0.1", port)
            asked = [asyncio.create_task(peer.ask(HEARTBEAT, 4, heartbeat(f"wait-{n}"), 600)) for n in range(3)]
            await until(lambda: len(gate.begun) == 3, "all begun")
            for connection in server.connections:
                connection.close()
            for each in asked:
                with pytest.raises(PeerAway):
                    await each
            assert (await peer.ask(HEARTBEAT, 4, heartbeat("again"), ANSWER_S)).error_code == 5
            await peer.close()

    run(test())


@pytest.mark.parametrize("sent", [b"\x7f\xff\xff\xff", b"\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n"])
def test_bytes_that_are_no_answer(sent: bytes) -> None:
    """A length that no answer has ends the connection; nothing is allocated for what is merely claimed."""

    async def test() -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        peer = Peer("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(PeerAway, match="an answer of"):
            await peer.ask(HEARTBEAT, 4, heartbeat("a"), ANSWER_S)
        server.close()

    run(test())


def test_no_more_than_the_bound_are_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond IN_FLIGHT_MAX wait here until others are answered."""
    monkeypatch.setattr(peers, "IN_FLIGHT_MAX", 2)

    async def test() -> None:
        gate = Gate()
        async with serving(gate) as (_, port):
            peer = Peer("127.0.0.1", port)
            asked = [asyncio.create_task(peer.ask(HEARTBEAT, 4, heartbeat(f"wait-{n}"), ANSWER_S)) for n in range(3)]
            await until(lambda: len(gate.begun) == 2, "two begun")
            with pytest.raises(PeerAway, match="no answer within"):
                await peer.ask(HEARTBEAT, 4, heartbeat("late"), 0.1)
            assert gate.begun == ["wait-0", "wait-1"]
            gate.released["wait-0"].set()
            await until(lambda: len(gate.begun) == 3, "the third began")
            for name in ("wait-1", "wait-2"):
                gate.released[name].set()
            assert [answer.error_code for answer in await asyncio.gather(*asked)] == [6, 6, 6]
            await peer.close()

    run(test())
