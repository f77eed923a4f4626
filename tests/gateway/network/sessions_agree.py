"""A TLS session natively and in Python: `python -m tests.gateway.network.sessions_agree [ROUNDS]`.

The sessions are real ones, and a client makes the same records for both. What comes out is compared, and so is how it
ends, on wires that are whole, cut, damaged, or end with a goodbye; under sanitizers too (`scripts/check-native`).
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import random
import ssl
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from gateway.network import sessions
from gateway.network.sessions import NativeSession, PythonSession, Session
from gateway.network.tls import reason
from gateway.network.tls_records import RECORD_BYTES, RECORD_HEAD_BYTES
from tests.gateway.security.certificates import Files, make

ROUNDS: Final = 150
SIZES: Final = (1, 10, 1_000, 16_384)
ROOMS: Final = (1, 9, 1_000, 16_384, 300_000)
FAULTS: Final = ("none", "none", "goodbye", "a goodbye in the middle", "damage", "plaintext", "a record too long")
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Pair:
    """A client's session, and a server's with what reads from it."""

    def __init__(self, contexts: Contexts, *, natively: bool) -> None:
        server, client = contexts
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        make_session = partial(server.wrap_bio, self._arrived, self._leaving, server_side=True)
        self.records: Session
        if natively:
            assert sessions.native_wrap is not None
            session, native = sessions.native_wrap(make_session)
            assert native is not None, "the session is not seen from outside of Python"
            self.records = NativeSession(session, self._arrived, self._leaving, native)
        else:
            session = make_session()
            self.records = PythonSession(session, self._arrived, self._leaving)
        self.server = session
        self._outgoing = ssl.MemoryBIO()
        self.client = client.wrap_bio(self._leaving, self._outgoing, server_hostname="localhost")

    def shake(self, *behind: bytes) -> bytes:
        """Make the handshake. In TLS 1.3 the server gets these records right behind the client's last message; returns
        what they hold."""
        for side in (self.client, self.server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            self._arrived.write(self._outgoing.read())
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()
        sent = [content for content in behind if self.client.version() == "TLSv1.3"]
        for content in sent:
            self.client.write(content)
        self._arrived.write(self._outgoing.read())
        self.server.do_handshake()
        return b"".join(sent)

    def record(self, content: bytes) -> bytes:
        self.client.write(content)
        return self._outgoing.read()

    def answer(self, parts: Sequence[bytes]) -> tuple[bytes, list[int]]:
        """What the client reads of what the server seals, and the size of each record on the wire."""
        wire = b"".join(self.records.seal(parts))
        sizes, at = [], 0
        while at < len(wire):
            sizes.append(RECORD_HEAD_BYTES + int.from_bytes(wire[at + 3 : at + 5]))
            at += sizes[-1]
        self._leaving.write(wire)
        content = bytearray()
        with contextlib.suppress(ssl.SSLWantReadError):
            while True:
                content += self.client.read(RECORD_BYTES)
        return bytes(content), sizes

    def goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.unwrap()
        return self._outgoing.read()


def contexts(files: Files, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Contexts:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.context()
    server.load_cert_chain(files.keystore)
    server.num_tickets = 1
    server.maximum_version = version
    return server, client


def read_through(session: Session, pieces: Iterable[bytes], rooms: Iterator[int]) -> tuple[bytes, str]:
    """All that comes out when the wire comes in these pieces, and how it ends."""
    content, rest = bytearray(), b""
    for piece in pieces:
        wire, at, more = memoryview(rest + piece), 0, True
        while more and (at < len(wire) or session.has_input()):
            room = bytearray(next(rooms))
            try:
                size, at, more = session.unseal(memoryview(room), wire, at)
            except ssl.SSLError as error:
                return bytes(content), reason(error)
            content += room[:size]
            room += b"nobody holds it any more"
        rest = bytes(wire[at:])
    return bytes(content), "goodbye" if session.said_goodbye else "open"


def wire_of(pair: Pair, contents: list[bytes], fault: str, chance: random.Random) -> bytes:
    """The client's records of these contents, and a fault."""
    middle = chance.randrange(len(contents))
    records = []
    for number, content in enumerate(contents):
        record = pair.record(content)
        if number == middle and fault == "damage":
            at = chance.randrange(5, len(record))
            record = record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]
        records.append(record)
        if number == middle and fault == "a goodbye in the middle":
            return b"".join([*records, pair.goodbye(), b"whatever comes behind it"])
    if fault == "plaintext":
        records.insert(middle, b"GET / HTTP/1.1\r\n\r\n")
    if fault == "a record too long":
        records.insert(middle, b"\x17\x03\x03\xff\xff" + bytes(40_000))
    if fault == "goodbye":
        records.append(pair.goodbye())
    return b"".join(records)


