"""What a client's TLS session decrypts: bytes of the wire in, a connection's bytes out.

There are three ways, and one is taken by what is there:

- `_unsealing.c` calls OpenSSL itself, once for all records that have come. Python's `ssl` has to load OpenSSL as a
  library for that, as it does in distributions and containers.
- `_draining.c` calls Python's session record by record.
- Python does the same. It is the only way when the environment has `PYTHON_WALKS_RECORDS`, as for batches.

Invariants:
- Bytes come out as the client put them in. A failure is raised as `ssl.SSLError`.
- What was taken from the wire and did not come out yet is in `holds_bytes`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, cast

from gateway.network.draining import drain
from gateway.network.tls_records import RECORD_BYTES_MAX
from gateway.records.walking import PYTHON_VARIABLE

FEED_BYTES: Final = RECORD_BYTES_MAX
"""Bytes that OpenSSL is given at a time: it has the next record whole then, unless that did not arrive yet. Its buffers
never shrink, so they are fed and drained in pieces of a record."""


class Unsealer(Protocol):
    """Reads what a session decrypts, once its handshake is done."""

    said_goodbye: bool
    """The client sends nothing more."""

    @property
    def holds_bytes(self) -> int: ...

    def has_input(self) -> bool:
        """May something come out without more of the wire?"""
        ...

    def unseal(self, room: memoryview, wire: memoryview, at: int) -> tuple[int, int, bool]:
        """Fill the room from wire[at:]: how many bytes came, where the rest of the wire begins, and may there be more?
        Nothing of either is kept. Raises ssl.SSLError."""
        ...


class Native(Protocol):
    def unseal(self, room: memoryview, wire: memoryview, at: int, /) -> tuple[int, int, bool, bool]:
        """As an `Unsealer`; the last is whether the client has said goodbye."""
        ...


class Wrap(Protocol):
    def __call__(self, make: Callable[[], ssl.SSLObject], /) -> tuple[ssl.SSLObject, Native | None]:
        """Make a session, and what reads from it; None where it cannot be seen from outside of Python."""
        ...


def _native() -> Wrap | None:
    if os.environ.get(PYTHON_VARIABLE):
        return None
    try:
        from gateway.network._unsealing import wrap
    except ImportError:
        return None
    return wrap


native_wrap: Final = _native()


def wrapped(context: ssl.SSLContext, arrived: ssl.MemoryBIO, leaving: ssl.MemoryBIO) -> tuple[ssl.SSLObject, Unsealer]:
    """A server's session on these buffers, and who reads from it after the handshake."""
    make = partial(context.wrap_bio, arrived, leaving, server_side=True)
    if native_wrap is None:
        session = make()
        return session, PythonUnsealer(session, arrived)
    session, native = native_wrap(make)
    return session, PythonUnsealer(session, arrived) if native is None else NativeUnsealer(session, arrived, native)


class NativeUnsealer:
    """By one call for all that came. The beginning of a record stays on the wire, so nothing of it is held."""

    __slots__ = ("_arrived", "_native", "_session", "said_goodbye")

    def __init__(self, session: ssl.SSLObject, arrived: ssl.MemoryBIO, native: Native) -> None:
        self._session = session
        self._arrived = arrived  # what came behind the handshake: it is read first
        self._native = native
        self.said_goodbye = False

    @property
    def holds_bytes(self) -> int:
        return self._arrived.pending

    def has_input(self) -> bool:
        return bool(self._arrived.pending or self._session.pending())

    def unseal(self, room: memoryview, wire: memoryview, at: int) -> tuple[int, int, bool]:
        size, at, more, self.said_goodbye = self._native.unseal(room, wire, at)
        return size, len(wire) if self.said_goodbye else at, more


class PythonUnsealer:
    """Record by record. OpenSSL keeps the beginning of one where nobody sees how much that is: a whole one is held."""

    __slots__ = ("_arrived", "_has_part", "_session", "said_goodbye")

    def __init__(self, session: ssl.SSLObject, arrived: ssl.MemoryBIO) -> None:
        self._session = session
        self._arrived = arrived
        self._has_part = False  # has OpenSSL taken the beginning of a record?
        self.said_goodbye = False

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
        while size < most:
            pending = arrived.pending
            if pending < RECORD_BYTES_MAX and at < end:
                at += arrived.write(wire[at : at + FEED_BYTES])
                pending = arrived.pending
            elif not pending and not session.pending():
                return size, at, False
            try:
                if drain is not None and is_at_head and pending <= at:
                    count, error = drain(read, room[size:], wire[at - pending : at])
                    size += count
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
                if at == end:
                    self._has_part = True
                    return size, at, False
                continue
            except (ssl.SSLZeroReturnError, EOFError):
                count = 0
            if not count:
                self.said_goodbye = True
                return size, end, False
            size += count
            is_at_head = drain is not None and not session.pending()
        return size, at, True


def _reading(session: ssl.SSLObject) -> Callable[[int, memoryview], int]:
    """The method that reads: of the object below, where there is one, as `SSLObject.read` only passes calls on."""
    return cast(Callable[[int, memoryview], int], getattr(session, "_sslobj", session).read)
