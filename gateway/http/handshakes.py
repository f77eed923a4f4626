"""TLS of the HTTP server: connections that have not ended their handshake, which cost a stranger nothing.

Invariant: there are at most `HANDSHAKES_MAX` of them; a further one takes the place of the oldest, of its own address
if that has `HANDSHAKES_PER_ADDRESS_MAX`. Each ends within `HANDSHAKE_S_MAX`. Only then does the server hear of it.
"""

from __future__ import annotations

import asyncio
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
        self._begun: dict[Stranger, asyncio.Task[None]] = {}  # in the order of their arrival

    def __repr__(self) -> str:
        return f"<Handshakes, {len(self._begun)} begun>"

    def __len__(self) -> int:
        return len(self._begun)

    def stranger(self, make: Made) -> asyncio.Protocol:
        """What a listening socket gives a connection to; `make` makes the protocol behind the handshake."""
        return Stranger(self, make)

    def begin(self, stranger: Stranger) -> None:
        near = [other for other in self._begun if other.address == stranger.address]
        others = near if len(near) >= HANDSHAKES_PER_ADDRESS_MAX else list(self._begun)
        if len(near) >= HANDSHAKES_PER_ADDRESS_MAX or len(others) >= HANDSHAKES_MAX:
            others[0].transport.abort()
            del self._begun[others[0]]
        self._begun[stranger] = asyncio.get_running_loop().create_task(self._shake(stranger))

    async def _shake(self, stranger: Stranger) -> None:
        loop = asyncio.get_running_loop()
        try:
            sealed = await loop.start_tls(
                stranger.transport,
                stranger,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_S_MAX,
            )
        except (OSError, EOFError):  # TLS errors and time-outs are some
            stranger.transport.abort()
        else:
            if sealed is not None:
                stranger.introduce(sealed)
        finally:
            self._begun.pop(stranger, None)

    def close(self) -> None:
        """End those that have not ended."""
        for stranger in list(self._begun):
            stranger.transport.abort()


class Stranger(asyncio.Protocol):
    """One connection, until it is introduced to the protocol that serves it."""

    def __init__(self, handshakes: Handshakes, make: Made) -> None:
        self._handshakes = handshakes
        self._make = make
        self._early = b""
        """What came right behind the handshake."""
        self._is_lost = False
        self.address = ""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before any use

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._handshakes.begin(self)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    def introduce(self, sealed: asyncio.Transport) -> None:
        """The handshake is over."""
        if self._is_lost or self.transport.is_closing() or sealed.is_closing():
            self.transport.abort()
            return
        protocol = self._make()
        sealed.set_protocol(protocol)
        protocol.connection_made(sealed)
        if self._early:
            protocol.data_received(self._early)
