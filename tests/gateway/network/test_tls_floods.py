"""Records of TLS that bring no data, or hardly any, in number: others are served meanwhile, and who sends them is not
read for long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway.network import turns
from gateway.network.connection import Connection
from gateway.network.idle_records import IDLE_RECORDS_MAX
from gateway.network.server import Server
from tests.gateway.network.harness import Gate, heartbeat, produce, run, serving, until
from tests.gateway.network.own_records import (
    ALERT,
    CHANGE_OF_CIPHERS,
    DATA,
    HANDSHAKE,
    Sealing,
    Sealing12,
    Sealing13,
)
from tests.gateway.network.test_tls import WAYS, connect, security, way
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

__all__ = ["way"]

FLOOD: Final = 4_000
CLIENT_HELLO: Final = b"\x01\0\0\0"
"""Without content: it is refused before it is read."""
WARNING: Final = b"\x01\x5a"
"""That the user has cancelled something: one that nobody has to heed (RFC 8446, section 6)."""
MAKERS: Final = {"TLSv1.2": Sealing12, "TLSv1.3": Sealing13}

Make = Callable[[Sealing], bytes]


def changed(client: Sealing, *, asks: bool = False, padding: int = 0) -> bytes:
    assert isinstance(client, Sealing13)
    return client.key_update(asks=asks, padding=padding)


KINDS: Final[dict[str, tuple[str, Make]]] = {
    "changes of keys": ("TLSv1.3", changed),
    "changes of keys that ask for another": ("TLSv1.3", lambda client: changed(client, asks=True)),
    "changes of keys, padded": ("TLSv1.3", lambda client: changed(client, padding=1_000)),
    "empty records": ("TLSv1.3", lambda client: client.record(DATA, b"")),
    "warnings": ("TLSv1.3", lambda client: client.record(ALERT, WARNING)),
    "changes of ciphers": ("TLSv1.3", lambda client: bytes([CHANGE_OF_CIPHERS, 3, 3, 0, 1, 1])),
    "tickets": ("TLSv1.3", lambda client: client.record(HANDSHAKE, b"\x04\0\0\0")),
    "requests for a handshake": ("TLSv1.2", lambda client: client.record(HANDSHAKE, CLIENT_HELLO)),
    "requests for a hello": ("TLSv1.2", lambda client: client.record(HANDSHAKE, b"\0\0\0\0")),
    "parts of a message": ("TLSv1.2", lambda client: client.record(HANDSHAKE, b"\x01")),
    "empty records of TLS 1.2": ("TLSv1.2", lambda client: client.record(DATA, b"")),
    "warnings of TLS 1.2": ("TLSv1.2", lambda client: client.record(ALERT, WARNING)),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


def pour(plain: socket.socket, flood: bytes) -> None:
    """Send all of it, unless the server hangs up."""
    with contextlib.suppress(OSError):
        plain.sendall(flood)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_ends_its_connection(files: Files, tmp_path: Path, lines: Callable[[], list[str]], kind: str) -> None:
    """Thousands of records without data at once: closed with one line, none of what comes behind them is done, and
    others are served."""
    version, record = KINDS[kind]
    gate = Gate()

    async def scenario() -> None:
        secured = security(files, ssl_enabled_protocols=["TLSv1.2", "TLSv1.3"])
        async with serving(gate, secured=secured) as (server, port):
            loop = asyncio.get_running_loop()
            other = await connect(files, port)
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, MAKERS[version], files, plain, tmp_path / "keys")
                flood = b"".join(record(client) for _ in range(FLOOD)) + client.record(DATA, heartbeat("behind"))
                pouring = loop.run_in_executor(None, pour, plain, flood)
                for number in range(10):
                    other.send(heartbeat("a", number))
                    assert (await other.frame())[0] == number
                await until(lambda: len(server.connections) == 1, "the flood's connection is gone")
                await pouring
            assert len([line for line in lines() if "connection closed" in line and "TLS records" in line]) == 1
            assert "behind" not in gate.begun
            assert server.host.receive_budget.used == 0
            other.close()

    run(scenario())


def mixed(client: Sealing13, requests: bytes) -> Iterator[bytes]:
    """Each byte of the requests in a record of its own, behind as many changes of keys as may come at once."""
    for at in range(len(requests)):
        yield from (client.key_update() for _ in range(IDLE_RECORDS_MAX - 1))
        yield client.record(DATA, requests[at : at + 1])


def test_a_flood_with_some_data(files: Files, tmp_path: Path, lines: Callable[[], list[str]], way: str) -> None:
    """A byte of a request now and then, among changes of keys: where they can be counted the connection is closed,
    elsewhere it has its share of the loop. In either case others are served."""
    gate = Gate()
    requests = b"".join(heartbeat("mixed", number) for number in range(3))

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            other = await connect(files, port)
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                pouring = loop.run_in_executor(None, pour, plain, b"".join(mixed(client, requests)))
                for number in range(10):
                    other.send(heartbeat("a", number))
                    assert (await other.frame())[0] == number
                if way == WAYS[0]:
                    await until(lambda: len(server.connections) == 1, "the flood's connection is gone")
                    assert len([line for line in lines() if "TLS records without data" in line]) == 1
                else:
                    await until(lambda: gate.begun.count("mixed") == 3, "its requests are done")
                await pouring
            other.close()

    run(scenario())


def turns_waited(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Who has to wait for a turn from now on, while every share of a round is as small as can be."""
    waited: list[object] = []
    wait = server.host.turns.wait

    def seen(party: turns.Party, go_on: Callable[[], bool]) -> None:
        waited.append(party)
        wait(party, go_on)

    monkeypatch.setattr(server.host.turns, "wait", seen)
    for share in ("PARTY_S", "UNCOUNTED_S"):
        monkeypatch.setattr(turns, share, 0.0)
    return waited


