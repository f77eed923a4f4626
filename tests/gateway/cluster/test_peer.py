"""One node asks another: answers find their requests, and none waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.cluster import peer as peers
from gateway.cluster.nodes import Node, Nodes
from gateway.cluster.peer import Peer, PeerAway, by_socket_file
from gateway.cluster.peers import Peers
from gateway.network.binding import bind_inner
from gateway.network.server import Server
from gateway.security.principal import ANONYMOUS, NODE
from tests.gateway.network.harness import HEARTBEAT, Client, Gate, produce, run, serving, until

ANSWER_S = 10.0


@asynccontextmanager
async def node(directory: Path, gate: Gate | None = None) -> AsyncIterator[tuple[Server, Peer]]:
    """A node that serves others, and another one's connection to it."""
    path = str(directory / "node.sock")
    async with serving(gate or Gate(), binding=bind_inner(path)) as (server, _):
        peer = Peer(path, by_socket_file(path))
        yield server, peer
        await peer.close()


def heartbeat(name: str) -> dict[str, object]:
    return {"group_id": name, "member_id": "m"}


def test_answers_find_their_requests(tmp_path: Path) -> None:
    """Many requests at a time over one connection: each gets its own answer, in every version of the header."""

    async def test() -> None:
        async with node(tmp_path) as (server, peer):
            asked = [peer.ask(HEARTBEAT, n % 5, heartbeat("g" * n), ANSWER_S) for n in range(1, 50)]
            answers = await asyncio.gather(*asked)
            assert [answer.error_code for answer in answers] == list(range(1, 50))
            assert len(server.connections) == 1

    run(test())


def test_an_answer_that_does_not_come(tmp_path: Path) -> None:
    """A request without an answer fails at its deadline, and those behind it are answered all the same once it is."""

    async def test() -> None:
        gate = Gate()
        async with node(tmp_path, gate) as (_, peer):
            with pytest.raises(PeerAway, match=r"no answer within 0\.1 s"):
                await peer.ask(HEARTBEAT, 4, heartbeat("wait"), 0.1)
            gate.released["wait"].set()
            assert (await peer.ask(HEARTBEAT, 4, heartbeat("abc"), ANSWER_S)).error_code == 3

    run(test())


def test_nobody_there(tmp_path: Path) -> None:
    """A node that does not listen: the request fails at once, not at its deadline, and the next one tries again."""

    async def test() -> None:
        peer = Peer("node.sock", by_socket_file(str(tmp_path / "node.sock")))
        for _ in range(2):
            with pytest.raises(PeerAway, match="does not answer"):
                await peer.ask(HEARTBEAT, 4, heartbeat("a"), 600)

    run(test())


def test_a_node_that_ends(tmp_path: Path) -> None:
    """Requests under way fail when the other node ends; the next request connects again."""

    async def test() -> None:
        gate = Gate()
        async with node(tmp_path, gate) as (server, peer):
            asked = [asyncio.create_task(peer.ask(HEARTBEAT, 4, heartbeat(f"wait-{n}"), 600)) for n in range(3)]
            await until(lambda: len(gate.begun) == 3, "all begun")
            for connection in server.connections:
                connection.close()
            for each in asked:
                with pytest.raises(PeerAway):
                    await each
            assert (await peer.ask(HEARTBEAT, 4, heartbeat("again"), ANSWER_S)).error_code == 5

    run(test())


def test_a_node_whose_lease_ends(tmp_path: Path) -> None:
    """It may only sleep, so its kernel holds the connection: what it was asked fails at once all the same."""

    async def test() -> None:
        gate, path = Gate(), str(tmp_path / "node.sock")
        async with serving(gate, binding=bind_inner(path)):
            nodes = Nodes(1, lambda container_id: False)
            nodes.replace([Node(id=2, listeners={}, containers={0: 1}, inner=path)])
            known = Peers(nodes)
            peer = known.of_container(0)
            assert peer is not None
            asked = asyncio.create_task(peer.ask(HEARTBEAT, 4, heartbeat("wait"), 600))
            await until(lambda: gate.begun == ["wait"], "begun")
            known.follow()
            assert known.of_container(0) is peer
            nodes.replace([])
            known.follow()
            with pytest.raises(PeerAway):
                await asked
            assert known.of_container(0) is None
            await known.close()

    run(test())


@pytest.mark.parametrize("sent", [b"\x7f\xff\xff\xff", b"\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n"])
def test_bytes_that_are_no_answer(tmp_path: Path, sent: bytes) -> None:
    """A length that no answer has ends the connection; nothing is allocated for what is merely claimed."""

    async def test() -> None:
        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)

        server = await asyncio.start_unix_server(talk, tmp_path / "node.sock")
        peer = Peer("node.sock", by_socket_file(str(tmp_path / "node.sock")))
        with pytest.raises(PeerAway, match="an answer of"):
            await peer.ask(HEARTBEAT, 4, heartbeat("a"), ANSWER_S)
        server.close()

    run(test())


def test_no_more_than_the_bound_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond IN_FLIGHT_MAX wait here until others are answered."""
    monkeypatch.setattr(peers, "IN_FLIGHT_MAX", 2)

    async def test() -> None:
        gate = Gate()
        async with node(tmp_path, gate) as (_, peer):
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

    run(test())


def test_other_nodes_are_known(tmp_path: Path) -> None:
    """Whoever comes by the socket file is a node: only this user reaches it. A client is nobody, whatever it says."""

    async def test() -> None:
        async with node(tmp_path) as (server, peer), serving(Gate()) as (clients, port):
            await peer.ask(HEARTBEAT, 4, heartbeat("a"), ANSWER_S)
            client = await Client.connect(port)
            client.send(produce("b"))
            await client.frame()
            assert [connection.principal for connection in server.connections] == [NODE]
            assert [connection.principal for connection in clients.connections] == [ANONYMOUS]
            client.close()

    run(test())
