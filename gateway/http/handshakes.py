"""TLS of the HTTP server: connections that have not ended their handshake, which cost a stranger nothing.

Invariant: there are at most `HANDSHAKES_MAX` of them; a further one takes the place of the oldest, of its own address
if that has `HANDSHAKES_PER_ADDRESS_MAX`. Each ends within `HANDSHAKE_S_MAX`. Only then does the server hear of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

HANDSHAKES_MAX: Final = 128
"""A handshake takes a millisecond, and each holds some 300 KiB meanwhile."""
HANDSHAKES_PER_ADDRESS_MAX: Final = 64
HANDSHAKE_S_MAX: Final = 10.0
SHORT_PAUSE_S: Final = 0.1
"""Pause after there was no descriptor, or no memory, for a connection."""

Make = Callable[[], asyncio.Protocol]


@dataclass(frozen=True, slots=True, eq=False)
class Stranger:
    """A connection in its handshake."""

    connection: socket.socket
    address: str

    def turn_away(self) -> None:
        """End it: the handshake finds that nothing more comes."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self.connection.shutdown(socket.SHUT_RDWR)


class Handshakes:
    """Of one server. `context` is asked at each handshake, as certificates are renewed; `make` makes the protocol of a
    connection whose handshake has ended."""

    def __init__(self, context: Callable[[], ssl.SSLContext], make: Make) -> None:
        self._context = context
        self._make = make
        self._accepting: list[asyncio.Task[None]] = []
        self._begun: dict[Stranger, asyncio.Task[None]] = {}  # in the order of their arrival

    def __repr__(self) -> str:
        return f"<Handshakes, {len(self._begun)} begun>"

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take connections from these listening sockets."""
        loop = asyncio.get_running_loop()
        self._accepting = [loop.create_task(self._accept(each), name="https") for each in sockets]

    async def stop(self, sockets: Sequence[socket.socket]) -> None:
        """Take no more, and end those that have not ended."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in sockets:
            listening.close()
        for stranger in self._begun:
            stranger.turn_away()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(SHORT_PAUSE_S)
                continue
            self._begin(Stranger(connection, str(address[0])))

    def _begin(self, stranger: Stranger) -> None:
        near = [other for other in self._begun if other.address == stranger.address]
        if len(near) >= HANDSHAKES_PER_ADDRESS_MAX or len(self._begun) >= HANDSHAKES_MAX:
            oldest = near[0] if len(near) >= HANDSHAKES_PER_ADDRESS_MAX else next(iter(self._begun))
            oldest.turn_away()
            del self._begun[oldest]
        self._begun[stranger] = asyncio.get_running_loop().create_task(self._shake(stranger))

    async def _shake(self, stranger: Stranger) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, stranger.connection, ssl=self._context(), ssl_handshake_timeout=HANDSHAKE_S_MAX
            )
        except (OSError, EOFError):  # TLS errors and time-outs are some
            stranger.connection.close()
        finally:
            self._begun.pop(stranger, None)
