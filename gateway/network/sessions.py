"""What a client's TLS session decrypts and encrypts: bytes of the wire in, a connection's bytes out, and the other way.

There are three ways, and one is taken by what is there:

- `_sessions.c` calls OpenSSL itself, once for all records that have come, and once for a piece of an answer. Python's
  `ssl` has to load OpenSSL as a library for that, as it does in distributions and containers.
- `_draining.c` calls Python's session record by record.
- Python does the same. It is the only way when the environment has `PYTHON_WALKS_RECORDS`, as for batches.

Invariants:
- Bytes come out as the client put them in. A failure is raised as `ssl.SSLError`.
- What was taken from the wire and did not come out yet is in `holds_bytes`.
- One call holds the loop for no longer than a request may, whatever the records are. OpenSSL reads on behind those that
  bring no data, which cost it most: natively one call looks at 32 of them, and Python gives it 18 KiB at a time.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, cast

from gateway.network.draining import drain
from gateway.network.response_slot import Part
from gateway.network.tls_records import IDLE_RECORD_BYTES, RECORD_BYTES, RECORD_BYTES_MAX
from gateway.network.turns import GIVE_WAY_S
from gateway.records.walking import PYTHON_VARIABLE

FEED_BYTES: Final = RECORD_BYTES_MAX
"""Bytes that OpenSSL is given at a time: it has the next record whole then, unless that did not arrive yet. Its buffers
never shrink, so they are fed and drained in pieces of a record."""


class Session(Protocol):
    """A session whose handshake is done. Only one thread at a time may work on it."""

    said_goodbye: bool
    """The client sends nothing more."""
    idle_records: int
    """Records without data that the last call met. Python sees only those behind which no data came in that call."""

    @property
    def holds_bytes(self) -> int: ...

    def has_input(self) -> bool:
        """May something come out without more of the wire?"""
        ...

    def unseal(self, room: memoryview, wire: memoryview, at: int) -> tuple[int, int, bool]:
        """Fill the room from wire[at:]: how many bytes came, where the rest of the wire begins, and may there be more?
        Nothing of either is kept. Raises ssl.SSLError."""
        ...

    def seal(self, parts: Sequence[Part]) -> list[bytes]:
        """The records that hold these bytes. Raises ssl.SSLError."""
        ...


class Native(Protocol):
    def unseal(self, room: memoryview, wire: memoryview, at: int, /) -> tuple[int, int, bool, bool, int]:
        """As a `Session`; then whether the client has said goodbye, and how many records brought no data."""
        ...

    def seal(self, parts: Sequence[Part], /) -> bytes: ...


class Wrap(Protocol):
    def __call__(self, make: Callable[[], ssl.SSLObject], /) -> tuple[ssl.SSLObject, Native | None]:
        """Make a session, and what works on it; None where it cannot be seen from outside of Python."""
        ...


def _native() -> Wrap | None:
    if os.environ.get(PYTHON_VARIABLE):
        return None
    try:
        from gateway.network._sessions import wrap
    except ImportError:
        return None
    return wrap


native_wrap: Final = _native()


def wrapped(context: ssl.SSLContext, arrived: ssl.MemoryBIO, leaving: ssl.MemoryBIO) -> tuple[ssl.SSLObject, Session]:
    """A server's session on these buffers, for its handshake and its end, and for what is between them."""
    make = partial(context.wrap_bio, arrived, leaving, server_side=True)
    if native_wrap is None:
        session = make()
        return session, PythonSession(session, arrived, leaving)
    session, native = native_wrap(make)
    if native is None:
        return session, PythonSession(session, arrived, leaving)
    return session, NativeSession(session, arrived, leaving, native)


class NativeSession:
    """By one call for all that came. The beginning of a record stays on the wire, so nothing of it is held."""

    __slots__ = ("_arrived", "_leaving", "_native", "_session", "idle_records", "said_goodbye")

    def __init__(self, session: ssl.SSLObject, arrived: ssl.MemoryBIO, leaving: ssl.MemoryBIO, native: Native) -> None:
        self._session = session
        self._arrived = arrived  # what came behind the handshake: it is read first
        self._leaving = leaving
        self._native = native
        self.said_goodbye = False
        self.idle_records = 0

    @property
    def holds_bytes(self) -> int:
        return self._arrived.pending

    def has_input(self) -> bool:
        return bool(self._arrived.pending or self._session.pending())

    def unseal(self, room: memoryview, wire: memoryview, at: int) -> tuple[int, int, bool]:
        size, at, more, self.said_goodbye, self.idle_records = self._native.unseal(room, wire, at)
        return size, len(wire) if self.said_goodbye else at, more

    def seal(self, parts: Sequence[Part]) -> list[bytes]:
        if not self._leaving.pending:
            return [self._native.seal(parts)]
        return [self._leaving.read(), self._native.seal(parts)]  # the answer to a change of keys comes before


