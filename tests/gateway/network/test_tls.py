"""Kafka's frames over TLS: everything arrives, nothing leaves in the clear, and strangers end in one log line."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.config.security import ListenerSecurity, TransportKeys
from gateway.network import sessions
from gateway.network.host import ServerLimits
from gateway.network.outgoing import LARGE_BYTES_MIN
from gateway.network.server import Server
from gateway.network.tls import ASIDE_BYTES_MIN, SEAL_BYTES, WIRE_BYTES
from gateway.network.tls_records import RECORD_BYTES_MAX, whole_records
from gateway.security.listeners import SecuredListener
from gateway.security.tls import ListenerTls
from tests.gateway.network.harness import (
    Client,
    Gate,
    heartbeat,
    produce,
    quiet_socket,
    run,
    serving,
    unchanged,
    until,
)
from tests.gateway.security.certificates import DAY, NOW, Authority, Files, make, name_of

pytestmark = pytest.mark.slow

SIZES: Final = (
    1,
    LARGE_BYTES_MIN - 1,
    LARGE_BYTES_MIN,
    ASIDE_BYTES_MIN + 1,
    SEAL_BYTES,
    SEAL_BYTES + 1,
    1_000_000,
    3_000_001,
)
MARK: Final = b"a record that nobody else may read "


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


WAYS: Final = ("by OpenSSL's functions", "by Python's session", "by Python")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which records are read (`gateway.network.sessions`)."""
    number = WAYS.index(request.param)
    if number == 0 and sessions.native_wrap is None:
        pytest.skip("OpenSSL's functions are not used here")
    if number == 1 and sessions.drain is None:
        pytest.skip("there is no native extension here")
    if number > 0:
        monkeypatch.setattr(sessions, "native_wrap", None)
    if number > 1:
        monkeypatch.setattr(sessions, "drain", None)
    return WAYS[number]


def security(files: Files, **keys: Any) -> dict[str, SecuredListener]:
    own = {"ssl.keystore.location": files.keystore} | {key.replace("_", "."): value for key, value in keys.items()}
    tls = ListenerTls("PLAINTEXT", ListenerSecurity.of(TransportKeys(), own))
    return {"PLAINTEXT": SecuredListener("PLAINTEXT", tls)}


async def connect(files: Files, port: int, context: ssl.SSLContext | None = None) -> Client:
    return Client(*await asyncio.open_connection("localhost", port, ssl=context or files.context()))


def nearly_shaken(files: Files, plain: socket.socket) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client's session on a socket whose bytes are the test's matter, what it reads, and what it would send: as yet
    the last message of its handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = files.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            session.do_handshake()
            return session, incoming, outgoing
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(65_536))


def shaken(files: Files, plain: socket.socket) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """A client's session after its handshake, and what the session would send."""
    session, _, outgoing = nearly_shaken(files, plain)
    plain.sendall(outgoing.read())
    return session, outgoing


