"""The port for nodes of other machines: whoever has no certificate of the cluster's authority gets nothing there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.errors import CoordinatorRefuses, CorruptState
from gateway.cluster.authority import Authority, NodeTls, name_of
from gateway.cluster.peer import Peer, PeerAway, by_tls
from gateway.config.addresses import ListenAddress
from gateway.network.binding import bind
from gateway.network.connection_limits import INNER_OF_AN_ADDRESS_MAX
from gateway.network.host import ServerLimits
from gateway.network.server import Server
from gateway.security.principal import NODE
from tests.gateway.network.harness import DEADLINE_S, HEARTBEAT, Client, Gate, heartbeat, run, serving, until
from tests.gateway.security.certificates import make

ANSWER_S = 10.0
GOLDEN = Path(__file__).parent / "formats" / "authority-1.json"
ASKED = {"group_id": "abc", "member_id": "m"}
SERVING, ASKING = 2, 3


@asynccontextmanager
async def door(gate: Gate, tls: NodeTls, limits: ServerLimits | None = None) -> AsyncIterator[tuple[Server, int]]:
    """The port of a node, at which the handlers of `gate` answer."""
    binding = bind(ListenAddress("127.0.0.1", 0), inner=True)
    async with serving(gate, limits, binding=binding, inner=tls) as (server, port):
        yield server, port


@asynccontextmanager
async def asking(port: int, tls: NodeTls, asked: int = SERVING) -> AsyncIterator[Peer]:
    address = f"127.0.0.1:{port}"
    peer = Peer(address, by_tls(asked, address, tls))
    yield peer
    await peer.close()


def test_nodes_of_one_authority_talk() -> None:
    """Whoever comes in is a node, before its first request is read."""

    async def test() -> None:
        authority, gate = Authority.make(), Gate()
        async with (
            door(gate, authority.node(SERVING)) as (server, port),
            asking(port, Authority.decode(authority.encode()).node(ASKING)) as peer,
        ):
            assert (await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)).error_code == 3
            assert [connection.principal for connection in server.connections] == [NODE]

    run(test())


def stranger(kind: str, files: Path, ours: Authority) -> ssl.SSLContext | None:
    """What somebody without the secret may come with, and a node that could be listened to; None: no TLS."""
    if kind == "in clear":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if kind == "with a client's certificate":
        context.load_cert_chain(make(files).client())
    elif kind == "with a node's certificate of another cluster":
        other = Authority.make().node(ASKING).dialling
        other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
        return other
    elif kind == "over an older TLS":
        older = ours.node(ASKING).dialling
        older.check_hostname, older.verify_mode = False, ssl.CERT_NONE
        older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_2
        return older
    return context


@pytest.mark.parametrize(
    "kind",
    [
        "in clear",
        "without a certificate",
        "with a client's certificate",
        "with a node's certificate of another cluster",
        "over an older TLS",
    ],
)
def test_strangers_get_nothing(kind: str, tmp_path: Path) -> None:
    """Their connection ends in the handshake. No request of theirs is read, and none is answered."""

    async def test() -> None:
        gate, ours = Gate(), Authority.make()
        async with door(gate, ours.node(SERVING)) as (server, port):
            got = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                context = stranger(kind, tmp_path, ours)
                client = Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context))
                client.send(heartbeat("abc"))
                got = await client.closed()
            await until(lambda: not server.connections, "the connection ends")
            assert got == b""
            assert gate.begun == []
            assert server.tls.handshakes == 0

    run(test())


def test_a_stranger_that_says_nothing_is_let_go() -> None:
    async def test() -> None:
        limits = ServerLimits(first_request_ms=100, sweep_ms=20)
        async with door(Gate(), Authority.make().node(SERVING), limits) as (server, port):
            client = await Client.connect(port)
            assert await client.closed() == b""
            assert not server.connections

    run(test())


def test_clients_keep_no_node_out() -> None:
    """Nodes have bounds of their own. Strangers of one address, who have not shown a certificate yet, take few."""

    async def test() -> None:
        authority, limits = Authority.make(), ServerLimits(connections_max=1)
        async with door(Gate(), authority.node(SERVING), limits) as (server, port):
            clients = bind(ListenAddress("127.0.0.1", 0))
            server.acceptor.start([clients])
            one = await Client.connect(clients.port)
            await until(lambda: server.counts.count == 1, "connected")
            assert await (await Client.connect(clients.port)).closed() == b""
            async with asking(port, authority.node(ASKING)) as peer:
                assert (await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)).error_code == 3
            await until(lambda: len(server.connections) == 1, "the node has gone")
            silent = [await Client.connect(port) for _ in range(INNER_OF_AN_ADDRESS_MAX)]
            assert await (await Client.connect(port)).closed() == b""
            silent.pop().close()
            await until(lambda: len(server.connections) == INNER_OF_AN_ADDRESS_MAX, "room for a node")
            async with asking(port, authority.node(ASKING)) as peer:
                assert (await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)).error_code == 3
            for each in (one, *silent):
                each.close()

    run(test())


def test_the_rate_of_new_connections_is_for_clients() -> None:
    """Clients wait for as long as the rate says, here for ever; a node's connection is made at once."""

    async def test() -> None:
        authority, limits = Authority.make(), ServerLimits(connections_per_s_max=0)
        async with door(Gate(), authority.node(SERVING), limits) as (server, port):
            clients = bind(ListenAddress("127.0.0.1", 0))
            server.acceptor.start([clients])
            waiting = await Client.connect(clients.port)
            waiting.send(heartbeat("abc"))
            await until(lambda: server.acceptor.waiting_s > 0, "it has to wait")
            async with asking(port, authority.node(ASKING)) as peer:
                assert (await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)).error_code == 3
            assert server.counts.count == 0
            waiting.close()

    run(test())


