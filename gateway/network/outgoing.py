"""The bytes that a connection owes its peer, in order: those that the socket took are gone, the rest waits here.

Large answers are lists of views, mostly of the log's memory. They are written from there, and what the socket does not
take stays a view: a thousand consumers of the same records share them. The transport gets small copies only, so that it
tells when the socket takes more. The log has views copied when it needs the memory behind them.

**Invariant**: bytes leave in the order in which they were given; `waiting` is the number of those that have not left.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.network.response_slot import Part

JOIN_BYTES_MAX: Final = 32 * 1024
"""Answers are joined into one write up to this size: copying costs less than many buffers."""
LARGE_BYTES_MIN: Final = 128 * 1024
"""Answers from this size on are written without holding the interpreter's lock."""
FED_BYTES: Final = 4 * 1024
"""The most waiting bytes that the transport gets at a time. It only has to tell when the socket takes more."""
COPY_BYTES: Final = 1024 * 1024
"""Views are copied in pieces of about this size, of which memory is at hand."""
PARTS_MAX: Final = os.sysconf("SC_IOV_MAX")
"""Parts that one writev takes."""


class Outgoing:
    """Of one connection. The transport's buffer limits are 0: it says when it is empty again."""

    __slots__ = ("_rest", "_rest_bytes", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._rest: deque[Part] = deque()
        self._rest_bytes = 0

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not taken."""
        return self._transport.get_write_buffer_size() + self._rest_bytes

    @property
    def has_views(self) -> bool:
        """Whether anything waits here, beside what the transport has."""
        return bool(self._rest)

    def send(self, parts: Sequence[Part], size: int) -> None:
        """Send these parts, of `size` bytes, behind what waits."""
        if self.waiting:
            self._rest.extend(parts)
            self._rest_bytes += size
        elif size < LARGE_BYTES_MIN:
            self._transport.write(b"".join(parts))
        else:
            self._rest.extend(parts)
            self._rest_bytes = size
            self.go_on()

    def go_on(self) -> None:
        """The transport has nothing left: send what waits, as far as the socket takes it."""
        while self._rest and not self._transport.is_closing():
            self._write()
            if not self._rest:
                return
            self._transport.write(b"".join(self._next(FED_BYTES)))
            if self._transport.get_write_buffer_size():
                return

    def copy_views(self) -> int:
        """Have copies of what waits; returns how many bytes were copied."""
        copies, size = copied(self._rest)
        self._rest = deque(copies)
        return size

    def drop(self) -> None:
        """The connection is gone."""
        self._rest.clear()
        self._rest_bytes = 0

    def _write(self) -> None:
        """Write without the transport, which would hold up every other thread while it copies to the kernel."""
        descriptor = self._transport.get_extra_info("socket").fileno()
        rest = self._rest
        while rest:
            some = [rest[number] for number in range(min(len(rest), PARTS_MAX))]
            try:
                sent = os.writev(descriptor, some)
            except OSError:  # the socket is full, or the peer is gone: the transport knows what to do
                return
            self._rest_bytes -= sent
            for part in some:
                if sent < len(part):
                    rest[0] = memoryview(part)[sent:]
                    return
                sent -= len(part)
                rest.popleft()

    def _next(self, size: int) -> list[Part]:
        """The next bytes, which no longer wait here."""
        taken: list[Part] = []
        left = size
        rest = self._rest
        while rest and left:
            part = rest.popleft()
            if len(part) > left:
                rest.appendleft(memoryview(part)[left:])
                part = memoryview(part)[:left]
            taken.append(part)
            left -= len(part)
        self._rest_bytes -= size - left
        return taken


def copied(parts: Sequence[Part] | deque[Part]) -> tuple[list[Part], int]:
    """The same bytes without views of others' memory, and how many of them were copied for that."""
    copies: list[Part] = []
    gathered: list[Part] = []
    size = total = 0
    for part in parts:
        is_own = isinstance(part, bytes) or (isinstance(part, memoryview) and isinstance(part.obj, bytes))
        if not is_own:
            gathered.append(part)
            size += len(part)
        if gathered and (is_own or size >= COPY_BYTES):
            copies.append(b"".join(gathered))
            total += size
            gathered, size = [], 0
        if is_own:
            copies.append(part)
    if gathered:
        copies.append(b"".join(gathered))
    return copies, total + size