class Wiretap:
    """A relay between client and server that keeps what it saw."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen = bytearray()
        self.port = 0

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                self.seen += data
                target.write(data)
                await target.drain()
            target.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Wiretap]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_every_large_answer_arrives_and_nothing_is_in_the_clear(files: Files, version: str) -> None:
    """Answers around every size at which they take another path, several at once: the client gets their bytes, and no
    byte of them stands on the wire."""
    gate = Gate()
    names = [f"answer-{number}" for number in range(2 * len(SIZES))]
    for name, size in zip(names, SIZES * 2, strict=True):
        gate.answers[name] = ((MARK * (size // len(MARK) + 1))[:size],)

    async def scenario() -> None:
        secured = security(files, ssl_enabled_protocols=[version])
        async with serving(gate, secured=secured) as (_, port), Wiretap(port).listening() as tap:
            client = await connect(files, tap.port)
            client.send(*(produce(name, number) for number, name in enumerate(names)))
            for number, name in enumerate(names):
                correlation_id, answer = await client.frame()
                assert correlation_id == number
                assert answer.endswith(gate.answers[name][0])
            assert MARK not in tap.seen
            assert len(tap.seen) > sum(SIZES)
            client.close()

    run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_a_peer_that_reads_slowly_gets_everything(files: Files, seed: int) -> None:
    """Requests and answers of any size, both ways at once, read in small steps: all arrive, in order, and the server
    has charged what waits and gives it back."""
    chance = random.Random(seed)
    gate = Gate()
    sizes = [chance.choice(SIZES) for _ in range(12)]
    for number, size in enumerate(sizes):
        gate.answers[f"slow-{number}"] = (chance.randbytes(size),)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            peer = socket.socket()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            peer.connect(("127.0.0.1", port))
            reader, writer = await asyncio.open_connection(
                sock=peer, ssl=files.context(), server_hostname="localhost", limit=4_096
            )
            client = Client(reader, writer)
            for number in range(len(sizes)):
                client.send(produce(f"slow-{number}", number, size=chance.choice((10, 40_000, 300_000))))
            await until(lambda: server.host.output_budget.used > 0, "answers wait")
            for number in range(len(sizes)):
                correlation_id, answer = await client.frame()
                assert correlation_id == number
                assert answer.endswith(gate.answers[f"slow-{number}"][0])
            await until(lambda: server.host.output_budget.used == 0, "nothing waits")
            await until(lambda: server.host.receive_budget.used == 0, "nothing is held")
            client.close()
            await until(lambda: not server.connections, "it is gone")

    run(scenario())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(4))
def test_requests_that_come_while_answers_are_encrypted(files: Files, seed: int) -> None:
    """Answers that a thread encrypts begin in the middle of what was received: the rest of it waits until the thread is
    done, as a session is for one at a time."""
    chance = random.Random(seed)
    gate = Gate()
    count = 100
    for number in range(count):
        gate.answers[f"mixed-{number}"] = (
            chance.randbytes(chance.choice((10, 5_000, SEAL_BYTES, ASIDE_BYTES_MIN + 1))),
        )

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (_, port):
            client = await connect(files, port)

            async def send() -> None:
                for number in range(count):
                    client.send(produce(f"mixed-{number}", number, size=chance.choice((10, 1_000, 40_000))))
                    if number % 7 == 0:
                        await client.writer.drain()

            sending = asyncio.create_task(send())
            for number in range(count):
                correlation_id, answer = await client.frame()
                assert correlation_id == number
                assert answer.endswith(gate.answers[f"mixed-{number}"][0])
            await sending
            client.close()

    run(scenario())


def test_answers_before_a_goodbye_arrive(files: Files) -> None:
    """A client that says that it sends nothing more still gets the large answer that was due."""
    gate = Gate()
    gate.answers["last"] = (bytes(2_000_000),)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (_, port):
            loop = asyncio.get_running_loop()

            def talk() -> int:
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    session, outgoing = shaken(files, plain)
                    session.write(produce("last"))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        session.unwrap()
                    plain.sendall(outgoing.read())
                    plain.shutdown(socket.SHUT_WR)
                    got = 0
                    while data := plain.recv(65_536):
                        got += len(data)
                    return got

            assert await loop.run_in_executor(None, talk) > 2_000_000

    run(scenario())


@pytest.mark.usefixtures("way")
def test_requests_before_a_goodbye_are_handled(files: Files) -> None:
    """A client says goodbye right behind requests that ask for no answer, as producers with acks=0 do when they end.
    The first takes all of the client's share of the loop; the others, which have to wait, come to their turn."""
    gate = Gate()
    names = ["hold030-a", "hold030-b", "c"]

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port)) as plain:
                session, outgoing = await loop.run_in_executor(None, shaken, files, plain)
                session.write(b"".join(produce(name, acks=0) for name in names))
                with contextlib.suppress(ssl.SSLWantReadError):
                    session.unwrap()
                plain.sendall(outgoing.read())
                plain.shutdown(socket.SHUT_WR)
                await until(lambda: not server.connections, "it has ended")
            assert gate.begun == names

    run(scenario())