class PythonSession:
    """Record by record. OpenSSL keeps the beginning of one where nobody sees how much that is: a whole one is held. So
    bytes that bring no data are known as records without any once they are more than a whole one."""

    __slots__ = ("_arrived", "_barren_bytes", "_has_part", "_leaving", "_session", "idle_records", "said_goodbye")

    def __init__(self, session: ssl.SSLObject, arrived: ssl.MemoryBIO, leaving: ssl.MemoryBIO) -> None:
        self._session = session
        self._arrived = arrived
        self._leaving = leaving
        self._has_part = False  # has OpenSSL taken the beginning of a record?
        self._barren_bytes = 0  # that OpenSSL has taken since data came
        self.said_goodbye = False
        self.idle_records = 0

    @property
    def holds_bytes(self) -> int:
        return self._arrived.pending + self._has_part * RECORD_BYTES_MAX

    def has_input(self) -> bool:
        return bool(self._arrived.pending or self._session.pending())

    def unseal(self, room: memoryview, wire: memoryview, at: int) -> tuple[int, int, bool]:
        """Records are read one by one, so each costs; what can be done once for many is. OpenSSL gets the next bytes
        while it has a whole record: each time that it lacks some costs an exception."""
        session, arrived = self._session, self._arrived
        read, end = _reading(session), len(wire)
        size, most = 0, len(room)
        is_at_head = not (self._has_part or session.pending())  # is what OpenSSL reads next the head of a record?
        self._has_part = False
        self.idle_records = 0
        ends_at = time.perf_counter() + GIVE_WAY_S
        barren_at = at  # where on the wire the bytes begin behind which no data came yet
        while size < most:
            pending = arrived.pending
            if pending < RECORD_BYTES_MAX and at < end:
                if time.perf_counter() > ends_at:
                    break
                at += arrived.write(wire[at : at + FEED_BYTES])
                pending = arrived.pending
            elif not pending and not session.pending():
                return size, at, False
            try:
                if drain is not None and is_at_head and pending <= at:
                    count, error = drain(read, room[size:], wire[at - pending : at])
                    size += count
                    if count:
                        self._barren_bytes, barren_at = 0, at - arrived.pending
                    if error is not None:
                        try:
                            raise error
                        finally:
                            del error  # else it and this frame keep one another, and the room, for long
                    if count:
                        continue
                count = read(most - size, room[size:])
            except ssl.SSLWantReadError:
                is_at_head = False
                self._count_barren(at - barren_at)
                barren_at = at
                if at == end:
                    self._has_part = True
                    return size, at, False
                if self.idle_records:
                    break
                continue
            except (ssl.SSLZeroReturnError, EOFError):
                count = 0
            if not count:
                self.said_goodbye = True
                return size, end, False
            size += count
            self._barren_bytes, barren_at = 0, at - arrived.pending
            is_at_head = drain is not None and not session.pending()
        return size, at, True

    def seal(self, parts: Sequence[Part]) -> list[bytes]:
        view = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        records = []
        for at in range(0, len(view), RECORD_BYTES):
            self._session.write(view[at : at + RECORD_BYTES])
            records.append(self._leaving.read())
        return records

    def _count_barren(self, taken: int) -> None:
        """OpenSSL has taken so many bytes, all that it was given, and no data came of them."""
        self._barren_bytes += taken
        if (idle := self._barren_bytes - RECORD_BYTES_MAX) > 0:
            self.idle_records += -(-idle // IDLE_RECORD_BYTES)
            self._barren_bytes = RECORD_BYTES_MAX


def _reading(session: ssl.SSLObject) -> Callable[[int, memoryview], int]:
    """The method that reads: of the object below, where there is one, as `SSLObject.read` only passes calls on."""
    return cast(Callable[[int, memoryview], int], getattr(session, "_sslobj", session).read)
