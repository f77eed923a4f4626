"""The end of a node's process, noticed at once by the others, who would else wait for its lease.

Each node has a *pulse*: a port of its own (`cluster.pulse.listen`). Whoever connects is told the life
that answers there, and nothing more; the connection stays. When a process ends, its kernel ends the connection, and
refuses the next ones.

    node B --connect--> pulse of node A
           <-- "penstock life <id>\n" --
           <-- end ---                       the process has gone, or a network has cut
           --connect--> refused, twice       nobody listens: the process has gone, and B buries that life

**Invariants**

- A life is buried only by whoever was connected to its pulse before, and was refused at that address `REFUSALS` times
  in a row since. One that is slow, paused or cut off refuses nothing: its kernel takes connections, or nobody answers.
- An address where another life answers says nothing of the former one, which ends with its lease.
- At most `CONNECTIONS_MAX` connections are kept, and none that sends anything.

Reads of a buried node that lives all the same, behind a network that refuses in its place, may be stale for as long as
its watch of the coordinator takes to tell it; its appends are kept from harm by their fences, as always.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, Protocol

from core.cluster.coordination import Life
from core.errors import StoreError

logger = logging.getLogger(__name__)

GREETING: Final = b"penstock life "
LINE_BYTES_MAX: Final = 100
CONNECTIONS_MAX: Final = 256
REFUSALS: Final = 2
APART_S: Final = 0.1
"""Between two refusals. A process that ends has closed its port before its connections are told."""
RETRY_S: Final = 1.0
"""Before the next try after anything else than a refusal."""
ANSWER_S: Final = 2.0
"""Longest wait for a connection, and for the greeting."""


class Lives(Protocol):
    """What is needed of the coordinator, see `core.cluster.coordination`."""

    @property
    def node(self) -> int: ...

    @property
    def life(self) -> str: ...

    def lives(self) -> Mapping[int, Life]: ...

    def nodes(self) -> Mapping[int, Mapping[str, Any]]:
        """What each node that lives told of itself, by its id."""

    def on_changed(self, told: Callable[[], None]) -> None: ...

    async def bury(self, life: Life) -> None: ...


async def own_address(endpoints: Iterable[tuple[str, int]]) -> str:
    """The address from which this machine reaches one of these, another machine if possible; empty if none has a route.
    Nothing is sent."""
    found = ""
    for host, port in endpoints:
        with suppress(OSError):
            for family, kind, protocol, _, place in await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_DGRAM
            ):
                with socket.socket(family, kind, protocol) as tried, suppress(OSError):
                    tried.connect(place)
                    address = str(tried.getsockname()[0])
                    if not ip_address(address).is_loopback:
                        return address
                    found = found or address
    return found


class Pulse:
    """This node's own."""

    def __init__(self, coordination: Lives) -> None:
        self._coordination = coordination
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.StreamWriter] = set()
        self.address: tuple[str, int] | None = None
        """Where others find it, once started."""

    def __repr__(self) -> str:
        return f"<Pulse at {self.address} {len(self._connections)} connections>"

    async def start(self, sockets: Iterable[socket.socket], address: tuple[str, int]) -> None:
        """Listen at bound sockets, which others find at this address."""
        for bound in sockets:
            self._servers.append(await asyncio.start_server(self._connected, sock=bound))
        self.address = address

    async def close(self) -> None:
        """End, as the last that others should hear of this process."""
        for server in self._servers:
            server.close()
        for writer in list(self._connections):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections.add(writer)
        try:
            _keep_alive(writer)
            writer.write(GREETING + self._coordination.life.encode() + b"\n")
            await reader.read(1)
        except OSError:
            pass  # it has gone
        finally:
            self._connections.discard(writer)
            writer.close()


class Mourning:
    """The pulses of all other nodes, and the end of those that have stopped."""

    def __init__(self, coordination: Lives) -> None:
        self._coordination = coordination
        self._watching: dict[tuple[Life, str, int], asyncio.Task[None]] = {}
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Mourning {len(self._watching)} watched>"

    def start(self) -> None:
        """Watch from now on."""
        self._coordination.on_changed(self._look)
        self._look()

    async def close(self) -> None:
        """Watch nobody any more."""
        self._is_over = True
        tasks, self._watching = list(self._watching.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        if self._is_over:
            return
        coordination = self._coordination
        told = coordination.nodes()
        wanted = {
            (Life(node=node, life=life.life), *place)
            for node, life in coordination.lives().items()
            if node != coordination.node and (place := _place_of(told.get(node, {}).get("pulse"))) is not None
        }
        for gone in self._watching.keys() - wanted:
            self._watching.pop(gone).cancel()
        for life, host, port in wanted - self._watching.keys():
            watch = asyncio.create_task(self._watch(life, host, port), name=f"pulse of node {life.node}")
            self._watching[life, host, port] = watch

    async def _watch(self, life: Life, host: str, port: int) -> None:
        was_met, refused = False, 0
        while True:
            pause_s = RETRY_S
            try:
                if await _stay(life.life, host, port):
                    was_met, pause_s = True, APART_S
                refused = 0
            except ConnectionRefusedError:
                refused += 1
                if was_met and refused < REFUSALS:
                    pause_s = APART_S
            except (OSError, TimeoutError, asyncio.LimitOverrunError):  # a network that is cut, a process that is slow
                refused = 0
            if was_met and refused >= REFUSALS:
                await self._bury(life)
            await asyncio.sleep(pause_s)

    async def _bury(self, life: Life) -> None:
        logger.warning("the process of a node has ended: its containers go to others", extra={"node": life.node})
        try:
            await self._coordination.bury(life)
        except StoreError as error:
            logger.warning("a life was not ended, and will be tried again", extra={"reason": str(error)})


async def _stay(life: str, host: str, port: int) -> bool:
    """Connect, and stay until the other side ends it: True if it was the pulse of this life. Raises OSError,
    TimeoutError, LimitOverrunError."""
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(host, port, limit=LINE_BYTES_MAX)
    try:
        _keep_alive(writer)
        async with asyncio.timeout(ANSWER_S):
            line = await reader.readuntil(b"\n")
        if line != GREETING + life.encode() + b"\n":
            return False
        with suppress(OSError):
            await reader.read(1)
        return True
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Notice a machine that has gone without a word, some day."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _place_of(told: object) -> tuple[str, int] | None:
    """A pulse's address, as a node told it."""
    match told:
        case [str(host), int(port)] if 0 < port < 65_536:
            return host, port
        case _:
            return None