def test_sessions_are_resumed(files: Files) -> None:
    """A client that comes again with its session's ticket needs no whole handshake."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            context = files.context()

            def twice() -> list[bool]:
                found, session = [], None
                for _ in range(3):
                    plain = socket.create_connection(("127.0.0.1", port))
                    with context.wrap_socket(plain, server_hostname="localhost", session=session) as secured:
                        secured.sendall(heartbeat("a"))
                        assert secured.recv(100)
                        session, reused = secured.session, secured.session_reused
                    found.append(bool(reused))
                return found

            assert await asyncio.get_running_loop().run_in_executor(None, twice) == [False, True, True]
            assert (server.tls.handshakes, server.tls.resumed) == (3, 2)

    run(scenario())


def last_steps(files: Files, server: Server, plain: socket.socket) -> tuple[int, bytes]:
    """A client finishes its handshake and asks for something while the thread of handshakes has much to do; returns how
    many records came behind the server's own handshake, and the answer's beginning."""
    busy, wire = threading.Event(), b""
    session, incoming, outgoing = nearly_shaken(files, plain)
    server.tls.handshaker.submit(busy.wait, 30)
    try:
        session.write(heartbeat("a", 7))
        plain.sendall(outgoing.read())
        while True:
            incoming.write(came := plain.recv(65_536))
            assert came, "the server hung up"
            wire += came
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = session.read(8)
                break
    finally:
        busy.set()
    count = at = 0
    while at < len(wire):
        at += whole_records(memoryview(wire), at, 1)
        count += 1
    return count, answer


def test_the_last_step_of_a_handshake(files: Files) -> None:
    """It waits for nobody: others' first messages, which a thread takes one by one, do not hold it up. The client gets
    one ticket, as it comes again once; two are OpenSSL's default."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                steps = asyncio.get_running_loop().run_in_executor(None, last_steps, files, server, plain)
                count, answer = await steps
                assert count == len(["the ticket", "the answer"])
                assert answer[4:] == (7).to_bytes(4)

    run(scenario())


# --- Strangers ----------------------------------------------------------------------------------


def test_no_early_data(files: Files, tmp_path: Path) -> None:
    """A ticket allows no data before the handshake: whoever recorded it could send it again (RFC 8446, section 8)."""
    kept = tmp_path / "session"

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (_, port):
            command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-sess_out", str(kept))
            pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.DEVNULL}
            client = await asyncio.create_subprocess_exec(*command, **pipes, stderr=asyncio.subprocess.DEVNULL)
            await until(lambda: kept.exists() and kept.stat().st_size > 0, "a ticket came")
            client.terminate()
            await asyncio.wait_for(client.wait(), 10)

    run(scenario())
    read = ["openssl", "sess_id", "-in", str(kept), "-noout", "-text"]
    told = subprocess.run(read, capture_output=True, text=True, check=True, timeout=10).stdout
    assert "TLSv1.3" in told
    assert "Max Early Data: 0" in told


def test_a_plaintext_client_is_told_apart(files: Files, lines: Callable[[], list[str]]) -> None:
    """A client without TLS on a listener with TLS: closed, with a line that says so."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            client = await Client.connect(port)
            client.send(heartbeat("a"))
            assert await client.closed() == b""
            assert any("speaks without TLS" in line for line in lines())
            assert server.tls.failures == 1

    run(scenario())


def test_a_tls_client_is_told_apart(files: Files, lines: Callable[[], list[str]]) -> None:
    """A client with TLS on a listener without: closed, with a line that says so."""

    async def scenario() -> None:
        async with serving(Gate()) as (_, port):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await connect(files, port)
            assert any("it speaks TLS, and this listener does not" in line for line in lines())

    run(scenario())


@pytest.mark.parametrize(
    "bytes_sent", [b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\x16" * 200_000]
)
def test_broken_handshakes_end(files: Files, lines: Callable[[], list[str]], bytes_sent: bytes) -> None:
    """What begins like TLS and goes on otherwise, or ends early, is closed with one line; others are served."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            client = await Client.connect(port)
            client.send(bytes_sent)
            client.writer.write_eof()
            await client.closed()
            await until(lambda: not server.connections, "it is gone")
            assert len([line for line in lines() if "handshake" in line]) == 1
            assert server.tls.handshaking == 0
            good = await connect(files, port)
            good.send(heartbeat("a", 7))
            assert (await good.frame())[0] == 7

    run(scenario())


def test_a_handshake_has_a_deadline(files: Files, lines: Callable[[], list[str]]) -> None:
    """Whoever connects and says nothing, or stops in the middle of a handshake, is closed."""

    async def scenario() -> None:
        limits = ServerLimits(first_request_ms=50, sweep_ms=50)
        async with serving(Gate(), limits, secured=security(files)) as (server, port):
            silent, halted = await Client.connect(port), await Client.connect(port)
            halted.send(b"\x16\x03\x01\x02\x00")
            await silent.closed()
            await halted.closed()
            await until(lambda: not server.connections, "both are gone")
            assert any("no TLS handshake within 50 ms" in line for line in lines())

    run(scenario())