def cut(wire: bytes, chance: random.Random) -> list[bytes]:
    pieces, at = [], 0
    while at < len(wire):
        size = chance.choice((1, 5, 700, 40_000, 131_072))
        pieces.append(wire[at : at + size])
        at += size
    return pieces


def rooms_of(chance: random.Random) -> Iterator[int]:
    while True:
        yield chance.choice(ROOMS)


def agree(both: Contexts, seed: int) -> None:
    """What comes out is what the client put in, whoever reads it, and the end is the same."""
    ends, chance = [], random.Random(seed)
    fault = chance.choice(FAULTS)
    contents = [chance.randbytes(chance.choice(SIZES)) for _ in range(chance.randrange(1, 60))]
    early = contents[: chance.randrange(3)] if fault == "none" else []
    for natively in (True, False):
        pair, same = Pair(both, natively=natively), random.Random(seed)
        whole = pair.shake(*early) + b"".join(contents)
        wire = wire_of(pair, contents, fault, same)
        content, end = read_through(pair.records, cut(wire, same), rooms_of(same))
        assert whole.startswith(content), f"seed {seed}"
        assert content == whole or fault not in ("none", "goodbye"), f"seed {seed}"
        ends.append(end)
    assert ends[0] == ends[1], f"seed {seed}"


def answers(both: Contexts, seed: int) -> None:
    """What the client reads is what the server had, in parts of any size, and only the last record is not full."""
    for natively in (True, False):
        pair, chance = Pair(both, natively=natively), random.Random(seed)
        pair.shake()
        pair.answer([b"the ticket comes before"])
        for _ in range(5):
            sizes = (
                chance.choice((0, 1, 100, 9_000, 16_383, 16_384, 16_385, 70_000)) for _ in range(chance.randrange(1, 9))
            )
            parts = [chance.randbytes(size) for size in sizes]
            content, records = pair.answer(parts)
            assert content == b"".join(parts), f"seed {seed}"
            assert len(records) == -(-len(content) // RECORD_BYTES), f"seed {seed}"
            assert len(set(records[:-1])) <= 1, f"seed {seed}"


def small_answers(files: Files, version: ssl.TLSVersion, size: int) -> None:
    """A client asks for records of 512 bytes (RFC 6066, section 4), as small devices do: their heads and codes together
    take more than those of full ones. Python has no name for it."""
    both = contexts(files, version)
    ask = ctypes.CDLL(_ssl.__file__).SSL_CTX_set_tlsext_max_fragment_length
    ask.argtypes = (ctypes.c_void_p, ctypes.c_uint8)
    assert ask(ctypes.c_void_p.from_address(id(both[1]) + object.__basicsize__), 1) == 1
    for natively in (True, False):
        pair = Pair(both, natively=natively)
        pair.shake()
        for _ in range(2):
            content, records = pair.answer([bytes(size)])
            assert content == bytes(size)
            assert max(records[-3:]) < 600


def outlives(both: Contexts) -> None:
    """A session is as safe as before when nobody reads from it any more, and one that never began is no trouble."""
    pair = Pair(both, natively=True)
    pair.shake()
    wire, room = pair.record(b"x" * 100), memoryview(bytearray(10))
    assert pair.records.unseal(room, memoryview(wire), 0)[0] == 10
    del pair.records
    assert pair.server.read(200) == b"x" * 90
    with contextlib.suppress(ssl.SSLWantReadError):
        pair.server.unwrap()
    del pair
    Pair(both, natively=True)


def main(rounds: int = ROUNDS) -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = make(Path(directory))
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            both = contexts(files, version)
            for seed in range(rounds):
                agree(both, seed)
            for seed in range(rounds // 10):
                answers(both, seed)
            outlives(both)
            small_answers(files, version, 300_000)
    print(f"{2 * rounds} sessions: the same")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