def test_a_node_tells_nothing_to_who_is_not_the_node_it_asks() -> None:
    """Another cluster's node at that address, another node of this one, or whoever took the port: no request goes."""

    async def test() -> None:
        authority, gate = Authority.make(), Gate()
        ours = authority.node(ASKING)
        async with door(gate, Authority.make().node(SERVING)) as (_, port), asking(port, ours) as peer:
            with pytest.raises(PeerAway, match="certificate"):
                await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)
        async with door(gate, authority.node(SERVING)) as (_, port), asking(port, ours, asked=4) as peer:
            with pytest.raises(PeerAway, match=r"node-4\.penstock"):
                await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)
        async with serving(gate) as (_, port), asking(port, ours) as peer:
            with pytest.raises(PeerAway):
                await peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S)
        assert gate.begun == []

    run(test())


def test_a_port_for_nodes_is_not_served_without_certificates() -> None:
    async def test() -> None:
        binding = bind(ListenAddress("127.0.0.1", 0), inner=True)
        with pytest.raises(ValueError, match="certificates"):
            async with serving(Gate(), binding=binding):
                pass
        binding.close()

    run(test())


def test_a_peer_that_was_closed_stays_closed() -> None:
    """Also when it was closed while it connected."""

    async def test() -> None:
        authority, gate = Authority.make(), Gate()
        async with door(gate, authority.node(SERVING)) as (server, port):
            async with asking(port, authority.node(ASKING)) as peer:
                asked = asyncio.create_task(peer.ask(HEARTBEAT, 4, ASKED, ANSWER_S))
                await asyncio.sleep(0)
            with pytest.raises(PeerAway, match="closed here"):
                await asyncio.wait_for(asked, DEADLINE_S)
            await until(lambda: not server.connections, "nobody is connected")
            assert gate.begun == []

    run(test())


# The authority as it lies in etcd


def test_the_stored_format_is_read() -> None:
    """A process of this release and a node that was let in by format 1 know one another."""
    authority = Authority.decode(GOLDEN.read_bytes())
    assert authority.encode() == GOLDEN.read_bytes()
    assert name_of(7) == "node-7.penstock"
    authority.node(7)


@pytest.mark.parametrize("damage", ["{}", "[]", "\xff", '{"v":1,"key":"k","certificate":"c"}', "another key"])
def test_what_is_no_authority_is_refused(damage: str) -> None:
    """The message shows nothing of it."""
    if damage == "another key":
        mixed = json.loads(Authority.make().encode()) | {"key": json.loads(GOLDEN.read_text())["key"]}
        damage = json.dumps(mixed)
    with pytest.raises(CorruptState, match="key authority in etcd") as refused:
        Authority.decode(damage.encode("latin1"))
    assert "PRIVATE" not in str(refused.value)


def test_a_later_format_is_refused() -> None:
    later = json.loads(GOLDEN.read_text()) | {"v": 2}
    with pytest.raises(CoordinatorRefuses, match="format 2"):
        Authority.decode(json.dumps(later).encode())


def test_no_description_shows_a_key() -> None:
    authority = Authority.make()
    secret = json.loads(authority.encode())["key"].splitlines()[1]
    assert secret not in f"{authority!r} {authority.node(1)!r}"