@pytest.mark.slow
def test_a_storm_of_handshakes_that_never_finish(files: Files) -> None:
    """500 connections, half of them silent and half stuck behind their first message: a client beside them is served at
    once, and after the deadline none of them is left."""
    hello = bytes.fromhex("160301020001000001fc0303")  # a ClientHello's head: its 512 bytes never come

    async def scenario() -> None:
        limits = ServerLimits(first_request_ms=3_000, sweep_ms=50)
        async with serving(Gate(), limits, secured=security(files)) as (server, port):
            crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(500)]
            for _, writer in crowd[::2]:
                writer.write(hello)
            await until(lambda: server.tls.handshaking >= 250, "they are all there")
            client = await asyncio.wait_for(connect(files, port), 5)
            client.send(produce("a", 1))
            assert (await asyncio.wait_for(client.frame(), 5))[0] == 1
            await until(lambda: server.counts.count == 1, "they are closed")
            assert server.tls.handshaking == 0
            client.send(produce("b", 2))
            assert (await asyncio.wait_for(client.frame(), 5))[0] == 2
            for _, writer in crowd:
                writer.close()

    run(scenario())


@pytest.mark.usefixtures("way")
def test_bytes_behind_a_block_wait_within_the_bound(files: Files) -> None:
    """A client that sends on while it is not read: what was received and not decrypted is charged, and served later."""
    gate = Gate()

    async def scenario() -> None:
        limits = ServerLimits(in_flight_requests_max=1)
        async with serving(gate, limits, secured=security(files)) as (server, port):
            client = await connect(files, port)
            client.send(produce("wait-1", 1), *(produce(f"r{number}", number, size=9_000) for number in range(2, 60)))
            await until(lambda: "wait-1" in gate.waiting, "the first is held")
            await until(lambda: server.host.receive_budget.used > 0, "more has come")
            assert server.host.receive_budget.used < 1_000_000
            gate.waiting["wait-1"].send((b"",))
            for number in range(1, 60):
                assert (await client.frame())[0] == number
            assert server.host.receive_budget.used == 0

    run(scenario())


