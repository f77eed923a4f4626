"""TLS of the HTTP server: connections that have not ended their handshake, which cost a stranger nothing.

Invariant: there are at most `HANDSHAKES_MAX` of them; a further one takes the place of the oldest, of its own address
if that has `HANDSHAKES_PER_ADDRESS_MAX`. Each ends within `HANDSHAKE_S_MAX`. Only then does the server hear of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast

HANDSHAKES_MAX: Final = 128
"""A handshake takes a millisecond, and each holds some 300 KiB meanwhile."""
HANDSHAKES_PER_ADDRESS_MAX: Final = 64
HANDSHAKE_S_MAX: Final = 10.0

Made = Callable[[], asyncio.Protocol]


class Handshakes:
    """Of one server."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._begun: dict[asyncio.Task[None], str] = {}  # with their addresses, in the order of their arrival

    def __repr__(self) -> str:
        return f"<Handshakes, {len(self._begun)} begun>"

    def __len__(self) -> int:
        return len(self._begun)

    def stranger(self, make: Made) -> asyncio.Protocol:
        """What a listening socket gives a connection to; `make` makes the protocol behind the handshake."""
        return _Stranger(self, make)

    def begin(self, connection: socket.socket, make: Made) -> None:
        """Take a connection over, of which nothing was read."""
        try:
            address = str(connection.getpeername()[0])
        except OSError:
            connection.close()
            raise
        near = [task for task, other in self._begun.items() if other == address]
        if len(near) >= HANDSHAKES_PER_ADDRESS_MAX:
            self._end(near[0])
        elif len(self._begun) >= HANDSHAKES_MAX:
            self._end(next(iter(self._begun)))
        task = asyncio.get_running_loop().create_task(self._shake(connection, make), name="tls-handshake")
        self._begun[task] = address
        task.add_done_callback(lambda ended: self._begun.pop(ended, None))

    async def _shake(self, connection: socket.socket, make: Made) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                make, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S_MAX
            )
        except (OSError, EOFError):  # TLS errors and time-outs are some
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        self._begun.pop(task, None)

    def close(self) -> None:
        """End those that have not ended."""
        for task in list(self._begun):
            self._end(task)


class _Stranger(asyncio.Protocol):
    """A connection that has just come.

    Its transport would read what belongs to the handshake: uvloop begins to read behind `connection_made`, whatever
    that says. So it gives the socket away before it has read a byte.
    """

    def __init__(self, handshakes: Handshakes, make: Made) -> None:
        self._handshakes = handshakes
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            number = os.dup(transport.get_extra_info("socket").fileno())
            self._handshakes.begin(socket.socket(fileno=number), self._make)
        cast(asyncio.Transport, transport).abort()