@pytest.mark.usefixtures("way")
def test_decryption_is_a_turn(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of one byte cost more than what they bring: their decryption counts as the client's time. It waits for
    its turn, more than once for a request here, and in the end all of them are answered, and a client that stops
    sending meanwhile loses none."""
    gate = Gate()
    names = [f"tiny-{number}" for number in range(4)]

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                await until(lambda: server.tls.handshakes == 1, "the handshake")
                waited = turns_waited(server, monkeypatch)
                requests = b"".join(produce(name, acks=0, size=10_000) for name in names)
                wire = b"".join(client.record(DATA, requests[at : at + 1]) for at in range(len(requests)))
                await loop.run_in_executor(None, pour, plain, wire)
                plain.shutdown(socket.SHUT_WR)
                await until(lambda: not server.connections, "it has ended")
            assert gate.begun == names
            assert len(waited) > len(names)
            assert server.host.receive_budget.used == 0

    run(scenario())


@pytest.mark.usefixtures("way")
def test_a_turn_that_came_is_taken(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of its party have the share of every round before what a client sent is decrypted: it goes on all the
    same, a piece in each of its turns."""
    gate = Gate()
    names = [f"tiny-{number}" for number in range(4)]

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                await until(lambda: server.tls.handshakes == 1, "the handshake")
                (connection,) = server.connections
                waited = turns_waited(server, monkeypatch)
                is_over = False

                def others() -> None:
                    server.host.turns.spend(connection.party, 1.0)
                    if not is_over:
                        loop.call_soon(others)

                others()
                requests = b"".join(produce(name, acks=0, size=1_000) for name in names)
                plain.sendall(b"".join(client.record(DATA, requests[at : at + 1]) for at in range(len(requests))))
                try:
                    await until(lambda: gate.begun == names, "all are done")
                finally:
                    is_over = True
            assert waited

    run(scenario())


@pytest.mark.usefixtures("way")
def test_turns_to_decrypt_come_one_by_one(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many connections of a party that had its share wait with much to decrypt: one of them has a turn in a round."""
    gate = Gate()
    names = [f"client-{number}" for number in range(8)]
    rounds = [0]
    spent = Connection.spent

    def seen(connection: Connection, seconds: float) -> None:
        rounds[-1] += 1
        spent(connection, seconds)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop, fair = asyncio.get_running_loop(), server.host.turns
            wires = []
            for name in names:
                plain = socket.create_connection(("127.0.0.1", port), 10)
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / name)
                request = produce(name, acks=0, size=1_000)
                wires.append((plain, b"".join(client.record(DATA, request[at : at + 1]) for at in range(len(request)))))
            await until(lambda: server.tls.handshakes == len(names), "the handshakes")
            parties = {connection.party for connection in server.connections}
            next_round, is_over = fair._next_round, False

            def others() -> None:
                for party in parties | {connection.party for connection in server.connections}:
                    fair.spend(party, 1.0)
                if not is_over:
                    loop.call_soon(others)

            def begin_round() -> None:
                rounds.append(0)
                next_round()

            monkeypatch.setattr(fair, "_next_round", begin_round)
            monkeypatch.setattr(Connection, "spent", seen)
            others()
            for plain, wire in wires:
                plain.sendall(wire)
            try:
                await until(lambda: sorted(gate.begun) == names, "all are done")
            finally:
                is_over = True
                for plain, _ in wires:
                    plain.close()
            assert sum(rounds) >= len(names)
            assert max(rounds) == 1

    run(scenario())


@pytest.mark.usefixtures("way")
def test_changes_of_keys_that_a_client_needs(files: Files, tmp_path: Path) -> None:
    """Before each of its requests, and more than one at a time, a client may change its keys, and ask for others of the
    server's: all requests are done."""
    gate = Gate()
    names = [f"r{number}" for number in range(8)]

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                for number, name in enumerate(names):
                    changes = b"".join(client.key_update(asks=bool(each)) for each in range(3))
                    data = client.record(DATA, produce(name, acks=0), padding=number)
                    plain.sendall(changes + data)
                await until(lambda: gate.begun == names, "all are done")
                assert len(server.connections) == 1

    run(scenario())