@pytest.mark.parametrize("come", [3, 5, 2_000])
def test_the_beginning_of_a_record_is_charged(files: Files, way: str, come: int) -> None:
    """Bytes of a record that is not complete are charged until the rest comes. Where Python's session reads, they are
    inside of OpenSSL and cannot be counted: a whole record is charged for them."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            loop, budget = asyncio.get_running_loop(), server.host.receive_budget
            with socket.create_connection(("127.0.0.1", port)) as plain:
                session, outgoing = await loop.run_in_executor(None, shaken, files, plain)
                session.write(produce("a", size=5_000))
                wire = outgoing.read()
                plain.sendall(wire[:come])
                charge = come if way == WAYS[0] else RECORD_BYTES_MAX
                await until(lambda: budget.used == charge, "it is charged")
                plain.sendall(wire[come:])
                await until(lambda: server.connections[0].requests == 1, "the request has come")
                await until(lambda: budget.used == 0, "nothing is held")

    run(scenario())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(2))
def test_records_of_any_size_that_arrive_in_any_pieces(files: Files, seed: int) -> None:
    """Clients cut requests into records as they like, some of ten bytes, and the network cuts records: every request
    comes, in order."""
    chance = random.Random(seed)
    gate = Gate()
    names = [f"r{number}" for number in range(150)]
    plaintext = b"".join(produce(name, size=chance.choice((0, 900, 20_000, 200_000))) for name in names)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()

            def talk() -> None:
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    session, outgoing = shaken(files, plain)
                    at = 0
                    while at < len(plaintext):
                        at += session.write(plaintext[at : at + chance.choice((1, 10, 1_024, 16_384))])
                        if outgoing.pending > chance.choice((1, 3_000, 400_000)):
                            plain.sendall(outgoing.read(chance.choice((-1, outgoing.pending - 1))))
                    plain.sendall(outgoing.read())
                    plain.settimeout(5)
                    while len(gate.begun) < len(names):
                        assert plain.recv(65_536)

            await loop.run_in_executor(None, talk)
            assert gate.begun == names
            await until(lambda: server.host.receive_budget.used == 0, "nothing is held")

    run(scenario())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("come", [40_000, 66_000])
def test_a_change_of_keys_within_a_large_request(files: Files, come: int) -> None:
    """Records without content that come alone, while a buffer is filled that must grow later: nothing holds it."""
    gate, request = Gate(), produce("large", size=300_000)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            client = await asyncio.create_subprocess_exec(
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-no_ign_eof", "-msg"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert client.stdin is not None
            assert client.stdout is not None
            await until(lambda: server.tls.handshakes == 1, "the handshake")
            (connection,) = server.connections
            client.stdin.write(request[:come])
            await until(lambda: f" {come - 4} of" in repr(connection.receiver), "the first part has come")
            for _ in range(3):
                client.stdin.write(b"k\n")
                await asyncio.wait_for(client.stdout.readuntil(b"KeyUpdate"), 10)
                await unchanged(lambda: repr(connection.receiver))
            client.stdin.write(request[come:])
            await until(lambda: gate.begun == ["large"], "all of it has come")
            client.kill()
            await client.communicate()

    run(scenario())


@pytest.mark.usefixtures("way")
def test_a_request_that_is_cut_at_any_byte(files: Files) -> None:
    """A request in two records, in two pieces: wherever they are cut, it is answered, and nothing is held after it."""

    async def scenario() -> None:
        async with serving(Gate(), secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()

            def talk() -> None:
                with socket.create_connection(("127.0.0.1", port), 10) as plain:
                    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    session, incoming, outgoing = nearly_shaken(files, plain)
                    for at in range(len(request := heartbeat("a", 7)) + 2 * 22 + 1):
                        session.write(request[:10])
                        session.write(request[10:])
                        wire = outgoing.read()
                        for piece in filter(None, (wire[:at], wire[at:])):
                            plain.sendall(piece)
                        answer = b""
                        while len(answer) < 8:
                            with contextlib.suppress(ssl.SSLWantReadError):
                                answer += session.read(100)
                                continue
                            incoming.write(came := plain.recv(65_536))
                            assert came, "the server hung up"
                        assert answer[4:8] == (7).to_bytes(4)

            await loop.run_in_executor(None, talk)
            await until(lambda: server.host.receive_budget.used == 0, "nothing is held")

    run(scenario())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("come", [0, 4, 400])
def test_plaintext_behind_a_handshake(files: Files, lines: Callable[[], list[str]], come: int) -> None:
    """A client that goes on in the clear, before, within or behind a record: closed with one line, and nothing of what
    it asks for is done."""
    gate = Gate()

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                session, outgoing = await loop.run_in_executor(None, shaken, files, plain)
                await until(lambda: server.tls.handshakes == 1, "the handshake")
                session.write(produce("sealed", size=300))
                plain.sendall(outgoing.read()[:come] + produce("in-the-clear", size=40_000))
                await until(lambda: not server.connections, "it is gone")
            assert len([line for line in lines() if "its TLS records cannot be read" in line]) == 1
            assert "in-the-clear" not in gate.begun
            assert server.host.receive_budget.used == 0

    run(scenario())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("come", [100, 40_000, 250_000])
def test_a_goodbye_in_the_middle_of_a_request(files: Files, come: int) -> None:
    """A client that says goodbye within a request, and leaves its socket open: the connection ends, and the request
    never begins."""
    gate = Gate()

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                session, outgoing = await loop.run_in_executor(None, shaken, files, plain)
                session.write(produce("cut", size=300_000)[:come])
                with contextlib.suppress(ssl.SSLWantReadError):
                    session.unwrap()
                await loop.run_in_executor(None, plain.sendall, outgoing.read())
                await until(lambda: not server.connections, "it has ended")
            assert gate.begun == []
            assert server.host.receive_budget.used == 0

    run(scenario())


@pytest.mark.usefixtures("way")
def test_a_client_that_reads_nothing_costs_what_its_bounds_say(files: Files) -> None:
    """Requests without end whose answers nobody takes: what waits on either side of the session stays within the bounds
    of the listener, and all is given back."""
    gate, bound = Gate(), 200_000
    names = [f"unread-{number}" for number in range(400)]
    for name in names:
        gate.answers[name] = (bytes(50_000),)

    async def scenario() -> None:
        limits = ServerLimits(connection_output_bytes_max=bound)
        async with serving(gate, limits, secured=security(files)) as (server, port):
            loop, host = asyncio.get_running_loop(), server.host
            with quiet_socket(port) as plain:
                session, outgoing = await loop.run_in_executor(None, shaken, files, plain)
                for name in names:
                    session.write(produce(name, size=20_000))
                plain.setblocking(False)
                sending = asyncio.create_task(loop.sock_sendall(plain, outgoing.read()))
                await until(lambda: "peer-does-not-read" in repr(server.connections), "it is not read")
                await unchanged(lambda: (host.output_budget.used, host.receive_budget.used, len(gate.begun)))
                assert 0 < host.output_budget.used < bound + WIRE_BYTES // 20_000 * 50_000 + SEAL_BYTES
                assert host.receive_budget.used < 2 * WIRE_BYTES
                assert len(gate.begun) < len(names) // 2
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            await until(lambda: not server.connections, "it has ended")
            assert (host.output_budget.used, host.receive_budget.used) == (0, 0)

    run(scenario())


# --- Certificates of clients --------------------------------------------------------------------


async def principal_of(server: Server, client: Client) -> str:
    client.send(heartbeat("a"))
    await client.frame()
    return str(server.connections[0].principal)


@pytest.mark.parametrize(
    ("rules", "subject", "principal"),
    [
        ("DEFAULT", name_of("alice", ORGANIZATION_NAME="Acme"), "User:CN=alice,O=Acme"),
        ("DEFAULT", name_of("a,O=Evil"), r"User:CN=a\,O\=Evil"),
        ("RULE:^CN=(.*?),O=Acme$/$1/,DEFAULT", name_of("alice", ORGANIZATION_NAME="Acme"), "User:alice"),
        ("RULE:^CN=(.*?),O=Acme$/$1/U,DEFAULT", name_of("bob"), "User:CN=bob"),
    ],
)
def test_a_certificate_makes_the_user(files: Files, rules: str, subject: Any, principal: str) -> None:
    """mTLS: the subject, by the rules, is who the connection is; a comma in a name makes nobody another."""

    async def scenario() -> None:
        secured = security(
            files,
            ssl_client_auth="required",
            ssl_truststore_location=files.truststore,
            ssl_principal_mapping_rules=rules,
        )
        async with serving(Gate(), secured=secured) as (server, port):
            client = await connect(files, port, files.context(files.client(subject)))
            assert await principal_of(server, client) == principal

    run(scenario())


def test_no_certificate_is_anonymous_if_it_is_only_requested(files: Files) -> None:
    """`ssl.client.auth=requested`: who shows nothing is User:ANONYMOUS."""

    async def scenario() -> None:
        secured = security(files, ssl_client_auth="requested", ssl_truststore_location=files.truststore)
        async with serving(Gate(), secured=secured) as (server, port):
            assert await principal_of(server, await connect(files, port)) == "User:ANONYMOUS"

    run(scenario())


@pytest.mark.parametrize("fault", ["none", "expired", "other authority", "no rule"])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_certificates_that_are_refused(files: Files, lines: Callable[[], list[str]], fault: str, version: str) -> None:
    """No certificate, an expired one, one of another authority, one without a rule: no request is answered, and one
    line says why."""
    client = {
        "none": lambda: None,
        "expired": lambda: files.client(ends=NOW - DAY),
        "other authority": lambda: files.client(authority=Authority()),
        "no rule": lambda: files.client("mallory"),
    }[fault]()

    async def scenario() -> None:
        secured = security(
            files,
            ssl_client_auth="required",
            ssl_truststore_location=files.truststore,
            ssl_principal_mapping_rules="RULE:CN=alice/alice/",
            ssl_enabled_protocols=[version],
        )
        async with serving(Gate(), secured=secured) as (server, port):
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                talker = await connect(files, port, files.context(client))
                talker.send(heartbeat("a"))
                assert await talker.closed() == b""
            await until(lambda: not server.connections, "it is gone")
            assert len([line for line in lines() if "certificate" in line or "without a user" in line]) == 1
            assert server.tls.failures == 1

    run(scenario())


def test_a_resumed_session_keeps_its_user(files: Files) -> None:
    """A resumed handshake shows no certificate: the user is that of the first."""

    async def scenario() -> None:
        secured = security(files, ssl_client_auth="required", ssl_truststore_location=files.truststore)
        async with serving(Gate(), secured=secured) as (server, port):
            context = files.context(files.client("alice"))
            seen: list[str] = []

            def talk(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
                plain = socket.create_connection(("127.0.0.1", port))
                with context.wrap_socket(plain, server_hostname="localhost", session=session) as secured:
                    secured.sendall(heartbeat("a"))
                    assert secured.recv(100)
                    seen.extend(str(connection.principal) for connection in server.connections)
                    return secured.session

            loop = asyncio.get_running_loop()
            session = await loop.run_in_executor(None, talk, None)
            await until(lambda: not server.connections, "the first is gone")
            await loop.run_in_executor(None, talk, session)
            assert server.tls.resumed == 1
            assert seen == ["User:CN=alice", "User:CN=alice"]

    run(scenario())
