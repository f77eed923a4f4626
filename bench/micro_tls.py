"""What TLS costs the gateway in memory, without sockets: `python -m bench.micro_tls`.

records     microseconds of CPU to decrypt a record, in each way that the gateway has, in turn
answers     microseconds of CPU to encrypt 64 KiB in parts, as the log has records, likewise
handshakes  microseconds of CPU of the server's two steps and of the client's, for full handshakes and resumed ones

Keeps: what decrypts is what the gateway's transport has for it; a figure is the median of the rounds.
"""

from __future__ import annotations

import contextlib
import ssl
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bench.tls import MAKE_SECRETS
from gateway.network import sessions

ROUNDS: Final = 5
RECORDS: Final = {"10 and 1,000 bytes": (10, 1_000), "16 KiB": (16_384,)}
"""As librdkafka makes them of records of 1 KB, and as large as they are."""
PIECE_BYTES: Final = 100_000
PIECES: Final = 50
ANSWER: Final = [memoryview(bytes(100)), memoryview(bytes(40_000)), memoryview(bytes(25_436))]
ANSWERS: Final = 200
HANDSHAKES: Final = 200


class Pair:
    """A client's and a server's session; each reads what the other one writes."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.to_server, self._to_client, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server, self.records = sessions.wrapped(server, self.to_server, self._to_client)
        self.client = client.wrap_bio(self._to_client, self.sent, server_hostname="127.0.0.1", session=session)

    def shake(self) -> tuple[float, float, float]:
        """Seconds of CPU: of the server's first step, of its last one, of the client."""
        spent = []
        for side in (self.client, self.server, self.client, self.server):
            began = time.thread_time()
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            spent.append(time.thread_time() - began)
            self.to_server.write(self.sent.read())
        self.server.write(b"x")
        self.client.read(1)  # behind the ticket
        return spent[1], spent[3], spent[0] + spent[2]


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, as a listener has it, and a client's."""
    subprocess.run([MAKE_SECRETS, directory, "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    server.num_tickets = 1
    return server, ssl.create_default_context(cafile=str(directory / "ca.pem"))


def decrypted(server: ssl.SSLContext, client: ssl.SSLContext, sizes: tuple[int, ...]) -> float:
    """Microseconds for each record."""
    pair = Pair(server, client)
    pair.shake()
    room = memoryview(bytearray(4 * PIECE_BYTES))
    spent, records = 0.0, 0
    for _ in range(PIECES):
        made = 0
        while made < PIECE_BYTES:
            made += sum(pair.client.write(bytes(size)) for size in sizes)
            records += len(sizes)
        wire = memoryview(pair.sent.read())
        at = 0
        while at < len(wire):  # a call that takes long gives way
            began = time.thread_time()
            size, at, _ = pair.records.unseal(room, wire, at)
            spent += time.thread_time() - began
            made -= size
        assert made == 0
    return spent / records * 1e6


def records(server: ssl.SSLContext, client: ssl.SSLContext) -> Iterator[tuple[str, float]]:
    module: Any = sessions
    wrap, drain = module.native_wrap, module.drain
    ways = {"by Python": (None, None), "by its session, natively": (None, drain), "by OpenSSL itself": (wrap, drain)}
    for name, sizes in RECORDS.items():
        for way, (module.native_wrap, module.drain) in ways.items():
            yield f"a record of {name}, {way}", decrypted(server, client, sizes)


def encrypted(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Microseconds for each answer."""
    pair = Pair(server, client)
    pair.shake()
    spent = 0.0
    for _ in range(ANSWERS):
        began = time.thread_time()
        pair.records.seal(ANSWER)
        spent += time.thread_time() - began
    return spent / ANSWERS * 1e6


def answers(server: ssl.SSLContext, client: ssl.SSLContext) -> Iterator[tuple[str, float]]:
    module: Any = sessions
    wrap = module.native_wrap
    for way, module.native_wrap in (("by Python", None), ("by OpenSSL itself", wrap)):
        yield f"an answer of 64 KiB, {way}", encrypted(server, client)


def handshakes(server: ssl.SSLContext, client: ssl.SSLContext) -> Iterator[tuple[str, float]]:
    for kind in ("full", "resumed"):
        spent, session = [0.0, 0.0, 0.0], None
        for _ in range(HANDSHAKES):
            pair = Pair(server, client, session)
            spent = [one + more for one, more in zip(spent, pair.shake(), strict=True)]
            if kind == "resumed":
                session = pair.client.session
        for who, seconds in zip(("server's first step", "server's last step", "client"), spent, strict=True):
            yield f"{kind} handshake, {who}", seconds / HANDSHAKES * 1e6


def main() -> None:
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory:
        server, client = contexts(Path(directory) / "secrets")
        for _ in range(ROUNDS):
            for measure in (records, answers, handshakes):
                for name, microseconds in measure(server, client):
                    found[name].append(microseconds)
    for name, samples in found.items():
        print(f"{name}: {statistics.median(samples):.2f} us")


if __name__ == "__main__":
    main()
